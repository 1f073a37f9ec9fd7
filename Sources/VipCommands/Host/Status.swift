// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import BPFLoader
import CVipABI
import FoundationEssentials
import Host
import Network
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct Status: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Show what is attached, and its counters.",
        discussion: """
            The counters are of socket calls made in sessions: total (seen), rewritten, allowed with the host's \
            address (unaddressed), and refused, by reason: isolation (another session's address), unavailable (the \
            session has no virtual IP), peer (another session's loopback), in_use (another server of the session has \
            the port), unsupported (a protocol or socket option that would go around the hooks).

            EXAMPLES
              vip-bpfctl status
              vip-bpfctl status --json | jq .counters
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let instance = options.instance
        let registry = try instance.registry()
        var payload = StatusPayload(sessions: try registry.usedIDs().count)
        if instance.pins.isLoaded {
            let maps = try PolicyMapSet(instance.pins)
            let config = try maps.configuration()
            payload.isLoaded = true
            payload.layout = config.abi
            payload.generation = config.generation
            payload.loopbackPrefix = config.loopbackPrefix?.description
            payload.objectId = MapView.hex(config.objectID)
            payload.isThisBuild = config.objectID == BPFObject.embeddedID
            payload.counters = try HookCounters.read(instance.pins).map(StatusPayload.Counters.init)
            let programs = try instance.pins.programIDs()
            let noted = Dictionary(try registry.attachments().map { ($0.cgroupID, $0.path) }) { first, _ in first }
            for (id, links) in try instance.pins.attachments().sorted(by: { $0.key < $1.key }) {
                let path = noted[id]
                let isThere =
                    path.map { Cgroup.isThere($0, id: id) } == true && links.values.allSatisfy { $0.cgroupID != 0 }
                payload.attachments.append(
                    StatusPayload.Attachment(
                        path: path?.string, cgroupId: id, state: isThere ? "attached" : "gone",
                        hooks: Hook.ofCgroups.map { StatusPayload.HookLink(hook: $0.name, link: links[$0.name]) }))
            }
            payload.guarded = try instance.guardedCgroup(registry).map {
                StatusPayload.Guarded(cgroup: $0.path.string, isWhole: $0.isWhole)
            }
            payload.guardedHooks = Set(try instance.pins.guardLinksByHook().filter { $0.value.cgroupID != 0 }.keys)
            let network = try instance.pins.networkAttachments()
            payload.network = Hook.ofNetwork.map { StatusPayload.NetworkLink(hook: $0.name, link: network[$0.name]) }
            payload.programs = Hook.all.map { StatusPayload.Program(hook: $0.name, id: programs[$0.name]) }
            let policy = PolicyFile(try instance.policy(registry), named: "the policy in force")
            payload.policyWarnings = try instance.risksInForce(registry, Netlink()).map {
                PolicyWarning($0, in: policy)
            }
            payload.policyOnTrialUntil = try registry.policyTrial()?.endsAt
        } else {
            try instance.pins.requireReadable()
            // Distinguishes a missing BPF file system from one without pins.
            try instance.pins.requireBPFFS()
        }
        try output.print(payload)
        if payload.sessions > 0, !payload.attachments.contains(where: { $0.state == "attached" }) {
            throw Failure(
                .failed, "see what is attached",
                "no cgroup is, and \(payload.sessions) sessions are registered: nothing "
                    + "of them is in force", hint: "attach again: vip-bpfctl attach cgroup PATH")
        }
    }
}

struct StatusPayload: Payload {
    struct HookLink: Encodable {
        var hook: String
        @Nullable var linkId: UInt32?
        @Nullable var programId: UInt32?

        init(hook: String, link: BPFLink.Info?) {
            self.hook = hook
            linkId = link?.id
            programId = link?.programID
        }
    }

    struct NetworkLink: Encodable {
        var hook: String
        @Nullable var linkId: UInt32?
        @Nullable var programId: UInt32?
        /// The inode of the network namespace.
        @Nullable var namespace: UInt64?
        /// `attached`; `elsewhere` if it is another namespace than the caller's; `gone` if it no longer exists; or
        /// `none`.
        var state: String

        init(hook: String, link: PinDirectory.NetworkLink?) {
            self.hook = hook
            linkId = link?.id
            programId = link?.programID
            namespace = link.flatMap { $0.namespace == 0 ? nil : $0.namespace }
            state = link.map { $0.isHere ? "attached" : $0.namespace == 0 ? "gone" : "elsewhere" } ?? "none"
        }
    }

    struct Attachment: Encodable {
        @Nullable var cgroup: String?
        var cgroupId: UInt64
        /// `attached`, or `gone` if the cgroup was removed.
        var state: String
        var hooks: [HookLink]

        init(path: String?, cgroupId: UInt64, state: String, hooks: [HookLink]) {
            cgroup = path
            self.cgroupId = cgroupId
            self.state = state
            self.hooks = hooks
        }
    }

    /// The cgroup whose programs of no session are kept off sessions' addresses.
    struct Guarded: Encodable {
        var cgroup: String
        /// `attached`, or `incomplete` if a hook is not attached there.
        var state: String

        init(cgroup: String, isWhole: Bool) {
            self.cgroup = cgroup
            state = isWhole ? "attached" : "incomplete"
        }
    }

    struct Program: Encodable {
        var hook: String
        @Nullable var programId: UInt32?

        init(hook: String, id: UInt32?) {
            self.hook = hook
            programId = id
        }
    }

    /// The counters of one hook, summed over all CPUs.
    struct Counters: Encodable {
        var hook: String
        var seen, rewritten, unaddressed, refused: UInt64
        /// The refused calls by their reason.
        var refusedFor: [String: UInt64]

        init(_ counters: HookCounters) {
            hook = counters.hook.name
            seen = counters.seen
            rewritten = counters[.rewritten]
            unaddressed = counters[.unaddressed]
            refused = counters.refused
            refusedFor = [:]
            for outcome in CallOutcome.allCases {
                if let reason = outcome.reason { refusedFor[reason] = counters[outcome] }
            }
        }

        /// The text for the table: `isolation 2, in_use 1`.
        var reasons: String {
            let reasons = refusedFor.filter { $0.value > 0 }.sorted { $0.key < $1.key }
            return reasons.isEmpty ? "-" : reasons.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
        }
    }

    var isLoaded = false
    @Nullable var layout: UInt32?
    @Nullable var generation: UInt32?
    /// The prefix of the sessions' IPv6 loopbacks; `nil` if this host has none.
    @Nullable var loopbackPrefix: String?
    @Nullable var objectId: String?
    /// Whether the pinned programs are those of this vip-bpfctl.
    @Nullable var isThisBuild: Bool?
    var sessions: Int
    var attachments: [Attachment] = []
    /// `nil` if no cgroup is guarded.
    @Nullable var guarded: Guarded?
    /// The hooks of the network namespace.
    var network: [NetworkLink] = []
    var programs: [Program] = []
    var counters: [Counters] = []
    /// What of the policy in force leaves sessions without an address, or refuses all that they do.
    var policyWarnings: [PolicyWarning] = []
    /// When the policy before is in force again if the one in force is not confirmed; `nil` if it is not on trial.
    @Nullable var policyOnTrialUntil: Date?
    /// The guard's hooks that have a link; for the table.
    var guardedHooks: Set<String> = []

    private enum CodingKeys: CodingKey {
        case isLoaded, layout, generation, loopbackPrefix, objectId, isThisBuild, sessions, attachments, guarded,
            network
        case programs, counters, policyWarnings, policyOnTrialUntil
    }

    init(sessions: Int) {
        self.sessions = sessions
    }

    var table: Table {
        guard isLoaded else { return Table(rows: [["nothing is attached; \(sessions) sessions"]]) }
        let rows = counters.map { row -> [String] in
            let program = programs.first { $0.hook == row.hook }?.programId
            let links =
                attachments.count { attachment in
                    attachment.hooks.contains { $0.hook == row.hook && $0.linkId != nil }
                } + network.count { $0.hook == row.hook && $0.linkId != nil }
                + (guardedHooks.contains(row.hook) ? 1 : 0)
            return [
                row.hook, program.map { "\($0)" } ?? "-", "\(links)", "\(row.seen)", "\(row.rewritten)",
                "\(row.unaddressed)", "\(row.refused)", row.reasons,
            ]
        }
        let build = isThisBuild == true ? "this build's" : "another build's; attach again to update them"
        return Table(
            headings: ["HOOK", "PROGRAM", "LINKS", "SEEN", "REWRITTEN", "UNADDRESSED", "REFUSED", "FOR"], rows: rows,
            notes: attachments.map { attachment in
                "cgroup \(attachment.cgroup.map(\.printableLine) ?? "(unknown path)") (ID \(attachment.cgroupId)): \(attachment.state)"
            }
                + network.filter { !attachments.isEmpty && $0.state != "attached" }.map {
                    "\($0.hook) of the network namespace: \($0.state)"
                } + [
                    "guarded: \(guarded.map { "\($0.cgroup.printableLine): \($0.state)" } ?? "no cgroup")",
                    "IPv6 loopbacks \(loopbackPrefix.map { "in \($0)" } ?? "none")",
                    "\(sessions) sessions, policy generation \(generation ?? 0), programs are \(build)",
                ]
                + (policyOnTrialUntil.map {
                    ["policy: on trial until \($0.formatted(.iso8601)); keep it: vip-bpfctl policy confirm"]
                } ?? []) + policyWarnings.map { "policy: \($0.key): \($0.message); \($0.hint)".printableLine })
    }
}
