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
        let finding = PolicyFinding(live, in: policy, openedWith: record?.policy)
        payload.generation = live.generation
        payload.session = ExplainPayload.Session(live, record: record)
        payload.policy = ExplainPayload.PolicyName(live, finding)
        let findings = try FeatureFinding.all(payload.program, live, host, rules: policy?.rules(for: finding.override))
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
