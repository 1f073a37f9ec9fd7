// SPDX-License-Identifier: Apache-2.0

/// SHA-256 (FIPS 180-4). It is used for a few short messages, for which a library is not worth while.
enum SHA256 {
    /// The 32 bytes of the digest.
    static func digest(_ message: some Collection<UInt8>) -> [UInt8] {
        var padded = Array(message)
        let bits = UInt64(padded.count) * 8
        padded.append(0x80)
        while padded.count % 64 != 56 { padded.append(0) }
        padded += (0..<8).reversed().map { UInt8(truncatingIfNeeded: bits >> UInt64($0 * 8)) }

        var hash = initial
        var words = [UInt32](repeating: 0, count: 64)
        for start in stride(from: 0, to: padded.count, by: 64) {
            for index in 0..<16 {
                words[index] = padded[(start + index * 4)..<(start + index * 4 + 4)].reduce(0) { $0 << 8 | UInt32($1) }
            }
            for index in 16..<64 {
                let old = words[index - 15]
                let new = words[index - 2]
                let small = rotate(old, 7) ^ rotate(old, 18) ^ old >> 3
                let large = rotate(new, 17) ^ rotate(new, 19) ^ new >> 10
                words[index] = words[index - 16] &+ small &+ words[index - 7] &+ large
            }
            var s = hash
            for index in 0..<64 {
                let e = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)
                let choice = s[4] & s[5] ^ ~s[4] & s[6]
                let first = s[7] &+ e &+ choice &+ constants[index] &+ words[index]
                let a = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)
                let majority = s[0] & s[1] ^ s[0] & s[2] ^ s[1] & s[2]
                s = [first &+ a &+ majority, s[0], s[1], s[2], s[3] &+ first, s[4], s[5], s[6]]
            }
            for index in 0..<8 { hash[index] &+= s[index] }
        }
        return hash.flatMap { word in (0..<4).reversed().map { UInt8(truncatingIfNeeded: word >> UInt32($0 * 8)) } }
    }

    private static func rotate(_ word: UInt32, _ bits: UInt32) -> UInt32 { word >> bits | word << (32 - bits) }

    /// The first 32 bits of the fractional parts of the square roots of the first 8 primes, and of the cube roots of
    /// the first 64.
    private static let initial = primes(8).map { fraction(of: Double($0).squareRoot()) }
    private static let constants = primes(64).map { prime in cubeRootFraction(prime) }

    private static func primes(_ count: Int) -> [UInt32] {
        var found: [UInt32] = []
        var next: UInt32 = 2
        while found.count < count {
            if !found.contains(where: { next % $0 == 0 }) { found.append(next) }
            next += 1
        }
        return found
    }

    private static func fraction(of root: Double) -> UInt32 {
        UInt32((root - root.rounded(.down)) * 4_294_967_296)
    }

    /// Uses integers: the largest r with r³ ≤ prime · 2⁹⁶. Its low 32 bits are the first 32 bits of the fraction.
    private static func cubeRootFraction(_ prime: UInt32) -> UInt32 {
        var root: UInt128 = 0
        for bit in (0..<36).reversed() {
            let next = root | UInt128(1) << UInt128(bit)
            if next * next * next <= UInt128(prime) << 96 { root = next }
        }
        return UInt32(truncatingIfNeeded: root)
    }
}
