// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage

/// A thread for blocking work, which must not run on Swift's cooperative pool.
package final class Worker: Sendable {
    private let done: WakeUp
    private let stop: WakeUp

    /// A worker without a thread, for ``start(_:_:)``.
    ///
    /// - Throws: ``Failure`` if no descriptor is left.
    package init() throws(Failure) {
        let done = try WakeUp()
        let stop = try WakeUp()
        self.done = done
        self.stop = stop
    }

    /// Starts the thread. See ``start(_:_:)``.
    package convenience init(_ name: String, _ work: @escaping @Sendable (_ stop: CInt) -> Void) throws(Failure) {
        try self.init()
        try start(name) { [stop = stop.descriptor.raw] in work(stop) }
    }

    /// Starts the thread. Call it once. The thread keeps this object.
    ///
    /// - Parameters:
    ///   - name: the thread's name for ps(1) and debuggers, at most 15 bytes.
    ///   - work: the work. It ends when ``isEnding`` is true or ``ending`` is readable.
    /// - Throws: ``Failure`` if no thread is left.
    package func start(_ name: String, _ work: @escaping @Sendable () -> Void) throws(Failure) {
        try Self.detach(name) { [self] in
            work()
            done()
        }
    }

    /// A descriptor for poll(2), readable when the work must end.
    package var ending: CInt { stop.descriptor.raw }

    /// Whether the work must end.
    package var isEnding: Bool { !stop.sleep(for: .zero) }

    /// A descriptor for poll(2), readable once the work has ended.
    package var finished: CInt { done.descriptor.raw }

    /// For the work: waits until it must end or the time is over.
    ///
    /// - Returns: whether the time was over first.
    package func sleep(for time: Duration) -> Bool { stop.sleep(for: time) }

    /// Tells the work to end, without waiting.
    package func stopSoon() { stop() }

    /// Tells the work to end, and waits until it has.
    ///
    /// - Parameter patience: the longest time to wait; `nil` waits without limit.
    /// - Returns: whether the work has ended.
    @discardableResult
    package func end(within patience: Duration? = nil) -> Bool {
        stop()
        guard let patience else {
            while done.sleep(for: .seconds(3600)) {}
            return true
        }
        return !done.sleep(for: patience)
    }

    /// Runs work that ends by itself, in a detached thread.
    package static func detach(_ name: String, _ work: @escaping @Sendable () -> Void) throws(Failure) {
        let box = Unmanaged.passRetained(Box(name, work))
        var thread = pthread_t()
        let error = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                let box = Unmanaged<Box>.fromOpaque(context).takeRetainedValue()
                // pthread_setname_np(3), which Swift's view of glibc lacks.
                if let file = try? openFile("/proc/thread-self/comm", O_WRONLY) {
                    write(file, box.name, box.name.utf8.count)
                    close(file)
                }
                box.work()
                return nil
            }, box.toOpaque())
        guard error == 0 else {
            box.release()
            throw Failure("start thread \(name)", errno: Errno(rawValue: error), hint: "raise TasksMax=")
        }
        pthread_detach(thread)
    }

    private final class Box: Sendable {
        let name: String
        let work: @Sendable () -> Void

        init(_ name: String, _ work: @escaping @Sendable () -> Void) {
            self.name = String(name.prefix(15))
            self.work = work
        }
    }
}
