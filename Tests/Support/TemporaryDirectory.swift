// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
public import SystemPackage
import Testing

/// A directory that is removed with its owner.
public final class TemporaryDirectory: Sendable {
    public let path: FilePath

    public init() throws {
        var template = "/tmp/vip-sessions-test.XXXXXX".utf8CString
        let made = template.withUnsafeMutableBufferPointer { mkdtemp($0.baseAddress!) != nil }
        try #require(made)
        path = template.withUnsafeBufferPointer { FilePath(platformString: $0.baseAddress!) }
        chmod(path.string, 0o755)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path.string)
    }
}
