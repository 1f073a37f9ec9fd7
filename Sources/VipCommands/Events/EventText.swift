// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Glibc
import Host
import Network
import PolicyMaps
import SystemPackage

/// Formats events as lines: in columns for people, or as one JSON object each.
///
/// It works on bytes, because there may be a hundred thousand events in a second.
struct EventText: Sendable {
    private let isJSON: Bool
    private let programs: Set<[UInt8]>
    private var left: UInt64?
    private var users: [UInt32: String] = [:]

    /// - Parameters:
    ///   - programs: names of executables or processes; empty for all.
    ///   - limit: how many events to print; `nil` for all.
    init(isJSON: Bool, programs: Set<String> = [], limit: UInt64? = nil) {
        self.isJSON = isJSON
        // Cut like the names in the kernel.
        self.programs = Set(
            programs.flatMap { name in
                [Array(name.utf8.prefix(Int(VIP_NAME_MAX) - 1)), Array(name.utf8.prefix(Int(VIP_COMM_MAX) - 1))]
            })
        left = limit
    }

    /// Whether as many events were printed as requested.
    var isComplete: Bool { left == 0 }

    var heading: [UInt8] {
        if isJSON { return [] }
        var line = Line()
        for (name, width) in zip(
            ["TIME", "SESSION", "USER", "PROGRAM", "HOOK", "VERDICT", "ASKED", "GOT", "SOURCE"],
            Self.widths + [0])
        {
            line.cell(name, width: width)
        }
        return line.ended()
    }

    /// The widths of the columns except the last. A wider cell moves the rest of its line.
    private static let widths = [15, 8, 12, 24, 12, 11, 21, 21]

    mutating func lines(of batch: EventBatch) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(batch.events.count * 160)
        let offset = BootTime.wallClockOffset()
        var gapsToCome = batch.gaps[...]
        func noteGaps(before time: UInt64) {
            while isJSON, let gap = gapsToCome.first, gap.lowerBound <= time {
                var object = Object()
                object.text("event", "gap")
                object.text("from", Self.time(gap.lowerBound &+ offset))
                object.text("to", Self.time(gap.upperBound &+ offset))
                bytes += object.ended()
                gapsToCome.removeFirst()
            }
        }
        if isJSON {
            if batch.lost > 0 {
                var object = Object()
                object.number("count", batch.lost)
                object.text("event", "lost")
                object.text("time", Self.time(BootTime.now() &+ offset))
                bytes += object.ended()
            }
        }
        for event in batch.events {
            guard left != 0 else { break }
            noteGaps(before: event.time)
            let program = Self.name(event.program)
            let process = Self.name(event.comm)
            guard programs.isEmpty || programs.contains(program) || programs.contains(process) else { continue }
            if let count = left { left = count - 1 }
            if isJSON {
                bytes += object(event, program, process, offset)
            } else {
                bytes += line(event, program.isEmpty ? process : program, offset)
            }
        }
        noteGaps(before: .max)
        return bytes
    }

    private mutating func line(_ event: vip_event, _ program: [UInt8], _ offset: UInt64) -> [UInt8] {
        let outcome = CallOutcome(rawValue: event.outcome)
        var line = Line()
        line.cell(Self.timeOfDay(event.time &+ offset), width: Self.widths[0])
        // Session 0 stands for a program of no session.
        line.cell(event.session == 0 ? "-" : "\(event.session)", width: Self.widths[1])
        line.cell((user(event.uid) ?? "\(event.uid)").printableLine, width: Self.widths[2])
        line.cell("\(String(decoding: program, as: UTF8.self).printableLine)[\(event.tgid)]", width: Self.widths[3])
        line.cell(Self.hook(event.hook), width: Self.widths[4])
        line.cell(outcome?.verdict ?? "\(event.outcome)", width: Self.widths[5])
        let asked = Self.endpoint(event.asked, event.asked_port, of: event)
        line.cell(asked, width: Self.widths[6])
        if event.error != 0 {
            line.cell("\(Self.errorName(event.error)) (\(outcome?.reason ?? "-"))", width: 0)
        } else {
            line.cell(Self.endpoint(event.got, event.got_port, of: event), width: Self.widths[7])
            line.cell(Self.source(event) ?? "", width: 0)
        }
        return line.ended()
    }

    private mutating func object(
        _ event: vip_event, _ program: [UInt8], _ process: [UInt8], _ offset: UInt64
    ) -> [UInt8] {
        let outcome = CallOutcome(rawValue: event.outcome)
        var object = Object()
        object.text("asked_address", Self.address(event.asked, of: event))
        object.number("asked_port", UInt64(UInt16(bigEndian: event.asked_port)))
        object.number("cgroup_id", event.cgroup)
        object.text("errno", event.error == 0 ? nil : Self.errorName(event.error))
        object.text("event", "call")
        object.text("family", event.family == UInt8(AF_INET6) ? "ipv6" : "ipv4")
        object.text("got_address", event.error == 0 ? Self.address(event.got, of: event) : nil)
        object.number("got_port", event.error == 0 ? UInt64(UInt16(bigEndian: event.got_port)) : nil)
        object.text("hook", Self.hook(event.hook))
        object.number("pid", UInt64(event.tgid))
        object.text("process", String(decoding: process, as: UTF8.self))
        object.text("program", String(decoding: program, as: UTF8.self))
        object.text("protocol", Self.protocolName(event.protocol))
        object.text("reason", outcome?.reason)
        object.number("session", event.session == 0 ? nil : UInt64(event.session))
        object.text("source_address", Self.source(event))
        object.text("time", Self.time(event.time &+ offset))
        object.number("uid", UInt64(event.uid))
        object.text("user", user(event.uid))
        object.text("verdict", outcome?.verdict ?? "\(event.outcome)")
        return object.ended()
    }

    // MARK: Parts

    /// A user's name, looked up once; `nil` if there is none.
    private mutating func user(_ uid: UInt32) -> String? {
        if let known = users[uid] { return known.isEmpty ? nil : known }
        if users.count >= 4096 { users = [:] }  // keeps the memory bounded if there are very many users
        let name = (try? SystemUsers.name(of: uid)) ?? nil
        users[uid] = name ?? ""
        return name
    }

    private static func name(_ field: some BitwiseCopyable) -> [UInt8] {
        withUnsafeBytes(of: field) { Array($0.prefix { $0 != 0 }) }
    }

    private static let hooks: [String] = Hook.all.map(\.name)

    private static func hook(_ number: UInt8) -> String {
        Int(number) < hooks.count ? hooks[Int(number)] : "\(number)"
    }

    /// An IPv4 address in the form that the program sees: as such in an IPv4 call, in mapped form on an AF_INET6
    /// socket.
    private static func address(_ address: vip_address, of event: vip_event) -> String {
        let isMapped = address.word.0 == 0 && address.word.1 == 0 && address.word.2 == UInt32(0xffff).bigEndian
        if isMapped {
            let v4 = UInt32(bigEndian: address.word.3)
            let text = "\(v4 >> 24).\(v4 >> 16 & 0xff).\(v4 >> 8 & 0xff).\(v4 & 0xff)"
            return event.family == UInt8(AF_INET6) ? "::ffff:\(text)" : text
        }
        return address.address.description
    }

    private static func endpoint(_ address: vip_address, _ port: UInt16, of event: vip_event) -> String {
        let text = self.address(address, of: event)
        return text.utf8.contains(UInt8(ascii: ":"))
            ? "[\(text)]:\(UInt16(bigEndian: port))" : "\(text):\(UInt16(bigEndian: port))"
    }

    /// The source address; `nil` if the kernel chooses it or the call has none.
    private static func source(_ event: vip_event) -> String? {
        let address = event.source.address
        return address.isUnspecified ? nil : self.address(event.source, of: event)
    }

    private static func errorName(_ error: UInt16) -> String { Errno(rawValue: Int32(error)).name }

    private static func protocolName(_ number: UInt16) -> String {
        switch number {
        case 6: "tcp"  // include/uapi/linux/in.h
        case 17: "udp"
        case 262: "mptcp"
        default: "\(number)"
        }
    }

    /// The time as RFC 3339 in UTC, with microseconds.
    ///
    /// - Parameter nanoseconds: since 1970.
    private static func time(_ nanoseconds: UInt64) -> String {
        var seconds = time_t(nanoseconds / 1_000_000_000)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        return
            "\(padded(Int(parts.tm_year) + 1900, 4))-\(padded(Int(parts.tm_mon) + 1, 2))-\(padded(Int(parts.tm_mday), 2))T"
            + "\(clock(parts)).\(padded(Int(nanoseconds / 1000 % 1_000_000), 6))Z"
    }

    /// The time as `HH:MM:SS.ffffff` in the terminal's time zone.
    private static func timeOfDay(_ nanoseconds: UInt64) -> String {
        var seconds = time_t(nanoseconds / 1_000_000_000)
        var parts = tm()
        localtime_r(&seconds, &parts)
        return "\(clock(parts)).\(padded(Int(nanoseconds / 1000 % 1_000_000), 6))"
    }

    private static func clock(_ parts: tm) -> String {
        "\(padded(Int(parts.tm_hour), 2)):\(padded(Int(parts.tm_min), 2)):\(padded(Int(parts.tm_sec), 2))"
    }

    private static func padded(_ number: Int, _ width: Int) -> String {
        let text = "\(number)"
        return String(repeating: "0", count: max(0, width - text.utf8.count)) + text
    }
}

/// A line of cells, with two spaces between them.
private struct Line {
    private var bytes: [UInt8] = []
    private var padding = 0

    mutating func cell(_ text: String, width: Int) {
        bytes += repeatElement(UInt8(ascii: " "), count: padding)
        bytes += text.utf8
        padding = 2 + max(0, width - text.count)
    }

    func ended() -> [UInt8] {
        var line = bytes
        while line.last == UInt8(ascii: " ") { line.removeLast() }
        return line + [UInt8(ascii: "\n")]
    }
}

/// A JSON object on one line (RFC 8259). Its keys are sorted because the caller writes them in that order.
private struct Object {
    private var bytes: [UInt8] = [UInt8(ascii: "{")]

    private mutating func key(_ key: StaticString) {
        if bytes.count > 1 { bytes.append(UInt8(ascii: ",")) }
        bytes.append(UInt8(ascii: "\""))
        key.withUTF8Buffer { bytes += $0 }
        bytes.append(UInt8(ascii: "\""))
        bytes.append(UInt8(ascii: ":"))
    }

    mutating func number(_ key: StaticString, _ value: UInt64?) {
        self.key(key)
        bytes += (value.map { "\($0)" } ?? "null").utf8
    }

    mutating func text(_ key: StaticString, _ value: String?) {
        self.key(key)
        guard let value else {
            bytes += "null".utf8
            return
        }
        bytes.append(UInt8(ascii: "\""))
        if value.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }) {
            bytes += value.utf8
        } else {
            for scalar in value.unicodeScalars { escape(scalar) }
        }
        bytes.append(UInt8(ascii: "\""))
    }

    /// Writes a character that would break the line or be invisible on a terminal as \uXXXX, in UTF-16 as in JSON.
    private mutating func escape(_ scalar: Unicode.Scalar) {
        switch scalar.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator:
            for unit in UTF16.encode(scalar).map({ Array($0) }) ?? [] {
                let digits = String(unit, radix: 16)
                bytes += ("\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits).utf8
            }
        default:
            if scalar == "\"" || scalar == "\\" { bytes.append(UInt8(ascii: "\\")) }
            bytes += String(scalar).utf8
        }
    }

    func ended() -> [UInt8] { bytes + [UInt8(ascii: "}"), UInt8(ascii: "\n")] }
}
