// SPDX-License-Identifier: Apache-2.0

import Glibc

/// An owned file descriptor: closed when it goes out of scope.
///
/// All BPF descriptors are close-on-exec by the kernel's doing; the others are opened so.
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
