// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
public import Host
import SystemPackage

/// Notices that another host uses an IPv4 address that this host has: RFC 5227, section 2.4.
///
/// It reports, and defends an address by one announcement; it never gives one up (case (c) of the section). IPv6 has nothing
/// like it: a host that takes an address there asks first, and the kernel answers.
///
/// One ARP socket for each Ethernet interface; links that are not Ethernet are passed over. For one thread at a time.
public final class ConflictWatch {
    /// An address that another host uses as well.
    public struct Conflict: Sendable, Hashable {
        public let question: AddressProbe.Question
        /// The other host's.
        public let hardwareAddress: HardwareAddress
    }

    /// An address with another host's packets stays one conflict until there were none for this long: DEFEND_INTERVAL, RFC 5227,
    /// section 1.1.
    public static let quietInterval: Duration = .seconds(10)

    /// An interface, and what is watched there.
    private struct Link {
        let socket: ARPSocket
        var addresses: Set<IPAddress>
    }

    private let epoll: Descriptor
    private var links: [Link] = []
    /// When another host's last packet about an address came.
    private var seen: [AddressProbe.Question: ContinuousClock.Instant] = [:]
    private let quietInterval: Duration

    /// Readable, for poll(2), when there may be conflicts: then call ``drain()``.
    public var descriptor: CInt { epoll.raw }

    public convenience init() throws(Failure) {
        try self.init(quietInterval: Self.quietInterval)
    }

    /// - Parameter quietInterval: ``ConflictWatch/quietInterval``, but in tests.
    init(quietInterval: Duration) throws(Failure) {
        let raw = vip_epoll()
        guard raw >= 0 else { throw Failure("watch for other hosts that use addresses of this one", errno: .current) }
        epoll = Descriptor(owning: raw)
        self.quietInterval = quietInterval
    }

    /// Watches these addresses from now on, and no others. To be called again when interfaces have changed, too: one that was
    /// removed and made again is another one, and its hardware address may have changed.
    ///
    /// - Parameter addresses: those of IPv6, and those on links that are not Ethernet, are passed over.
    /// - Returns: why some interfaces cannot be watched; the others are.
    public func watch(_ addresses: [AddressProbe.Question]) -> [Failure] {
        let v4 = Set(addresses.filter { $0.address.family == .v4 })
        seen = seen.filter { v4.contains($0.key) }
        guard !v4.isEmpty else {
            links = []
            return []
        }
        let interfaces: [CInt: Interface]
        do throws(Failure) { interfaces = try Netlink().interfaces() } catch { return [error] }
        let indices = Dictionary(interfaces.map { ($0.value.name, $0.key) }) { first, _ in first }
        var failures: [Failure] = []
        let before = links
        links = []
        for (name, some) in Dictionary(grouping: v4, by: \.interface) {
            guard let index = indices[name], let hardwareAddress = interfaces[index]?.hardwareAddress else { continue }
            let watched = Set(some.map(\.address))
            // A socket that is closed leaves the epoll descriptor by itself.
            if let same = before.first(where: { $0.socket.isOn(name, index, hardwareAddress) }) {
                links.append(Link(socket: same.socket, addresses: watched))
                continue
            }
            do throws(Errno) {
                let socket = try ARPSocket(on: name, index: index, hardwareAddress: hardwareAddress)
                guard vip_epoll_add(epoll.raw, socket.descriptor) == 0 else { throw .current }
                links.append(Link(socket: socket, addresses: watched))
            } catch {
                failures.append(
                    Failure("watch \(name) for other hosts that use its addresses", errno: error, needs: [.netRaw]))
            }
        }
        return failures
    }

    /// Reads what has come. Does not block.
    ///
    /// - Returns: addresses that another host was found to use. Each is reported once, and announced once, until nothing was
    ///   heard of that for ``quietInterval``.
    public func drain() -> [Conflict] {
        var own: Set<HardwareAddress>?
        var conflicts: [Conflict] = []
        for link in links {
            // An interface that was set down reports that once, and goes on when it is up again.
            var packets: [ARPPacket] = []
            do throws(Errno) { packets = try link.socket.drain() } catch {}
            for packet in packets
            where packet.hardwareAddress != link.socket.hardwareAddress && link.addresses.contains(packet.sender) {
                // Another interface of this host may be on the same link, or this one's address has changed.
                let ours = own ?? AddressProbe.ownHardwareAddresses()
                own = ours
                // It is empty where the kernel could not be asked; the link's own address is always in it.
                guard ours.contains(link.socket.hardwareAddress), !ours.contains(packet.hardwareAddress) else {
                    continue
                }
                let question = AddressProbe.Question(packet.sender, on: link.socket.interface)
                let now = ContinuousClock.now
                let last = seen.updateValue(now, forKey: question)
                if let last, last.duration(to: now) < quietInterval { continue }
                conflicts.append(Conflict(question: question, hardwareAddress: packet.hardwareAddress))
                do throws(Errno) { try link.socket.announce(packet.sender) } catch {}
            }
        }
        return conflicts
    }
}
