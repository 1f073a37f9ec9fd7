// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import SystemPackage

/// Something to wake a thread with that waits: eventfd(2).
public struct WakeUp: ~Copyable, Sendable {
    public let descriptor: Descriptor

    public init() throws(Failure) {
        let raw = vip_eventfd()
        guard raw >= 0 else { throw Failure("make an eventfd", errno: .current) }
        descriptor = Descriptor(owning: raw)
    }

    /// Makes the descriptor readable, for good.
    public func callAsFunction() {
        var one: UInt64 = 1
        write(descriptor.raw, &one, MemoryLayout<UInt64>.size)  // fails only when it is readable already
    }

    /// Waits to be woken.
    ///
    /// - Returns: whether the time was over first.
    public func sleep(for time: Duration) -> Bool {
        var entry = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, time.pollTimeout) <= 0
    }
}
