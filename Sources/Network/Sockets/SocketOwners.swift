// SPDX-License-Identifier: Apache-2.0

public import Glibc
import Host
import SystemPackage

/// Which processes hold which sockets: the links in /proc/PID/fd, proc_pid_fd(5).
public struct SocketOwners: Sendable {
    /// Processes by the socket's inode, each at most once, in the order of their IDs.
    public private(set) var processes: [UInt64: [pid_t]] = [:]
    /// The number of processes whose descriptors this process may not read, without those that ended in between.
    public private(set) var unreadable = 0

    /// At most this many processes are noted for one socket: the workers of a server that share a socket are all alike.
    public static let processLimit = 4096

    /// Reads the descriptors of all processes of the PID namespace that /proc shows.
    ///
    /// A process that ends during the scan has no sockets. Needs CAP_SYS_PTRACE for the processes of other users.
    ///
    /// - Parameter inodes: the sockets to look for. No others are noted.
    public init(of inodes: Set<UInt64>) {
        guard !inodes.isEmpty else { return }
        for pid in Self.allProcesses() {
            guard let directory = opendir("/proc/\(pid)/fd") else {
                if errno == EACCES || errno == EPERM { unreadable += 1 }
                continue
            }
            defer { closedir(directory) }
            // "socket:[", at most 20 digits and a bracket. A longer link is not a socket's.
            withUnsafeTemporaryAllocation(of: CChar.self, capacity: 32) { target in
                while let entry = readdir(directory) {
                    let count = withUnsafePointer(to: &entry.pointee.d_name) {
                        $0.withMemoryRebound(to: CChar.self, capacity: 256) {  // NAME_MAX and a NUL, dirent.h
                            readlinkat(dirfd(directory), $0, target.baseAddress!, target.count)
                        }
                    }
                    guard count > 0, let inode = Self.inode(target[..<count]), inodes.contains(inode) else { continue }
                    note(pid, inode)
                }
            }
        }
    }

    private mutating func note(_ pid: pid_t, _ inode: UInt64) {
        var known = processes[inode] ?? []
        guard known.last != pid, known.count < Self.processLimit else { return }
        known.append(pid)
        processes[inode] = known
    }

    /// The inode in `socket:[4711]`.
    private static func inode(_ target: Slice<UnsafeMutableBufferPointer<CChar>>) -> UInt64? {
        let prefix = "socket:[".utf8
        guard target.count > prefix.count + 1, target.last == CChar(UInt8(ascii: "]")),
            zip(target, prefix).allSatisfy({ UInt8(bitPattern: $0) == $1 })
        else { return nil }
        var inode: UInt64 = 0
        for digit in target.dropFirst(prefix.count).dropLast() {
            let value = UInt8(bitPattern: digit)
            guard 0x30...0x39 ~= value else { return nil }
            inode = inode &* 10 &+ UInt64(value - 0x30)
        }
        return inode
    }

    /// The IDs of the processes that /proc shows, ascending.
    public static func allProcesses() -> [pid_t] {
        ((try? Directory.entries(of: "/proc")) ?? []).compactMap { pid_t($0.name) }.sorted()
    }
}
