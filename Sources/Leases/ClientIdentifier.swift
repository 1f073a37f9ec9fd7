// SPDX-License-Identifier: Apache-2.0

public import Host
public import SystemPackage

/// The client identifier (DHCP option 61, RFC 2132, 9.14), by which a server recognises a holder: type 0, then 8 bytes
/// of the host, 4 of the slot, then the user's name. It stays the same over restarts and reboots, and is unique to the
/// holder.
public struct ClientIdentifier: Hashable, Sendable, CustomStringConvertible {
    public let bytes: [UInt8]

    /// A name may be longer than the option (255 bytes). Beyond this length, its digest is used, after a byte that no
    /// name has.
    private static let longestName = 64

    /// - Parameter host: see ``hostIdentifier()``.
    public init(host: [UInt8], holder: LeaseHolder) {
        let name = Array(holder.user.utf8)
        let plain = name.count <= Self.longestName && name.first != 0
        bytes =
            [0] + host.prefix(8)
            + (0..<4).reversed().map { UInt8(truncatingIfNeeded: holder.slot >> UInt32($0 * 8)) }
            + (plain ? name : [0] + SHA256.digest(name))
    }

    /// In hexadecimal, for `udhcpc -x 0x3d:`. It is a file name as well.
    public var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    /// 8 bytes that identify this host: from a digest of its machine ID, which itself must not be sent (machine-id(5)).
    ///
    /// sd_id128_get_machine_app_specific(3) would do the same. But with another digest this host would be another
    /// client for the servers, and each running lease would be lost at the upgrade. Long names need a digest in any
    /// case.
    ///
    /// - Throws: ``Failure`` (unavailable) if the host has no machine ID.
    public static func hostIdentifier(machineID file: FilePath = "/etc/machine-id") throws(Failure) -> [UInt8] {
        var text: [UInt8] = []
        do throws(Errno) {
            text = try readWholeFile(file).filter { $0 != UInt8(ascii: "\n") }
        } catch {
            throw Failure(reading: file, errno: error, ifMissing: "systemd-machine-id-setup")
        }
        guard text.count == 32 else {
            throw Failure(.unavailable, "read \(file)", "it contains no machine ID", hint: "systemd-machine-id-setup")
        }
        return Array(SHA256.digest(Array("vip-bpf lease\0".utf8) + text).prefix(8))
    }
}
