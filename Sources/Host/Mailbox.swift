// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import Synchronization

/// A queue: any thread puts items in, one thread takes them out and waits for them with poll(2) or an ``EventLoop``.
package final class Mailbox<Item: Sendable>: Sendable {
    private let items = Mutex<[Item]>([])
    private let wakeUp: WakeUp

    package init() throws(Failure) { wakeUp = try WakeUp() }

    /// Readable while there are items.
    package var descriptor: CInt { wakeUp.descriptor.raw }

    package func put(_ item: Item) {
        items.withLock { $0.append(item) }
        wakeUp()
    }

    /// Takes all items, in the order in which they were put in.
    package func take() -> [Item] {
        // This comes first: an item that is put in between makes the descriptor readable again.
        var count: UInt64 = 0
        read(descriptor, &count, MemoryLayout<UInt64>.size)
        return items.withLock { items in
            defer { items = [] }
            return items
        }
    }
}
