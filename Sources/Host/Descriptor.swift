// SPDX-License-Identifier: Apache-2.0

import Glibc

/// An owned file descriptor: closed when it goes out of scope.
///
/// All descriptors are close-on-exec: the kernel makes BPF descriptors so, and the others are opened so.
public struct Descriptor: ~Copyable, Sendable {
    public let raw: CInt

    /// Takes ownership of `raw`, which must be open.
    public init(owning raw: CInt) {
        self.raw = raw
    }

    deinit {
        close(raw)
    }
}
