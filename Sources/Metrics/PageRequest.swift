// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
public import SystemPackage

/// One request for a page of metrics by HTTP/1.0 (RFC 1945): `GET /metrics`, answered with a file.
///
/// The process serves one connection, which a socket unit has accepted, and needs no privilege: root writes the file.
public enum PageRequest {
    /// How long to wait for the request, and for the answer to be sent.
    private static let patience: Duration = .seconds(5)
    /// A request is a line and some header fields.
    private static let longest = 8 << 10  // bytes

    /// Reads the request and answers it.
    ///
    /// - Parameters:
    ///   - page: the file; if it cannot be read, the answer has status 503.
    ///   - input: the descriptor to read from.
    ///   - output: the descriptor to write to, often the same socket.
    public static func answer(_ page: FilePath, input: CInt, output: CInt) {
        signal(SIGPIPE, SIG_IGN)
        for descriptor in [input, output] {
            _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
        }
        guard let request = read(input) else { return }
        write(response(to: request, page), output)
    }

    /// The bytes of the answer to a request.
    static func response(to request: String, _ page: FilePath) -> [UInt8] {
        let line = request.prefix { !$0.isNewline }.split(separator: " ")
        var (status, type) = ("200 OK", MetricsPage.contentType)
        var body: [UInt8]
        func plain(_ code: String, _ text: String) {
            (status, type, body) = (code, "text/plain; charset=utf-8", Array("\(text)\n".utf8))
        }
        body = []
        if line.count < 2 || !["GET", "HEAD"].contains(line[0]) {
            plain("405 Method Not Allowed", "GET /metrics")
        } else if line[1].prefix(while: { $0 != "?" }) != "/metrics" {
            plain("404 Not Found", "see /metrics")
        } else {
            do throws(Errno) {
                body = try readWholeFile(page)
            } catch {
                plain("503 Service Unavailable", "read \(page): \(error.text); see systemctl status vip-bpf-page.timer")
            }
        }
        let head = """
            HTTP/1.0 \(status)\r\nContent-Type: \(type)\r\nContent-Length: \(body.count)\r\nConnection: close\r\n\r\n
            """
        return Array(head.utf8) + (line.first == "HEAD" ? [] : body)
    }

    /// The request up to the empty line; `nil` if none arrives in time.
    private static func read(_ input: CInt) -> String? {
        let end = ContinuousClock.now + patience
        var request: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        while request.count < longest, wait(input, POLLIN, until: end) {
            let count = Glibc.read(input, &buffer, buffer.count)
            if count < 0, errno == EAGAIN || errno == EINTR { continue }
            guard count > 0 else { return nil }
            request += buffer[..<count]
            let text = String(decoding: request, as: UTF8.self)
            if text.contains("\r\n\r\n") || text.contains("\n\n") { return text }
        }
        return nil
    }

    private static func write(_ bytes: [UInt8], _ output: CInt) {
        let end = ContinuousClock.now + patience
        var rest = bytes[...]
        while !rest.isEmpty, wait(output, POLLOUT, until: end) {
            let count = rest.withUnsafeBytes { Glibc.write(output, $0.baseAddress, $0.count) }
            if count < 0, errno != EAGAIN, errno != EINTR { return }
            rest = rest.dropFirst(max(0, count))
        }
    }

    private static func wait(_ descriptor: CInt, _ events: CInt, until end: ContinuousClock.Instant) -> Bool {
        let left = ContinuousClock.now.duration(to: end)
        guard left > .zero else { return false }
        var entry = pollfd(fd: descriptor, events: Int16(events), revents: 0)
        return poll(&entry, 1, left.pollTimeout) != 0
    }
}
