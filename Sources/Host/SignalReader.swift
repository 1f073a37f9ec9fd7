// SPDX-License-Identifier: Apache-2.0

import CHost
import SystemPackage

/// Receives signals as reads from a descriptor: signalfd(2).
package struct SignalReader: ~Copyable {
    private let owned: Descriptor
    package var descriptor: CInt { owned.raw }

    package init(_ signals: [CInt]) throws(Failure) {
        let raw = vip_signal_fd(signals, CInt(signals.count))
        guard raw >= 0 else { throw Failure("read signals", errno: Errno(rawValue: -raw)) }
        owned = Descriptor(owning: raw)
    }

    /// The next signal that has arrived; `nil` if there is none.
    package func next() -> (number: CInt, isFromKernel: Bool)? {
        var fromKernel: CInt = 0
        let number = vip_read_signal(descriptor, &fromKernel)
        return number > 0 ? (number, fromKernel != 0) : nil
    }
}
