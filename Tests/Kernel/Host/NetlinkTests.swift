// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import Host
@testable import Network
@testable import Policy
@testable import Sessions

@Suite(.requiresRoot) struct NetlinkTests {
    static let v4 = IPAddress("10.20.0.17")!
    static let v6 = IPAddress("2001:db8:20::17")!

    @Test("adds and removes addresses")
    func placesAndTakesOff() async throws {
        try await inNetworkNamespace {
            try shell("ip link set lo up")
            let netlink = try Netlink()
            for address in [Self.v4, Self.v6] {
                #expect(try netlink.add(address, at: AddressPlace("lo")) == .added)
                #expect(try netlink.add(address, at: AddressPlace("lo")) == .alreadyThere)
                let placed = try #require(try netlink.hostAddresses().first { $0.address == address })
                #expect(placed.interface == "lo" && placed.prefixLength == address.family.bits)
                #expect(placed.flags & 0x200 != 0, "IFA_F_NOPREFIXROUTE, linux/if_addr.h")
                #expect(placed.flags & 0x40 == 0, "IFA_F_TENTATIVE")
            }
            #expect(
                try Child(
                    "sh", "-c",
                    "ip -o addr show to 10.20.0.17 | grep -c 'inet 10.20.0.17/32 scope global noprefixroute lo'"
                ).line() == "1")
            #expect(
                try Set(netlink.hostAddresses().map(\.address.description)) == [
                    "127.0.0.1", "::1", "10.20.0.17", "2001:db8:20::17",
                ])
            for address in [Self.v4, Self.v6] {
                #expect(try netlink.remove(address, at: AddressPlace("lo")) == .removed)
                #expect(try netlink.remove(address, at: AddressPlace("lo")) == .alreadyGone)
            }
            #expect(try netlink.hostAddresses().count == 2)
        }
    }

    @Test("adds and removes local routes to addresses, which no interface has")
    func routesToAddresses() async throws {
        try await inNetworkNamespace {
            try shell(
                """
                ip link set lo up; ip link add vip-a type veth peer name vip-b; ip link set vip-b up
                ip link set vip-a up; ip addr add 10.20.0.1/24 dev vip-a
                """)
            let netlink = try Netlink()
            let place = AddressPlace("vip-a", .route)
            #expect(try netlink.add(Self.v4, at: place) == .added)
            #expect(try netlink.add(Self.v4, at: place) == .alreadyThere)
            let placed = try #require(try netlink.hostAddresses().first { $0.address == Self.v4 })
            #expect(placed.interface == "vip-a" && placed.form == .route && placed.prefixLength == 32)
            #expect(try netlink.hostAddresses().filter { $0.form == .route }.count == 1, "but for the route to it")
            #expect(try Child("sh", "-c", "ip -4 addr | grep -c 10.20.0.17 || true").line() == "0")
            #expect(try netlink.defaultRouteInterface(.v4) == nil)
            // The interface goes down and up.
            try shell("ip link set vip-a down; ip link set vip-a up")
            #expect(try netlink.hostAddresses().contains { $0.address == Self.v4 })
            // An address of the interface is not taken for it, nor removed.
            #expect(try netlink.remove(IPAddress("10.20.0.1")!, at: AddressPlace("vip-a")) == .alreadyGone)
            #expect(try netlink.remove(Self.v4, at: place) == .removed)
            #expect(try netlink.remove(Self.v4, at: place) == .alreadyGone)
            #expect(try !netlink.hostAddresses().contains { $0.form == .route })
        }
    }

    /// The host's own address with its prefix is not removed.
    @Test("leaves the host's own address")
    func hostsOwnAddressStays() async throws {
        try await inNetworkNamespace {
            try shell("ip link set lo up; ip addr add 10.20.0.17/24 dev lo")
            let netlink = try Netlink()
            #expect(try netlink.remove(Self.v4, at: AddressPlace("lo")) == .alreadyGone)
            #expect(try netlink.hostAddresses().contains { $0.address == Self.v4 && $0.prefixLength == 24 })
        }
    }

    @Test("names the interface that does not exist")
    func noInterface() async throws {
        try await inNetworkNamespace {
            let netlink = try Netlink()
            for name in ["nothing0", "", "a-name-longer-than-any"] {
                let error = try failure { _ = try netlink.add(Self.v4, at: AddressPlace(name)) }
                #expect(
                    error.operation == "place 10.20.0.17 on \(name)" && error.reason == "there is no interface \(name)")
                #expect(try netlink.remove(Self.v4, at: AddressPlace(name)) == .alreadyGone)
            }
        }
    }

    @Test("reports a missing privilege")
    func notPermitted() async throws {
        try await inNetworkNamespace {
            let netlink = try Netlink()
            #expect(try netlink.add(Self.v4, at: AddressPlace("lo")) == .added)
            try dropCapabilities()
            let unprivileged = try Netlink()
            let error = try failure { _ = try unprivileged.add(IPAddress("10.20.0.18")!, at: AddressPlace("lo")) }
            #expect(error.code == .notPermitted)
            #expect(
                error.description
                    == "place 10.20.0.18 on lo: operation not permitted; grant CAP_NET_ADMIN, which root lacks here")
            #expect(try failure { _ = try unprivileged.remove(Self.v4, at: AddressPlace("lo")) }.code == .notPermitted)
            #expect(try unprivileged.hostAddresses().map(\.address) == [Self.v4])
        }
    }

    @Test("answers each address of many by itself")
    func eachHasItsOwnAnswer() async throws {
        try await inNetworkNamespace {
            let netlink = try Netlink()
            _ = try netlink.add(Self.v4, at: AddressPlace("lo"))
            let addresses = ["10.20.0.16", "10.20.0.17", "224.0.0.1", "ff02::1", "10.20.0.18"].map { IPAddress($0)! }
            let results = try netlink.add(addresses, at: AddressPlace("lo"))
            #expect(results.map { try? $0.get() } == [.added, .alreadyThere, .added, nil, .added])
            guard case .failure(let error) = results[3] else { return }
            #expect(error.operation == "place ff02::1 on lo")
            // The socket still works afterwards.
            #expect(try netlink.hostAddresses().filter { $0.address.family == .v4 }.count == 4)
        }
    }

    @Test("reports that IPv6 is disabled")
    func ipv6Disabled() async throws {
        try await inNetworkNamespace {
            try shell("echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6")
            let error = try failure { _ = try Netlink().add(Self.v6, at: AddressPlace("lo")) }
            #expect(error.reason == "IPv6 is disabled on the interface" && error.code == .failed)
        }
    }

    @Test func defaultRoute() async throws {
        try await inNetworkNamespace {
            let netlink = try Netlink()
            #expect(try netlink.defaultRouteInterface(.v4) == nil)
            try shell(
                """
                ip link set lo up
                ip link add vip-a type veth peer name vip-b && ip link set vip-a up && ip link set vip-b up
                ip addr add 192.0.2.1/24 dev vip-a && ip addr add 198.51.100.1/24 dev vip-b
                ip route add default via 198.51.100.9 dev vip-b table 77
                ip route add default via 192.0.2.9 dev vip-a metric 200
                """)
            #expect(try netlink.defaultRouteInterface(.v4) == "vip-a")
            try shell("ip route add default via 198.51.100.9 dev vip-b metric 100")
            #expect(try netlink.defaultRouteInterface(.v4) == "vip-b")
            try shell("ip route add unreachable default metric 1")
            #expect(try netlink.defaultRouteInterface(.v4) == "vip-b")
            #expect(try netlink.defaultRouteInterface(.v6) == nil)
            try shell(
                "ip -6 addr add 2001:db8:1::1/64 dev vip-b nodad && ip -6 route add default via 2001:db8:1::9 dev vip-b"
            )
            #expect(try netlink.defaultRouteInterface(.v6) == "vip-b")
            #expect(try netlink.add(Self.v4, at: AddressPlace("vip-b")) == .added, "the socket is as good as new")
        }
    }

    @Test("reports interfaces, addresses and local routes, and no routes to other hosts")
    func watch() async throws {
        try await inNetworkNamespace {
            try shell(
                """
                echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
                echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
                ip link set lo up; ip link add vip-a type veth peer name vip-b; ip link set vip-b up
                ip link set vip-a up; ip addr add 10.20.0.1/24 dev vip-a
                """)
            // The kernel reports it a moment later.
            try wait(for: "the link") { try Child("sh", "-c", "ip -br link show vip-a").line().contains(" UP ") }
            let watch = try NetlinkWatch()
            for (change, isReported) in [
                ("for n in $(seq 50); do ip route add 203.0.113.$n/32 dev vip-a; done", false),
                ("ip route flush root 203.0.113.0/24", false),
                ("ip route add local 10.20.0.17 dev vip-a table local", true),
                ("ip route del local 10.20.0.17 dev vip-a table local", true),
                ("ip addr add 10.20.0.2/24 dev vip-a", true), ("ip link set vip-a mtu 1400", true),
            ] {
                try shell(change)
                #expect(watch.drain() == isReported, "\(change)")
            }
        }
    }

    @Test func localPrefix() async throws {
        try await inNetworkNamespace {
            try shell("ip link set lo up")
            let netlink = try Netlink()
            let prefix = try LoopbackPrefix("fd00:1::/64")
            #expect(try netlink.addLocalRoute(prefix.prefix, source: IPAddress(.v6, value: 1)))
            #expect(try !netlink.addLocalRoute(prefix.prefix, source: IPAddress(.v6, value: 1)), "it is there")
            #expect(try netlink.routes(.v6).contains { $0.isLocal(prefix.local) })
            #expect(
                try Child("sh", "-c", "ip -6 route show table local | grep -c 'local fd00:1::/96 dev lo'").line() == "1"
            )
            #expect(try !netlink.routes(.v6).contains { $0.isInTheWay(of: prefix) }, "it is our own")
            try netlink.removeLocalRoute(prefix.prefix)
            try netlink.removeLocalRoute(prefix.prefix)  // it no longer exists, which is no error
            #expect(try !netlink.routes(.v6).contains { $0.isLocal(prefix.local) })
            try shell("ip -6 route add blackhole fd00:1::/48")
            #expect(try netlink.routes(.v6).contains { $0.isInTheWay(of: prefix) })
        }
    }

    @Test(arguments: ["203.0.113.0/24", "203.0.113.7/32", "2001:db8:9::/64", "2001:db8:9::7/128"])
    func localPrefixOfAPool(text: String) async throws {
        try await inNetworkNamespace {
            try shell("ip link set lo up")
            let netlink = try Netlink()
            let prefix = try #require(AddressPrefix(text))
            #expect(try !netlink.routes(prefix.family).contains { $0.isLocal(prefix) })
            #expect(try netlink.addLocalRoute(prefix))
            #expect(try !netlink.addLocalRoute(prefix), "it is there")
            let route = try #require(try netlink.routes(prefix.family).first { $0.isLocal(prefix) })
            #expect(!route.isInTheWay(of: prefix))
            try netlink.removeLocalRoute(prefix)
            try netlink.removeLocalRoute(prefix)  // it no longer exists, which is no error
            #expect(try !netlink.routes(prefix.family).contains { $0.isLocal(prefix) })
            try shell("ip route add blackhole '\(text)' && ip route add unreachable '\(text)' metric 9")
            #expect(try !netlink.routes(prefix.family).contains { $0.isInTheWay(of: prefix) })
            try shell(
                "ip link add vip-a type veth peer name vip-b && ip link set vip-a up && ip link set vip-b up && ip route add '\(text)' dev vip-a metric 7"
            )
            #expect(try netlink.routes(prefix.family).contains { $0.isInTheWay(of: prefix) })
        }
    }

    /// No answer is lost among many, and each belongs to its address. There are fewer IPv6 addresses, because the
    /// kernel's time to remove one grows with their number.
    @Test(
        "adds and removes many addresses at once",
        arguments: [(IPAddress("10.30.0.0")!, 10_000), (IPAddress("2001:db8:30::1")!, 1000)])
    func many(first: IPAddress, count: Int) async throws {
        try await inNetworkNamespace {
            let addresses = (0..<UInt128(count)).map { IPAddress(first.family, value: first.value + $0) }
            let netlink = try Netlink()
            let third = stride(from: 0, to: count, by: 3).map { addresses[$0] }
            _ = try netlink.add(third, at: AddressPlace("lo"))
            let additions = addresses.indices.map { $0.isMultiple(of: 3) ? Addition.alreadyThere : .added }
            #expect(try netlink.add(addresses, at: AddressPlace("lo")).map { try $0.get() } == additions)
            #expect(try Set(addresses).isSubset(of: netlink.hostAddresses().map(\.address)))
            #expect(try netlink.defaultRouteInterface(.v4) == nil)
            _ = try netlink.remove(third, at: AddressPlace("lo"))
            let removals = addresses.indices.map { $0.isMultiple(of: 3) ? Removal.alreadyGone : .removed }
            #expect(try netlink.remove(addresses, at: AddressPlace("lo")).map { try $0.get() } == removals)
            #expect(try Set(addresses).isDisjoint(with: netlink.hostAddresses().map(\.address)))
        }
    }
}
