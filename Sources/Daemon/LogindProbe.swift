// SPDX-License-Identifier: Apache-2.0

import CSystemd
public import Host
import SystemPackage

/// Checks whether logind answers, with one call.
public enum LogindProbe {
    /// Pings logind on the system bus (org.freedesktop.DBus.Peer.Ping). Blocks for at most 2 s, twice.
    ///
    /// - Parameter address: the address of the bus, in the form of D-Bus; `nil` for the system bus.
    /// - Throws: ``Failure`` if the bus or logind does not answer.
    public static func ask(_ address: String? = nil) throws(Failure) {
        let what = "ask logind"
        let remedy = "see systemctl status dbus systemd-logind"
        func failure(_ result: CInt) -> Failure {
            Failure(what, errno: Errno(rawValue: -result), hint: remedy)
        }
        var bus: OpaquePointer?
        var result: CInt
        if let address {
            result = sd_bus_new(&bus)
            if result >= 0 { result = sd_bus_set_address(bus, address) }
            if result >= 0 { result = sd_bus_set_bus_client(bus, 1) }
            if result >= 0 { result = sd_bus_start(bus) }
        } else {
            result = sd_bus_open_system(&bus)
        }
        defer { sd_bus_close_unref(bus) }
        guard result >= 0, let bus else { throw failure(result) }
        var message: OpaquePointer?
        result = sd_bus_message_new_method_call(
            bus, &message, "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.DBus.Peer", "Ping")
        defer { sd_bus_message_unref(message) }
        guard result >= 0 else { throw failure(result) }
        let patience: UInt64 = 2_000_000  // µs
        var reply: OpaquePointer?
        result = sd_bus_call(bus, message, patience, nil, &reply)
        sd_bus_message_unref(reply)
        guard result >= 0 else { throw failure(result) }
    }
}
