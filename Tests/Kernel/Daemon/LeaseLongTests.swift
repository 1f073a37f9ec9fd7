// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// As many users as a host may have, each with a leased address, for several lease times: `make test-dhcp`.
@Suite(
    .serialized, .requiresRoot, .enabled(if: getenv("VIP_TEST_DHCP") != nil, "takes many minutes: make test-dhcp"))
struct LeaseLongTests {
    /// The number of sessions, and of lease times of 60 s.
    private static let count = getenv("VIP_TEST_DHCP").flatMap { Int(String(cString: $0)) } ?? 64
    private static let times = getenv("VIP_TEST_DHCP_TIMES").flatMap { Int(String(cString: $0)) } ?? 5
    private static let seconds = 60

    @Test func everySessionKeepsItsAddress() throws {
        try DaemonHost.withLeases { host in
            let sandbox = host.sandbox
            // A network with room for more hosts than the sandbox's.
            try sandbox.sh("ip address flush dev eth0 && ip address add 198.18.0.2/16 dev eth0")
            try sandbox.sh("ip address flush dev eth0 && ip address add 198.18.0.1/16 dev eth0", at: .outside)
            let server = try host.kea(
                seconds: Self.seconds, pool: "198.18.1.0 - 198.18.8.255", subnet: "198.18.0.0/16")
            try host.start()
            try host.event("logind_followed")
            // One program starts all of them, because each child of the test has pipes to it.
            let shells = try sandbox.start(
                [
                    "/bin/sh", "-c",
                    """
                    for uid in $(seq 20000 \(20000 + Self.count - 1)); do
                        mkdir -p "$0/user-$uid.slice"
                        sh -c 'echo $$ >"$0/cgroup.procs"; exec sleep 100000' "$0/user-$uid.slice" &
                    done
                    wait
                    """, sandbox.attached,
                ], in: "outside")
            let start = ContinuousClock.now
            for uid in 20000..<20000 + Self.count { try host.logind("user \(uid) user\(uid)") }
            for _ in 0..<Self.count { try host.event("address_given") }
            let acquired = ContinuousClock.now - start
            let sessions = try host.sessions()
            let addresses = Set(sessions.flatMap(\.virtualIps))
            #expect(sessions.count == Self.count && addresses.count == Self.count)

            let pid = try #require(host.daemon?.pid)
            let before = try Self.ticks(pid)
            let end = ContinuousClock.now + .seconds(Self.times * Self.seconds)
            while ContinuousClock.now < end {
                let now = try host.sessions()
                let placed = try host.placed()
                #expect(now == sessions && placed == addresses)
                if now != sessions || placed != addresses { break }
                usleep(2_000_000)
            }
            let busy = try Self.ticks(pid) - before
            let clients = try host.clients().count
            #expect(clients == Self.count)

            let closing = ContinuousClock.now
            try sandbox.sh("for cgroup in '\(sandbox.attached)'/user-*; do echo 1 >$cgroup/cgroup.kill; done")
            for _ in 0..<Self.count { try host.event("lease_released") }
            let released = ContinuousClock.now - closing
            let bad = ["lease_lost", "lease_changed", "lease_refused", "lease_troubled", "address_refused", "error"]
            let troubles = host.seen.filter { bad.contains($0.event) }
            #expect(troubles.isEmpty, "\(troubles.prefix(5))")
            print(
                """
                \(Self.count) sessions with leases of \(Self.seconds) s through \(Self.times) times: all had addresses after \
                \(acquired / .seconds(1)) s, \(troubles.count) troubles, the daemon ran \(busy * 10) ms, \
                all was given back after \(released / .seconds(1)) s
                """)
            #expect(try host.placed().isEmpty && host.clients().isEmpty)
            try shells.wait()
            #expect(server.status == nil)
        }
    }

    /// The CPU time of a process, in clock ticks of 10 ms: proc_pid_stat(5), utime and stime.
    private static func ticks(_ pid: Int32) throws -> Int {
        let text = try KernelFile.read("/proc/\(pid)/stat")
        let fields = text.split(separator: ")").last?.split(separator: " ") ?? []
        guard fields.count > 13, let user = Int(fields[11]), let system = Int(fields[12]) else {
            throw HarnessError("process \(pid) has no times")
        }
        return user + system
    }
}
