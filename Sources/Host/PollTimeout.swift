// SPDX-License-Identifier: Apache-2.0

extension Duration {
    /// The timeout for poll(2) in milliseconds. It is rounded up, so that a loop does not spin in the last millisecond;
    /// negative times give 0, and long ones INT_MAX.
    package var pollTimeout: CInt {
        CInt(clamping: Int64(max(0, (self / .milliseconds(1)).rounded(.up))))
    }
}
