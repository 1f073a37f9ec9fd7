// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import SystemPackage
import TestSupport
import Testing

@Suite(.requiresRoot) struct SocketDumpTests {
    /// Opens sockets, prints their inodes on one line, and keeps them open until its input ends.
    static let opener = """
        import os, socket as s, sys
        lo = os.system("ip link set lo up")
        def made(family, kind, address, protocol=0, listen=True, only=None):
            k = s.socket(family, kind, protocol)
            if only is not None: k.setsockopt(s.IPPROTO_IPV6, s.IPV6_V6ONLY, only)
            k.bind(address)
            if kind == s.SOCK_STREAM and listen: k.listen()
            return k
        held = [
            made(s.AF_INET, s.SOCK_STREAM, ("0.0.0.0", 9001)),
            made(s.AF_INET6, s.SOCK_STREAM, ("::", 9002), only=0),
            made(s.AF_INET6, s.SOCK_STREAM, ("::", 9003), only=1),
            made(s.AF_INET6, s.SOCK_STREAM, ("::ffff:127.0.0.1", 9004)),
            made(s.AF_INET, s.SOCK_DGRAM, ("127.0.0.1", 9005)),
            made(s.AF_INET6, s.SOCK_DGRAM, ("::1", 9006)),
            made(s.AF_INET, s.SOCK_STREAM, ("127.0.0.1", 9007), 262),
        ]
        held.append(s.create_connection(("127.0.0.1", 9001), source_address=("127.0.0.1", 9008)))
        print(" ".join(str(os.fstat(k.fileno()).st_ino) for k in held), flush=True)
        sys.stdin.read()
        """

    @Test("finds each socket and its owner")
    func findsEachSocketAndItsOwner() async throws {
        try await inNetworkNamespace {
            let child = try Child("python3", "-c", Self.opener)
            let inodes = try child.line().split(separator: " ").compactMap { UInt64($0) }
            try #require(inodes.count == 8)
            let all = try SocketDump.sockets()
            func socket(_ index: Int) throws -> InternetSocket { try #require(all.first { $0.inode == inodes[index] }) }
            let wanted: [(InternetSocket.Transport, IPAddress.Family, String, InternetSocket.State, Bool?)] = [
                (.tcp, .v4, "0.0.0.0:9001", .listening, nil),
                (.tcp, .v6, "[::]:9002", .listening, false),
                (.tcp, .v6, "[::]:9003", .listening, true),
                (.tcp, .v6, "127.0.0.1:9004", .listening, false),
                (.udp, .v4, "127.0.0.1:9005", .closed, nil),
                (.udp, .v6, "[::1]:9006", .closed, true),  // binding to an IPv6 address sets it
                (.mptcp, .v4, "127.0.0.1:9007", .listening, nil),
                (.tcp, .v4, "127.0.0.1:9008", .established, nil),
            ]
            let cgroup = try Cgroup.current()
            for (index, want) in wanted.enumerated() {
                let found = try socket(index)
                #expect(found.transport == want.0 && found.family == want.1 && found.state == want.3, "\(found)")
                #expect(found.local.description == want.2 && found.isV6Only == want.4, "\(found)")
                #expect(found.user == 0 && (found.cgroupID == nil || found.cgroupID == cgroup.id), "\(found)")
                #expect(found.isServing == (index < 7), "\(found)")
            }
            #expect(try socket(7).remote.description == "127.0.0.1:9001")
            #expect(try socket(1).isDualStack && !socket(2).isDualStack)
            // The MPTCP listener is in the table of TCP as well.
            #expect(all.count { $0.local.port == 9007 } == 1, "\(all.filter { $0.local.port == 9007 })")
            #expect(try SocketDump.sockets(connections: false).allSatisfy { $0.inode != inodes[7] })

            // Without the diagnostics, the result is the same except for what the tables lack.
            let tables = try #require(ProcNetTables.sockets(connections: true))
            for index in inodes.indices where index != 6 {
                let (row, found) = (try #require(tables.first { $0.inode == inodes[index] }), try socket(index))
                #expect(row.local == found.local && row.remote == found.remote && row.state == found.state)
                #expect(row.transport == found.transport && row.family == found.family && row.user == found.user)
            }

            let owners = SocketOwners(of: Set(inodes))
            for inode in inodes { #expect(owners.processes[inode] == [child.pid]) }
            let process = ProcessFacts(child.pid)
            #expect(process.executable?.path.lastComponent?.string.hasPrefix("python3") == true)
            #expect(process.user == 0 && process.name == Array("python3".utf8))
            child.closeInput()
            child.wait()
            #expect(SocketOwners(of: Set(inodes)).processes.isEmpty)
            #expect(process.executable == nil && process.user == nil && process.name == nil && process.cgroup == nil)
        }
    }

    /// A dump of several parts of 32 KiB.
    @Test("finds all of many sockets")
    func manySockets() async throws {
        try await inNetworkNamespace {
            let script = """
                import os, socket as s, sys
                held = [s.socket(s.AF_INET, s.SOCK_DGRAM) for _ in range(900)]
                for i, k in enumerate(held): k.bind(("0.0.0.0", 10000 + i))
                print("ready", flush=True)
                sys.stdin.read()
                """
            let child = try Child("python3", "-c", script)
            try #require(try child.line() == "ready")
            let found = try SocketDump.sockets(connections: false)
            #expect(Set(found.map(\.local.port)) == Set(10000..<10900))
            let owners = SocketOwners(of: Set(found.map(\.inode)))
            #expect(owners.processes.count == 900 && owners.processes.values.allSatisfy { $0 == [child.pid] })
        }
    }

    /// Opens sockets on 127.0.0.4 and elsewhere. After a line of input, it prints the error of each, and whether it can
    /// be used.
    static let victims = """
        import errno, os, socket as s, sys
        os.system("ip link set lo up")
        def made(name, family, kind, address, port, protocol=0, listen=True, reuse=False):
            k = s.socket(family, kind, protocol)
            if reuse: k.setsockopt(s.SOL_SOCKET, s.SO_REUSEPORT, 1)
            k.bind((address, port))
            if kind == s.SOCK_STREAM and listen: k.listen()
            k.setblocking(False)
            held.append((name, k))
            return k
        held = []
        tcp, udp, four, six = s.SOCK_STREAM, s.SOCK_DGRAM, s.AF_INET, s.AF_INET6
        made("listener", four, tcp, "127.0.0.4", 9001)
        made("mapped", six, tcp, "::ffff:127.0.0.4", 9002)
        made("udp", four, udp, "127.0.0.4", 9003)
        made("mapped-udp", six, udp, "::ffff:127.0.0.4", 9004)
        made("six", six, tcp, "::1", 9005)
        made("bound", four, tcp, "127.0.0.4", 9006, listen=False)
        made("mptcp", four, tcp, "127.0.0.4", 9007, 262)
        for i in range(16): made("group", four, tcp, "127.0.0.4", 9008, reuse=True)
        other = made("other", four, tcp, "127.0.0.5", 9001)
        made("any", four, tcp, "0.0.0.0", 9009)
        made("other-udp", four, udp, "127.0.0.5", 9003)
        client = s.create_connection(("127.0.0.5", 9001), source_address=("127.0.0.4", 0))
        held.append(("client", client))
        print("ready", flush=True)
        for line in sys.stdin:
            def state(k):
                error = k.getsockopt(s.SOL_SOCKET, s.SO_ERROR)
                return errno.errorcode[error] if error else "ok"
            print(" ".join(f"{name}={state(k)}" for name, k in held), flush=True)
        """

    @Test("destroys the sockets on an address, and no others")
    func destroysSockets() async throws {
        try await inNetworkNamespace {
            let child = try Child("python3", "-c", Self.victims)
            try #require(try child.line() == "ready")
            let address = try #require(IPAddress("127.0.0.4"))
            let six = try #require(IPAddress("::1"))
            // The kernel's filter, with one or several conditions, gives the same result as the one in Swift for more
            // addresses.
            let many = Set((0..<20).map { IPAddress(v4: 0x7f01_0000 + $0) }).union([address])
            func seen(_ addresses: Set<IPAddress>) throws -> Set<UInt64> {
                let found = try SocketDump.sockets(on: addresses)
                #expect(found.allSatisfy { addresses.contains($0.local.address) })
                return Set(found.map(\.inode))
            }
            let before = try seen([address])
            #expect(before.count == 23)
            #expect(try seen(many) == before)
            #expect(try seen([address, six, IPAddress(v4: 0x7f00_0009)]).count == 24)

            let destroyed = try SocketDump.destroy(on: [address, six])
            #expect(destroyed.allSatisfy { $0.local.address == address || $0.local.address == six })
            try child.send("\n")
            let states = try child.line().split(separator: " ")
            for (name, state) in [
                ("listener", "ECONNABORTED"), ("mapped", "ECONNABORTED"), ("udp", "ECONNABORTED"),
                ("mapped-udp", "ECONNABORTED"), ("six", "ECONNABORTED"), ("group", "ECONNABORTED"),
                ("client", "ECONNABORTED"), ("bound", "ok"), ("mptcp", "ok"), ("other", "ok"), ("any", "ok"),
                ("other-udp", "ok"),
            ] {
                let mine = states.filter { $0.hasPrefix("\(name)=") }
                #expect(!mine.isEmpty && mine.allSatisfy { $0 == "\(name)=\(state)" }, "\(states)")
            }
            #expect(destroyed.count == 22, "\(destroyed)")
            // These are still bound: the caller must check.
            let left = try SocketDump.sockets(on: [address])
            #expect(left.contains { $0.transport == .mptcp && $0.state == .listening })
            #expect(left.contains { $0.transport == .udp } && !left.contains { $0.transport == .tcp && $0.isServing })
            child.closeInput()
            child.wait()
        }
    }

    @Test("names an executable that was deleted")
    func executableThatWasReplaced() throws {
        let directory = try TemporaryDirectory()
        let path = "\(directory.path)/name\u{1b}\n (deleted)"
        // By another process: a child that another test forks at the same time would have the file open for writing
        // (ETXTBSY).
        try #require(Child("install", "-m", "755", "/bin/sleep", path).wait() == 0)
        let child = try Child(path, "60")
        defer { child.kill() }
        #expect(ProcessFacts(child.pid).executable?.path.string == path)
        #expect(ProcessFacts(child.pid).executable?.isDeleted == false)
        try FileManager.default.removeItem(atPath: path)
        #expect(ProcessFacts(child.pid).executable?.path.string == path)
        #expect(ProcessFacts(child.pid).executable?.isDeleted == true)
    }
}
