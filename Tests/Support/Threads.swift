// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
public import Host
public import Testing

/// Runs the body on a new thread in a new network namespace. Both end when it returns.
public func inNetworkNamespace<T: Sendable>(_ body: @Sendable @escaping () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(
                with: Result {
                    typealias Unshare = @convention(c) (CInt) -> CInt
                    // unshare(2) needs _GNU_SOURCE, so Swift does not import it.
                    let unshare = unsafeBitCast(try #require(dlsym(nil, "unshare")), to: Unshare.self)
                    try #require(unshare(0x4000_0000) == 0, "CLONE_NEWNET, linux/sched.h")
                    return try body()
                })
        }
    }
}

/// Drops all effective capabilities of the calling thread: capset(2).
public func dropCapabilities() throws {
    typealias Capset = @convention(c) (UnsafePointer<UInt32>, UnsafePointer<UInt32>) -> CInt
    let capset = unsafeBitCast(try #require(dlsym(nil, "capset")), to: Capset.self)
    // _LINUX_CAPABILITY_VERSION_3 and this thread; then twice: effective, permitted, inheritable.
    try #require(capset([0x2008_0522, 0], [0, 0, 0, 0, 0, 0]) == 0)
}

/// The failure that the body throws.
public func failure(_ body: () throws -> Void, sourceLocation: SourceLocation = #_sourceLocation) throws -> Failure {
    try #require(#expect(throws: Failure.self, sourceLocation: sourceLocation, performing: body))
}
