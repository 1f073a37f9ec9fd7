// SPDX-License-Identifier: Apache-2.0

public import Host
public import Network

/// The addresses of a pool: `virtualIP.addresses.pool` of the policy. ``PoolPicker`` decides which session gets which.
///
/// Picks go up from the lowest address. A value remembers the last one, so that many picks together are one pass over
/// the ranges. An address below it that becomes free is found only by a new value.
public struct AddressPool: Sendable {
    /// Ascending and disjoint ranges, each of one family.
    private let ranges: [ClosedRange<IPAddress>]
    /// For each family, the present range and the next address in it, as a number.
    private var cursors: [IPAddress.Family: (range: Int, next: UInt128)] = [:]

    /// Makes a pool from address ranges, both ends included, in any order. Overlapping parts count once.
    ///
    /// - Throws: ``Failure`` (usage) if a range has ends of different families.
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

    /// Whether the pool has addresses of a family, free or not.
    public func has(_ family: IPAddress.Family) -> Bool {
        ranges.contains { $0.lowerBound.family == family }
    }

    /// The number of addresses of a family, free or not. 2^128 is given as 2^128 - 1.
    public func count(_ family: IPAddress.Family) -> UInt128 {
        ranges.lazy.filter { $0.lowerBound.family == family }.reduce(0) { sum, range in
            let (size, full) = (range.upperBound.value - range.lowerBound.value).addingReportingOverflow(1)
            let (total, over) = sum.addingReportingOverflow(size)
            return full || over ? .max : total
        }
    }

    /// The lowest address of a family that is not taken and was not picked before; `nil` if there is none.
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
