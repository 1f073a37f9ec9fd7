// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Host
import Network
import PolicyMaps
import Sessions
import SystemPackage

/// Finds other BPF programs at the same hooks, on the attached cgroups or on cgroups above, and whether they run before
/// this project's programs.
///
/// The order is read from the kernel. Usually, a cgroup's programs run before those of the cgroups above it, and on one
/// cgroup, the one that was attached first runs first: docs/kernel.md.
package enum NeighbourFacts: CheckedSubject {
    private static let subject = "other programs"

    /// One program at one place, and its order.
    private struct Neighbour: Hashable {
        var id: UInt32
        /// The cgroup that it is attached to.
        var place: String
        /// The attached cgroup that this is about.
        var cgroup: String
        var isBefore: Bool
    }

    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: subject) { () throws(Failure) in
            let instance = host.instance
            try instance.pins.requireReadable()
            guard instance.pins.isLoaded else { return [] }
            let links = try instance.pins.attachments()
            let guards = Set(try instance.pins.guardLinksByHook().values.map(\.programID))
            var found: [Neighbour: [String]] = [:]
            for (path, id) in try instance.registry().attachments() where Cgroup.isThere(path, id: id) {
                guard let ours = links[id] else { continue }
                for hook in Hook.ofCgroups {
                    for neighbour in try neighbours(of: path, hook, ours: ours[hook.name]?.programID)
                    where !guards.contains(neighbour.id) {
                        found[neighbour, default: []].append(hook.name)
                    }
                }
            }
            if !links.isEmpty {
                let ours = try instance.pins.networkAttachments()
                for hook in Hook.ofNetwork {
                    for id in try AttachedPrograms.own(of: "/", hook) where id != ours[hook.name]?.programID {
                        let place = "the network namespace"
                        found[Neighbour(id: id, place: place, cgroup: place, isBefore: false), default: []]
                            .append(hook.name)
                    }
                }
            }
            guard !found.isEmpty else {
                return [.good(subject, "no other programs at the hooks of the attached cgroups")]
            }
            return found.sorted { ($0.key.cgroup, $0.key.id) < ($1.key.cgroup, $1.key.id) }.map(fact)
        }
    }

    private static func fact(_ neighbour: Neighbour, _ hooks: [String]) -> CheckedFact {
        let name = (try? BPFProgram(id: neighbour.id).name()).flatMap { $0.isEmpty ? nil : $0 }.map {
            "\($0) (ID \(neighbour.id))"
        }
        let program = "\(name ?? "program \(neighbour.id)") on \(neighbour.place)"
        let order =
            neighbour.cgroup == neighbour.place && neighbour.place == "the network namespace"
            ? "runs in addition to vip-bpf's program"
            : neighbour.isBefore
                ? "runs before vip-bpf's programs on \(neighbour.cgroup), which see the addresses that it returns"
                : "runs after vip-bpf's programs on \(neighbour.cgroup), and sees the addresses that they return"
        return .warning(
            subject, "\(program) \(order): \(hooks.joined(separator: ", "))",
            fix: "check whether it also changes addresses: bpftool prog show id \(neighbour.id)")
    }

    private static func neighbours(of cgroup: FilePath, _ hook: Hook, ours: UInt32?) throws(Failure) -> [Neighbour] {
        let order = try AttachedPrograms.effective(on: cgroup, hook)
        guard order.contains(where: { $0 != ours }) else { return [] }
        let own = ours.flatMap { order.firstIndex(of: $0) } ?? order.count
        var places: [UInt32: String] = [:]
        var place = cgroup
        let root = try MountTable.current().cgroup2Mount().mountPoint
        while place.starts(with: root) {
            for id in try AttachedPrograms.own(of: place, hook) where places[id] == nil { places[id] = place.string }
            guard place != root else { break }
            place = place.removingLastComponent()
        }
        return order.enumerated().filter { $0.element != ours }.map { index, id in
            Neighbour(
                id: id, place: places[id] ?? "a cgroup above", cgroup: cgroup.string, isBefore: index < own)
        }
    }
}
