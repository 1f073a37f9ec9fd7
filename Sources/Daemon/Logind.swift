// SPDX-License-Identifier: Apache-2.0

import CSystemd
import Glibc
import Host
import SystemPackage

/// Follows which users are logged in, by logind over D-Bus: org.freedesktop.login1(5).
///
/// It subscribes first and then lists the logins, and lists them again after each signal, so that no change is missed.
/// If the bus or logind does not answer, it tries again with growing delays, and keeps the last list. It runs on an
/// event loop, and nothing here blocks.
///
/// It uses sd-bus and not sd-login(3), which reads logind's files. These do not show that logind has died, and before
/// systemd 254 they have no user names: each would be looked up in a name service, which blocks.
final class Logind {
    struct User: Hashable {
        let uid: UInt32
        let name: String
    }

    /// A login: a session in the sense of logind.
    struct Login: Hashable {
        /// logind's ID of it: `3`, `c1`.
        let id: String
        let user: User
    }

    struct List: Hashable {
        var users: [User] = []
        var logins: [Login] = []
    }

    enum News {
        case listed(List)
        /// logind does not answer. This is reported once until it answers again.
        case lost(Failure)
    }

    /// The bus's address in the form of D-Bus; `nil` for the system bus.
    private let address: String?
    private let loop: EventLoop
    private let handle: (News) -> Void
    private var bus: OpaquePointer?
    private var isListing = false
    private var isStale = false
    private var users: [User] = []
    private var isReportedLost = false
    private var backoff = Backoff()
    /// The timer for the next attempt.
    private var retry: EventLoop.Deadline?

    private static let service = "org.freedesktop.login1"
    private static let path = "/org/freedesktop/login1"
    private static let interface = "org.freedesktop.login1.Manager"
    /// How long to wait for logind's answer to a list, in µs. It normally comes at once.
    private static let patience: UInt64 = 10_000_000

    init(address: String?, _ loop: EventLoop, handle: @escaping (News) -> Void) throws(Failure) {
        self.address = address
        self.loop = loop
        self.handle = handle
        retry = try loop.deadline { [unowned self] in if bus == nil { connect() } else { list() } }
    }

    deinit { disconnect() }

    /// Connects in the loop's next turn.
    func start() { retry?.set(in: .zero) }

    // MARK: The bus

    private func connect() {
        let what = "connect to \(address ?? "the system bus")"
        var new: OpaquePointer?
        var result = sd_bus_new(&new)
        guard result >= 0, let new else { return lose(what, Errno(rawValue: -result)) }
        let address =
            self.address ?? getenv("DBUS_SYSTEM_BUS_ADDRESS").map { String(cString: $0) }
            ?? "unix:path=/run/dbus/system_bus_socket"
        result = sd_bus_set_address(new, address)
        if result >= 0 { result = sd_bus_set_bus_client(new, 1) }
        if result >= 0 { result = sd_bus_start(new) }
        if result >= 0 { result = sd_bus_attach_event(new, loop.raw, 0) }
        bus = new
        if result >= 0 {
            let context = Unmanaged.passUnretained(self).toOpaque()
            result = sd_bus_match_signal_async(
                new, nil, Self.service, Self.path, Self.interface, nil,
                { _, context, _ in
                    if let context { Unmanaged<Logind>.fromOpaque(context).takeUnretainedValue().changed() }
                    return 0
                }, nil, context)
            let owners = """
                type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',\
                interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='\(Self.service)'
                """
            if result >= 0 {
                result = sd_bus_add_match_async(
                    new, nil, owners,
                    { message, context, _ in
                        guard let context, let message else { return 0 }
                        Unmanaged<Logind>.fromOpaque(context).takeUnretainedValue().ownerChanged(message)
                        return 0
                    }, nil, context)
            }
            let local = "org.freedesktop.DBus.Local"
            if result >= 0 {
                result = sd_bus_match_signal_async(
                    new, nil, local, nil, local, "Disconnected",
                    { _, context, _ in
                        guard let context else { return 0 }
                        Unmanaged<Logind>.fromOpaque(context).takeUnretainedValue().lose(
                            "follow logind", "the bus closed the connection")
                        return 0
                    }, nil, context)
            }
        }
        guard result >= 0 else { return lose(what, Errno(rawValue: -result)) }
        list()
    }

    private func disconnect() {
        // Reset the connection first, so that callbacks of the close find none.
        let old = bus
        bus = nil
        if let old { sd_bus_close_unref(old) }
        isListing = false
        isStale = false
    }

    private static let remedy = "see systemctl status dbus systemd-logind; vip-bpfd tries again"

    private func lose(_ what: String, _ why: String) {
        disconnect()
        fail(Failure(.failed, what, why, hint: Self.remedy))
    }

    private func lose(_ what: String, _ error: Errno) {
        disconnect()
        fail(Failure(what, errno: error, hint: Self.remedy))
    }

    private func fail(_ failure: Failure) {
        isListing = false
        retry?.set(in: backoff.next())
        if !isReportedLost { handle(.lost(failure)) }
        isReportedLost = true
    }

    // MARK: Lists

    private func changed() {
        if isListing { isStale = true } else { list() }
    }

    private func ownerChanged(_ message: OpaquePointer) {
        var new: UnsafePointer<CChar>?
        for _ in 0..<3 {  // name, old owner, new owner
            guard
                withUnsafeMutablePointer(to: &new, { sd_bus_message_read_basic(message, CChar(UInt8(ascii: "s")), $0) })
                    > 0
            else { return }
        }
        guard let new, new.pointee != 0 else {
            return fail(
                Failure(.failed, "follow logind", "it left the bus", hint: "see systemctl status systemd-logind"))
        }
        backoff.reset()
        changed()
    }

    private func list() {
        isListing = true
        isStale = false
        call("ListUsers") { me, message in
            me.users = me.read(message, "(uso)") { message in
                guard let uid = me.number(message), let name = me.text(message), me.path(message) else { return nil }
                return User(uid: uid, name: name)
            }
            me.call("ListSessions") { me, message in
                let logins: [Login] = me.read(message, "(susso)") { message in
                    guard let id = me.text(message), let uid = me.number(message), let name = me.text(message),
                        me.text(message) != nil, me.path(message)
                    else { return nil }
                    return Login(id: id, user: User(uid: uid, name: name))
                }
                me.isListing = false
                me.isReportedLost = false
                me.retry?.clear()
                me.backoff.reset()
                me.handle(.listed(List(users: me.users, logins: logins)))
                if me.isStale { me.list() }
            }
        }
    }

    private final class Answer {
        unowned let logind: Logind
        let method: String
        let handle: (Logind, OpaquePointer) -> Void

        init(_ logind: Logind, _ method: String, _ handle: @escaping (Logind, OpaquePointer) -> Void) {
            self.logind = logind
            self.method = method
            self.handle = handle
        }
    }

    private func call(_ method: String, _ handle: @escaping (Logind, OpaquePointer) -> Void) {
        guard let bus else { return }
        var message: OpaquePointer?
        var result = sd_bus_message_new_method_call(bus, &message, Self.service, Self.path, Self.interface, method)
        defer { sd_bus_message_unref(message) }
        if result >= 0 {
            let answer = Unmanaged.passRetained(Answer(self, method, handle))
            var slot: OpaquePointer?
            result = sd_bus_call_async(
                bus, &slot, message,
                { message, context, _ in
                    guard let context, let message else { return 0 }
                    let answer = Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue()
                    if let error = sd_bus_message_get_error(message) {
                        let text = error.pointee.message ?? error.pointee.name
                        answer.logind.fail(
                            Failure(
                                .failed, "list who is logged in",
                                text.map { String(cString: $0) } ?? "logind returned an error",
                                hint: "see systemctl status systemd-logind; vip-bpfd tries again"))
                    } else {
                        answer.handle(answer.logind, message)
                    }
                    return 0
                }, answer.toOpaque(), Self.patience)
            if result >= 0, let slot {
                // From here on the bus owns the slot, and frees the answer with it.
                sd_bus_slot_set_destroy_callback(slot) { context in
                    if let context { Unmanaged<Answer>.fromOpaque(context).release() }
                }
                sd_bus_slot_set_floating(slot, 1)
                sd_bus_slot_unref(slot)
            } else {
                answer.release()
            }
        }
        if result < 0 { lose("ask logind for \(method)", Errno(rawValue: -result)) }
    }

    // MARK: Reading messages

    /// Reads an array of structures. A malformed one ends the list.
    private func read<T>(_ message: OpaquePointer, _ type: String, _ element: (OpaquePointer) -> T?) -> [T] {
        var elements: [T] = []
        guard sd_bus_message_enter_container(message, CChar(UInt8(ascii: "a")), type) > 0 else { return [] }
        let fields = String(type.dropFirst().dropLast())
        while sd_bus_message_enter_container(message, CChar(UInt8(ascii: "r")), fields) > 0 {
            guard let one = element(message), sd_bus_message_exit_container(message) >= 0 else { break }
            elements.append(one)
        }
        return elements
    }

    private func number(_ message: OpaquePointer) -> UInt32? {
        var value: UInt32 = 0
        return sd_bus_message_read_basic(message, CChar(UInt8(ascii: "u")), &value) > 0 ? value : nil
    }

    private func text(_ message: OpaquePointer) -> String? {
        var value: UnsafePointer<CChar>?
        let result = withUnsafeMutablePointer(to: &value) {
            sd_bus_message_read_basic(message, CChar(UInt8(ascii: "s")), $0)
        }
        guard result > 0, let value else { return nil }
        return String(cString: value)
    }

    private func path(_ message: OpaquePointer) -> Bool {
        sd_bus_message_skip(message, "o") > 0
    }
}
