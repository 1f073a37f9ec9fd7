// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Host
import Network
import SystemPackage
import TestSupport
import Testing

@testable import Leases

/// Restarts: clients that were killed or are missing, a source that starts again, a boot.
@Suite(.serialized, .needs("udhcpc", "kea-dhcp4", "python3", "nsenter"))
struct RestartTests {
    private static let ann = LeaseHolder(user: "ann")
    private static let ben = LeaseHolder(user: "ben")

    @Test func killedClientIsReplacedAndTheAddressStays() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 60}"#)
            let events = Events()
            let source = try link.source(events)
            let lease = try source.acquire(Self.ann)
            let client = try #require(try link.clients().first)
            kill(client, SIGKILL)
            #expect(try events.await { $0.troubled }.0 == "its udhcpc ended: killed by signal 9")
            #expect(source.held.map(\.address) == [lease.address])
            #expect(try events.await { $0.renewed }.0.address == lease.address)
            let now = try link.clients()
            #expect(now.count == 1 && now != [client])
            #expect(try link.tell(server, "{}").contains { $0.hasPrefix("DISCOVER 198.18.7.1 ") })
            #expect(events.count { $0.lost != nil } == 0)
        }
    }

    @Test func missingClientIsAnErrorThatSaysSo() async throws {
        try await Link.with { link in
            let missing = try link.source { $0.client = ["\(link.directory)/udhcpc"] }
            let failure = try #require(throws: Failure.self) { _ = try missing.acquire(Self.ann) }
            #expect(
                failure.description
                    == "lease an address for ann on eth0: udhcpc is not installed; apt-get install udhcpc")
            #expect(failure.code == .unavailable)
            missing.close()
            // A busybox without udhcpc.
            let other = try link.source {
                $0.client = ["/bin/sh", "-c", "echo 'udhcpc: applet not found' >&2; exit 127"]
            }
            let ended = try #require(throws: Failure.self) { _ = try other.acquire(Self.ann) }
            #expect(ended.reason == "udhcpc ended: applet not found")
            #expect(other.held.isEmpty)
        }
    }

    @Test("refuses an interface that does not exist")
    func interfaceMustBeThere() async throws {
        try await Link.with { link in
            let failure = try #require(throws: Failure.self) { _ = try link.source { $0.interface = "none0" } }
            #expect(failure.reason == "there is no such interface")
        }
    }

    @Test("refuses a second source on the same state")
    func twoSourcesDoNotShareLeases() async throws {
        try await Link.with { link in
            let first = try link.source()
            let failure = try #require(throws: Failure.self) { _ = try link.source() }
            #expect(failure.reason.hasPrefix("process \(getpid()) "))
            first.close()
            _ = try link.source()
        }
    }

    @Test("goes on with the clients of the former source")
    func nextSourceGoesOnWithTheClients() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 30}"#)
            let first = try link.source()
            let lease = try first.acquire(Self.ann)
            let clients = try link.clients()
            #expect(clients.count == 1)
            first.close()
            let closed = try #require(throws: Failure.self) { _ = try first.acquire(Self.ben) }
            #expect(closed.reason == "the lease source is closed")
            // The client renews by itself at half of the time that it knows, and no source runs.
            try link.tell(server, "{}")
            kill(try #require(clients.first), SIGUSR1)
            try link.waitFor("a renewal") { try link.tell(server, "{}").contains { $0.contains(" 198.18.7.1 0001") } }

            let events = Events()
            let second = try link.source(events)
            #expect(second.held.map(\.address) == [lease.address])
            #expect(try link.clients() == clients)
            #expect(try events.await { $0.renewed }.0.address == lease.address)
            #expect(try second.acquire(Self.ann).address == lease.address)
            #expect(try link.clients() == clients)
            // It is supervised again.
            let at = try events.await { $0.renewed }.at
            #expect(try events.await { $0.renewed }.at - at < 30)
            #expect(events.count { $0.lost != nil || $0.troubled != nil } == 0)
            second.release(Self.ann)
            #expect(try link.clients().isEmpty)
            #expect(try link.tell(server, "{}").contains { $0.hasPrefix("RELEASE - 198.18.7.1 ") })
        }
    }

    @Test("loses no lease when the process is killed")
    func killedProcessLosesNothing() async throws {
        try await Link.with { link in
            let server = try link.kea(seconds: 60)
            let holder = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
                .appending(path: "vip-lease-holder").path
            func hold() throws -> (Program, [String]) {
                // Standard output is a pipe, which the C library would buffer.
                let program = try Program(
                    ["nsenter", "--net=/run/netns/\(link.name)", "stdbuf", "-oL", holder, "eth0"]
                        + ["\(link.directory)/state", "\(link.directory)/run", "ann", "ben", "eve"])
                var lines: [String] = []
                while let line = program.line(), line != "ready" { lines.append(line) }
                return (program, lines)
            }
            let (first, addresses) = try hold()
            let clients = try link.clients()
            #expect(Set(addresses).count == 3 && clients.count == 3)
            kill(first.pid, SIGKILL)
            #expect(first.finish() == 128 + SIGKILL)
            #expect(try link.clients() == clients)
            let (second, again) = try hold()
            #expect(again == addresses)
            #expect(try link.clients() == clients)
            #expect(second.isRunning && server.isRunning)
        }
    }

    @Test func nextSourceReplacesClientsThatEnded() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 60}"#)
            let first = try link.source()
            let lease = try first.acquire(Self.ann)
            let client = try #require(try link.clients().first)
            first.close()
            kill(client, SIGKILL)
            waitpid(client, nil, 0)
            let events = Events()
            let second = try link.source(events)
            #expect(second.held.map(\.address) == [lease.address])
            #expect(try events.await { $0.troubled }.0 == "its udhcpc ended while it was not supervised")
            #expect(try events.await { $0.renewed }.0.address == lease.address)
            #expect(try link.clients().count == 1)
            #expect(try link.tell(server, "{}").contains { $0.hasPrefix("DISCOVER 198.18.7.1 ") })
        }
    }

    /// A file that names a process which is not that lease's client: the process is left alone.
    @Test("takes no other process for its client")
    func strangerIsNotTakenForAClient() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 60}"#)
            let first = try link.source()
            _ = try first.acquire(Self.ann)
            first.close()
            let stranger = try Program(["sleep", "60"])
            let path = FilePath(
                "\(link.directory)/state/\(ClientIdentifier(host: Link.host, holder: Self.ann)).json")
            var file = try #require(LeaseFile.read(path))
            let client = try #require(file.pid)
            // The same PID with another start time; then another process.
            var before = client
            for (pid, startTime) in [
                (client, (file.startTime ?? 0) + 1),
                (stranger.pid, try #require(ProcessIdentity(pid: stranger.pid)).startTime),
            ] {
                file.pid = pid
                file.startTime = startTime
                try file.write(path)
                let events = Events(places: false)
                let second = try link.source(events)
                // A process that looks like a client and is in no file is ended.
                _ = try events.await { $0.renewed }
                let now = try link.clients()
                #expect(now.count == 1 && now != [before])
                before = now.first ?? 0
                #expect(stranger.isRunning)
                second.close()
            }
            #expect(server.isRunning)
        }
    }

    /// After a reboot no lease is held, and the same address is requested.
    @Test func leasesOfAnEarlierBootAreAskedForAgain() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 60}"#)
            let first = try link.source(Events(places: false))
            _ = try first.acquire(Self.ann)
            first.close()
            for client in try link.clients() {
                kill(client, SIGKILL)
                waitpid(client, nil, 0)
            }
            let path = FilePath(
                "\(link.directory)/state/\(ClientIdentifier(host: Link.host, holder: Self.ann)).json")
            var file = try #require(LeaseFile.read(path))
            file.bootID = "00000000-0000-0000-0000-000000000000"
            try file.write(path)
            try link.sh("rm -r '\(link.directory)/run'")
            try link.tell(server, "{}")
            let second = try link.source(Events(places: false))
            #expect(second.held.isEmpty)
            #expect(try second.acquire(Self.ann).address == IPAddress("198.18.7.1"))
            #expect(try link.tell(server, "{}").first?.hasPrefix("DISCOVER 198.18.7.1 ") == true)
        }
    }

    @Test("starts with damaged files")
    func damagedFilesAreNoHindrance() async throws {
        try await Link.with { link in
            let server = try link.hostile(#"{"offer": "198.18.7.1", "seconds": 60}"#)
            let first = try link.source(Events(places: false))
            _ = try first.acquire(Self.ann)
            first.close()
            let name = "\(ClientIdentifier(host: Link.host, holder: Self.ann))"
            try "{\"holder\":".write(toFile: "\(link.directory)/state/\(name).json", atomically: false, encoding: .utf8)
            try "nonsense\n1 2 bound 9.9.9.9 - -\n\0\0\n".write(
                toFile: "\(link.directory)/run/\(name).events", atomically: false, encoding: .utf8)
            try "{}".write(toFile: "\(link.directory)/state/x.json", atomically: false, encoding: .utf8)
            let second = try link.source(Events(places: false))
            #expect(second.held.isEmpty)
            #expect(try link.clients().isEmpty)
            #expect(try second.acquire(Self.ann).address == IPAddress("198.18.7.1"))
            #expect(try link.clients().count == 1)
            #expect(server.isRunning)
        }
    }
}
