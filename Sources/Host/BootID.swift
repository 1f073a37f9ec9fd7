// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage

/// Identifies the current boot of the kernel.
public enum BootID {
    /// The random UUID that the kernel made at this boot: /proc/sys/kernel/random/boot_id, random(4).
    ///
    /// - Throws: ``Failure`` (unavailable) if /proc cannot be read.
    public static func current() throws(Failure) -> String {
        let file = FilePath("/proc/sys/kernel/random/boot_id")
        do throws(Errno) {
            return String(decoding: try readWholeFile(file).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
        } catch {
            throw Failure(reading: file, errno: error, ifMissing: "mount -t proc proc /proc")
        }
    }
}
