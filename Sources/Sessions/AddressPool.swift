// SPDX-License-Identifier: Apache-2.0

public import Host
public import Network

/// The addresses that sessions get when none is asked for: `virtualIP.addresses.pool` of the policy. Who gets which,
/// ``PoolPicker`` says.
///
/// Picks rise from the lowest address on. A value remembers how far it has come, so that many picks together
/// are one pass over the ranges; an address that comes free behind it is found by the next value.
public struct AddressPool: Sendable {
    /// Rising, not overlapping, each of one family.
    private let ranges: [ClosedRange<IPAddress>]
    /// Per family: the range to go on with and the first address in it that was not looked at.
    private var cursors: [IPAddress.Family: (range: Int, next: UInt128)] = [:]

    /// A pool of address ranges, both ends included, in any order; what overlaps counts once.
    ///
    /// - Throws: ``Failure`` (usage) for a range from IPv4 to IPv6.
    public init(_ ranges: [ClosedRange<IPAddress>]) throws(Failure) {
        var merged: [ClosedRange<IPAddress>] = []
        for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            guard range.lowerBound.family == range.upperBound.family else {
                throw Failure(
                    .usage, "use address range \(range.lowerBound)-\(range.upperBound)",
                    "its ends are of different families", hint: "write one range for each family")
            }
            if let last = merged.last, range.lowerBound <= last.upperBound {
                merged[merged.count - 1] = last.lowerBound...max(last.upperBound, range.upperBound)
            } else {
                merged.append(range)
            }
        }
        self.ranges = merged
    }

    public func contains(_ address: IPAddress) -> Bool {
        ranges.contains { $0.contains(address) }
    }

    /// Whether there are addresses of a family at all, free or not.
    public func has(_ family: IPAddress.Family) -> Bool {
        ranges.contains { $0.lowerBound.family == family }
    }

    /// How many addresses of a family there are, free or not. All 2^128 of them count as 2^128 - 1.
    public func count(_ family: IPAddress.Family) -> UInt128 {
        ranges.lazy.filter { $0.lowerBound.family == family }.reduce(0) { sum, range in
            let (size, full) = (range.upperBound.value - range.lowerBound.value).addingReportingOverflow(1)
            let (total, over) = sum.addingReportingOverflow(size)
            return full || over ? .max : total
        }
    }

    /// The lowest address of a family that is not taken and was not picked before; `nil` when none is left.
    ///
    /// - Parameter taken: whether an address is in use: a session's, or the host's own.
    public mutating func next(_ family: IPAddress.Family, taken: (IPAddress) -> Bool) -> IPAddress? {
        guard let first = ranges.firstIndex(where: { $0.lowerBound.family == family }) else { return nil }
        var cursor = cursors[family] ?? (first, ranges[first].lowerBound.value)
        defer { cursors[family] = cursor }
        while cursor.range < ranges.count, ranges[cursor.range].lowerBound.family == family {
            let end = ranges[cursor.range].upperBound.value
            while cursor.next <= end {
                let address = IPAddress(family, value: cursor.next)
                let isTaken = taken(address)
                if cursor.next == end {
                    cursor.range += 1
                    cursor.next = cursor.range < ranges.count ? ranges[cursor.range].lowerBound.value : 0
                    if !isTaken { return address }
                    break
                }
                cursor.next += 1
                if !isTaken { return address }
            }
        }
        return nil
    }
}
