// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import SystemPackage

/// Wakes a waiting thread: eventfd(2).
public struct WakeUp: ~Copyable, Sendable {
    public let descriptor: Descriptor

    public init() throws(Failure) {
        let raw = vip_eventfd()
        guard raw >= 0 else { throw Failure("make an eventfd", errno: .current) }
        descriptor = Descriptor(owning: raw)
    }

    /// Makes the descriptor readable; it stays readable.
    public func callAsFunction() {
        var one: UInt64 = 1
        write(descriptor.raw, &one, MemoryLayout<UInt64>.size)  // fails only if it is readable already
    }

    /// Waits until it is woken or the time is over.
    ///
    /// - Returns: whether the time was over first.
    public func sleep(for time: Duration) -> Bool {
        var entry = pollfd(fd: descriptor.raw, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, time.pollTimeout) <= 0
    }
}
