// SPDX-License-Identifier: Apache-2.0

import Glibc
package import SystemPackage

/// Opens a file with O_CLOEXEC: open(2). The caller closes the descriptor.
package func openFile(_ path: FilePath, _ flags: CInt, mode: CInterop.Mode = 0) throws(Errno) -> CInt {
    let (file, error) = path.withPlatformString { name in
        let file = open(name, flags | O_CLOEXEC, mode)
        return (file, errno)
    }
    guard file >= 0 else { throw Errno(rawValue: error) }
    return file
}

/// All bytes of a file. It may be in procfs, sysfs or cgroupfs, which report no size.
package func readWholeFile(_ path: FilePath) throws(Errno) -> [UInt8] {
    let file = try openFile(path, O_RDONLY)
    defer { close(file) }
    return try readWholeFile(file)
}

/// All remaining bytes of an open file.
package func readWholeFile(_ file: CInt) throws(Errno) -> [UInt8] {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    while true {
        let count = read(file, &buffer, buffer.count)
        if count > 0 {
            bytes += buffer[..<count]
        } else if count == 0 {
            return bytes
        } else if errno != EINTR {
            throw Errno(rawValue: errno)
        }
    }
}

/// Whether a path exists: access(2).
package enum FileStatus {
    package static func exists(_ path: FilePath) -> Bool {
        path.withPlatformString { access($0, F_OK) } == 0
    }
}

extension String {
    /// Reads a small file of /proc or /sys, which report no size.
    package init(contentsOf path: FilePath) throws(Failure) {
        let bytes: [UInt8]
        do throws(Errno) { bytes = try readWholeFile(path) } catch { throw Failure("read \(path)", errno: error) }
        self = String(decoding: bytes, as: UTF8.self)
    }
}
