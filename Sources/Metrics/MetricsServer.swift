// SPDX-License-Identifier: Apache-2.0

import CHost
import Foundation
import Glibc
public import Host
public import SystemPackage

/// Serves a page of metrics by HTTP/1.0 (RFC 1945), to this host alone: `GET /metrics`.
///
/// Our own, in one thread: the servers there are for Swift come with Foundation's networking, and that brings libcurl, TLS,
/// Kerberos and LDAP into a process of root, and 40 libraries to load into each command.
public final class MetricsServer: Sendable {
    /// Where it is asked.
    public enum Address: Sendable, Hashable, CustomStringConvertible {
        /// On 127.0.0.1. Every user of the host can ask.
        case port(UInt16)
        /// A Unix socket, which is made anew. Who can get to it can ask.
        case unix(FilePath)

        /// - Parameter text: a port from 1 to 65535, or `unix:` and an absolute path.
        public init?(_ text: String) {
            if text.hasPrefix("unix:") {
                let path = FilePath(String(text.dropFirst("unix:".count)))
                // Of sockaddr_un, unix(7): 108 bytes with the NUL.
                guard path.isAbsolute, path.string.utf8.count < 108 else { return nil }
                self = .unix(path)
            } else {
                guard text.utf8.allSatisfy({ isdigit(CInt($0)) != 0 }), let port = UInt16(text), port > 0 else {
                    return nil
                }
                self = .port(port)
            }
        }

        public var description: String {
            switch self {
            case .port(let port): "127.0.0.1:\(port)"
            case .unix(let path): "unix:\(path)"
            }
        }
    }

    /// So many may be connected; who comes then takes the place of who has waited longest.
    private static let connections = 64
    /// How long a request may take to come, and an answer to go.
    private static let patience: Duration = .seconds(5)
    /// A request is a line and some fields.
    private static let longestRequest = 8 << 10  // bytes

    private let listener: Descriptor
    private let page: @Sendable () throws(Failure) -> MetricsPage

    /// Begins to listen, and answers in a thread of its own for as long as the process runs.
    ///
    /// - Parameter page: asked for each request, one at a time; what it throws is the answer's text, with status 500.
    /// - Throws: ``Failure`` where it cannot listen there.
    public init(_ address: Address, page: @escaping @Sendable () throws(Failure) -> MetricsPage) throws(Failure) {
        let what = "serve metrics on \(address)"
        self.page = page
        switch address {
        case .port(let port):
            listener = try Self.open(AF_INET, what)
            var one: CInt = 1
            setsockopt(listener.raw, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<CInt>.size))
            var name = sockaddr_in()
            name.sin_family = sa_family_t(AF_INET)
            name.sin_port = port.bigEndian
            name.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            try Self.listen(listener.raw, &name, what)
        case .unix(let path):
            try Self.removeLeftOver(path, what)
            listener = try Self.open(AF_UNIX, what)
            var name = Self.name(path)
            try Self.listen(listener.raw, &name, what)
            // It tells no secret; its directory says who gets that far.
            _ = path.withPlatformString { chmod($0, 0o666) }
        }
        Thread.detachNewThread { [self] in serve() }
    }

    private static func open(_ family: CInt, _ what: String) throws(Failure) -> Descriptor {
        let kind = CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue) | CInt(SOCK_NONBLOCK.rawValue)
        let raw = socket(family, kind, 0)
        guard raw >= 0 else { throw Failure(what, errno: .current) }
        return Descriptor(owning: raw)
    }

    private static func listen<Name>(_ socket: CInt, _ name: inout Name, _ what: String) throws(Failure) {
        let length = socklen_t(MemoryLayout<Name>.size)
        let result = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(socket, $0, length) }
        }
        guard result == 0, Glibc.listen(socket, SOMAXCONN) == 0 else {
            throw Failure(what, errno: .current, hint: "see what is there already: ss -ltnxp")
        }
    }

    private static func name(_ path: FilePath) -> sockaddr_un {
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &name.sun_path) { $0.copyBytes(from: path.string.utf8.prefix($0.count - 1)) }
        return name
    }

    /// Takes the socket of one that ended away; nothing else, and not one that answers.
    private static func removeLeftOver(_ path: FilePath, _ what: String) throws(Failure) {
        var status = stat()
        guard path.withPlatformString({ lstat($0, &status) }) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw Failure(.failed, what, "there is a file that is no socket", hint: "name another path")
        }
        let other = try open(AF_UNIX, what)
        var name = name(path)
        let length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let result = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(other.raw, $0, length) }
        }
        guard result != 0, errno == ECONNREFUSED else {
            throw Failure(.failed, what, "somebody listens there already", hint: "name another path")
        }
        guard path.withPlatformString({ unlink($0) }) == 0 else { throw Failure(what, errno: .current) }
    }

    // MARK: The thread

    private func serve() {
        // By their descriptors.
        var open: [CInt: (end: ContinuousClock.Instant, request: [UInt8])] = [:]
        func finish(_ socket: CInt) {
            close(socket)
            open[socket] = nil
        }
        while true {
            let sockets = Array(open.keys)
            var polled = ([listener.raw] + sockets).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            // Who says nothing is looked at once a second; nobody there, nothing to look at.
            _ = poll(&polled, nfds_t(polled.count), open.isEmpty ? -1 : 1000)
            let now = ContinuousClock.now
            for entry in polled.dropFirst() {
                guard let connection = open[entry.fd] else { continue }
                if entry.revents == 0 {
                    if connection.end <= now { finish(entry.fd) }
                    continue
                }
                var buffer = [UInt8](repeating: 0, count: 4096)
                let count = read(entry.fd, &buffer, buffer.count)
                if count < 0, errno == EAGAIN || errno == EINTR { continue }
                let request = connection.request + buffer.prefix(max(count, 0))
                let text = String(decoding: request, as: UTF8.self)
                if text.contains("\r\n\r\n") || text.contains("\n\n") {
                    answer(text, entry.fd)
                } else if count > 0, request.count < Self.longestRequest {
                    open[entry.fd] = (connection.end, request)
                    continue
                }
                finish(entry.fd)
            }
            guard polled[0].revents != 0 else { continue }
            if open.count >= Self.connections, let oldest = open.min(by: { $0.value.end < $1.value.end }) {
                finish(oldest.key)
            }
            let new = vip_accept(listener.raw)
            if new >= 0 {
                open[new] = (now + Self.patience, [])
            } else if [EMFILE, ENFILE, ENOMEM, ENOBUFS].contains(-new) {
                // It stays readable; there may be room a little later.
                Thread.sleep(forTimeInterval: 0.1)
            }
        }
    }

    private func answer(_ request: String, _ socket: CInt) {
        let line = request.prefix { $0 != "\r" && $0 != "\n" && $0 != "\r\n" }.split(separator: " ")
        let (status, type, body): (String, String, String)
        if line.count < 2 || !["GET", "HEAD"].contains(line[0]) {
            (status, type, body) = ("405 Method Not Allowed", "text/plain; charset=utf-8", "GET /metrics\n")
        } else if line[1].prefix(while: { $0 != "?" }) != "/metrics" {
            (status, type, body) = ("404 Not Found", "text/plain; charset=utf-8", "see /metrics\n")
        } else {
            do throws(Failure) {
                (status, type, body) = ("200 OK", MetricsPage.contentType, try page().text)
            } catch {
                (status, type, body) = ("500 Internal Server Error", "text/plain; charset=utf-8", "\(error)\n")
            }
        }
        let head = """
            HTTP/1.0 \(status)\r\nContent-Type: \(type)\r\nContent-Length: \(body.utf8.count)\r\nConnection: close\r\n\r\n
            """
        var bytes = Array((head + (line.first == "HEAD" ? "" : body)).utf8)[...]
        // A page fits into the socket's buffer, as a rule; who does not read it is not waited for.
        let end = ContinuousClock.now + Self.patience
        while !bytes.isEmpty, ContinuousClock.now < end {
            let count = bytes.withUnsafeBytes { send(socket, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
            if count > 0 {
                bytes = bytes.dropFirst(count)
                continue
            }
            guard errno == EAGAIN || errno == EINTR else { return }
            var ready = pollfd(fd: socket, events: Int16(POLLOUT), revents: 0)
            _ = poll(&ready, 1, 100)
        }
    }
}
