// SPDX-License-Identifier: Apache-2.0

/// Ports in host byte order, 1…65535, as the policy file has them: `53`, `6010-6063`.
struct PortRange: Hashable, CustomStringConvertible {
    var first: UInt16
    var last: UInt16

    init(first: UInt16, last: UInt16) {
        self.first = first
        self.last = last
    }

    /// `FIRST-LAST`, in decimal digits without leading zeros; `nil` if it is something else.
    init?(_ text: String) {
        guard let match = text.wholeMatch(of: /([1-9][0-9]*)-([1-9][0-9]*)/), let first = UInt16(match.1),
            let last = UInt16(match.2), first <= last
        else { return nil }
        self.init(first: first, last: last)
    }

    var description: String { first == last ? "\(first)" : "\(first)-\(last)" }

    /// The ports in ascending order. Three and more in a row become a range.
    static func covering(_ ports: some Sequence<UInt16>) -> [PortRange] {
        var ranges: [PortRange] = []
        for port in ports.sorted() {
            if let last = ranges.last, port - last.last <= 1 {
                ranges[ranges.count - 1].last = port
            } else {
                ranges.append(PortRange(first: port, last: port))
            }
        }
        return ranges.flatMap { range in
            range.last - range.first == 1
                ? [range.first, range.last].map { PortRange(first: $0, last: $0) } : [range]
        }
    }
}
