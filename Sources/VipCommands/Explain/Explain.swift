// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import BPFLoader
import CVipABI
import Explain
import Glibc
import Host
import Network
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct Explain: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show which addresses a program gets, and why.",
        discussion: """
            Shows which session a process is in, which entry of each program list matches it, and what each call gets; \
            and the reason if it is in no session or no entry matches. The answers are computed from the live maps by \
            the code of the in-kernel programs. Where a connection goes depends on what listens: all possible \
            addresses are shown, in the order in which the hook tries them. Nothing is changed.

            --exe and --session show the same for a program that is not running.

            EXAMPLES
              vip-bpfctl explain 4711
              vip-bpfctl explain --exe /usr/bin/redis-server --session 7 --port 6379
              vip-bpfctl explain 4711 --json | jq '.features[] | select(.applies | not)'
            """
    )

    @Argument(help: ArgumentHelp("A process.", valueName: "pid"))
    var pid: Int32?

    @Option(help: ArgumentHelp("An executable file, in place of a process.", valueName: "path"), completion: .file())
    var exe: String?

    @Option(help: ArgumentHelp("The session that --exe would run in.", valueName: "id"))
    var session: UInt32?

    @Option(help: ArgumentHelp("The port of the calls. The policy may exclude some ports.", valueName: "port"))
    var port: UInt16?

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        switch (pid, exe, session) {
        case (let pid?, nil, nil): if pid < 1 { throw ValidationError("\(pid) is not a process ID") }
        case (nil, let exe?, .some):
            guard FilePath(exe).isAbsolute, !exe.utf8.contains(0) else {
                throw ValidationError("--exe '\(exe)' is not an absolute path")
            }
        default: throw ValidationError("give a process ID, or --exe PATH and --session ID")
        }
    }

    func run() throws {
        let instance = options.instance
        let maps = try PolicyMapSet(instance.pins)
        let host = try HookHost(maps)
        var payload: ExplainPayload
        let live: LiveSession?
        if let pid {
            let program = try ExplainedProgram.running(pid)
            let mounts = try MountTable.current()
            let cgroup = try Cgroup(ofProcess: pid, mounts: mounts)
            let place = try ProcessPlace(cgroup, mounts, instance.pins)
            host.setCgroups(place.ancestors.map(\.id))
            host.setProgram(program)
            if let user = ProcessFacts(pid).user { host.setUser(user) }
            live = try host.session()
            payload = ExplainPayload(program, pid: pid, cgroup: cgroup)
            payload.attachedCgroup = place.attached?.path.string
            if live == nil {
                payload.reason = place.whyNoSession
                if NetworkPlace.note(of: pid) == nil {
                    let guarded = try? instance.guardedCgroup(instance.registry())
                    payload.notes += try OutsideFinding.notes(
                        host, isAttached: place.attached != nil,
                        isGuarded: guarded.map { guarded in place.ancestors.contains { $0.path == guarded.path } }
                            ?? false)
                }
            } else if place.attached == nil {
                payload.notes.append(
                    "no cgroup at or above this one is attached: no hook runs for the process")
            }
            if let note = NetworkPlace.note(of: pid) { payload.notes.append(note) }
        } else {
            let id = session ?? 0
            let program = try ExplainedProgram.file(FilePath(exe ?? ""))
            host.setProgram(program)
            let cgroup = try maps.ids.value(of: id)
            if let cgroup { host.setCgroup(cgroup) }
            guard let found = try cgroup == nil ? nil : host.session() else {
                throw Failure(
                    .failed, "explain session \(id)", "there is no such session", hint: "see vip-bpfctl session list")
            }
            live = found
            payload = ExplainPayload(program, pid: nil, cgroup: nil)
        }
        if let live { try explain(&payload, live, host, maps) }
        try output.print(payload)
    }

    private func explain(
        _ payload: inout ExplainPayload, _ live: LiveSession, _ host: HookHost, _ maps: borrowing PolicyMapSet
    ) throws(Failure) {
        // The registry only adds names. If it cannot be read, they are missing.
        let registry = try? options.instance.registry()
        let record = try? registry?.session(id: live.id)
        let policy = registry.flatMap { try? options.instance.policy($0) }
        let override = policy?.override(number: live.number)
        payload.generation = live.generation
        payload.session = ExplainPayload.Session(live, record: record)
        payload.policy = ExplainPayload.PolicyName(live, override: override, record: record)
        let findings = try FeatureFinding.all(payload.program, live, host, rules: policy?.rules(for: override))
        payload.features = findings.map(ExplainPayload.Feature.init)
        let rows = try CallTable(session: live, host: host, port: port).rows(maps)
        payload.calls = rows.map(ExplainPayload.Call.init)
        guard port == nil else { return }
        for (what, excluded) in [
            ("virtual loopbacks do not apply to", live.loopbackExclusions),
            ("a bind to the wildcard is left as it is on", live.virtualIPExclusions),
        ] where !excluded.isEmpty {
            let few = excluded.prefix(8).map { "\($0)" }.joined(separator: ", ")
            payload.notes.append("\(what) some ports (\(few)\(excluded.count > 8 ? " …" : "")): see --port")
        }
    }
}

/// The place of a process in the cgroup hierarchy, and the attached cgroup above it.
private struct ProcessPlace {
    /// The process's cgroup and those above it, from the root down.
    let ancestors: [Cgroup]
    /// The attached cgroup among them.
    let attached: Cgroup?
    private let attachedElsewhere: [UInt64]

    init(_ cgroup: Cgroup, _ mounts: MountTable, _ pins: PinDirectory) throws(Failure) {
        var ancestors = [cgroup]
        while let top = ancestors.last, !top.isRoot {
            ancestors.append(try Cgroup(path: top.path.removingLastComponent(), mounts: mounts))
        }
        self.ancestors = ancestors.reversed()
        let links = try pins.attachments().filter { $0.value.values.contains { $0.cgroupID != 0 } }
        attached = ancestors.first { links[$0.id] != nil }
        attachedElsewhere = links.keys.sorted()
    }

    var whyNoSession: String {
        if let attached {
            return "it is below \(attached.path), which is attached, but neither its cgroup nor one above it is a "
                + "session's; open one: vip-bpfctl session open --cgroup PATH"
        }
        if attachedElsewhere.isEmpty { return "no cgroup is attached; vip-bpfctl attach cgroup PATH" }
        return "it is not below an attached cgroup; see vip-bpfctl status"
    }
}

/// Whether the process is in the network namespace of the sessions' addresses.
private enum NetworkPlace {
    static func note(of pid: pid_t) -> String? {
        var its = stat()
        var ours = stat()
        guard stat("/proc/\(pid)/ns/net", &its) == 0, stat("/proc/self/ns/net", &ours) == 0, its.st_ino != ours.st_ino
        else { return nil }
        return "the process is in another network namespace than this command: the addresses below may not exist there"
    }
}
