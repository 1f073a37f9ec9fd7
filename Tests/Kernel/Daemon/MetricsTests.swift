// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import TestSupport
import Testing

/// What Prometheus gets: the page, its file, the answer by HTTP; and the rules and the dashboard.
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

    /// Checks a page with promtool, which must find no problem.
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

    /// The file is replaced in one step and readable by the collector. If it cannot be written, nothing is left.
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
                #expect(result.status == 1 && result.stderr.contains("not a regular file"), "\(result)")
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

    /// The page's service has only this capability, and its access to files is that of an ordinary user.
    @Test func aPageNeedsNoMoreThanItsUnitHas() throws {
        try attached { sandbox in
            let unit = try String(contentsOf: SourceTree.url("packaging/vip-bpf-page.service.in"), encoding: .utf8)
            #expect(unit.contains("\nCapabilityBoundingSet=CAP_BPF\n"))
            let host = try DaemonHost(sandbox)
            try host.start()
            try host.event("logind_followed")
            let file = "\(sandbox.directory)/page/metrics.prom"
            try FileManager.default.createDirectory(
                atPath: "\(sandbox.directory)/page", withIntermediateDirectories: false)
            let command = [
                "unshare", "--mount", "/bin/sh", "-ec",
                // As ProtectKernelTunables= and ProtectSystem= do it.
                #"mount -o remount,bind,ro "$0"; mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$@""#,
                "\(sandbox.directory)/bpf", sandbox.stateDirectory, "setpriv", "--inh-caps=-all",
                "--bounding-set=-all,+bpf",
                Build.controller.path, "metrics", "--output", file,
            ]
            let program = try sandbox.start(
                command, in: "control", environment: sandbox.controlEnvironment, errorOutput: true)
            #expect(try program.wait() == 0, "\(program.errorText)")
            let page = try String(contentsOfFile: file, encoding: .utf8)
            #expect(value("vip_bpf_daemon_up", in: page) == 1 && value("vip_bpf_attached_cgroups", in: page) == 1)
            #expect(value("vip_bpf_daemon_logind_up", in: page) == 1, "\(page)")
            #expect(try host.stop() == 0)
        }
    }

    /// The daemon's own counters are in the page while it runs, and also when it is dead, with its last turn.
    @Test func thePageHasTheDaemonsCounters() throws {
        try attached { sandbox in
            let host = try DaemonHost(sandbox)
            #expect(try value("vip_bpf_daemon_up", in: sandbox.mustCtl("metrics").stdout) == 0)
            let before = Date().timeIntervalSince1970
            try host.start()
            let ann = try host.process(in: DaemonHost.slice(1001))
            try host.logind("user 1001 ann")
            try host.event("session_opened")
            let opened = "vip_bpf_daemon_events_total{event=\"session_opened\"}"
            let deadline = ContinuousClock.now + hang
            var page = ""
            repeat {
                page = try sandbox.mustCtl("metrics").stdout
            } while value(opened, in: page) != 1 && ContinuousClock.now < deadline
            try check(page, sandbox)
            #expect(value(opened, in: page) == 1, "\(page)")
            #expect(value("vip_bpf_daemon_up", in: page) == 1)
            #expect(value("vip_bpf_daemon_logind_up", in: page) == 1)
            #expect(value("vip_bpf_daemon_troubles", in: page) == 0)
            for name in ["vip_bpf_daemon_start_time_seconds", "vip_bpf_daemon_last_turn_timestamp_seconds"] {
                let time = try #require(value(name, in: page))
                #expect((before - 1...Date().timeIntervalSince1970 + 1).contains(time), "\(name) \(time)")
            }

            _ = try host.stop(SIGKILL)
            let after = try sandbox.mustCtl("metrics").stdout
            try check(after, sandbox)
            #expect(value("vip_bpf_daemon_up", in: after) == 0)
            #expect(value("vip_bpf_attached_cgroups", in: after) == 1)
            #expect(value(opened, in: after) == 1, "\(after)")
            // The alert uses the time since then.
            let age = try #require(value("vip_bpf_page_timestamp_seconds", in: after))
            #expect(age >= (value("vip_bpf_daemon_last_turn_timestamp_seconds", in: after) ?? .infinity))

            try host.start()
            try host.event("logind_followed")
            try host.end(ann)
            try host.event("session_closed")
            #expect(try host.stop() == 0)
        }
    }

    /// A process for each connection, started like that of the socket unit: as user nobody, without capabilities.
    @Test(arguments: ["port", "unix"]) func aPageIsServedByHTTP(kind: String) throws {
        try attached { sandbox in
            let directory = "\(sandbox.directory)/public"
            let (file, socket) = ("\(directory)/metrics.prom", "\(directory)/metrics.sock")
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
            let curl = kind == "port" ? "http://127.0.0.1:9464" : "--unix-socket '\(socket)' http://localhost"
            // Its output is the socket. The other copies are closed: messages of the listener go to a file.
            let listener = try sandbox.start(
                [
                    "/bin/sh", "-c", "exec \"$@\" 2>'\(directory)/log'", "sh", "systemd-socket-activate", "--accept",
                    "--inetd", "--listen", kind == "port" ? "127.0.0.1:9464" : socket, "setpriv", "--reuid=65534",
                    "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
                    Build.controller.path, "metrics", "--serve", file,
                ], in: "control")
            let deadline = ContinuousClock.now + hang
            func status(_ request: String) throws -> String {
                try sandbox.sh("curl -s -o /dev/null -w '%{http_code}' \(request)")
            }
            // There is no page yet, and the request arrives before the listener starts.
            var code = ""
            repeat {
                code = (try? status("\(curl)/metrics")) ?? ""
            } while code != "503" && ContinuousClock.now < deadline
            #expect(code == "503", "\((try? String(contentsOfFile: "\(directory)/log", encoding: .utf8)) ?? "")")

            try sandbox.mustCtl("metrics", "--output", file)
            let page = try sandbox.sh("curl -sS --fail \(curl)/metrics")
            #expect(page == (try String(contentsOfFile: file, encoding: .utf8)))
            try check(page, sandbox)
            #expect(
                try sandbox.sh("curl -sS -o /dev/null -w '%{content_type}' \(curl)/metrics")
                    == "text/plain; version=0.0.4; charset=utf-8")
            #expect(
                try sandbox.sh("curl -sS --fail --head \(curl)/metrics").contains("Content-Length: \(page.utf8.count)"))
            for (request, code) in [
                ("\(curl)/metrics?x=1", "200"), ("\(curl)/other", "404"), ("-X POST \(curl)/metrics", "405"),
                ("\(curl)/../../etc/passwd --path-as-is", "404"),
            ] {
                #expect(try status(request) == code, "\(request)")
            }

            // Clients that connect and send nothing do not block others, and are disconnected after some time.
            let silent = try sandbox.start(
                [
                    "python3", "-c",
                    """
                    import socket, sys
                    def connect(first):
                        s = socket.socket(socket.AF_UNIX if sys.argv[1] == 'unix' else socket.AF_INET)
                        s.connect(sys.argv[2] if sys.argv[1] == 'unix' else ('127.0.0.1', 9464))
                        s.sendall(first)
                        s.settimeout(300)
                        return s
                    held = [connect(b'G' * (n % 2)) for n in range(20)]
                    long = connect(b'')
                    print('on', flush=True)
                    input()
                    try:
                        for n in range(1024): long.sendall(b'x' * 1024)
                    except OSError: pass
                    def ended(s):
                        try: return s.recv(1) == b''
                        except ConnectionError: return True
                    print('ended' if all(ended(s) for s in held + [long]) else 'open', flush=True)
                    """, kind, socket,
                ], in: "control")
            _ = try silent.readLine()
            try check(try sandbox.sh("curl -sS --fail --max-time 10 \(curl)/metrics"), sandbox)
            try silent.write("\n")
            #expect(try silent.readLine() == "ended")
            _ = try silent.wait()
            listener.signal(SIGTERM)
            _ = try listener.wait()
        }
    }

    /// Input that is not a request gets no answer, or an error.
    @Test(arguments: [
        ("", ""), ("GET /metrics HTTP/1.0\\r\\n", ""), ("\\r\\n\\r\\n", "405"), ("GET\\r\\n\\r\\n", "405"),
        ("GET /metrics\\n\\n", "503"), ("\\000\\377 \\000 \\r\\n\\r\\n", "405"),
    ]) func badRequests(request: String, status: String) throws {
        try Sandbox.with { sandbox in
            let answer = try sandbox.sh(
                """
                printf '\(request)' | '\(Build.controller.path)' metrics --serve '\(sandbox.directory)/no.prom'
                """)
            #expect(answer.isEmpty == status.isEmpty && answer.hasPrefix(status.isEmpty ? "" : "HTTP/1.0 \(status) "))
        }
    }

    /// Each alert fires when it should and only then: promtool runs the cases beside the rules.
    @Test func alertsFire() throws {
        let directory = SourceTree.url("packaging/prometheus").path
        let program = try Program(
            ["promtool", "test", "rules", "\(directory)/vip-bpf.rules.test.yaml"], name: "promtool", errorOutput: true)
        program.closeInput()
        #expect(try program.wait() == 0, "\(program.outputText)\(program.errorText)")
        let rules = try String(contentsOfFile: "\(directory)/vip-bpf.rules.yaml", encoding: .utf8)
        let cases = try String(contentsOfFile: "\(directory)/vip-bpf.rules.test.yaml", encoding: .utf8)
        let alerts = Set(rules.matches(of: /- alert: (\w+)/).map { String($0.1) })
        #expect(alerts.count >= 11)
        for (kind, pattern) in [
            ("fires", try Regex(#"alertname: (\w+)\n +exp_alerts:\n"#)),
            ("silent", try Regex(#"alertname: (\w+)\n +exp_alerts: \[\]"#)),
        ] {
            let tested = Set(cases.matches(of: pattern).compactMap { $0[1].substring.map(String.init) })
            #expect(tested == alerts, "\(kind)")
        }
    }

    /// The rules and the dashboard name metrics that exist.
    @Test func rulesAndDashboard() throws {
        try attached { sandbox in
            let rules = SourceTree.url("packaging/prometheus/vip-bpf.rules.yaml").path
            try sandbox.sh("promtool check rules '\(rules)' >&2")
            let host = try DaemonHost(sandbox)
            try host.start()
            try host.event("logind_followed")
            #expect(try host.stop() == 0)
            let page = try sandbox.mustCtl("metrics").stdout
            let known = Set(page.matches(of: /# TYPE (\w+)/).map { String($0.1) })
                // The metrics of listeners, which exist only while there are some.
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
