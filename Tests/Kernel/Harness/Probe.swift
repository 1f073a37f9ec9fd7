// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport

/// A running vip-probe (Tests/Tools/probe/main.c), which makes the calls that it is told to and returns their results.
///
///     let probe = try sandbox.probe("redis-like", in: "attached/ann")
///     try probe("socket a tcp")
///     #expect(try probe("bind a 0.0.0.0 9000").ok)
final class Probe {
    /// The answer to one command.
    struct Answer: Decodable, CustomStringConvertible {
        let cmd: String
        let ok: Bool
        /// The name of the error, as in errno(3): `EADDRNOTAVAIL`.
        let errno: String?
        /// Why the command was not understood.
        let error: String?
        let address: String?
        let port: Int?
        let data: String?
        let count: Int?
        let addresses: [String]?
        let inode: UInt64?
        let pid: Int32?
        let tid: Int32?
        let name: String?
        /// From IP_PKTINFO: the datagram's destination, and the address from which an answer would be sent.
        let destinationAddress: String?
        let localAddress: String?

        /// `ADDRESS:PORT`
        var endpoint: String? {
            guard let address, let port else { return nil }
            return "\(address):\(port)"
        }

        var description: String {
            let parts = [errno ?? "ok", endpoint, data.map { "'\($0)'" }, count.map { "\($0)" }]
            return "\(cmd) → \(parts.compactMap(\.self).joined(separator: " "))"
        }
    }

    let program: Program
    /// The inodes of the sockets by name. The kernel's tables have sockets by inode.
    private var inodes: [String: UInt64] = [:]

    init(_ program: Program) {
        self.program = program
    }

    var pid: Int32 { program.pid }

    /// Runs a command and waits for its result. An errno is a result; a command that is not understood throws.
    @discardableResult
    func callAsFunction(_ command: String, within patience: Duration = hang) throws -> Answer {
        try send(command)
        return try receive(within: patience)
    }

    /// Sends a command without waiting for the result, for a call that waits for another probe.
    func send(_ command: String) throws {
        try program.write(command + "\n")
        pending.append(command)
    }
    private var pending: [String] = []

    /// The result of the earliest command that was sent and not received.
    func receive(within patience: Duration = hang) throws -> Answer {
        let command = pending.removeFirst()
        let line = try program.readLine(within: patience)
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let answer = try decoder.decode(Answer.self, from: Data(line.utf8))
        if let error = answer.error { throw HarnessError("\(program.name): '\(command)': \(error)") }
        if let inode = answer.inode {
            let words = command.split(separator: " ").map(String.init)
            inodes[words[0].hasPrefix("accept") ? words[2] : words[1]] = inode
        }
        return answer
    }

    /// The same; an errno throws.
    @discardableResult
    func must(_ command: String) throws -> Answer {
        let answer = try self(command)
        guard answer.ok else { throw HarnessError("\(program.name): '\(command)': \(answer.errno ?? "?")") }
        return answer
    }

    /// The kernel's own view of a socket, which no hook changes (/proc/PID/net/tcp, udp, tcp6, udp6; proc_net_tcp.rst).
    ///
    /// - Returns: `ADDRESS:PORT` of both ends; `nil` if the socket is not in a table. A TCP socket is in one once it
    ///   listens or is connected, a UDP socket once it is bound.
    func kernelView(_ socket: String) throws -> (local: String, remote: String)? {
        guard let inode = inodes[socket] else { throw HarnessError("no socket named \(socket)") }
        for table in ["tcp", "udp", "tcp6", "udp6"] {
            let text = try KernelFile.read("/proc/\(pid)/net/\(table)")
            for line in text.split(separator: "\n").dropFirst() {
                let fields = line.split(separator: " ")
                guard fields.count > 9, UInt64(fields[9]) == inode else { continue }
                if let local = Self.endpoint(fields[1]), let remote = Self.endpoint(fields[2]) {
                    return (local, remote)
                }
            }
        }
        return nil
    }

    /// `0100007F:2328` → `127.0.0.1:9000`. An address is one or four numbers as they are in memory; the port is in host
    /// order.
    private static func endpoint(_ text: Substring) -> String? {
        let parts = text.split(separator: ":")
        guard parts.count == 2, let port = UInt16(parts[1], radix: 16) else { return nil }
        var words: [UInt32] = []
        var rest = parts[0]
        while !rest.isEmpty {
            guard let word = UInt32(rest.prefix(8), radix: 16) else { return nil }
            words.append(word)
            rest = rest.dropFirst(8)
        }
        guard words.count == 1 || words.count == 4 else { return nil }
        let family = words.count == 1 ? AF_INET : AF_INET6
        let length = Int(INET6_ADDRSTRLEN)
        return withUnsafeTemporaryAllocation(of: CChar.self, capacity: length) { text in
            inet_ntop(family, &words, text.baseAddress, socklen_t(length)).map { "\(String(cString: $0)):\(port)" }
        }
    }
}

extension Probe {
    /// A part of the same as a script. The name of the process is the script's, the name of the executable is not.
    static let script = #"""
        #!/usr/bin/python3
        # SPDX-License-Identifier: Apache-2.0
        import errno, json, os, socket, sys

        sockets = {}

        def run(cmd, *words):
            if cmd == "pid":
                return {"pid": os.getpid(), "name": open("/proc/self/comm").read().strip()}
            name, rest = words[0], words[1:]
            address = (rest[0], int(rest[1])) if len(rest) > 1 and rest[1].isdigit() else None
            if cmd == "socket":
                kind = socket.SOCK_DGRAM if rest[0] == "udp" else socket.SOCK_STREAM
                sockets[name] = socket.socket(socket.AF_INET, kind)
                sockets[name].settimeout(100)
                return {"inode": os.fstat(sockets[name].fileno()).st_ino}
            s = sockets[name]
            if cmd == "accept":
                sockets[rest[0]], peer = s.accept()
                return {"address": peer[0], "port": peer[1], "inode": os.fstat(sockets[rest[0]].fileno()).st_ino}
            if cmd in ("getsockname", "getpeername"):
                name = getattr(s, cmd)()
                return {"address": name[0], "port": name[1]}
            if cmd in ("bind", "connect"):
                return getattr(s, cmd)(address)
            if cmd == "listen":
                return s.listen()
            if cmd == "send":
                return {"count": s.send(rest[0].encode())}
            if cmd == "sendto":
                return {"count": s.sendto(rest[2].encode(), address)}
            if cmd == "recvfrom":
                data, peer = s.recvfrom(65536)
                return {"data": data.decode(), "address": peer[0], "port": peer[1]}
            if cmd == "recv":
                return {"data": s.recv(65536).decode()}
            if cmd == "close":
                return sockets.pop(name).close()
            return {"error": "not known to the script"}

        for line in sys.stdin:
            words = line.split()
            answer = {"cmd": words[0], "ok": True, "errno": None}
            try:
                answer.update(run(*words) or {})
            except OSError as error:
                answer.update(ok=False, errno=errno.errorcode.get(error.errno, "EAGAIN"))
            print(json.dumps(answer), flush=True)
        """# + "\n"
}
