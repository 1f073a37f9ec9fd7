// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Host
import Network
import Policy
import SystemPackage
import Testing

@testable import PolicyMaps

@Suite struct MapLayoutTests {
    /// Asserts the sizes of bpf/abi.h for Swift: a padded type would shift every row of a batch.
    @Test func everyTypeHasTheSizeOfTheHeader() {
        for type in MapLayout.sizes {
            #expect(type.size == type.expected, "\(type.name)")
            #expect(type.stride == type.expected, "\(type.name)")
        }
    }

    @Test(arguments: ["10.20.0.17", "127.0.0.8", "255.255.255.255", "::1", "2001:db8:20::17", "fdff::1"])
    func addressesComeBack(text: String) throws {
        let address = try #require(IPAddress(text))
        #expect(vip_address(address).address == address)
    }

    @Test func ipv4AddressesAreInMappedForm() throws {
        let row = vip_address(try #require(IPAddress("10.20.0.17")))
        let bytes = withUnsafeBytes(of: row) { Array($0) }
        #expect(bytes == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 20, 0, 17])
    }

    @Test func aSessionsAddressesAreInNetworkOrder() throws {
        let four = try #require(IPAddress("10.20.0.17"))
        let six = try #require(IPAddress("2001:db8::7"))
        var row = vip_session(id: 7, vip4: four, vip6: six, policies: (1, 2), namespace: 1)
        #expect(withUnsafeBytes(of: row.vip4) { Array($0) } == [10, 20, 0, 17])
        #expect(row.virtualIPv4 == four)
        #expect(row.virtualIPv6 == six)
        #expect(row[policyInBank: 0] == 1)
        #expect(row[policyInBank: 1] == 2)
        row[policyInBank: 1] = 5
        #expect(row.policy.0 == 1)
        #expect(row.policy.1 == 5)
        let without = vip_session(id: 7, vip4: nil, vip6: nil, policies: (0, 0), namespace: 1)
        #expect(without.virtualIPv4 == nil)
        #expect(without.virtualIPv6 == nil)
    }

    @Test func namesArePaddedAndCutAsTheKernelDoes() {
        #expect(vip_program_script(Array("a-very-long-script-name.sh".utf8)).text == "a-very-long-scr")
        #expect(vip_program_name(Array("java".utf8))?.text == "java")
        #expect(vip_program_name(Array(repeating: 0x61, count: 63)) != nil)
        #expect(vip_program_name(Array(repeating: 0x61, count: 64)) == nil)
    }

    @Test func excludedPortsAreBits() {
        var rules = Policy().rules(for: nil)
        rules.virtualLoopback.excludedPorts = [1, 53, 63, 64, 631, 65535]
        var row = vip_policy(rules)
        #expect(row.hasExcludedPorts)
        #expect(row.excludedPorts(VIP_EXCLUDED_LOOPBACK) == [1, 53, 63, 64, 631, 65535])
        #expect(row.excludedPorts(VIP_EXCLUDED_VIRTUAL_IP).isEmpty)
        rules.virtualLoopback.excludedPorts = []
        rules.virtualIP.excludedPorts = [1900, 5353]
        row = vip_policy(rules)
        #expect(row.hasExcludedPorts)
        #expect(row.excludedPorts(VIP_EXCLUDED_LOOPBACK).isEmpty)
        #expect(row.excludedPorts(VIP_EXCLUDED_VIRTUAL_IP) == [1900, 5353])
        #expect(!vip_policy(Policy().rules(for: nil)).hasExcludedPorts)
    }

    /// A hook reads the slots one by one, so a depth that stays must not move.
    @Test func aDepthKeepsItsSlot() {
        func slots(_ config: vip_config) -> [UInt32] {
            withUnsafeBytes(of: config.levels) { Array($0.bindMemory(to: UInt32.self).prefix(Int(config.level_count))) }
        }
        var config = vip_config()
        config.setLevels([3])
        #expect(slots(config) == [3])
        config.setLevels([2, 3, 5])
        #expect(slots(config) == [3, 2, 5])
        config.setLevels([2, 5])
        #expect(slots(config) == [VIP_LEVEL_NONE, 2, 5])
        #expect(config.levelsInUse == [2, 5])
        config.setLevels([2, 5, 7])
        #expect(slots(config) == [7, 2, 5])
        config.setLevels([7])
        #expect(slots(config) == [7])
        config.setLevels(Set(1...UInt32(VIP_LEVELS_MAX)))
        #expect(config.levelsInUse == Array(1...UInt32(VIP_LEVELS_MAX)))
        config.setLevels([])
        #expect(config.level_count == 0)
    }

    @Test func hostAddressesFitOrAreLeftToTheMap() {
        var config = vip_config()
        config.setHostAddresses([0x0a14_0001, 0xc000_0201, 0x0a14_0001])
        #expect(config.hostAddresses?.map(\.description) == ["10.20.0.1", "192.0.2.1"])
        config.setHostAddresses(Array(1...UInt32(VIP_HOST_ADDRESSES_MAX)))
        #expect(config.hostAddresses?.count == Int(VIP_HOST_ADDRESSES_MAX))
        config.setHostAddresses(Array(1...UInt32(VIP_HOST_ADDRESSES_MAX) + 1))
        #expect(config.hostAddresses == nil)
        config.setHostAddresses([])
        #expect(config.hostAddresses == [])
    }

    @Test func listingsKeepTheBanksApart() {
        var listing = vip_listing()
        var masks = ListMasks()
        masks[.loopback] = 0b101
        listing[bank: 1] = masks
        #expect(listing[bank: 0].isEmpty)
        #expect(listing[bank: 1][.loopback] == 0b101)
        #expect(listing[bank: 1][.virtualIP] == 0)
    }
}

@Suite struct PolicyFlagTests {
    private func flags(_ edit: (inout Policy) -> Void) -> Set<UInt32> {
        var policy = Policy()
        edit(&policy)
        let row = vip_policy(policy.rules(for: nil))
        return Set((0..<32).map { UInt32(1) << $0 }.filter { row.flags & $0 != 0 })
    }

    @Test func everySettingIsItsFlag() {
        let isolation = VIP_POLICY_ISOLATION.rawValue
        #expect(flags { _ in } == [isolation])
        #expect(flags { $0.isolation = false } == [])
        #expect(flags { $0.wildcardName = .asRequested } == [isolation, VIP_POLICY_AS_REQUESTED.rawValue])
        #expect(
            flags {
                $0.virtualIP.enabled = true
                $0.virtualIP.mode = .perSession
            } == [isolation, VIP_POLICY_VIRTUAL_IP.rawValue, VIP_POLICY_VIRTUAL_IP_ALL.rawValue])
        #expect(
            flags {
                $0.virtualIP.enabled = true
                $0.virtualIP.programs = [.name("java")]
            } == [isolation, VIP_POLICY_VIRTUAL_IP.rawValue, VIP_POLICY_LISTS.rawValue])
        #expect(
            flags {
                $0.virtualIP.enabled = true
                $0.virtualIP.programs = [.name("java"), .everyProgram]
            } == [isolation, VIP_POLICY_VIRTUAL_IP.rawValue, VIP_POLICY_VIRTUAL_IP_ALL.rawValue])
        #expect(
            flags {
                $0.virtualLoopback.enabled = true
                $0.virtualLoopback.programs = [.everyProgram]
                $0.virtualLoopback.fallback = .host
            } == [
                isolation, VIP_POLICY_LOOPBACK.rawValue, VIP_POLICY_LOOPBACK_ALL.rawValue,
                VIP_POLICY_FALLBACK_HOST.rawValue,
            ])
        #expect(
            flags { $0.virtualIP.whenUnavailable = .useHostAddress } == [
                isolation, VIP_POLICY_USE_HOST_ADDRESS.rawValue,
            ])
        // The list of a feature that is off must not make the hooks look up the program's name.
        #expect(flags { $0.virtualLoopback.programs = [.name("java")] } == [isolation])
    }
}

@Suite struct DesiredRowsTests {
    private let file = vip_program_file(inode: 42, device: 254 << 20, name: Array("crm".utf8))

    private func rows(
        _ policy: Policy, sessions: [SessionRow] = [], host: [String] = [], scripts: Set<FilePath> = []
    ) throws(Failure) -> DesiredRows {
        let file = file
        return try DesiredRows(
            policy: policy, sessions: sessions, hostAddresses: host.compactMap { IPAddress($0) },
            isScript: { scripts.contains($0) },
            identity: { path throws(Failure) in path.string.hasPrefix("/there") ? file : nil })
    }

    @Test func aProgramOfSeveralPoliciesHasABitOfEach() throws {
        var policy = Policy()
        policy.virtualIP.enabled = true
        policy.virtualIP.programs = [.name("java")]
        var loopback = Policy.VirtualLoopback()
        loopback.enabled = true
        loopback.programs = [.name("java"), .name("crm")]
        policy.overrides = [
            Policy.Override(name: "first", match: .init(users: ["ann"])),
            Policy.Override(name: "second", match: .init(users: ["bob"]), virtualLoopback: loopback),
        ]
        let rows = try rows(policy)
        let java = try #require(rows.names[vip_program_name(Array("java".utf8))!])
        #expect(java.virtualIP == 0b111)  // the base's list applies if an override names none
        #expect(java.loopback == 0b100)
        let crm = try #require(rows.scripts[vip_program_script(Array("crm".utf8))])
        #expect(crm.loopback == 0b100)
        #expect(rows.policies.count == 3)
    }

    @Test func anOverrideWithoutAPoolTakesFromTheBase() throws {
        var policy = Policy()
        policy.virtualIP.addresses = .init(interface: "eth0", pool: [try AddressRange("10.20.0.0/24")])
        var section = Policy.VirtualIP()
        section.enabled = true
        let without = Policy.Override(name: "without", match: .init(), virtualIP: section)
        #expect(policy.rules(for: without).virtualIP.addresses == policy.virtualIP.addresses)
        #expect(policy.rules(for: without).virtualIP.enabled)
        section.addresses.pool = [try AddressRange("10.30.0.0/24")]
        let with = Policy.Override(name: "with", match: .init(), virtualIP: section)
        #expect(policy.rules(for: with).virtualIP.addresses == section.addresses)
    }

    @Test func pathsAreFilesAndMissingOnesAWarning() throws {
        var policy = Policy()
        policy.virtualIP.enabled = true
        policy.virtualIP.programs = [
            .path("/there/crm"), .path("/gone/crm"), .path("/there/run.sh"), .name("crm"), .everyProgram,
        ]
        let rows = try rows(policy, scripts: ["/there/run.sh"])
        #expect(rows.files.keys.map { $0 } == [file])
        #expect(rows.names.count == 1)
        #expect(rows.warnings.count == 2)
        #expect(rows.warnings[0].contains("/gone/crm"))
        #expect(rows.warnings[1].contains("interpreter"))
    }

    @Test func aSessionsAddressIsTheSessionsThoughTheHostHasIt() throws {
        let vip = try #require(IPAddress("10.20.0.17"))
        let session = SessionRow(id: 7, cgroupID: 8121, level: 3, virtualIPs: [vip])
        let rows = try rows(
            Policy(), sessions: [session], host: ["10.20.0.17", "192.0.2.1", "127.0.0.1", "::1", "fe80::1"])
        #expect(rows.addresses[vip_address(vip)] == vip_address_owner(owner: VIP_OWNER_SESSION.rawValue, id: 7))
        #expect(
            rows.addresses[vip_address(IPAddress("192.0.2.1")!)]
                == vip_address_owner(owner: VIP_OWNER_HOST.rawValue, id: 0))
        #expect(rows.hostIPv4 == [0xc000_0201])
        #expect(rows.hostIPv6.map(\.description) == ["fe80::1"])
        #expect(rows.addresses.count == 3)  // the loopback has no row
        #expect(rows.levels == [3])
    }

    @Test func poolsAndLoopbacksAreGovernedButForTheHostsOwn() throws {
        var policy = Policy()
        policy.virtualIP.addresses.pool = [
            try AddressRange("10.20.0.8-10.20.0.11"), try AddressRange("2001:db8:20::/64"),
        ]
        policy.virtualLoopback.hostAddresses = [try AddressRange("127.5.0.0/16")]
        var section = Policy.VirtualIP()
        section.addresses.pool = [try AddressRange("10.30.0.0/24")]
        policy.overrides = [Policy.Override(name: "a", match: .init(), virtualIP: section)]
        let governed = try rows(policy).governed
        let owners = Dictionary(uniqueKeysWithValues: governed.map { ($0.key.prefix.description, $0.value) })
        let (sessions, host) = (VIP_OWNER_SESSION.rawValue, VIP_OWNER_HOST.rawValue)
        #expect(
            owners == [
                "127.0.0.0/8": sessions, "10.20.0.8/30": sessions, "2001:db8:20::/64": sessions,
                "10.30.0.0/24": sessions, "127.5.0.0/16": host,
            ])
        #expect(vip_prefix(.loopback4).length == 104)
    }

    @Test func asRequestedInAnOverrideIsKnownToTheNameHooks() throws {
        var policy = Policy()
        #expect(try rows(policy).configFlags == 0)
        policy.overrides = [Policy.Override(name: "a", match: .init(), wildcardName: .asRequested)]
        #expect(try rows(policy).configFlags == VIP_CONFIG_AS_REQUESTED.rawValue)
    }

    @Test func sessionsAtTooManyDepthsAreRefused() throws {
        func sessions(_ count: UInt32) -> [SessionRow] {
            (1...count).map { SessionRow(id: $0 + 1, cgroupID: UInt64($0), level: $0, virtualIPs: []) }
        }
        #expect(try rows(Policy(), sessions: sessions(UInt32(VIP_LEVELS_MAX))).levels.count == Int(VIP_LEVELS_MAX))
        let failure = #expect(throws: Failure.self) {
            try rows(Policy(), sessions: sessions(UInt32(VIP_LEVELS_MAX) + 1))
        }
        #expect(failure?.reason.contains("9 different depths") == true)
    }
}
