// SPDX-License-Identifier: Apache-2.0
// The structs are this project's, but the C module that declares them cannot declare conformances.
// swift-format-ignore-file: AvoidRetroactiveConformances

public import CVipABI
public import Network
public import Policy

/// A key or value of a map: a C struct of bpf/abi.h without padding, compared and hashed by its bytes.
public protocol MapRow: Hashable, Sendable {
    init()
}

extension MapRow where Self: BitwiseCopyable {
    public static func == (a: Self, b: Self) -> Bool {
        withUnsafeBytes(of: a) { a in withUnsafeBytes(of: b) { b in a.elementsEqual(b) } }
    }

    public func hash(into hasher: inout Hasher) {
        withUnsafeBytes(of: self) { hasher.combine(bytes: $0) }
    }
}

extension vip_config: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_session: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_address: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_address_owner: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_prefix: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_policy: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_program_name: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_program_script: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_program_file: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_listing: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_program: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_verdict: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_listener: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_counters: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_watcher: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_watchers: @retroactive Equatable, @retroactive Hashable, MapRow {}
extension vip_event: @retroactive Equatable, @retroactive Hashable, MapRow {}

/// Asserts the sizes of bpf/abi.h for Swift: size and stride are equal, so there is no padding at the end.
enum MapLayout {
    static let sizes: [(name: String, size: Int, stride: Int, expected: Int)] = [
        row(vip_config.self, 400), row(vip_session.self, 40), row(vip_address.self, 16),
        row(vip_address_owner.self, 8), row(vip_prefix.self, 20), row(vip_policy.self, 16392),
        row(vip_program_name.self, 64),
        row(vip_program_script.self, 16), row(vip_program_file.self, 80), row(vip_listing.self, 24),
        row(vip_program.self, 32), row(vip_verdict.self, 16), row(vip_listener.self, 16),
        row(vip_counters.self, 64), row(vip_watcher.self, 32), row(vip_watchers.self, 160),
        row(vip_event.self, 168),
    ]

    private static func row<T: MapRow>(_: T.Type, _ expected: Int) -> (String, Int, Int, Int) {
        ("\(T.self)", MemoryLayout<T>.size, MemoryLayout<T>.stride, expected)
    }
}

// MARK: What the fields mean

extension vip_address {
    /// The address as 16 bytes in network order, IPv4 in mapped form.
    public init(_ address: IPAddress) {
        self.init()
        withUnsafeMutableBytes(of: &self) { $0.copyBytes(from: address.mappedBytes) }
    }

    /// The address. A mapped one is an IPv4 address.
    public var address: IPAddress {
        let bytes = withUnsafeBytes(of: self) { Array($0) }
        let isMapped = bytes[..<10].allSatisfy { $0 == 0 } && bytes[10] == 0xff && bytes[11] == 0xff
        // 4 or 16 bytes are always an address.
        return IPAddress(bytes: isMapped ? bytes[12...] : bytes[...]) ?? IPAddress(.v6, value: 0)
    }
}

extension vip_prefix {
    /// A prefix of either family: one of IPv4 is 96 bits longer, in mapped form.
    public init(_ prefix: AddressPrefix) {
        self.init()
        length = UInt32(prefix.length + (prefix.family == .v4 ? 96 : 0))
        address = vip_address(prefix.network)
    }

    /// The prefix, one of IPv4 out of its mapped form.
    public var prefix: AddressPrefix {
        let network = address.address
        return AddressPrefix(of: network, length: Int(length) - (network.family == .v4 ? 96 : 0))
    }
}

extension vip_session {
    /// - Parameters:
    ///   - policies: the number of the session's policy in bank 0 and bank 1.
    ///   - namespace: the cookie of the session's network namespace.
    public init(id: UInt32, vip4: IPAddress?, vip6: IPAddress?, policies: (UInt8, UInt8), namespace: UInt64) {
        self.init()
        self.id = id
        self.netns = namespace
        self.vip4 = vip4?.v4?.bigEndian ?? 0
        if let vip6, vip6.family == .v6 {
            withUnsafeMutableBytes(of: &self.vip6) { $0.copyBytes(from: vip6.bytes) }
        }
        self.policy = policies
    }

    public var virtualIPv4: IPAddress? { vip4 == 0 ? nil : IPAddress(v4: UInt32(bigEndian: vip4)) }

    public var virtualIPv6: IPAddress? {
        let address = IPAddress(bytes: withUnsafeBytes(of: vip6) { Array($0) })
        return address?.isUnspecified == true ? nil : address
    }

    /// The number of the session's policy in `bank`.
    public subscript(policyInBank bank: Int) -> UInt8 {
        get { bank == 0 ? policy.0 : policy.1 }
        set { if bank == 0 { policy.0 = newValue } else { policy.1 = newValue } }
    }
}

/// The policies that have a program on each list: bit n is policy number n.
public struct ListMasks: Hashable, Sendable {
    public var virtualIP: UInt32 = 0
    public var loopback: UInt32 = 0
    public var preferLoopback: UInt32 = 0

    public init() {}

    public var isEmpty: Bool { virtualIP | loopback | preferLoopback == 0 }

    public subscript(list: ProgramList) -> UInt32 {
        get {
            switch list {
            case .virtualIP: virtualIP
            case .loopback: loopback
            case .preferLoopback: preferLoopback
            }
        }
        set {
            switch list {
            case .virtualIP: virtualIP = newValue
            case .loopback: loopback = newValue
            case .preferLoopback: preferLoopback = newValue
            }
        }
    }
}

extension vip_listing {
    /// The masks of one bank: `lists[bank]`, in the order of `enum vip_list`.
    public subscript(bank bank: Int) -> ListMasks {
        get {
            let row = bank == 0 ? lists.0 : lists.1
            var masks = ListMasks()
            (masks.virtualIP, masks.loopback, masks.preferLoopback) = row
            return masks
        }
        set {
            let row = (newValue.virtualIP, newValue.loopback, newValue.preferLoopback)
            if bank == 0 { lists.0 = row } else { lists.1 = row }
        }
    }
}

extension vip_policy {
    public var hasExcludedPorts: Bool { flags & VIP_POLICY_EXCLUDED_PORTS.rawValue != 0 }

    /// The ports in host byte order, ascending.
    public func excludedPorts(_ exclusion: vip_exclusion) -> [UInt16] {
        withUnsafeBytes(of: exclusion == VIP_EXCLUDED_LOOPBACK ? excluded_ports.0 : excluded_ports.1) { bytes in
            bytes.bindMemory(to: UInt64.self).enumerated().flatMap { word, bits in
                (0..<64).compactMap { bits >> UInt64($0) & 1 == 1 ? UInt16(word * 64 + $0) : nil }
            }
        }
    }

    /// The part of a session's rules that the hooks read.
    public init(_ rules: Policy.Rules) {
        self.init()
        var on: UInt32 = 0
        func set(_ flag: vip_policy_flag, _ condition: Bool) { if condition { on |= flag.rawValue } }

        let ip = rules.virtualIP
        let loopback = rules.virtualLoopback
        let prefer = rules.preferLoopback
        let ipForAll = ip.mode == .perSession || ip.programs.contains(.everyProgram)
        let loopbackForAll = loopback.programs.contains(.everyProgram)
        let preferForAll = prefer.programs.contains(.everyProgram)
        set(VIP_POLICY_VIRTUAL_IP, ip.enabled)
        set(VIP_POLICY_VIRTUAL_IP_ALL, ipForAll)
        set(VIP_POLICY_LOOPBACK, loopback.enabled)
        set(VIP_POLICY_LOOPBACK_ALL, loopbackForAll)
        set(VIP_POLICY_PREFER_LOOPBACK, prefer.enabled)
        set(VIP_POLICY_PREFER_LOOPBACK_ALL, preferForAll)
        set(VIP_POLICY_USE_HOST_ADDRESS, ip.whenUnavailable == .useHostAddress)
        set(VIP_POLICY_FALLBACK_HOST, loopback.fallback == .host)
        set(VIP_POLICY_ISOLATION, rules.isolation)
        set(VIP_POLICY_AS_REQUESTED, rules.wildcardName == .asRequested)
        set(VIP_POLICY_DENY_OUTSIDE, ip.enabled && ip.withoutSession == .deny)
        set(VIP_POLICY_EXCLUDED_PORTS, !loopback.excludedPorts.isEmpty || ip.excludedPorts != nil)
        // The hooks need to identify the calling program only if a list decides.
        set(
            VIP_POLICY_LISTS,
            ip.enabled && !ipForAll && !ip.programs.isEmpty
                || loopback.enabled && !loopbackForAll && !loopback.programs.isEmpty
                || prefer.enabled && !preferForAll && !prefer.programs.isEmpty)
        flags = on
        listener_limit = UInt32(ip.dualStackServers ?? Policy.VirtualIP.defaultDualStackServers)
        Self.set(&excluded_ports.0, loopback.excludedPorts)
        Self.set(&excluded_ports.1, ip.excludedPorts ?? [])
    }

    private static func set(_ row: inout vip_ports, _ ports: some Sequence<UInt16>) {
        withUnsafeMutableBytes(of: &row) { bytes in
            let words = bytes.bindMemory(to: UInt64.self)
            for port in ports { words[Int(port) / 64] |= 1 << UInt64(port % 64) }
        }
    }
}

extension vip_program_name {
    /// The name of an executable, padded with NULs; `nil` if it does not fit with its NUL.
    public init?(_ name: [UInt8]) {
        self.init()
        guard name.count < Int(VIP_NAME_MAX) else { return nil }
        withUnsafeMutableBytes(of: &self.name) { $0.copyBytes(from: name) }
    }

    public var text: String { cString(of: name) }
}

extension vip_program_script {
    /// The name of a process: the first 15 bytes of `name`, padded with NULs.
    public init(_ name: [UInt8]) {
        self.init()
        withUnsafeMutableBytes(of: &comm) { $0.copyBytes(from: name.prefix(Int(VIP_COMM_MAX) - 1)) }
    }

    public var text: String { cString(of: comm) }
}

extension vip_program_file {
    /// - Parameter name: the last component of the file's path after links were followed; at most 63 bytes are used.
    public init(inode: UInt64, device: UInt32, name: [UInt8]) {
        self.init()
        self.inode = inode
        self.device = device
        withUnsafeMutableBytes(of: &self.name) { $0.copyBytes(from: name.prefix(Int(VIP_NAME_MAX) - 1)) }
    }

    public var fileName: String { cString(of: name) }
}

extension vip_program {
    public var processName: String { cString(of: comm) }
}

private func cString<T: BitwiseCopyable>(of field: T) -> String {
    withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
}
