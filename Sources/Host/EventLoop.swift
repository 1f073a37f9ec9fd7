// SPDX-License-Identifier: Apache-2.0

import CSystemd
import Glibc
package import SystemPackage

/// An event loop of one thread: sd-event(3). All handlers are called on the thread that runs it, one at a time.
package final class EventLoop {
    /// The loop, for functions that attach to it: sd_bus_attach_event(3).
    package let raw: OpaquePointer

    /// - Throws: ``Failure`` if no descriptor is left.
    package init() throws(Failure) {
        var event: OpaquePointer?
        let result = sd_event_new(&event)
        guard result >= 0, let event else { throw Self.failure(result, "make an event loop") }
        raw = event
    }

    deinit { sd_event_unref(raw) }

    /// Handles events until ``exit()`` is called: sd_event_loop(3).
    package func run() throws(Failure) {
        let result = sd_event_loop(raw)
        guard result >= 0 else { throw Self.failure(result, "wait for events") }
    }

    /// Waits for one event and handles it: sd_event_run(3).
    package func turn() throws(Failure) {
        let result = sd_event_run(raw, .max)
        guard result >= 0 else { throw Self.failure(result, "wait for events") }
    }

    /// Ends ``run()`` after the current event: sd_event_exit(3).
    package func exit() { sd_event_exit(raw, 0) }

    /// Enables the service manager's watchdog, if the unit has one: sd_event_set_watchdog(3).
    package func feedWatchdog() { sd_event_set_watchdog(raw, 1) }

    // MARK: Sources

    /// An event source. It is active as long as there is a reference to it.
    package final class Source {
        fileprivate var raw: OpaquePointer?
        fileprivate let handle: (UnsafePointer<inotify_event>?) -> Void

        fileprivate init(_ handle: @escaping (UnsafePointer<inotify_event>?) -> Void) { self.handle = handle }

        deinit { sd_event_source_disable_unref(raw) }

        fileprivate static func dispatch(
            _ context: UnsafeMutableRawPointer?, _ event: UnsafePointer<inotify_event>? = nil
        ) -> CInt {
            if let context { Unmanaged<Source>.fromOpaque(context).takeUnretainedValue().handle(event) }
            return 0
        }
    }

    /// Calls `handle` when a descriptor is readable: sd_event_add_io(3).
    package func watch(_ descriptor: CInt, _ handle: @escaping () -> Void) throws(Failure) -> Source {
        try add("watch descriptor \(descriptor)", Source { _ in handle() }) { source, context in
            sd_event_add_io(
                raw, &source, descriptor, UInt32(EPOLLIN.rawValue), { _, _, _, context in Source.dispatch(context) },
                context)
        }
    }

    /// Calls `handle` after other sources were handled, before the loop sleeps: sd_event_add_post(3).
    package func afterwards(_ handle: @escaping () -> Void) throws(Failure) -> Source {
        try add("add to an event loop", Source { _ in handle() }) { source, context in
            sd_event_add_post(raw, &source, { _, context in Source.dispatch(context) }, context)
        }
    }

    /// A change of a watched file.
    package struct FileEvent {
        /// The bits of inotify(7). With IN_Q_OVERFLOW, events of unknown files were lost.
        package let mask: UInt32
        /// In a watched directory, the name of the file.
        package let name: String
    }

    /// Calls `handle` for changes of a file, or of the files in a directory: sd_event_add_inotify(3).
    ///
    /// - Parameter mask: the bits of inotify(7).
    /// - Throws: the errno: ENOENT if the file does not exist, ENOSPC at fs.inotify.max_user_watches.
    package func watch(
        _ path: FilePath, _ mask: UInt32, _ handle: @escaping (FileEvent) -> Void
    ) throws(Errno) -> Source {
        let source = Source { event in
            guard let event else { return }
            let name = UnsafeRawPointer(event).advanced(by: MemoryLayout<inotify_event>.size)
            let bytes = UnsafeRawBufferPointer(start: name, count: Int(event.pointee.len))
            handle(FileEvent(mask: event.pointee.mask, name: String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)))
        }
        let context = Unmanaged.passUnretained(source).toOpaque()
        let result = path.withPlatformString {
            sd_event_add_inotify(
                raw, &source.raw, $0, mask, { _, event, context in Source.dispatch(context, event) }, context)
        }
        guard result >= 0 else { throw Errno(rawValue: -result) }
        return source
    }

    private func add(
        _ what: String, _ source: Source, _ add: (inout OpaquePointer?, UnsafeMutableRawPointer) -> CInt
    ) throws(Failure) -> Source {
        let result = add(&source.raw, Unmanaged.passUnretained(source).toOpaque())
        guard result >= 0 else { throw Self.failure(result, what) }
        return source
    }

    fileprivate static func failure(_ result: CInt, _ what: String) -> Failure {
        Failure(what, errno: Errno(rawValue: -result))
    }

    // MARK: Deadlines

    /// A timer: sd_event_add_time(3) with CLOCK_BOOTTIME. Setting the wall clock does not move it.
    package final class Deadline {
        private let source: Source
        /// When it is due, in µs; `nil` for never.
        private var time: UInt64?

        fileprivate init(_ source: Source) { self.source = source }

        /// Makes it due after a delay from now, and replaces what was set before.
        package func set(in delay: Duration) {
            let time = Self.now + UInt64(max(0, (delay / .microseconds(1)).rounded(.up)))
            self.time = time
            sd_event_source_set_time(source.raw, time)
            sd_event_source_set_enabled(source.raw, CInt(SD_EVENT_ONESHOT))
        }

        /// Makes it due after a delay from now, unless it is due earlier already.
        package func set(within delay: Duration) {
            let left = time.map { Double($0) - Double(Self.now) } ?? .infinity  // µs
            if delay / .microseconds(1) < left { set(in: delay) }
        }

        package func clear() {
            time = nil
            sd_event_source_set_enabled(source.raw, CInt(SD_EVENT_OFF))
        }

        fileprivate func fire(_ handle: () -> Void) {
            time = nil
            handle()
        }

        private static var now: UInt64 {
            var time = timespec()
            clock_gettime(CLOCK_BOOTTIME, &time)
            return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
        }
    }

    /// Adds a timer that calls `handle`. It is not due until it is set.
    package func deadline(_ handle: @escaping () -> Void) throws(Failure) -> Deadline {
        weak var made: Deadline?
        let source = try add("add a timer", Source { _ in made?.fire(handle) }) { source, context in
            // An accuracy of 1 ms. The default lets sd-event shift wake-ups by up to 250 ms.
            sd_event_add_time(
                raw, &source, CLOCK_BOOTTIME, .max, 1000, { _, _, context in Source.dispatch(context) }, context)
        }
        let deadline = Deadline(source)
        deadline.clear()
        made = deadline
        return deadline
    }
}
