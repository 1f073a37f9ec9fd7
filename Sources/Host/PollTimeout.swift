// SPDX-License-Identifier: Apache-2.0

extension Duration {
    /// The timeout for poll(2) in milliseconds: rounded up, so that the last turn does not spin; 0 for less than nothing, and
    /// at most what an int holds.
    package var pollTimeout: CInt {
        CInt(clamping: Int64(max(0, (self / .milliseconds(1)).rounded(.up))))
    }
}
