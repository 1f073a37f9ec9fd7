// SPDX-License-Identifier: Apache-2.0

package import Network
package import Policy
import SystemPackage

/// The class of an address, by which the hooks decide: each class has its row in the contract.
package enum AddressClass: String, Encodable, CaseIterable {
    /// 0.0.0.0 or ::
    case wildcard
    /// 127.0.0.1 or ::1
    case loopback
    case hostAddress = "host_address"
    case virtualIP = "virtual_ip"
    case virtualLoopback = "virtual_loopback"
    /// The rest of 127/8, which the hooks do not change: 127.0.0.53.
    case otherLoopback = "other_loopback"
    /// Addresses that are not this host's, which the hooks do not change: other hosts, multicast.
    case elsewhere

    /// The text for a table.
    package var label: String {
        switch self {
        case .wildcard: "any address"
        case .loopback: "loopback"
        case .hostAddress: "host address"
        case .virtualIP: "virtual IP"
        case .virtualLoopback: "virtual loopback"
        case .otherLoopback: "other loopback"
        case .elsewhere: "elsewhere"
        }
    }
}

/// The addresses of a host by class.
package struct HostAddresses {
    package var own: Set<IPAddress> = []
    package var virtualIPs: Set<IPAddress> = []
    package var virtualLoopbacks: Set<IPAddress> = []

    package func addressClass(of address: IPAddress) -> AddressClass {
        if address.isUnspecified { return .wildcard }
        if virtualIPs.contains(address) { return .virtualIP }
        if virtualLoopbacks.contains(address) { return .virtualLoopback }
        if address == Self.localhost4 || address == Self.localhost6 { return .loopback }
        if address.isLoopback { return .otherLoopback }
        return own.contains(address) ? .hostAddress : .elsewhere
    }

    package static let localhost4 = IPAddress(v4: 0x7f00_0001)
    package static let localhost6 = IPAddress(.v6, value: 1)
}

/// An address and port that a program has bound or connected to.
package struct AddressUse: Hashable {
    package enum Call: String, Encodable { case bind, connect }
    package enum Transport: String, Encodable { case tcp, udp }

    package var call: Call
    package var transport: Transport
    package var addressClass: AddressClass
    /// The address; `nil` if it is elsewhere, because those are not kept.
    package var address: IPAddress?
    /// The port; 0 if the kernel chooses it.
    package var port: UInt16
    /// Whether the program requested this port; `false` if a socket was only seen on it.
    package var isAsked: Bool
    /// Whether it is `::` without IPv4.
    package var isV6Only = false
    /// Whether SO_REUSEPORT is set; `nil` if it is not known.
    package var sharesPort: Bool?
    /// Whether SO_REUSEADDR is set, which lets UDP sockets share a port; `nil` if it is not known.
    package var sharesAddress: Bool?

    /// The text form: `TCP 127.0.0.1:6379`, `UDP [::]:53`.
    package var text: String {
        let host = address.map { $0.family == .v4 ? "\($0)" : "[\($0)]" } ?? "elsewhere"
        return "\(transport.rawValue.uppercased()) \(host):\(port)"
    }
}

/// A program, as an entry of a program list distinguishes it, and what its processes have done.
package struct ObservedProgram {
    /// The path of the executable, as the processes see it.
    package var path: [UInt8]?
    /// The name of the executable. If the path is not known, the kernel's name of it, which has at most 63 bytes.
    package var name: [UInt8]
    /// If the executable runs scripts and the process has another name, that name; at most 15 bytes.
    package var script: [UInt8]?
    /// The names of its processes: `redis-server`, which is a link to redis-check-rdb. At most 15 bytes each.
    package var processNames: Set<[UInt8]> = []
    package var opened: Set<AddressUse> = []
    /// Whether it has opened more than is kept.
    package var isCut = false
    package var processes = 0
    /// Whether there were more processes than are kept.
    package var hasMoreProcesses = false
    /// The IDs of the sessions that its processes were in.
    package var sessions: Set<UInt32> = []
    package var cgroups: Set<UInt64> = []
    package var users: Set<UInt32> = []

    /// Notes a name of its processes. Only a few are kept: a program may give its processes any number of names.
    package mutating func note(processName: [UInt8]) {
        if processNames.count < 8 { processNames.insert(processName) }
    }

    /// Whether the executable runs other programs, which its own name does not identify.
    package var isInterpreter: Bool { Self.isInterpreter(name) }

    package static func isInterpreter(_ name: [UInt8]) -> Bool {
        // Names like python3.11, perl5.36.0, php8.2: with a version or without, and nothing after it.
        let text = String(decoding: name, as: UTF8.self).lowercased()
        let stem = text.prefix { !$0.isNumber }
        guard text.dropFirst(stem.count).allSatisfy({ $0.isNumber || $0 == "." }) else { return false }
        let known: Set<Substring> = [
            "python", "pypy", "perl", "ruby", "php", "php-fpm", "php-cgi", "node", "nodejs", "java", "mono", "dotnet",
            "lua", "luajit", "tclsh", "wish", "rscript", "guile", "beam.smp", "deno", "bun", "sh", "bash", "dash",
            "ksh", "zsh", "busybox", "toybox",
        ]
        return known.contains(stem)
    }

    /// Whether an entry of a program list matches, as in the hooks: by path, by name, or by the process's name.
    package func isListed(in entries: [ProgramEntry]) -> Bool {
        entries.contains { entry in
            switch entry {
            case .everyProgram: true
            case .path(let listed): path.map { $0 == Array(listed.string.utf8) } ?? false
            case .name(let listed): Array(listed.utf8) == name || script != nil && entry.processName == script
            }
        }
    }

    /// The name that users know it by.
    package var label: String {
        let file = String(decoding: name, as: UTF8.self)
        let only = processNames.count == 1 ? processNames.first.flatMap { name.starts(with: $0) ? nil : $0 } : nil
        guard let shown = script ?? only else { return file }
        return "\(String(decoding: shown, as: UTF8.self)) (\(file))"
    }
}

/// Whether two instances of a program clash, and what prevents that.
package struct Verdict {
    package enum Need: String, Encodable {
        case virtualIP = "virtual_ip"
        case virtualLoopback = "virtual_loopback"
        case both
        case neither

        package init(virtualIP: Bool, loopback: Bool) {
            self = virtualIP ? (loopback ? .both : .virtualIP) : loopback ? .virtualLoopback : .neither
        }

        package var virtualIP: Bool { self == .virtualIP || self == .both }
        package var loopback: Bool { self == .virtualLoopback || self == .both }

        package var label: String {
            switch self {
            case .virtualIP: "virtual IP"
            case .virtualLoopback: "virtual loopback"
            case .both: "both"
            case .neither: "neither"
            }
        }
    }

    /// Whether the port is in use for a second instance.
    package enum Clash: String, Encodable {
        case no
        /// SO_REUSEPORT, or SO_REUSEADDR of UDP: a second instance of the same user gets a part of the traffic. For
        /// another user, TCP refuses it.
        case shared
        case yes
    }

    package var need: Need
    package var clash: Clash
    /// The addresses and ports on which they would clash, sorted: `TCP 127.0.0.1:6379`.
    package var clashesOn: [String]
    /// One sentence, without a full stop.
    package var reason: String
}

/// The verdicts on several programs. They depend on each other: a client needs what its server needs.
package struct Verdicts {
    /// The range of net.ipv4.ip_local_port_range.
    package let ephemeral: ClosedRange<UInt16>
    private struct Service: Hashable {
        var transport: AddressUse.Transport
        var port: UInt16
    }
    /// The name of the program that serves each port, for addresses that virtual loopback or virtual IP replaces.
    private var onLoopback: [Service: String] = [:]
    private var onVirtualIP: [Service: String] = [:]

    package init(on programs: [ObservedProgram], ephemeral: ClosedRange<UInt16>) {
        self.ephemeral = ephemeral
        for program in programs.sorted(by: { $0.label < $1.label }) {
            for use in fixedBinds(of: program) {
                let service = Service(transport: use.transport, port: use.port)
                switch use.addressClass {
                case .loopback, .virtualLoopback: onLoopback[service] = onLoopback[service] ?? program.label
                case .wildcard, .hostAddress, .virtualIP: onVirtualIP[service] = onVirtualIP[service] ?? program.label
                case .otherLoopback, .elsewhere: break
                }
            }
        }
    }

    /// How many ports of the ephemeral range a program may request before they count as chosen at random.
    private static let askedEphemeralLimit = 4

    /// The binds to ports that a second instance would request again.
    package func fixedBinds(of program: ObservedProgram) -> [AddressUse] {
        let binds = program.opened.filter { $0.call == .bind && $0.port != 0 }
        let asked = Set(binds.filter { $0.isAsked && ephemeral.contains($0.port) }.map(\.port))
        return binds.filter { use in
            !ephemeral.contains(use.port) || asked.contains(use.port) && asked.count <= Self.askedEphemeralLimit
        }
        .sorted { ($0.text, $0.isAsked ? 0 : 1) < ($1.text, $1.isAsked ? 0 : 1) }
    }

    package func verdict(on program: ObservedProgram) -> Verdict {
        let fixed = fixedBinds(of: program)
        let wide = fixed.filter { [.wildcard, .hostAddress, .virtualIP].contains($0.addressClass) }
        let narrow = fixed.filter { [.loopback, .virtualLoopback].contains($0.addressClass) }
        let stuck = fixed.filter { $0.addressClass == .otherLoopback }

        var reasons: [String] = []
        if let first = Self.telling(wide) {
            let onAll = first.addressClass == .wildcard ? "on every address" : "on an address of this host"
            reasons.append("it serves \(first.text) \(onAll)\(Self.more(wide))")
        }
        if let first = Self.telling(narrow) { reasons.append("it serves \(first.text)\(Self.more(narrow))") }
        var need = Verdict.Need(virtualIP: !wide.isEmpty, loopback: !narrow.isEmpty)

        // A client needs what its server needs, or it would connect to the server's old address.
        for use in program.opened.filter({ $0.call == .connect }).sorted(by: { $0.text < $1.text }) {
            let service = Service(transport: use.transport, port: use.port)
            switch use.addressClass {
            case .loopback, .virtualLoopback, .wildcard:
                guard !need.loopback, let server = onLoopback[service] ?? onVirtualIP[service] else { continue }
                need = Verdict.Need(virtualIP: need.virtualIP, loopback: true)
                reasons.append("it connects to \(use.text), where \(server) serves")
            case .hostAddress, .virtualIP:
                guard !need.virtualIP, let server = onVirtualIP[service] else { continue }
                need = Verdict.Need(virtualIP: true, loopback: need.loopback)
                reasons.append("it connects to \(use.text), where \(server) serves")
            case .otherLoopback, .elsewhere: continue
            }
        }

        if need == .neither { reasons = [whyNeither(program, stuck: stuck)] }
        if program.isInterpreter, program.script == nil, need != .neither {
            reasons.append("an entry for it holds for everything that it runs")
        }
        let clashing = (wide + narrow + stuck).filter { Self.clash(of: $0) != .no }
        let clash: Verdict.Clash =
            clashing.isEmpty ? .no : clashing.contains { Self.clash(of: $0) == .yes } ? .yes : .shared
        return Verdict(
            need: need, clash: clash, clashesOn: Array(Set(clashing.map(\.text))).sorted(),
            reason: reasons.joined(separator: "; "))
    }

    private func whyNeither(_ program: ObservedProgram, stuck: [AddressUse]) -> String {
        if let first = stuck.first { return "it serves \(first.text), which vip-bpf does not change" }
        let binds = program.opened.filter { $0.call == .bind }
        if binds.contains(where: { $0.addressClass != .elsewhere && !($0.port == 0) }) {
            return "it uses other ports each time"
        }
        if !binds.isEmpty { return "it leaves the choice of its ports to the kernel" }
        if program.opened.contains(where: { $0.addressClass != .elsewhere }) {
            return "it serves nothing, and no server that it connects to was seen to need one"
        }
        return "it only connects to other hosts"
    }

    /// What happens if a second instance of the program uses the same port.
    private static func clash(of use: AddressUse) -> Verdict.Clash {
        if use.addressClass == .virtualIP || use.addressClass == .virtualLoopback { return .no }
        if use.sharesPort == true || use.transport == .udp && use.sharesAddress == true { return .shared }
        return .yes
    }

    /// The use to name in the reason: one that clashes if there is one, then by port.
    private static func telling(_ uses: [AddressUse]) -> AddressUse? {
        uses.min { ($0.isAsked ? 0 : 1, $0.port, $0.text) < ($1.isAsked ? 0 : 1, $1.port, $1.text) }
    }

    private static func more(_ uses: [AddressUse]) -> String {
        let count = Set(uses.map(\.text)).count - 1
        return count > 0 ? " and \(count) more" : ""
    }
}
