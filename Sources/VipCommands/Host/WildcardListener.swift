// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import Glibc
import SystemPackage

/// A listening TCP socket or bound UDP socket on a wildcard address, and who holds it.
struct WildcardListener {
    struct Process {
        var pid: pid_t
        var name: String
        /// Its cgroup v2, as /proc/PID/cgroup has it.
        var cgroup: String
    }

    var transport: String
    var port: UInt16
    var inode: UInt64
    var process: Process?

    /// Those of the caller's network namespace that no process of a session's holds, by port.
    ///
    /// Sockets from /proc/net (proc_pid_net(5)), their holders from /proc/PID/fd. A port below the ephemeral range or a
    /// listening one counts; the ephemeral ports of UDP clients block nobody and are left out.
    static func all(outside sessions: [FilePath]) throws(Failure) -> [WildcardListener] {
        let ephemeral = ephemeralPorts()
        var found: [UInt64: WildcardListener] = [:]
        for (transport, file, state) in [
            ("TCP", "tcp", "0A"), ("TCP", "tcp6", "0A"), ("UDP", "udp", "07"), ("UDP", "udp6", "07"),
        ] {
            guard let text = try? String(contentsOf: FilePath("/proc/self/net/\(file)")) else { continue }
            for line in text.split(separator: "\n").dropFirst() {
                let fields = line.split(separator: " ")
                guard fields.count > 9, fields[3] == state, let inode = UInt64(fields[9]) else { continue }
                let local = fields[1].split(separator: ":")
                guard local.count == 2, local[0].allSatisfy({ $0 == "0" }), let port = UInt16(local[1], radix: 16)
                else {
                    continue
                }
                if transport == "UDP", ephemeral.contains(port) { continue }
                found[inode] = WildcardListener(transport: transport, port: port, inode: inode)
            }
        }
        guard !found.isEmpty else { return [] }
        let root = try MountTable.current().cgroup2Mount().mountPoint
        var inSession: Set<UInt64> = []
        for pid in processes() {
            for inode in sockets(of: pid) where found[inode] != nil {
                let cgroup = cgroup(of: pid)
                let path = root.pushing(FilePath(String(cgroup.drop { $0 == "/" })))
                if sessions.contains(where: { path.starts(with: $0) }) {
                    inSession.insert(inode)
                } else {
                    found[inode]?.process = Process(pid: pid, name: name(of: pid), cgroup: cgroup)
                }
            }
        }
        return found.values.filter { !inSession.contains($0.inode) }
            .sorted { ($0.port, $0.transport, $0.inode) < ($1.port, $1.transport, $1.inode) }
    }

    /// net.ipv4.ip_local_port_range; the kernel's default where it cannot be read.
    private static func ephemeralPorts() -> ClosedRange<UInt16> {
        let text = (try? String(contentsOf: FilePath("/proc/sys/net/ipv4/ip_local_port_range"))) ?? ""
        let ports = text.split { $0 == "\t" || $0 == " " || $0 == "\n" }.compactMap { UInt16($0) }
        return ports.count == 2 && ports[0] <= ports[1] ? ports[0]...ports[1] : 32768...60999
    }

    private static func processes() -> [pid_t] {
        names(in: "/proc").compactMap { pid_t($0) }
    }

    /// Socket inodes among a process's descriptors; none where it has gone or is not ours to see.
    private static func sockets(of pid: pid_t) -> [UInt64] {
        let directory = "/proc/\(pid)/fd"
        return names(in: directory).compactMap { name in
            var buffer = [CChar](repeating: 0, count: 64)  // "socket:[" and a number
            let count = "\(directory)/\(name)".withCString { path in
                readlink(path, &buffer, buffer.count)
            }
            guard count > 0 else { return nil }
            let target = String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self)
            guard target.hasPrefix("socket:["), target.hasSuffix("]") else { return nil }
            return UInt64(target.dropFirst(8).dropLast())
        }
    }

    private static func cgroup(of pid: pid_t) -> String {
        let text = (try? String(contentsOf: FilePath("/proc/\(pid)/cgroup"))) ?? ""
        return text.split(separator: "\n").first { $0.hasPrefix("0::") }.map { String($0.dropFirst(3)) } ?? "?"
    }

    private static func name(of pid: pid_t) -> String {
        let text = (try? String(contentsOf: FilePath("/proc/\(pid)/comm"))) ?? "?"
        return String(text.prefix { $0 != "\n" })
    }

    private static func names(in directory: String) -> [String] {
        guard let stream = opendir(directory) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            names.append(
                withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) })
        }
        return names
    }
}
