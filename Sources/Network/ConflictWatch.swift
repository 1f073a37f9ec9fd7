// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
public import Host
import SystemPackage

/// Detects that another host uses an IPv4 address of this host: RFC 5227, section 2.4.
///
/// It reports the conflict and defends the address by one announcement. It never gives an address up (case (c) of the
/// section). IPv6 needs no such watch: a host probes an address before it uses it, and the kernel answers.
///
/// It has one ARP socket for each Ethernet interface and skips other links. Use it on one thread at a time.
public final class ConflictWatch {
    /// An address that another host uses as well.
    public struct Conflict: Sendable, Hashable {
        public let question: AddressProbe.Question
        /// The other host's hardware address.
        public let hardwareAddress: HardwareAddress
    }

    /// A conflict is over once no packet about it has come for this long: DEFEND_INTERVAL, RFC 5227, section 1.1.
    public static let quietInterval: Duration = .seconds(10)

    /// An interface, and the addresses that are watched there.
    private struct Link {
        let socket: ARPSocket
        var addresses: Set<IPAddress>
    }

    private let epoll: Descriptor
    private var links: [Link] = []
    /// When another host's last packet about an address came.
    private var seen: [AddressProbe.Question: ContinuousClock.Instant] = [:]
    private let quietInterval: Duration

    /// Readable, for poll(2), if there may be conflicts: call ``drain()`` then.
    public var descriptor: CInt { epoll.raw }

    public convenience init() throws(Failure) {
        try self.init(quietInterval: Self.quietInterval)
    }

    /// - Parameter quietInterval: ``ConflictWatch/quietInterval``; another value in tests.
    init(quietInterval: Duration) throws(Failure) {
        let raw = vip_epoll()
        guard raw >= 0 else { throw Failure("watch for other hosts that use addresses of this one", errno: .current) }
        epoll = Descriptor(owning: raw)
        self.quietInterval = quietInterval
    }

    /// Watches these addresses from now on, and no others. Call it also when interfaces have changed: one that was
    /// removed and created again has another index, and its hardware address may have changed.
    ///
    /// - Parameter addresses: IPv6 addresses and those on links that are not Ethernet are skipped.
    /// - Returns: why some interfaces cannot be watched; the others are watched.
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
            // A closed socket leaves the epoll descriptor by itself.
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

    /// Reads the packets that have arrived. Does not block.
    ///
    /// - Returns: the addresses that another host uses. Each is reported once and announced once, and again only after
    ///   there was no packet about it for ``quietInterval``.
    public func drain() -> [Conflict] {
        var own: Set<HardwareAddress>?
        var conflicts: [Conflict] = []
        for link in links {
            // An interface that was set down reports that once. Its socket works again when it is up.
            var packets: [ARPPacket] = []
            do throws(Errno) { packets = try link.socket.drain() } catch {}
            for packet in packets
            where packet.hardwareAddress != link.socket.hardwareAddress && link.addresses.contains(packet.sender) {
                // Another interface of this host may be on the same link, or this interface's hardware address has
                // changed.
                let ours = own ?? AddressProbe.ownHardwareAddresses()
                own = ours
                // The set is empty if the kernel could not be asked. Otherwise it contains the link's own address.
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
