// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// Tests the harness itself, on which the other suites rely, with nothing attached.
@Suite(.serialized, .requiresRoot)
struct HarnessTests {
    @Test func sandboxLeavesNothingBehind() throws {
        let (name, running) = try Sandbox.with { sandbox in
            // Deep cgroups, a process that ignores the end of its input, a pin that holds a map.
            let program = try sandbox.start(["/bin/sh", "-c", "echo up; exec sleep 1000"], in: "attached/a/b/c")
            #expect(try program.readLine() == "up")
            try sandbox.sh("bpftool map create '\(sandbox.directory)/bpf/m' type array key 4 value 4 entries 1 name m")
            return (sandbox.name, program)
        }
        #expect(try running.wait() == 128 + SIGKILL)
        try Sandbox.expectNothingLeft(of: name)
    }

    /// A killed test process cannot clean up; its janitor does.
    @Test func janitorCleansAfterAKilledTest() async throws {
        // The janitor inherits standard error, so this returns only when the janitor has ended as well.
        let result = try await #require(
            processExitsWith: .signal(SIGKILL), observing: [\.standardOutputContent, \.standardErrorContent]
        ) {
            let sandbox = try Sandbox()
            let program = try sandbox.start(["/bin/sh", "-c", "echo up; exec sleep 1000"], in: "attached/a")
            #expect(try program.readLine() == "up")
            // The line is marked, because the testing library may write to standard output as well.
            print("<<\(sandbox.name) \(program.pid)>>")
            fflush(nil)
            kill(getpid(), SIGKILL)
        }
        let output = String(decoding: result.standardOutputContent, as: UTF8.self)
        let mark = try #require(output.firstMatch(of: /<<(\S+) (\d+)>>/))
        try Sandbox.expectNothingLeft(of: String(mark.1))
        // The process no longer exists, or is a zombie: "PID (NAME) STATE …", proc(5).
        let stat = (try? KernelFile.read("/proc/\(mark.2)/stat")) ?? ") Z"
        #expect(stat.contains(") Z"), "\(stat)")
    }

    @Test("leaves a sandbox alone whose name another one asks for")
    func aTakenNameIsNotCleaned() throws {
        try Sandbox.with { sandbox in
            let script = SourceTree.url("Tests/Support/janitor.sh").path
            let second = try Program(
                ["/bin/sh", script, sandbox.name, sandbox.cgroup, sandbox.directory, Build.probe.path],
                errorOutput: true)
            #expect(try second.wait() != 0)
            #expect(second.errorText.contains("File exists"))
            #expect(FileManager.default.fileExists(atPath: "\(sandbox.directory)/state"))
        }
    }

    @Test("starts programs in their cgroup and network namespace")
    func programsAreWhereTheyShouldBe() throws {
        try Sandbox.with { sandbox in
            let deep = try sandbox.probe("redis-like", in: "attached/ann/x/y")
            let pid = try deep.must("pid")
            #expect(pid.pid == deep.pid)
            #expect(pid.name == "redis-like")
            let cgroups = try KernelFile.read("/proc/\(deep.pid)/cgroup")
            #expect(cgroups.contains("0::/\(sandbox.name)/attached/ann/x/y\n"))

            let addresses = try sandbox.sh("ip -4 -brief address show dev eth0")
            #expect(addresses.contains(Sandbox.hostAddress))
            #expect(try sandbox.sh("ip -4 -brief address show dev eth0", at: .outside).contains(Sandbox.outsideAddress))

            let script = try sandbox.script("crm-script", in: "attached/ann")
            #expect(try script.must("pid").name == "crm-script")
        }
    }

    /// Nothing is attached, so every call gets what it requests. Each command of the probe is used.
    @Test(arguments: ["tcp", "mptcp"]) func streamCommands(protocol kind: String) throws {
        try Sandbox.with { sandbox in
            let server = try sandbox.probe(in: "outside")
            let client = try sandbox.probe(in: "outside")
            try server.must("socket l \(kind)")
            try server.must("setsockopt l reuseaddr 1")
            try server.must("bind l 0.0.0.0 9000")
            try server.must("listen l 8")
            #expect(try server.must("getsockname l").endpoint == "0.0.0.0:9000")
            #expect(try server.kernelView("l")?.local == "0.0.0.0:9000")

            try client.must("socket c \(kind)")
            try client.must("bind c 198.51.100.1 0")
            try client.must("connect c 127.0.0.1 9000")
            #expect(try client.must("getpeername c").endpoint == "127.0.0.1:9000")
            let own = try #require(try client.must("getsockname c").endpoint)
            #expect(own.hasPrefix("198.51.100.1:"))
            #expect(try server.must("accept l s").endpoint == own)
            #expect(try server.must("getpeername s").endpoint == own)
            #expect(try server.must("getsockname s").endpoint == "127.0.0.1:9000")
            let view = try #require(try client.kernelView("c"))
            #expect(view == (own, "127.0.0.1:9000"))

            #expect(try client.must("send c hello").count == 5)
            #expect(try server.must("recv s").data == "hello")
            #expect(try server.must("sendmsg s back").count == 4)
            #expect(try client.must("recvfrom c").data == "back")

            try client.must("socket d \(kind)")
            try client.must("connect d 127.0.0.1 9000")
            #expect(try server.must("accept-noaddr l t").address == nil)

            // Calls that must fail do so, with the right errno.
            try client.must("socket e \(kind)")
            #expect(try client("bind e 192.0.2.1 0").errno == "EADDRNOTAVAIL")
            #expect(try client("connect e 127.0.0.1 1").errno == "ECONNREFUSED")
            #expect(try client("getpeername e").errno == "ENOTCONN")
            try server.must("setsockopt t timeout 10")
            #expect(try server("recv t").errno == "EAGAIN")
            for name in ["c", "d", "e"] { try client.must("close \(name)") }
            #expect(throws: HarnessError.self) { try client("close c") }
            try client.must("quit")
            #expect(try client.program.wait() == 64)
        }
    }

    @Test func fastOpen() throws {
        try Sandbox.with { sandbox in
            let server = try sandbox.probe(in: "outside")
            let client = try sandbox.probe(in: "outside")
            for command in ["socket l tcp", "setsockopt l fastopen 8", "bind l 127.0.0.1 9000", "listen l"] {
                try server.must(command)
            }
            // The first connection fetches the cookie (RFC 7413), the second one uses it.
            for name in ["first", "second"] {
                try client.must("socket \(name) tcp")
                #expect(try client.must("fastopen \(name) 127.0.0.1 9000 hello").count == 5)
                let own = try client.must("getsockname \(name)").endpoint
                #expect(try server.must("accept l \(name)").endpoint == own)
                #expect(try server.must("recv \(name)").data == "hello")
            }
            let counters = try sandbox.sh("nstat -asz TcpExtTCPFastOpenPassive TcpExtTCPFastOpenActive")
            #expect(counters.contains(/TCPFastOpenPassive\s+1/), "\(counters)")
        }
    }

    @Test func datagramCommands() throws {
        try Sandbox.with { sandbox in
            let server = try sandbox.probe(in: "outside")
            let client = try sandbox.probe(in: "outside")
            for command in ["socket s udp", "setsockopt s pktinfo 1", "bind s 0.0.0.0 9000"] {
                try server.must(command)
            }
            #expect(try server.kernelView("s")?.local == "0.0.0.0:9000")

            for command in ["socket c udp", "bind c 0.0.0.0 9001"] { try client.must(command) }
            try client.must("sendto c 127.0.0.1 9000 one")
            let received = try server.must("recvmsg s")
            #expect(received.endpoint == "127.0.0.1:9001")
            #expect(received.data == "one")
            #expect(received.destinationAddress == "127.0.0.1")
            #expect(received.localAddress == "127.0.0.1")
            try client.must("sendmsg c 198.51.100.1 9000 two")
            #expect(try server.must("recvfrom s").endpoint == "198.51.100.1:9001")
            try client.must("sendmsg-pktinfo c 127.0.0.1 9000 198.51.100.1 three")
            #expect(try server.must("recvfrom s").endpoint == "198.51.100.1:9001")
            #expect(try client.must("sendmmsg c 3 127.0.0.1 9000 four").count == 3)
            for _ in 0..<3 { #expect(try server.must("recvfrom s").data == "four") }
            try client.must("sendmmsg c 1 127.0.0.1 9000 five")
            #expect(try server.must("recvmmsg s 1").addresses == ["127.0.0.1"])

            try client.must("connect c 127.0.0.1 9000")
            #expect(try client.must("getpeername c").endpoint == "127.0.0.1:9000")
            try client.must("send c six")
            #expect(try server.must("recv s").data == "six")
            try server.must("sendto s 127.0.0.1 9001 seven")
            try client.must("poll c in")
            #expect(try client.must("recvfrom c").endpoint == "127.0.0.1:9000")
            try client.must("disconnect c")
            #expect(try client("getpeername c").errno == "ENOTCONN")

            // The error of a refused datagram is returned by the connected socket's next call.
            try client.must("connect c 127.0.0.1 1")
            try client.must("send c lost")
            #expect(try client("recv c").errno == "ECONNREFUSED")

            try client.must("socket u udp")
            #expect(try client("bind-unspec u 127.0.0.1 0").errno == "EAFNOSUPPORT")
            try client.must("bind-unspec u 0.0.0.0 0")
            for option in ["reuseaddr", "reuseport", "broadcast", "freebind", "bind_no_port", "nonblock"] {
                try client.must("setsockopt u \(option) 1")
            }
            #expect(try client("recvfrom u").errno == "EAGAIN")
        }
    }

    @Test("shows the host's address to other hosts without hooks")
    func otherHostsSeeTheHostAddress() throws {
        try Sandbox.with { sandbox in
            let outside = try sandbox.probe(in: "outside", at: .outside)
            let inside = try sandbox.probe(in: "outside")
            for command in ["socket l tcp", "bind l 0.0.0.0 9000", "listen l"] { try outside.must(command) }
            for command in ["socket c tcp", "connect c \(Sandbox.outsideAddress) 9000"] { try inside.must(command) }
            #expect(try outside.must("accept l s").address == Sandbox.hostAddress)
        }
    }

    @Test func threadsNamesAndPassedSockets() throws {
        try Sandbox.with { sandbox in
            let giver = try sandbox.probe("giver", in: "attached/a")
            let taker = try sandbox.probe("taker", in: "attached/b")
            let main = try giver.must("pid")
            try giver.must("rename other-name")
            #expect(try giver.must("pid").name == "other-name")
            try giver.must("thread worker-1")
            let worker = try giver.must("pid")
            #expect(worker.name == "worker-1")
            #expect(worker.pid == main.pid)
            #expect(worker.tid != main.tid)

            let path = "\(sandbox.directory)/mailbox"
            try taker.must("mailbox \(path)")
            for command in ["socket a udp", "bind a 127.0.0.1 9000", "pass a \(path)"] { try giver.must(command) }
            try taker.must("take b")
            #expect(try taker.must("getsockname b").endpoint == "127.0.0.1:9000")
        }
    }

    @Test func scriptMakesTheSameCalls() throws {
        try Sandbox.with { sandbox in
            let server = try sandbox.script("crm-script", in: "attached/a")
            let client = try sandbox.script("crm-client", in: "attached/a")
            for command in ["socket l tcp", "bind l 127.0.0.1 9000", "listen l"] { try server.must(command) }
            for command in ["socket c tcp", "connect c 127.0.0.1 9000", "send c hello"] { try client.must(command) }
            #expect(try server.must("accept l s").endpoint == (try client.must("getsockname c").endpoint))
            #expect(try server.must("recv s").data == "hello")
            #expect(try client("bind c 192.0.2.1 0").ok == false)
            for command in ["socket u udp", "bind u 127.0.0.1 9000"] { try server.must(command) }
            for command in ["socket u udp", "sendto u 127.0.0.1 9000 one"] { try client.must(command) }
            #expect(try server.must("recvfrom u").data == "one")
        }
    }

    @Test func commandsFromTheArgumentsOfAProgram() throws {
        try Sandbox.with { sandbox in
            let program = try sandbox.start(
                [
                    Build.probe.path, "socket", "a", "tcp", ",", "bind", "a", "127.0.0.1", "9000", ",", "getsockname",
                    "a",
                ], in: "outside")
            #expect(try program.wait() == 0)
            #expect(program.outputText.contains(#""address":"127.0.0.1","port":9000"#))
        }
    }
}
