// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Glibc
import SystemPackage

/// Whether there is something at a path (access(2)).
enum FileStatus {
    static func exists(_ path: FilePath) -> Bool {
        path.withPlatformString { access($0, F_OK) } == 0
    }
}

extension String {
    /// A small file of /proc or /sys, which have no size to go by.
    init(contentsOf path: FilePath) throws(Failure) {
        let bytes: [UInt8]
        do throws(Errno) { bytes = try readWholeFile(path) } catch { throw .kernel(error, "read \(path)") }
        self = String(decoding: bytes, as: UTF8.self)
    }
}
