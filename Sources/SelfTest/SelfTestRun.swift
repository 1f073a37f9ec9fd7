// SPDX-License-Identifier: Apache-2.0

import CVipABI
package import Checks
import Explain
import Glibc
import Host
package import Logging
import Policy
import PolicyMaps
package import Sessions
import SystemPackage

/// `check --self-test`: opens two sessions, runs a program in each, and compares the results of their calls with the
/// expected ones.
///
/// It uses the instance in force and does not change its policy. The sessions are opened like those of `run`, so they
/// get addresses as any session does, and the next command removes what a killed self-test leaves. The programs take
/// the process name of an entry of the policy's lists, as a script does, so that the policy applies to them.
package struct SelfTestRun {
    static let subject = "self-test"

    private let instance: Instance
    private let logger: Logger

    /// - Parameter logger: gets the warnings of the changes that it makes.
    package init(_ instance: Instance, _ logger: Logger) {
        self.instance = instance
        self.logger = logger
    }

    package func run() throws -> [CheckedFact] {
        // The signals are blocked from here on, so that none ends this process before everything is removed.
        let signals = try SignalReader([SIGTERM, SIGHUP, SIGINT, SIGQUIT])
        let place = try open()
        let result: Result<[CheckedFact], Failure>
        do throws(Failure) {
            result = .success(try test(place, signals))
        } catch {
            result = .failure(error)
        }
        do throws(Failure) {
            try close(place)
        } catch {
            logger.warning("\(error); the next command finishes it")
        }
        return try result.get()
    }

    // MARK: The sessions

    private struct Place {
        var cgroup: Cgroup
        var records: [SessionRecord]
        /// Why a session has no address although the policy has a pool.
        var unaddressed: Failure?
    }

    private func open() throws(Failure) -> Place {
        let keeper = try ProcessIdentity.own("start the self-test")
        var own: Cgroup?
        let opened: Opened
        do throws(Failure) {
            opened = try instance.open(reporting: logger) { change throws(Failure) in
                let cgroup: Cgroup
                if let made = own {
                    cgroup = made
                } else {
                    // The cgroup has a name as those of `run`, so that one of a killed self-test is found.
                    cgroup = try change.makeRunCgroup(of: keeper, "start the self-test")
                    own = cgroup
                    for name in Self.names { _ = try cgroup.makeChild(named: name) }
                }
                var requests: [SessionRequest] = []
                for name in Self.names {
                    var request = SessionRequest(cgroup: try Cgroup(path: cgroup.path.appending(name)))
                    request.createdCgroup = true
                    request.opensWithoutAddress = true
                    request.keeper = .run
                    request.keeperProcess = keeper
                    requests.append(request)
                }
                return requests
            }
        } catch {
            if let own {
                for name in Self.names { try? Cgroup(path: own.path.appending(name)).remove() }
                try? own.remove()
            }
            throw error
        }
        guard let own else { preconditionFailure("sessions are open in no cgroup") }
        var records: [SessionRecord] = []
        for record in opened.records {
            records.append(try instance.lease(for: record, opened.awaitingLease, reporting: logger))
        }
        return Place(cgroup: own, records: records, unaddressed: opened.unaddressed.first?.failure)
    }

    /// The names of the two sessions' cgroups.
    private static let names = ["self-test-a", "self-test-b"]

    private func close(_ place: Place) throws(Failure) {
        try place.cgroup.kill()
        // A killed process normally leaves its cgroup at once.
        _ = try place.cgroup.waitUntilEmpty(timeout: .seconds(10))
        try instance.change(reporting: logger) { change throws(Failure) in
            for record in place.records
            where try change.registry.session(id: record.id)?.cgroupID == record.cgroupID {
                try change.close(record.id, because: .runEnded)
            }
            try place.cgroup.remove()
        }
    }

    // MARK: The test

    private func test(_ place: Place, _ signals: borrowing SignalReader) throws(Failure) -> [CheckedFact] {
        let maps = try PolicyMapSet(instance.pins)
        let host = try HookHost(maps)
        let policy = try instance.policy(instance.registry())
        var peers: [SelfTestPeer] = []
        for record in place.records { peers.append(try SelfTestPeer(in: Cgroup(path: record.cgroupPath))) }
        defer { for peer in peers { peer.reap() } }

        var tables: [CallTable] = []
        var programs: [ExplainedProgram] = []
        var sessions: [LiveSession] = []
        var features: UInt32 = 0
        var name = ""
        for (record, peer) in zip(place.records, peers) {
            host.setCgroup(record.cgroupID)
            guard let session = try host.session() else {
                throw Failure(
                    .failed, "run the self-test", "session \(record.id) was closed in the meantime", hint: "try again")
            }
            let number = session.number
            let override = policy.override(number: number)
            var program = try ExplainedProgram.running(peer.pid)
            let choice = try Self.name(for: program, policy.rules(for: override), host)
            (name, features) = (choice.name, choice.features)
            _ = try peer.ask("name \(name)", signals)
            program.processName = Array(name.utf8)
            programs.append(program)
            tables.append(CallTable(session: session, host: host, port: nil))
            sessions.append(session)
        }
        /// The hooks' results for a program of the test.
        func asking<T>(_ number: Int, _ body: (CallTable) throws(Failure) -> T) throws(Failure) -> T {
            host.setCgroup(place.records[number].cgroupID)
            host.setProgram(programs[number])
            return try body(tables[number])
        }
        let addresses = place.records.map { record in
            record.addresses.isEmpty
                ? "no virtual IP" : record.addresses.map { "\($0.address)" }.joined(separator: ", ")
        }
        var facts: [CheckedFact] = [
            .good(
                Self.subject,
                "sessions \(place.records[0].id) (\(addresses[0])) and \(place.records[1].id) (\(addresses[1])), "
                    + "a program called \(name) in each")
        ]
        if let failure = place.unaddressed {
            facts.append(.warning(Self.subject, "\(failure.operation): \(failure.reason)", fix: failure.hint))
        }
        guard features & (VIP_V.rawValue | VIP_L.rawValue) != 0 else {
            facts.append(
                .warning(
                    Self.subject,
                    "the policy in force applies to no program that the test can run, so nothing was tested",
                    fix:
                        "list a program by name, not only by path, and enable virtualIP or virtualLoopback"
                ))
            return facts
        }
        let foreign = try asking(0) { table throws(Failure) in
            var foreign: [SelfTestRows.Foreign] = []
            for address in sessions[1].virtualIPs + sessions[1].loopbacks {
                foreign.append(.init(address: address, bound: try table.outcome(ofBinding: address)))
            }
            return foreign
        }
        var rows = SelfTestRows(
            peers: (peers[0], peers[1]),
            tables: (
                try asking(0) { table throws(Failure) in try table.rows(maps) },
                try asking(1) { table throws(Failure) in try table.rows(maps) }
            ), sessions: (sessions[0], sessions[1]), foreign: foreign)
        facts += try rows.run(signals)
        facts += try rows.names(signals, applies: features & VIP_V.rawValue != 0)
        return facts
    }

    /// A process name to which virtual IP and virtual loopback apply, or as many of them as possible.
    private static func name(
        for program: ExplainedProgram, _ rules: Policy.Rules, _ host: HookHost
    ) throws(Failure) -> (name: String, features: UInt32) {
        let entries = rules.virtualIP.programs + rules.virtualLoopback.programs
        let names = entries.compactMap { entry in entry.processName.flatMap { String(validating: $0, as: UTF8.self) } }
        var best: (name: String, features: UInt32) = ("vip-self-test", 0)
        for name in [best.name] + names {
            var candidate = program
            candidate.processName = Array(name.utf8)
            host.setProgram(candidate)
            let features = try host.features()
            if features.nonzeroBitCount > best.features.nonzeroBitCount { best = (name, features) }
        }
        return best
    }
}
