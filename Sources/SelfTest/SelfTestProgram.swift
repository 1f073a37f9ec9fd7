// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network
import SystemPackage

/// The program that `check --self-test` runs in each of its sessions. It makes the socket call that each line of its
/// input requests.
///
///     name redis-server               → ok
///     bind a 4 tcp 0.0.0.0 21034      → ok 10.20.0.10        the address of getsockname
///     talk a 4 tcp 127.0.0.1 21034    → ok 127.0.0.1 127.0.0.1   the peer's address at both ends
///     connect 4 127.0.0.9 21034       → error ECONNREFUSED
///     names                           → ok 10.20.0.10        the host's addresses by its name
///     close                           → ok
package enum SelfTestProgram {
    /// The command of vip-bpfctl that runs it, with the option `--line DESCRIPTOR`.
    package static let command = "self-test-child"

    static func arguments(line: CInt) -> [String] { ["/proc/self/exe", command, "--line", "\(line)"] }

    /// Runs it: reads commands from a socket until its end.
    package static func run(line: CInt) {
        _ = fcntl(line, F_SETFD, FD_CLOEXEC)
        var program = Program()
        var rest: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = recv(line, &buffer, buffer.count, 0)
            guard count > 0 else { return }  // the self-test has ended, or was killed
            rest += buffer[..<count]
            while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                let command = String(decoding: rest[..<end], as: UTF8.self)
                rest.removeSubrange(...end)
                let answer = Array((program.answer(to: command) + "\n").utf8)
                guard send(line, answer, answer.count, CInt(MSG_NOSIGNAL)) == answer.count else { return }
            }
        }
    }

    /// The program's sockets, and its calls.
    private struct Program {
        private var servers: [String: (socket: CInt, isStream: Bool)] = [:]

        mutating func answer(to command: String) -> String {
            let words = command.split(separator: " ", maxSplits: 1).map(String.init)
            do throws(Errno) {
                switch words.first {
                case "name":
                    // PR_SET_NAME, which is not imported: proc_pid_comm(5).
                    let name = words.count > 1 ? words[1] : ""
                    let file = try openFile("/proc/self/comm", O_WRONLY)
                    defer { close(file) }
                    guard write(file, name, name.utf8.count) == name.utf8.count else { throw .current }
                    return "ok"
                case "names": return "ok \(try names().joined(separator: " "))"
                case "close":
                    for server in servers.values { close(server.socket) }
                    servers = [:]
                    return "ok"
                default: return try call(command.split(separator: " ").map(String.init))
                }
            } catch {
                return "error \(error.name)"
            }
        }

        private mutating func call(_ words: [String]) throws(Errno) -> String {
            switch (words.first, words.count) {
            case ("bind", 6):
                guard let name = SocketName(words[4], words[5]) else { throw .invalidArgument }
                let isStream = words[3] == "tcp"
                let socket = try Self.socket(words[2], isStream)
                do throws(Errno) {
                    try name.with { bind(socket, $0, $1) }
                    if isStream, listen(socket, 8) != 0 { throw .current }
                    servers[words[1]] = (socket, isStream)
                    return "ok \(try SocketName.of { getsockname(socket, $0, $1) })"
                } catch {
                    close(socket)
                    throw error
                }
            case ("talk", 6):
                guard let server = servers[words[1]], let name = SocketName(words[4], words[5]) else {
                    throw .invalidArgument
                }
                return "ok \(try talk(to: server, words[2], name).joined(separator: " "))"
            case ("connect", 4):
                guard let name = SocketName(words[2], words[3]) else { throw .invalidArgument }
                let socket = try Self.socket(words[1], true)
                defer { close(socket) }
                try name.with { connect(socket, $0, $1) }
                return "ok"
            default: throw .invalidArgument
            }
        }

        /// Sends a message there and back, to be sure that it is this server. Returns the peer's address at each end.
        private func talk(
            to server: (socket: CInt, isStream: Bool), _ family: String, _ name: SocketName
        ) throws(Errno) -> [String] {
            let client = try Self.socket(family, server.isStream)
            defer { close(client) }
            try name.with { connect(client, $0, $1) }
            let message = Array("self-test \(getpid())".utf8)
            var buffer = [UInt8](repeating: 0, count: 64)
            guard send(client, message, message.count, 0) == message.count else { throw .current }
            let seen: SocketName
            if server.isStream {
                var accepted: CInt = -1
                seen = try SocketName.of {
                    accepted = accept(server.socket, $0, $1)
                    return accepted
                }
                defer { close(accepted) }
                guard recv(accepted, &buffer, message.count, CInt(MSG_WAITALL)) == message.count,
                    send(accepted, message, message.count, 0) == message.count
                else { throw .current }
            } else {
                seen = try SocketName.of { recvfrom(server.socket, &buffer, buffer.count, 0, $0, $1) < 0 ? -1 : 0 }
                try seen.with { sendto(server.socket, message, message.count, 0, $0, $1) < 0 ? -1 : 0 }
            }
            guard buffer.starts(with: message) else { throw .badMessage }
            guard recv(client, &buffer, message.count, 0) == message.count else { throw .current }
            let peer = try SocketName.of { getpeername(client, $0, $1) }
            return ["\(peer)", "\(seen)"]
        }

        /// Finds the host's addresses as programs do: gethostname(2), getaddrinfo(3).
        private func names() throws(Errno) -> [String] {
            var host = [CChar](repeating: 0, count: 256)  // HOST_NAME_MAX is 64
            guard gethostname(&host, host.count - 1) == 0 else { throw .current }
            var hints = addrinfo()
            hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
            var list: UnsafeMutablePointer<addrinfo>?
            guard getaddrinfo(host, nil, &hints, &list) == 0 else { return [] }
            defer { freeaddrinfo(list) }
            var found: [String] = []
            var next = list
            while let entry = next {
                let bytes = UnsafeRawBufferPointer(start: entry.pointee.ai_addr, count: Int(entry.pointee.ai_addrlen))
                if let name = SocketName(bytes: Array(bytes)) { found.append("\(name)") }
                next = entry.pointee.ai_next
            }
            return found
        }

        /// `4`, `6` (with IPV6_V6ONLY) or `dual`. The socket has timeouts, so that no call waits forever.
        private static func socket(_ family: String, _ isStream: Bool) throws(Errno) -> CInt {
            let type = isStream ? SOCK_STREAM : SOCK_DGRAM
            let socket = Glibc.socket(
                family == "4" ? AF_INET : AF_INET6, CInt(type.rawValue | SOCK_CLOEXEC.rawValue), 0)
            guard socket >= 0 else { throw .current }
            var patience = timeval(tv_sec: 2, tv_usec: 0)
            for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
                _ = setsockopt(socket, SOL_SOCKET, option, &patience, socklen_t(MemoryLayout<timeval>.size))
            }
            var isV6Only: CInt = family == "6" ? 1 : 0
            if family != "4" {
                _ = setsockopt(
                    socket, CInt(IPPROTO_IPV6), IPV6_V6ONLY, &isV6Only, socklen_t(MemoryLayout<CInt>.size))
            }
            return socket
        }
    }
}

/// The bytes of a `sockaddr_in` or `sockaddr_in6`, ip(7) and ipv6(7).
private struct SocketName: CustomStringConvertible {
    private let bytes: [UInt8]
    let address: IPAddress

    init?(_ address: String, _ port: String) {
        guard let address = IPAddress(address), let port = UInt16(port) else { return nil }
        let family = withUnsafeBytes(of: sa_family_t(address.family == .v4 ? AF_INET : AF_INET6)) { Array($0) }
        let head = family + [UInt8(port >> 8), UInt8(port & 0xff)]
        let zeros = [UInt8](repeating: 0, count: 8)
        bytes = address.family == .v4 ? head + address.bytes + zeros : head + zeros[..<4] + address.bytes + zeros[..<4]
        self.address = address
    }

    init?(bytes: [UInt8]) {
        guard bytes.count >= 8 else { return nil }
        let family = bytes.withUnsafeBytes { $0.loadUnaligned(as: sa_family_t.self) }
        let isIPv4 = family == sa_family_t(AF_INET)
        guard isIPv4 || bytes.count >= 24 && family == sa_family_t(AF_INET6),
            let address = IPAddress(bytes: isIPv4 ? bytes[4..<8] : bytes[8..<24])
        else { return nil }
        self.bytes = bytes
        self.address = address
    }

    var description: String { address.description }

    func with(_ call: (UnsafePointer<sockaddr>?, socklen_t) -> CInt) throws(Errno) {
        let error: CInt = bytes.withUnsafeBytes { raw in
            call(raw.baseAddress?.assumingMemoryBound(to: sockaddr.self), socklen_t(raw.count)) < 0 ? errno : 0
        }
        if error != 0 { throw Errno(rawValue: error) }
    }

    static func of(
        _ call: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> CInt
    ) throws(Errno) -> SocketName {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let error: CInt = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { call($0, &length) < 0 ? errno : 0 }
        }
        guard error == 0 else { throw Errno(rawValue: error) }
        guard let name = SocketName(bytes: withUnsafeBytes(of: storage) { Array($0.prefix(Int(length))) }) else {
            throw .addressFamilyNotSupported
        }
        return name
    }
}
