// SPDX-License-Identifier: Apache-2.0

import Synchronization
import TestSupport
import Testing

// The vocabulary of ContractTests.swift: policies, places, actors, and the stage that they use.

/// A policy, by its differences from the defaults. `app` is on every list that is in force, `tool` on none.
struct ContractPolicy: Hashable, Sendable, CustomStringConvertible {
    /// Virtual IP, virtual loopback, preferred loopback.
    enum Part: String, Sendable, CaseIterable {
        case virtualIP = "V"
        case loopback = "L"
        case preferred = "P"
    }

    var parts: Set<Part>
    var programs = ["app"]
    var mode = "perProgram"
    var whenUnavailable = "deny"
    var wildcardName = "virtual"
    var fallback = "none"
    var isolation = true
    var excludedPorts: [UInt16] = []
    /// Those of virtualIP.
    var wildcardPorts: [UInt16] = []

    init(_ parts: Part...) { self.parts = Set(parts) }

    func with(_ change: (inout Self) -> Void) -> Self {
        var copy = self
        change(&copy)
        return copy
    }

    var yaml: String {
        """
        virtualIP:
          enabled: \(parts.contains(.virtualIP))
          mode: \(mode)
          programs: \(mode == "perSession" ? "[]" : "\(programs)")
          whenUnavailable: \(whenUnavailable)
          excludedPorts: \(wildcardPorts)
          addresses: {probeSeconds: 0}
        virtualLoopback:
          enabled: \(parts.contains(.loopback))
          programs: \(programs)
          excludedPorts: \(excludedPorts)
          fallback: \(fallback)
        preferLoopback:
          enabled: \(parts.contains(.preferred))
          programs: \(parts.contains(.preferred) ? programs : [])
        wildcardName: \(wildcardName)
        isolation: \(isolation)
        """ + "\n"
    }

    var description: String {
        var words = [
            parts.isEmpty ? "off" : Part.allCases.filter(parts.contains).map(\.rawValue).joined(separator: "+")
        ]
        let plain = ContractPolicy()
        if mode != plain.mode { words.append(mode) }
        if programs != plain.programs { words.append("for \(programs.joined(separator: ","))") }
        if whenUnavailable != plain.whenUnavailable { words.append(whenUnavailable) }
        if wildcardName != plain.wildcardName { words.append(wildcardName) }
        if fallback != plain.fallback { words.append("fallback \(fallback)") }
        if !isolation { words.append("no isolation") }
        if !excludedPorts.isEmpty { words.append("but ports \(excludedPorts)") }
        if !wildcardPorts.isEmpty { words.append("but wildcard ports \(wildcardPorts)") }
        return words.joined(separator: " ")
    }
}

/// A suite that states the contract: the policies and actors that its rows name.
protocol ContractSuite {}

extension ContractSuite {
    static var off: ContractPolicy { ContractPolicy() }
    static var v: ContractPolicy { ContractPolicy(.virtualIP) }
    static var l: ContractPolicy { ContractPolicy(.loopback) }
    static var vl: ContractPolicy { ContractPolicy(.virtualIP, .loopback) }
    static var vlp: ContractPolicy { ContractPolicy(.virtualIP, .loopback, .preferred) }
    static var asRequested: ContractPolicy { vl.with { $0.wildcardName = "asRequested" } }
    static var fallback: ContractPolicy { vl.with { $0.fallback = "host" } }
    static var excluded: ContractPolicy { vl.with { $0.excludedPorts = [631] } }
    static var shared: ContractPolicy { vl.with { $0.wildcardPorts = [5353] } }
    static var useHostAddress: ContractPolicy { vl.with { $0.whenUnavailable = "useHostAddress" } }

    static var deep: Actor { Actor(party: .ann, program: "app", below: "user.slice/app.scope/deep") }
    static var renamed: Actor { Actor(party: .ann, program: "app", first: ["rename other-name"]) }
    static var worker: Actor { Actor(party: .ann, program: "app", first: ["thread worker-1"]) }

    static var all: [Transport] { Transport.allCases }
}

/// The callers: processes of a session, or of none.
enum Party: Sendable, CaseIterable {
    /// Session 7: 198.51.100.17, 127.0.0.8, 2001:db8:51::17, PREFIX::8.
    case ann
    /// Session 300, past the loopback's roll-over: 198.51.100.18, 127.0.1.45, 2001:db8:51::18, PREFIX::12d.
    case ben
    /// Session 20, without a virtual IP: 127.0.0.21, PREFIX::15.
    case poor
    /// Session 40, with an IPv4 virtual IP alone: 198.51.100.19, 127.0.0.41, PREFIX::29.
    case four
    /// Session 60, with an IPv6 virtual IP alone: 2001:db8:51::20, 127.0.0.61, PREFIX::3d.
    case six
    /// In no session, in a cgroup with hooks.
    case nobody
    /// In no session, in a cgroup without hooks.
    case unhooked
    /// On another host.
    case remote

    /// The prefix of the virtual loopbacks, if the policy gives none.
    static let prefix = "fdd2:9088:43af:"

    /// The addresses of a party; outside sessions, there are none.
    private struct Addresses {
        var id: UInt32?
        var virtualIP, virtualIP6, virtualLoopback, virtualLoopback6: String?
    }

    private var addresses: Addresses {
        switch self {
        case .ann:
            Addresses(
                id: 7, virtualIP: "198.51.100.17", virtualIP6: "2001:db8:51::17", virtualLoopback: "127.0.0.8",
                virtualLoopback6: "\(Self.prefix):8")
        case .ben:
            Addresses(
                id: 300, virtualIP: "198.51.100.18", virtualIP6: "2001:db8:51::18", virtualLoopback: "127.0.1.45",
                virtualLoopback6: "\(Self.prefix):12d")
        case .poor:
            Addresses(id: 20, virtualLoopback: "127.0.0.21", virtualLoopback6: "\(Self.prefix):15")
        case .four:
            Addresses(
                id: 40, virtualIP: "198.51.100.19", virtualLoopback: "127.0.0.41",
                virtualLoopback6: "\(Self.prefix):29")
        case .six:
            Addresses(
                id: 60, virtualIP6: "2001:db8:51::20", virtualLoopback: "127.0.0.61",
                virtualLoopback6: "\(Self.prefix):3d")
        case .nobody, .unhooked, .remote: Addresses()
        }
    }
    var id: UInt32? { addresses.id }
    var virtualIP: String? { addresses.virtualIP }
    var virtualIP6: String? { addresses.virtualIP6 }
    var virtualLoopback: String? { addresses.virtualLoopback }
    var virtualLoopback6: String? { addresses.virtualLoopback6 }
    var cgroup: String {
        switch self {
        case .ann, .ben, .poor, .four, .six, .nobody: "attached/\(self)"
        case .unhooked, .remote: "outside"
        }
    }
}

/// An address, by its role for a party.
indirect enum Place: Hashable, Sendable, CustomStringConvertible {
    case wildcard, localhost, host, remote
    /// The stub of systemd-resolved: in 127/8, but no session's.
    case stub
    case multicast
    case virtualIP(of: Party)
    case loopback(of: Party)

    case wildcard6, localhost6, host6, remote6, multicast6
    case virtualIP6(of: Party)
    case loopback6(of: Party)
    /// An IPv4 place as ::ffff:a.b.c.d.
    case mapped(Place)

    static let annVIP = Place.virtualIP(of: .ann)
    static let annLO = Place.loopback(of: .ann)
    static let benVIP = Place.virtualIP(of: .ben)
    static let benLO = Place.loopback(of: .ben)
    static let poorLO = Place.loopback(of: .poor)
    static let fourVIP = Place.virtualIP(of: .four)
    static let fourLO = Place.loopback(of: .four)

    static let annVIP6 = Place.virtualIP6(of: .ann)
    static let annLO6 = Place.loopback6(of: .ann)
    static let benVIP6 = Place.virtualIP6(of: .ben)
    static let benLO6 = Place.loopback6(of: .ben)
    static let poorLO6 = Place.loopback6(of: .poor)
    static let fourLO6 = Place.loopback6(of: .four)
    static let sixVIP6 = Place.virtualIP6(of: .six)
    static let sixLO6 = Place.loopback6(of: .six)

    var address: String {
        switch self {
        case .wildcard: "0.0.0.0"
        case .localhost: "127.0.0.1"
        case .host: Sandbox.hostAddress
        case .remote: Sandbox.outsideAddress
        case .stub: "127.0.0.53"
        case .multicast: "239.1.2.3"
        case .virtualIP(let party): party.virtualIP ?? "no virtual IP"
        case .loopback(let party): party.virtualLoopback ?? "no virtual loopback"
        case .wildcard6: "::"
        case .localhost6: "::1"
        case .host6: Sandbox.hostAddress6
        case .remote6: Sandbox.outsideAddress6
        case .multicast6: "ff05::1:3"
        case .virtualIP6(let party): party.virtualIP6 ?? "no IPv6 virtual IP"
        case .loopback6(let party): party.virtualLoopback6 ?? "no IPv6 virtual loopback"
        case .mapped(let place): "::ffff:\(place.address)"
        }
    }

    /// The number whose bytes in memory are an IPv4 address in network order: a struct in_addr.
    var inMemory: Int32 {
        address.split(separator: ".").compactMap { UInt8($0) }.withUnsafeBytes { $0.loadUnaligned(as: Int32.self) }
    }

    /// The place of IPv6 that has the same role; `nil` if IPv6 has none.
    var inet6: Place? {
        switch self {
        case .wildcard: .wildcard6
        case .localhost: .localhost6
        case .host: .host6
        case .remote: .remote6
        case .stub: nil  // all of IPv6's loopback is ::1
        case .multicast: .multicast6
        case .virtualIP(let party): .virtualIP6(of: party)
        case .loopback(let party): .loopback6(of: party)
        case .wildcard6, .localhost6, .host6, .remote6, .multicast6, .virtualIP6, .loopback6, .mapped: self
        }
    }

    /// Whether it needs an AF_INET6 socket.
    var isIPv6: Bool {
        switch self {
        case .wildcard, .localhost, .host, .remote, .stub, .multicast, .virtualIP, .loopback: false
        case .wildcard6, .localhost6, .host6, .remote6, .multicast6, .virtualIP6, .loopback6, .mapped: true
        }
    }
}

extension Place {
    var description: String { address }
}

/// Compares, and reports the case.
func expect(_ got: String?, is wanted: String, _ what: String, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(got == wanted, "\(what): \(got ?? "none"), not \(wanted)", sourceLocation: sourceLocation)
}

/// A program that a party runs. It first makes the calls in `first`.
struct Actor: Sendable, CustomStringConvertible {
    var party: Party
    var program: String
    /// The cgroup, relative to the party's.
    var below = ""
    var first: [String] = []
    /// Whether its AF_INET6 sockets are IPV6_V6ONLY.
    var isV6Only = false

    /// A program on the lists of the policy.
    static let app = Actor(party: .ann, program: "app")
    static let benApp = Actor(party: .ben, program: "app")
    static let poorApp = Actor(party: .poor, program: "app")
    /// A program on no list.
    static let tool = Actor(party: .ann, program: "tool")
    static let poorTool = Actor(party: .poor, program: "tool")
    static let fourApp = Actor(party: .four, program: "app")
    static let sixApp = Actor(party: .six, program: "app")
    /// A program whose name is on the lists, but in no session.
    static let nobody = Actor(party: .nobody, program: "app")
    static let unhooked = Actor(party: .unhooked, program: "app")
    static let remote = Actor(party: .remote, program: "app")

    /// The same, with IPV6_V6ONLY.
    var only6: Actor {
        var copy = self
        copy.isV6Only = true
        return copy
    }

    /// The same, so that a socket on :: is one of IPv6 alone. Outside sessions a dual-stack one is that, too.
    func inet6(on place: Place) -> Actor {
        place == .wildcard6 && party.id != nil ? only6 : self
    }

    /// The commands that make a socket for an address.
    func socket(_ name: String, _ transport: Transport, for place: Place) -> [String] {
        guard place.isIPv6 else { return ["socket \(name) \(transport.socket)"] }
        return ["socket \(name) \(transport.socket) 6"] + (isV6Only ? ["setsockopt \(name) v6only 1"] : [])
    }

    var description: String {
        [
            "\(party)'s \(program)", isV6Only ? "V6ONLY" : nil, below.isEmpty ? nil : "in \(below)",
            first.isEmpty ? nil : "after \(first.joined(separator: ", "))",
        ]
        .compactMap(\.self).joined(separator: " ")
    }
}

enum Transport: String, Sendable, CaseIterable {
    case tcp, mptcp, fastOpen, datagram, connectedDatagram

    static let streams: [Transport] = [.tcp, .mptcp, .fastOpen]
    static let binds: [Transport] = [.tcp, .mptcp, .datagram]
    static let datagrams: [Transport] = [.datagram, .connectedDatagram]
    /// A dual-stack listener of these is found by IPv6, too.
    static let plainStreams: [Transport] = [.tcp, .fastOpen]
    /// Those whose sockets have a row in `sockets`.
    static let remembered = allCases.filter { $0 != .mptcp }

    var isStream: Bool { Self.streams.contains(self) }
    /// The word for it in the probe's `socket`.
    var socket: String {
        switch self {
        case .tcp, .fastOpen: "tcp"
        case .mptcp: "mptcp"
        case .datagram, .connectedDatagram: "udp"
        }
    }
}

/// A sandbox with hooks attached and the sessions of all parties open.
final class Stage: Sendable {
    let sandbox: Sandbox
    private struct State {
        var inForce: ContractPolicy?
        /// Each case has its own port below the ephemeral range, so no case waits for TIME_WAIT.
        var port: UInt16 = 10000
    }
    private let state = Mutex(State())

    /// - Parameter ipv6: whether sessions also have IPv6 addresses.
    init(_ sandbox: Sandbox, ipv6: Bool = false) throws {
        self.sandbox = sandbox
        let policy = try sandbox.policyFile(ContractPolicy().yaml)
        try sandbox.mustCtl("attach", "cgroup", sandbox.attached, "--policy", policy)
        for party in Party.allCases {
            guard let id = party.id else { continue }
            let addresses = [party.virtualIP, ipv6 ? party.virtualIP6 : nil].compactMap(\.self)
            let session = try sandbox.openSession(party.cgroup, id: id, ips: addresses)
            guard session.virtualIps == addresses,
                session.virtualLoopback == party.virtualLoopback
            else {
                throw HarnessError("session \(id) is not what was asked for: \(session)")
            }
        }
    }

    func enforce(_ policy: ContractPolicy) throws {
        guard state.withLock({ $0.inForce }) != policy else { return }
        try sandbox.mustCtl("policy", "apply", "--force", try sandbox.policyFile(policy.yaml))
        state.withLock { $0.inForce = policy }
    }

    func newPort() -> UInt16 {
        state.withLock { state in
            state.port += 1
            return state.port
        }
    }

    func start(_ actor: Actor) throws -> Probe {
        let cgroup = actor.below.isEmpty ? actor.party.cgroup : "\(actor.party.cgroup)/\(actor.below)"
        let probe = try sandbox.probe(actor.program, in: cgroup, at: actor.party == .remote ? .outside : .inside)
        for command in actor.first { try probe.must(command) }
        return probe
    }
}

/// One stage for all tests of a suite.
struct StageTrait: SuiteTrait, TestScoping {
    var ipv6 = false
    @TaskLocal static var current: Stage?

    func provideScope(for test: Test, testCase: Test.Case?, performing function: @concurrent () async throws -> Void)
        async throws
    {
        let sandbox = try Sandbox()
        do {
            let stage = try Stage(sandbox, ipv6: ipv6)
            try await Self.$current.withValue(stage) { try await function() }
        } catch {
            try? sandbox.tearDown()
            throw error
        }
        try sandbox.tearDown()
    }
}

extension Trait where Self == StageTrait {
    static var stage: Self { Self() }
    /// The same with IPv6 addresses.
    static var stage6: Self { Self(ipv6: true) }
}
