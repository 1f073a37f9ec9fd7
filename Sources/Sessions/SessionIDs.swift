// SPDX-License-Identifier: Apache-2.0

import CVipABI
public import Host
public import Network
public import Policy

/// The IDs of sessions, and the loopback addresses that follow from them.
public enum SessionIDs {
    /// Its loopback is 127.255.255.254. The next one would be the broadcast address of 127/8, to which TCP cannot
    /// connect.
    public static let last: UInt32 = 16_777_213

    /// IDs whose loopback address is in use on many hosts, with its user.
    public static let reserved: [UInt32: String] = [
        0: "127.0.0.1 itself",
        1: "127.0.0.2, nss-myhostname's fallback",
        5: "127.0.0.6, at which the kernel finds sockets with an IPv6 address",
        52: "127.0.0.53, systemd-resolved's stub",
        53: "127.0.0.54, systemd-resolved's stub",
        256: "127.0.1.1, Debian's entry for the host's own name",
    ]

    /// IDs that no session gets. That of 0 would be 127.0.0.1. That of 5 would be 127.0.0.6, LOOPBACK4_IPV6 of
    /// include/net/ipv6.h: to the kernel's look-ups for IPv4, an AF_INET6 socket has that address if its own is no
    /// mapped one, and that peer if its peer is none. If it is not V6ONLY, datagrams to 127.0.0.6 reach it, whoever has
    /// it.
    private static let never: Set<UInt32> = [0, 5]

    /// The loopback addresses that are left to the host: of the reserved IDs that a session may have. 127.0.0.6 is not:
    /// to a program in a session it is as another session's.
    public static let reservedLoopbacks = reserved.keys.filter { !never.contains($0) }.sorted().map { loopback(of: $0) }

    /// Checks whether a requested ID may be used.
    ///
    /// - Parameters:
    ///   - allowReserved: allows ``reserved`` IDs and `hostAddresses`, except 0 and 5.
    ///   - hostAddresses: the policy's `virtualLoopback.hostAddresses`.
    /// - Throws: ``Failure`` if not: it is too large, or its loopback address has another use.
    public static func check(
        _ id: UInt32, allowReserved: Bool = false, hostAddresses: [AddressRange]? = nil
    ) throws(Failure) {
        let what = "use session ID \(id)"
        guard id <= last else {
            throw Failure(.failed, what, "the last one is \(last)", hint: "choose a lower one")
        }
        let isHosts = hostAddresses?.contains { $0.contains(loopback(of: id)) } == true
        let owner =
            reserved[id] ?? (isHosts ? "\(loopback(of: id)), which the policy's hostAddresses leave to the host" : nil)
        guard let owner, never.contains(id) || !allowReserved else { return }
        throw Failure(
            .failed, what, "it is reserved: its loopback would be \(owner)",
            hint: never.contains(id) ? "choose another one" : "choose another one, or give --allow-reserved")
    }

    /// The lowest ID that is neither taken nor reserved. To get several, use ``FreeSessionIDs``.
    ///
    /// - Throws: ``Failure`` if all are taken.
    public static func lowestFree(taken: Set<UInt32>) throws(Failure) -> UInt32 {
        var free = FreeSessionIDs(taken: taken)
        return try free.next()
    }

    /// The session's IPv4 virtual loopback: 127.0.0.0 + (ID + 1).
    ///
    /// - Precondition: the ID is at most ``last``; see ``check(_:allowReserved:)``.
    public static func loopback(of id: UInt32) -> IPAddress {
        precondition(id <= last, "session IDs end at \(last)")
        return IPAddress(v4: UInt32(bigEndian: vip_loopback4(id)))
    }

    /// The session ID of a loopback address, the inverse of ``loopback(of:)``, whether or not a session has it. `nil`
    /// for 127.0.0.0, 127.255.255.255 and addresses outside 127/8.
    public static func id(ofLoopback address: IPAddress) -> UInt32? {
        guard let number = address.v4, number >> 24 == 127, number & 0xff_ffff != 0 else { return nil }
        let id = (number & 0xff_ffff) - 1
        return id <= last ? id : nil
    }

    /// The same, of IPv6 loopbacks as well.
    ///
    /// - Parameter prefix: of the IPv6 loopbacks; `nil` where there are none.
    public static func id(ofLoopback address: IPAddress, _ prefix: LoopbackPrefix?) -> UInt32? {
        if address.family == .v4 { return id(ofLoopback: address) }
        guard let prefix, prefix.contains(address) else { return nil }
        let number = UInt32(truncatingIfNeeded: address.value)
        return number > 0 && number - 1 <= last ? number - 1 : nil
    }
}

/// Returns the free session IDs in ascending order, in one pass over the IDs in use.
public struct FreeSessionIDs: Sendable {
    private var taken: Set<UInt32>
    private var candidate: UInt32 = 0
    private let hostAddresses: [AddressRange]

    /// - Parameter hostAddresses: of the policy: no session gets a loopback among them.
    public init(taken: Set<UInt32>, hostAddresses: [AddressRange] = []) {
        self.taken = taken
        self.hostAddresses = hostAddresses
    }

    /// Takes an ID that was requested by number.
    public mutating func take(_ id: UInt32) {
        taken.insert(id)
    }

    /// Takes the next free ID.
    ///
    /// - Throws: ``Failure`` if all are taken.
    public mutating func next() throws(Failure) -> UInt32 {
        while candidate <= SessionIDs.last {
            defer { candidate += 1 }
            if taken.contains(candidate) || SessionIDs.reserved[candidate] != nil { continue }
            let loopback = SessionIDs.loopback(of: candidate)
            if !hostAddresses.contains(where: { $0.contains(loopback) }) { return candidate }
        }
        throw Failure(
            .failed, "find a free session ID", "all of them up to \(SessionIDs.last) are taken", hint: "close sessions")
    }
}
