// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// What Prometheus gets to see: the page, the file, the daemon's server, and the rules and the dashboard over them.
@Suite(.requiresRoot)
struct MetricsTests {
    private static let policy = """
        virtualIP:
          enabled: true
          mode: perSession
          addresses: {interface: eth0, probeSeconds: 0, pool: [198.51.100.16-198.51.100.19, "2001:db8:51::100/120"]}
        virtualLoopback: {enabled: true, programs: ["*"]}
        overrides:
          - name: "odd \\"name\\" \\\\ x"
            match: {users: [nobody]}
            virtualIP: {enabled: true, mode: perSession, addresses: {pool: [198.51.100.32-198.51.100.35]}}
        """

    private func attached(_ body: (Sandbox) throws -> Void) throws {
        try Sandbox.with { sandbox in
            let path = try sandbox.cgroup("attached")
            try sandbox.mustCtl("attach", "cgroup", path, "--policy", sandbox.policyFile(Self.policy))
            try body(sandbox)
            try sandbox.mustCtl("detach", "--all")
        }
    }

    /// A sample's value by its name and labels, as written.
    private func value(_ sample: String, in page: String) -> Double? {
        page.split(separator: "\n").first { $0.hasPrefix("\(sample) ") }
            .flatMap { Double($0.dropFirst(sample.count + 1)) }
    }

    /// What promtool finds wrong with a page: nothing.
    private func check(_ page: String, _ sandbox: Sandbox) throws {
        let file = try sandbox.policyFile(page, named: "page.prom")
        _ = try sandbox.sh("promtool check metrics <'\(file)' >&2")
    }

    @Test func thePageSaysWhatThereIs() throws {
        try attached { sandbox in
            try sandbox.mustCtl("session", "open", "--cgroup", sandbox.cgroup("attached/ann"), "--user", "root")
            try sandbox.mustCtl("session", "open", "--cgroup", sandbox.cgroup("attached/ben"), "--user", "nobody")
            let bind = "import socket; socket.socket().bind(('0.0.0.0', 0))"
            let program = try sandbox.start(["python3", "-c", bind], in: "attached/ann")
            #expect(try program.wait() == 0)
            let page = try sandbox.mustCtl("metrics").stdout
            try check(page, sandbox)
            let expected: [(String, Double)] = [
                ("vip_bpf_loaded", 1), ("vip_bpf_programs_current", 1), ("vip_bpf_attached_cgroups", 1),
                ("vip_bpf_incomplete_cgroups", 0), ("vip_bpf_sessions{state=\"open\"}", 2),
                ("vip_bpf_sessions_without_address", 0), ("vip_bpf_daemon_up", 0), ("vip_bpf_event_listeners", 0),
                ("vip_bpf_session_addresses{family=\"IPv4\"}", 2),
                ("vip_bpf_calls_total{hook=\"bind4\",outcome=\"rewritten\",reason=\"\"}", 1),
                ("vip_bpf_calls_total{hook=\"bind4\",outcome=\"refused\",reason=\"isolation\"}", 0),
                ("vip_bpf_pool_addresses{pool=\"\",family=\"IPv4\"}", 4),
                ("vip_bpf_pool_addresses_used{pool=\"\",family=\"IPv4\"}", 1),
                ("vip_bpf_pool_addresses{pool=\"\",family=\"IPv6\"}", 255),
                (#"vip_bpf_pool_addresses_used{pool="odd \"name\" \\ x",family="IPv4"}"#, 1),
            ]
            for (sample, number) in expected {
                #expect(value(sample, in: page) == number, "\(sample) in \(page)")
            }
        }
    }

    /// Replaced in one step, readable by the collector; what cannot be written leaves nothing.
    @Test func theFileOfTheCollector() throws {
        try attached { sandbox in
            let file = "\(sandbox.directory)/vip-bpf.prom"
            try "old".write(toFile: file, atomically: true, encoding: .utf8)
            try sandbox.mustCtl("metrics", "--output", file)
            try check(try String(contentsOfFile: file, encoding: .utf8), sandbox)
            let mode = try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int
            #expect(mode == 0o644)
            try sandbox.sh(
                "ln -s vip-bpf.prom '\(sandbox.directory)/link.prom'; mknod '\(sandbox.directory)/null' c 1 3")
            for name in ["link.prom", "null", "bpf"] {
                let result = try sandbox.ctl("metrics", "--output", "\(sandbox.directory)/\(name)")
                #expect(result.status == 1 && result.stderr.contains("no regular file"), "\(result)")
            }
            #expect(try sandbox.sh("stat -c %F '\(sandbox.directory)/null'") == "character special file\n")
            let result = try sandbox.ctl("metrics", "--output", "\(sandbox.directory)/no/such/file.prom")
            #expect(result.status == 1 && result.stderr.split(separator: "\n").count == 1, "\(result)")
            #expect(
                try FileManager.default.contentsOfDirectory(atPath: sandbox.directory).filter {
                    $0.contains("vip-bpf.prom")
                } == ["vip-bpf.prom"])
        }
    }

    @Test func withNothingAttached() throws {
        try Sandbox.with { sandbox in
            let page = try sandbox.mustCtl("metrics").stdout
            #expect(value("vip_bpf_loaded", in: page) == 0, "\(page)")
            try check(page, sandbox)
        }
    }

    @Test(arguments: ["port", "unix"]) func theDaemonServes(kind: String) throws {
        try attached { sandbox in
            let socket = "\(sandbox.directory)/metrics.sock"
            let address = kind == "port" ? "9464" : "unix:\(socket)"
            let curl = kind == "port" ? "http://127.0.0.1:9464" : "--unix-socket '\(socket)' http://localhost"
            let host = try DaemonHost(sandbox)
            try host.start(["--metrics", address])
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")
            let page = try sandbox.sh("curl -sS --fail \(curl)/metrics")
            try check(page, sandbox)
            #expect(value("vip_bpf_daemon_up", in: page) == 1)
            #expect(value("vip_bpf_daemon_logind_up", in: page) == 1)
            #expect(value("vip_bpf_daemon_events_total{event=\"session_opened\"}", in: page) == 1, "\(page)")
            #expect(try sandbox.sh("curl -s -o /dev/null -w '%{http_code}' \(curl)/other") == "404")

            // A second one does not take it away.
            if kind == "port" {
                let other = try sandbox.start(
                    [
                        "python3", "-c",
                        "import socket; s=socket.create_server(('127.0.0.1', 9465)); print('on', flush=True); input()",
                    ],
                    in: "control")
                _ = try other.readLine()
                _ = try host.stop(SIGKILL)
                let result = try sandbox.ctl("daemon", "--metrics", "9465", "--events", "stderr")
                #expect(result.status == 1 && result.stderr.contains("serve metrics on 127.0.0.1:9465"), "\(result)")
                other.closeInput()
                _ = try other.wait()
            } else {
                // What a killed one has left is in nobody's way.
                _ = try host.stop(SIGKILL)
                #expect(FileManager.default.fileExists(atPath: socket))
            }
            try host.start(["--metrics", address])
            try host.event("logind_followed")
            try check(try sandbox.sh("curl -sS --fail \(curl)/metrics"), sandbox)

            // Readers who connect and say nothing keep nobody from anything.
            let silent = try sandbox.start(
                [
                    "python3", "-c",
                    """
                    import socket, sys
                    held = []
                    for n in range(200):
                        s = socket.socket(socket.AF_UNIX if sys.argv[1] == 'unix' else socket.AF_INET)
                        s.connect(sys.argv[2] if sys.argv[1] == 'unix' else ('127.0.0.1', 9464))
                        held.append(s)
                    print('on', flush=True)
                    input()
                    """, kind, socket,
                ], in: "control")
            _ = try silent.readLine()
            try check(try sandbox.sh("curl -sS --fail --max-time 10 \(curl)/metrics"), sandbox)
            silent.closeInput()
            _ = try silent.wait()
            try host.end(ann)
            try host.event("session_closed")
            #expect(try host.stop() == 0)
        }
    }

    @Test(arguments: ["0", "65536", "x", "unix:relative", "0.0.0.0:9464"]) func badAddresses(address: String) throws {
        try Sandbox.with { sandbox in
            let result = try sandbox.ctl("daemon", "--metrics", address)
            #expect(result.status == 64, "\(result)")
        }
    }

    /// The rules and the dashboard name metrics that there are.
    @Test func rulesAndDashboard() throws {
        try attached { sandbox in
            let rules = SourceTree.url("packaging/prometheus/vip-bpf.rules.yaml").path
            try sandbox.sh("promtool check rules '\(rules)' >&2")
            let host = try DaemonHost(sandbox)
            try host.start(["--metrics", "9464"])
            try host.event("logind_followed")
            let page = try sandbox.sh("curl -sS --fail http://127.0.0.1:9464/metrics")
            #expect(try host.stop() == 0)
            let known = Set(page.matches(of: /# TYPE (\w+)/).map { String($0.1) })
                // Of those who listen, when somebody does.
                .union(["vip_bpf_listener_events_lost", "vip_bpf_listener_events_written"])
            let dashboard = try Data(contentsOf: SourceTree.url("packaging/grafana/vip-bpf.json"))
            #expect(throws: Never.self) { try JSONSerialization.jsonObject(with: dashboard) }
            let texts = [
                try String(contentsOfFile: rules, encoding: .utf8), String(decoding: dashboard, as: UTF8.self),
            ]
            for text in texts {
                let named = Set(text.matches(of: /vip_bpf_\w+/).map { String($0.0) })
                #expect(!named.isEmpty)
                #expect(named.subtracting(known).isEmpty, "no such metrics: \(named.subtracting(known))")
            }
        }
    }
}
