// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage

/// A capability: capabilities(7).
public struct Capability: Sendable, Hashable, CustomStringConvertible {
    /// Its bit number in a capability set: linux/capability.h.
    package let bit: UInt64
    public let description: String

    public static let chown = Capability(bit: 0, description: "CAP_CHOWN")
    public static let dacOverride = Capability(bit: 1, description: "CAP_DAC_OVERRIDE")
    public static let netBindService = Capability(bit: 10, description: "CAP_NET_BIND_SERVICE")
    public static let netAdmin = Capability(bit: 12, description: "CAP_NET_ADMIN")
    public static let netRaw = Capability(bit: 13, description: "CAP_NET_RAW")
    public static let sysAdmin = Capability(bit: 21, description: "CAP_SYS_ADMIN")
    public static let perfmon = Capability(bit: 38, description: "CAP_PERFMON")
    public static let bpf = Capability(bit: 39, description: "CAP_BPF")

    /// The capabilities for loading BPF programs and attaching them to cgroups.
    public static let bpfPrograms = [bpf, netAdmin, perfmon]
}

/// The privileges of a process.
package struct Privileges: Sendable, Hashable {
    package var isRoot: Bool
    /// The effective capabilities, a bit for each.
    package var effective: UInt64
    /// Whether it is in a user namespace, where root is another user outside and has capabilities only inside:
    /// user_namespaces(7).
    package var isInUserNamespace: Bool

    package init(isRoot: Bool, effective: UInt64, isInUserNamespace: Bool = false) {
        self.isRoot = isRoot
        self.effective = effective
        self.isInUserNamespace = isInUserNamespace
    }

    /// The calling thread's privileges: CapEff of proc_pid_status(5). Without /proc, root is taken to have all
    /// capabilities, and others none.
    package static var current: Privileges {
        let isRoot = geteuid() == 0
        let status = (try? readWholeFile("/proc/thread-self/status")).map { String(decoding: $0, as: UTF8.self) } ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        let effective = line.flatMap { UInt64($0.dropFirst(7).drop { $0 == "\t" || $0 == " " }, radix: 16) }
        let map = (try? readWholeFile("/proc/thread-self/uid_map")).map { String(decoding: $0, as: UTF8.self) }
        return Privileges(
            isRoot: isRoot, effective: effective ?? (isRoot ? .max : 0),
            isInUserNamespace: map.map { $0.split(whereSeparator: \.isWhitespace) != ["0", "0", "4294967295"] } ?? false
        )
    }

    /// The capabilities among these that are not effective.
    package func missing(_ needed: [Capability]) -> [Capability] {
        // CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON, which were split off from it.
        let isAdministrator = effective >> Capability.sysAdmin.bit & 1 == 1
        return needed.filter { capability in
            effective >> capability.bit & 1 == 0
                && !(isAdministrator && (capability == .bpf || capability == .perfmon))
        }
    }

    /// How to get the privilege for a call that was refused; `nil` if no privilege is missing.
    ///
    /// - Parameter isFile: whether the errno was EACCES, which root does not get as long as it has CAP_DAC_OVERRIDE.
    func hint(needed: [Capability], isFile: Bool) -> String? {
        let all = isFile ? needed + [.dacOverride] : needed
        var missing = missing(all)
        guard isRoot else {
            guard !missing.isEmpty || needed.isEmpty else { return isInUserNamespace ? Self.outside : nil }
            // If a needed capability is missing, the hint does not name CAP_DAC_OVERRIDE as well.
            if missing.contains(where: needed.contains) { missing.removeAll { !needed.contains($0) } }
            return needed.isEmpty ? "run as root" : "run as root, or grant \(Self.list(missing))"
        }
        if !missing.isEmpty { return "grant \(Self.list(missing)), which root lacks here" }
        return isInUserNamespace ? Self.outside : nil
    }

    private static let outside = "run as root outside of this user namespace"

    private static func list(_ capabilities: [Capability]) -> String {
        let names = capabilities.map(\.description)
        guard let last = names.last, names.count > 1 else { return names.first ?? "" }
        return names.dropLast().joined(separator: ", ") + " and " + last
    }
}
