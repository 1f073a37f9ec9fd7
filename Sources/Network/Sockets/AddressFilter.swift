// SPDX-License-Identifier: Apache-2.0

import CNetlink
import Glibc

/// Makes the kernel report only the sockets with certain local addresses: INET_DIAG_REQ_BYTECODE, linux/inet_diag.h.
///
/// Without it, a dump on a busy host copies every socket to find a few.
enum AddressFilter {
    /// The kernel compares each socket with one address after the other. With more addresses than this, all sockets are
    /// reported.
    static let limit = 16

    /// A condition for each address. Each one but the last is followed by a jump to the end, which accepts the socket.
    ///
    /// An operation is a `struct inet_diag_bc_op`: two offsets in bytes from itself, for whether its condition holds or
    /// not. The end of the code accepts the socket, and 4 bytes beyond it refuse it. An IPv4 address matches its mapped
    /// form as well.
    ///
    /// - Parameter addresses: at least one, at most ``limit``.
    static func code(for addresses: Set<IPAddress>) -> [UInt8] {
        var code: [UInt8] = []
        let jump = 4
        let sizes = addresses.map { 12 + $0.family.bits / 8 }
        var left = sizes.reduce(0, +) + jump * (sizes.count - 1)
        for (index, (address, size)) in zip(addresses, sizes).enumerated() {
            // If the condition does not hold: past the jump to the next condition, or past the end.
            code += operation(INET_DIAG_BC_S_COND, yes: size, no: size + jump)
            // struct inet_diag_hostcond: family, length of the prefix, padding, port (-1 is any), address.
            code += [UInt8(address.family == .v4 ? AF_INET : AF_INET6), UInt8(address.family.bits), 0, 0]
            code += [0xff, 0xff, 0xff, 0xff]
            code += (0..<address.family.bits / 8).reversed().map {
                UInt8(truncatingIfNeeded: address.value >> UInt128($0 * 8))
            }
            left -= size
            guard index < sizes.count - 1 else { break }
            code += operation(INET_DIAG_BC_JMP, yes: jump, no: left)
            left -= jump
        }
        return code
    }

    private static func operation(_ code: Int, yes: Int, no: Int) -> [UInt8] {
        [UInt8(code), UInt8(yes)] + withUnsafeBytes(of: UInt16(no)) { [UInt8]($0) }
    }
}
