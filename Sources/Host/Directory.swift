// SPDX-License-Identifier: Apache-2.0

import Glibc
package import SystemPackage

/// Lists the entries of directories.
package enum Directory {
    package struct Entry: Sendable, Hashable {
        package let component: FilePath.Component
        /// The type that readdir(3) returns: DT_DIR, DT_REG, … A file system that does not know it returns DT_UNKNOWN.
        package let type: UInt8

        package var name: String { component.string }
        package var isDirectory: Bool { type == UInt8(DT_DIR) }
    }

    /// The entries in the file system's order, without `.` and `..`: readdir(3).
    package static func entries(of path: FilePath) throws(Errno) -> [Entry] {
        let (opened, error) = path.withPlatformString { (opendir($0), errno) }
        guard let stream = opened else { throw Errno(rawValue: error) }
        defer { closedir(stream) }
        var found: [Entry] = []
        while let entry = readdir(stream) {
            let component = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) {
                    FilePath.Component(platformString: $0)
                }
            }
            guard let component, component.kind == .regular else { continue }
            found.append(Entry(component: component, type: entry.pointee.d_type))
        }
        return found
    }
}

extension FilePath {
    /// The path without symbolic links, from the root: realpath(3).
    package func real() throws(Errno) -> FilePath {
        let (real, error) = withPlatformString { name -> (FilePath?, CInt) in
            guard let real = realpath(name, nil) else { return (nil, errno) }
            defer { free(real) }
            return (FilePath(platformString: real), 0)
        }
        guard let real else { throw Errno(rawValue: error) }
        return real
    }

    /// The path's bytes, which need not be UTF-8.
    package var bytes: [UInt8] {
        withPlatformString { Array(UnsafeRawBufferPointer(start: $0, count: strlen($0))) }
    }
}
