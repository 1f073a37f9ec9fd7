// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Host
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct AttachCgroup: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cgroup",
        abstract: "Attach every hook to a cgroup and all below it.",
        discussion: """
            Loads the programs if they are not loaded yet and pins them, so that they outlive this command. Nothing \
            changes for any program until a session is opened in the cgroup or below. Running it again changes \
            nothing. After an upgrade it replaces the old programs; one of the two is attached at every moment.

            Without --policy, the policy in force stays. The first attach uses /etc/vip-bpf/policy.yaml if it exists, \
            else a policy with both features off. A policy that would leave open sessions without an address, or \
            refuse all that they do, is refused without --force, as by 'policy apply'.

            Only root may read the record of sessions. With --group, members of that group may read it as well \
            (session list, session show, who, policy show, top), until --no-group, another --group or 'detach --all'.

            By default, programs in no session are not restricted. --guard names a cgroup: programs of ordinary users \
            below it that are in no session cannot bind or send from a session's address, nor reach a session's \
            loopback. Their other calls are unchanged. There is one guarded cgroup, usually the root of the hierarchy; \
            it stays until --no-guard, another --guard, or the last cgroup is detached.

            EXAMPLES
              vip-bpfctl attach cgroup /sys/fs/cgroup/user.slice
              vip-bpfctl attach cgroup /sys/fs/cgroup/user.slice --guard /sys/fs/cgroup
              vip-bpfctl attach cgroup /sys/fs/cgroup/user.slice --group adm
              vip-bpfctl attach cgroup /sys/fs/cgroup/unified/mine --policy policy.yaml
            """
    )

    @Argument(help: ArgumentHelp("A cgroup v2 directory.", valueName: "path"), completion: .directory)
    var path: String

    @Option(
        help: ArgumentHelp("Apply this policy file.", valueName: "file"),
        completion: .file(extensions: ["yaml", "yml"]))
    var policy: String?

    @Flag(help: "Apply it also if it leaves open sessions without an address, or refuses all that they do.")
    var force = false

    @Option(
        help: ArgumentHelp(
            "How many sessions the maps hold; fixed when they are made. Default \(MapSizes.default.sessions).",
            valueName: "n"))
    var maxSessions: Int?

    @Option(help: ArgumentHelp("Let members of this group read the record of sessions.", valueName: "name"))
    var group: String?

    @Flag(help: "Let root alone read the record of sessions.")
    var noGroup = false

    @Option(
        name: .customLong("guard"),
        help: ArgumentHelp(
            "Keep programs of no session below this cgroup off sessions' addresses.", valueName: "path"),
        completion: .directory)
    var guarded: String?

    @Flag(help: "Guard no cgroup.")
    var noGuard = false

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if force, policy == nil { throw ValidationError("--force is for --policy") }
        if group != nil, noGroup { throw ValidationError("use either --group or --no-group") }
        if guarded != nil, noGuard { throw ValidationError("use either --guard or --no-guard") }
        if let maxSessions, !MapSizes.allowed.contains(maxSessions) {
            throw ValidationError(
                "--max-sessions \(maxSessions) is not in \(MapSizes.allowed.lowerBound)…\(MapSizes.allowed.upperBound)")
        }
    }

    func run() throws {
        let cgroup = try Cgroup(path: FilePath(path))
        let guarding: Change.Guarding =
            if let guarded { .cgroup(try Cgroup(path: FilePath(guarded))) } else { noGuard ? .none : .unchanged }
        let instance = options.instance
        try instance.pins.requireBPFFS()
        let file = try policy.map { text throws(Failure) in try PolicyFile.read(contentsOf: FilePath(text)) }
        let readers = try group.map { name throws(Failure) in try RecordReaders(group: name) }
        var sizes = MapSizes.default
        if let maxSessions { sizes.sessions = maxSessions }
        let attached = try options.change { change throws(Failure) in
            var policy = file
            if policy == nil, !instance.pins.isLoaded, try change.registry.value(of: .policy) == nil,
                FileStatus.exists(Instance.defaultPolicyFile)
            {
                policy = try PolicyFile.read(contentsOf: Instance.defaultPolicyFile)
            }
            if let policy {
                if !force { try change.requireHarmless(policy) }
                try change.impact(of: policy.policy).report(policy)
            }
            let attached = try change.attach(cgroup, policy: policy?.policy, sizes: sizes, guarding: guarding)
            if readers != nil || noGroup { try change.setReaders(readers) }
            return attached
        }
        try output.print(AttachedPayload(attached))
    }
}

struct AttachedPayload: Payload {
    struct HookOutcome: Encodable {
        var hook, outcome: String
    }

    var cgroup: String
    var cgroupId: UInt64
    var programs: String
    /// The guarded cgroup.
    @Nullable var guarded: String?
    var hooks: [HookOutcome]

    init(_ attached: Change.Attached) {
        cgroup = attached.cgroup.path.string
        cgroupId = attached.cgroup.id
        programs = attached.loading.rawValue
        guarded = attached.guarded?.string
        hooks = Hook.all.compactMap { hook in
            attached.hooks[hook].map { HookOutcome(hook: hook.name, outcome: $0.rawValue) }
        }
    }

    var table: Table {
        Table(
            headings: ["HOOK", "OUTCOME"], rows: hooks.map { [$0.hook, $0.outcome] },
            notes: ["cgroup \(cgroup.printableLine), programs \(programs)"]
                + (guarded.map { ["guarded: \($0.printableLine)"] } ?? []))
    }
}
