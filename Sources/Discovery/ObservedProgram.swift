// SPDX-License-Identifier: Apache-2.0

package import Network
package import Policy
import SystemPackage

/// What an address is to the hooks: which of the contract's rows a call on it falls into.
package enum AddressClass: String, Encodable, CaseIterable {
    /// 0.0.0.0 or ::
    case wildcard
    /// 127.0.0.1 or ::1
    case loopback
    case hostAddress = "host_address"
    case virtualIP = "virtual_ip"
    case virtualLoopback = "virtual_loopback"
    /// The rest of 127/8, where nothing is moved: 127.0.0.53.
    case otherLoopback = "other_loopback"
    /// Neither of this host nor moved: another host, multicast.
    case elsewhere

    /// As it stands in a table.
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

/// One thing that a program has opened.
package struct AddressUse: Hashable {
    package enum Call: String, Encodable { case bind, connect }
    package enum Transport: String, Encodable { case tcp, udp }

    package var call: Call
    package var transport: Transport
    package var addressClass: AddressClass
    /// `nil` where it is not kept: elsewhere.
    package var address: IPAddress?
    /// 0: the kernel chooses.
    package var port: UInt16
    /// Whether the program has asked for this port, rather than been seen on it.
    package var isAsked: Bool
    /// `::` that does not take IPv4.
    package var isV6Only = false
    /// SO_REUSEPORT; `nil` where nobody says.
    package var sharesPort: Bool?
    /// SO_REUSEADDR, which lets UDP sockets share a port.
    package var sharesAddress: Bool?

    /// `TCP 127.0.0.1:6379`, `UDP [::]:53`
    package var text: String {
        let host = address.map { $0.family == .v4 ? "\($0)" : "[\($0)]" } ?? "elsewhere"
        return "\(transport.rawValue.uppercased()) \(host):\(port)"
    }
}

/// A program as its entry in a program list would name it, and what its processes have done.
package struct ObservedProgram {
    /// The executable's file, as the processes see it.
    package var path: [UInt8]?
    /// The name of that file; as the kernel has it where the path is not known, cut at 63 bytes.
    package var name: [UInt8]
    /// Where the executable runs scripts, and the process goes by another name than it: that name, at most 15 bytes.
    package var script: [UInt8]?
    /// What its processes are called: `redis-server`, where that is a link to redis-check-rdb. At most 15 bytes each.
    package var processNames: Set<[UInt8]> = []
    package var opened: Set<AddressUse> = []
    /// Whether it has opened more than was kept.
    package var isCut = false
    package var processes = 0
    /// Whether there were more processes than were kept.
    package var hasMoreProcesses = false
    /// The IDs of the sessions that its processes were in.
    package var sessions: Set<UInt32> = []
    package var cgroups: Set<UInt64> = []
    package var users: Set<UInt32> = []

    /// A few are enough to know that there is no one name; a program may give itself any number.
    package mutating func note(processName: [UInt8]) {
        if processNames.count < 8 { processNames.insert(processName) }
    }

    /// Executables that run other people's programs: their name says nothing of which.
    package var isInterpreter: Bool { Self.isInterpreter(name) }

    package static func isInterpreter(_ name: [UInt8]) -> Bool {
        // python3.11, perl5.36.0, php8.2: with a version or without, and nothing else behind it.
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

    /// Whether an entry of a program list is about it, as the hooks compare: by path, by name, by the process's name.
    package func isListed(in entries: [ProgramEntry]) -> Bool {
        entries.contains { entry in
            switch entry {
            case .everyProgram: true
            case .path(let listed): path.map { $0 == Array(listed.string.utf8) } ?? false
            case .name(let listed): Array(listed.utf8) == name || script != nil && entry.processName == script
            }
        }
    }

    /// What a person calls it.
    package var label: String {
        let file = String(decoding: name, as: UTF8.self)
        let only = processNames.count == 1 ? processNames.first.flatMap { name.starts(with: $0) ? nil : $0 } : nil
        guard let shown = script ?? only else { return file }
        return "\(String(decoding: shown, as: UTF8.self)) (\(file))"
    }
}

/// What two instances of a program would have of each other, and what it needs so that they have not.
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

    /// Whether a second instance finds the port taken.
    package enum Clash: String, Encodable {
        case no
        /// SO_REUSEPORT, or SO_REUSEADDR of UDP: a second one of the same user gets a part of what comes; of another user,
        /// TCP refuses it.
        case shared
        case yes
    }

    package var need: Need
    package var clash: Clash
    /// What they would clash on: `TCP 127.0.0.1:6379`, sorted.
    package var clashesOn: [String]
    /// One sentence, without a full stop.
    package var reason: String
}

/// The verdicts on a number of programs, which depend on each other: a client needs what its server needs.
package struct Verdicts {
    /// net.ipv4.ip_local_port_range
    package let ephemeral: ClosedRange<UInt16>
    private struct Service: Hashable {
        var transport: AddressUse.Transport
        var port: UInt16
    }
    /// Who serves what moves with the virtual loopback or from the wildcard, and how it is called.
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

    /// How many ports of the ephemeral range a program may ask for by number before it is held to be choosing at random.
    private static let askedEphemeralLimit = 4

    /// Binds to a port that a second instance would ask for again.
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

        // A client needs what the server that it connects to needs, or it would look for it in the old place.
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
        if let first = stuck.first { return "it serves \(first.text), which vip-bpf never moves" }
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

    /// What a second instance of the same program meets at the same port.
    private static func clash(of use: AddressUse) -> Verdict.Clash {
        if use.addressClass == .virtualIP || use.addressClass == .virtualLoopback { return .no }
        if use.sharesPort == true || use.transport == .udp && use.sharesAddress == true { return .shared }
        return .yes
    }

    /// The one to name: what clashes, before what does not; then by port.
    private static func telling(_ uses: [AddressUse]) -> AddressUse? {
        uses.min { ($0.isAsked ? 0 : 1, $0.port, $0.text) < ($1.isAsked ? 0 : 1, $1.port, $1.text) }
    }

    private static func more(_ uses: [AddressUse]) -> String {
        let count = Set(uses.map(\.text)).count - 1
        return count > 0 ? " and \(count) more" : ""
    }
}
