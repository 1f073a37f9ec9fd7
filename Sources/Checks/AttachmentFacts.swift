// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Host
import PolicyMaps
import Sessions
import SystemPackage

/// Whether all links of the attached cgroups exist, are not defunct, and run this build's programs.
package enum AttachmentFacts: CheckedSubject {
    private static let subject = "attached"
    private static let again = "attach it again: vip-bpfctl attach cgroup PATH"

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let pins = host.instance.pins
            try pins.requireReadable()
            guard pins.isLoaded, try !pins.attachments().isEmpty else {
                let sessions = (try? host.instance.registry().usedIDs().count) ?? 0
                guard sessions == 0 else {
                    return [
                        .bad(
                            subject, "no cgroup is attached, and \(sessions) sessions are registered",
                            fix: "run: vip-bpfctl attach cgroup PATH")
                    ]
                }
                return [.warning(subject, "no cgroup is attached", fix: "run: vip-bpfctl attach cgroup PATH")]
            }
            return try facts(host.instance, pins)
        }
    }

    private static func facts(_ instance: Instance, _ pins: PinDirectory) throws(Failure) -> [CheckedFact] {
        let config = try PolicyMapSet(pins).configuration()
        var wrong: [CheckedFact] = []
        if config.objectID != BPFObject.embeddedID {
            wrong.append(
                .bad(
                    subject, "the programs in the kernel are from another build than this vip-bpfctl",
                    fix: "update them: vip-bpfctl attach cgroup PATH"))
        }
        let links = try pins.attachments()
        let programs = try pins.programIDs()
        let paths = try? instance.registry().attachments()
        for (id, hooks) in links.sorted(by: { $0.key < $1.key }) {
            let path = paths?.first { $0.cgroupID == id }?.path
            let name = path?.string ?? "cgroup \(id)"
            // A link whose cgroup was removed is defunct.
            if hooks.values.contains(where: { $0.cgroupID == 0 }) {
                let isBack = path.map { FileStatus.exists($0) } ?? false
                let what = "\(name) was removed; its links are defunct"
                wrong.append(
                    isBack
                        ? .bad(
                            subject, "\(what); another cgroup has its path now",
                            fix: "attach it: vip-bpfctl attach cgroup \(name)")
                        : .warning(subject, what, fix: "remove its links: vip-bpfctl detach cgroup \(name)"))
                continue
            }
            let missing = Hook.ofCgroups.filter { hooks[$0.name] == nil }.map(\.name)
            if !missing.isEmpty {
                wrong.append(
                    .bad(subject, "\(name): \(missing.joined(separator: ", ")) not attached", fix: again))
            }
            let old = Hook.ofCgroups.filter { hook in
                hooks[hook.name].map { $0.programID != programs[hook.name] } ?? false
            }
            if !old.isEmpty {
                wrong.append(
                    .bad(
                        subject, "\(name): \(old.map(\.name).joined(separator: ", ")) run an older program", fix: again)
                )
            }
        }
        let network = try pins.networkAttachments()
        for hook in Hook.ofNetwork where !links.isEmpty && network[hook.name]?.isHere != true {
            let state = network[hook.name] == nil ? "not attached to the" : "attached to another"
            wrong.append(.bad(subject, "hook \(hook.name) is \(state) network namespace", fix: again))
        }
        let guarded = try guardFact(instance, programs)
        if guarded.verdict == .bad { wrong.append(guarded) }
        guard wrong.isEmpty else { return wrong }
        return [
            .good(
                subject,
                "\(links.count) cgroups, \(Hook.ofCgroups.count) hooks each, policy generation \(config.generation)"),
            guarded,
        ]
    }

    private static func guardFact(_ instance: Instance, _ programs: [String: UInt32]) throws(Failure) -> CheckedFact {
        guard let guarded = try instance.guardedCgroup(instance.registry()) else {
            return .warning(
                subject, "no cgroup is guarded: a program of no session may take an address of a session to come",
                fix:
                    "guard the hierarchy: vip-bpfctl attach cgroup PATH --guard \(try MountTable.current().cgroup2Mount().mountPoint)"
            )
        }
        let links = try instance.pins.guardLinksByHook()
        let again = "guard it again: vip-bpfctl attach cgroup PATH --guard \(guarded.path)"
        guard guarded.isWhole else {
            return .bad(subject, "\(guarded.path) is guarded, and hooks are missing there", fix: again)
        }
        let old = Hook.ofGuard.filter { links[$0.name]?.programID != programs[$0.name] }.map(\.name)
        guard old.isEmpty else {
            return .bad(subject, "\(guarded.path): \(old.joined(separator: ", ")) run an older program", fix: again)
        }
        return .good(subject, "\(guarded.path) is guarded: programs of no session are kept off sessions' addresses")
    }
}
