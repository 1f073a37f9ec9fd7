// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage

/// Whether there is something at a path (access(2)).
enum FileStatus {
    static func exists(_ path: FilePath) -> Bool {
        path.withPlatformString { access($0, F_OK) } == 0
    }
}
