// SPDX-License-Identifier: Apache-2.0

import Foundation
import TestSupport
import Testing

/// `explain`: the results that it predicts, compared with those of real calls; which list entry matched; what it
/// refuses.
@Suite(.serialized, .requiresRoot, .stage6)
struct ExplainTests {
    let stage: Stage
    var sandbox: Sandbox { stage.sandbox }

    init() throws {
        stage = try #require(StageTrait.current)
        // Without a default route, IPv6 calls to other hosts fail.
        try stage.sandbox.sh("ip -6 route replace default via \(Sandbox.outsideAddress6)")
    }

    private struct Explained: Decodable {
        struct Session: Decodable {
            let id: UInt32
            let virtualIps: [String]
        }
        struct Policy: Decodable {
            let number: Int
            let name: String?
            let reason: String
        }
        struct Feature: Decodable {
            let feature: String
            let applies: Bool
            let entry: String?
            let matchedBy: String?
            let reason: String
        }
        struct Outcome: Decodable {
            let when: String?
            let address: String?
            let unchanged: Bool
            let error: String?
            let source: String?
            let getsockname: String?
            let alsoReachedAt: [String]
        }
        struct Call: Decodable {
            let call: String
            let asked: String
            let role: String
            let v6only: Bool
            let outcomes: [Outcome]
        }
        let processName: String
        let session: Session?
        let reason: String?
        let policy: Policy?
        let features: [Feature]
        let calls: [Call]
        let notes: [String]

        func feature(_ name: String) throws -> Feature { try #require(features.first { $0.feature == name }) }
    }

    private func explain(_ arguments: String...) throws -> Explained {
        let result = try sandbox.ctl(["explain", "--json"] + arguments)
        guard result.status == 0 else { throw HarnessError("\(result)") }
        return try result.decode()
    }

    // MARK: Prediction and result

    static let vl = ContractPolicy(.virtualIP, .loopback)
    static let policies = [
        ContractPolicy(), ContractPolicy(.virtualIP), ContractPolicy(.loopback), vl,
        ContractPolicy(.virtualIP, .loopback, .preferred),
        vl.with { $0.mode = "perSession" },
        vl.with { $0.programs = ["*"] },
        vl.with { $0.fallback = "host" },
        vl.with { $0.whenUnavailable = "useHostAddress" },
        vl.with { $0.wildcardName = "asRequested" },
        vl.with { $0.isolation = false }, vl.with { $0.excludedPorts = [631] },
    ]
    static let actors = [Actor.app, .tool, .poorApp, .fourApp, .sixApp]

    @Test(arguments: policies, actors) func callsGetWhatItSays(policy: ContractPolicy, actor: Actor) throws {
        try stage.enforce(policy)
        // Sockets that are bound for a row are closed before the next row.
        for port in [stage.newPort()] + policy.excludedPorts { try expectCalls(of: actor, port: port, policy) }
    }

    private func expectCalls(of actor: Actor, port: UInt16, _ policy: ContractPolicy) throws {
        let program = try stage.start(actor)
        let anyone = try sandbox.probe("listener", in: Party.nobody.cgroup)
        // The program is on the lists, so a socket on :: is dual-stack. All its other addresses are the session's own.
        let neighbour = try sandbox.probe("app", in: actor.party.cgroup)
        let explained = try explain("\(program.pid)", "--port", "\(port)")
        #expect(explained.session?.id == actor.party.id)
        #expect(explained.calls.count > 20)
        #expect(Set(explained.calls.map(\.role)).count > 5, "too few kinds of address")
        for call in explained.calls {
            let what = "[\(policy)] \(actor) \(call.call) \(call.asked)\(call.v6only ? " V6ONLY" : "") port \(port)"
            switch call.call {
            case "bind": try expectBind(program, call, port, what)
            default: try expectConnect(program, call, port, what, anyone, neighbour)
            }
        }
    }

    private func socket(_ name: String, _ address: String, v6only: Bool) -> [String] {
        address.contains(":")
            ? ["socket \(name) udp 6"] + (v6only ? ["setsockopt \(name) v6only 1"] : []) : ["socket \(name) udp"]
    }

    private func expectBind(_ program: Probe, _ call: Explained.Call, _ port: UInt16, _ what: String) throws {
        let outcome = try #require(call.outcomes.last)
        #expect(call.outcomes.count == 1)
        for command in socket("a", call.asked, v6only: call.v6only) { try program.must(command) }
        let answer = try program("bind a \(call.asked) \(port)")
        if let error = outcome.error {
            #expect(answer.errno == error, "\(what)")
        } else {
            #expect(answer.ok, "\(what): \(answer)")
            expect(try program.kernelView("a")?.local, is: "\(try #require(outcome.address)):\(port)", what)
            #expect(outcome.unchanged == (outcome.address == call.asked), "\(what)")
            expect(try program.must("getsockname a").address, is: outcome.getsockname ?? "", "\(what), its name")
        }
        try program.must("close a")
    }

    /// Without any server; and with a server at each of the places that the conditions name.
    private func expectConnect(
        _ program: Probe, _ call: Explained.Call, _ port: UInt16, _ what: String, _ anyone: Probe, _ neighbour: Probe
    ) throws {
        let last = try #require(call.outcomes.last)
        #expect(last.when == nil)
        try expectConnect(program, call, last, port, what)
        for outcome in call.outcomes.dropLast() {
            let when = try #require(outcome.when)
            // A socket that is connected back would have to know the client's port.
            guard !when.contains("is connected to") else { continue }
            let address = try #require(when.split(separator: " ").last.map(String.init))
            let listener = when.hasPrefix("something") ? anyone : neighbour
            if when.contains("asked for ::") {
                // If the server is on another address, or is not rewritten, the condition does not hold.
                for command in ["socket l udp 6", "bind l :: \(port)"] where try !listener(command).ok { break }
                guard try listener.kernelView("l")?.local == "\(address):\(port)" else {
                    try listener.must("close l")
                    continue
                }
            } else {
                for command in socket("l", address, v6only: true) { try listener.must(command) }
                try listener.must("bind l \(address) \(port)")
            }
            try expectConnect(program, call, outcome, port, "\(what), where \(when)")
            try listener.must("close l")
        }
    }

    private func expectConnect(
        _ program: Probe, _ call: Explained.Call, _ outcome: Explained.Outcome, _ port: UInt16, _ what: String
    ) throws {
        for command in socket("c", call.asked, v6only: call.v6only) { try program.must(command) }
        let answer = try program("connect c \(call.asked) \(port)")
        if let error = outcome.error {
            #expect(answer.errno == error, "\(what)")
        } else {
            #expect(answer.ok, "\(what): \(answer)")
            let ends = try program.kernelView("c")
            // The kernel itself connects the wildcard to the loopback.
            let kernels = ["0.0.0.0": "127.0.0.1", "::": "::1"]
            let address = try #require(outcome.address)
            expect(ends?.remote, is: "\(kernels[address] ?? address):\(port)", what)
            let local = ends.map { String($0.local[..<($0.local.lastIndex(of: ":") ?? $0.local.endIndex)]) }
            if let source = outcome.source {
                expect(local, is: source, "\(what), its source")
            } else {
                #expect(local?.isEmpty == false, "\(what)")
            }
        }
        try program.must("close c")
    }

    // MARK: Sessions and entries

    @Test func saysWhyThereIsNoSession() throws {
        let nobody = try stage.start(.nobody)
        let below = try explain("\(nobody.pid)")
        #expect(below.session == nil && below.calls.isEmpty)
        #expect(below.reason?.contains("\(sandbox.attached), which is attached") == true, "\(below)")
        let unhooked = try stage.start(.unhooked)
        let outside = try explain("\(unhooked.pid)")
        #expect(outside.reason?.contains("not below an attached cgroup") == true, "\(outside)")
        let deep = try stage.start(ContractTests.deep)
        #expect(try explain("\(deep.pid)").session?.id == 7)
    }

    /// An entry may match by name, by process name, by path, or not at all, and the reason is given.
    @Test func saysWhichEntryMatched() throws {
        func enforce(_ programs: [String]) throws { try stage.enforce(Self.vl.with { $0.programs = programs }) }
        let app = try stage.start(.app)
        let path = "\(sandbox.directory)/bin/app"
        try enforce(["app"])
        var feature = try explain("\(app.pid)").feature("virtual-ip")
        #expect(feature.applies && feature.entry == "app" && feature.matchedBy == "executable name", "\(feature)")
        #expect(try explain("\(app.pid)").feature("prefer-loopback").reason.contains("disabled"))
        try enforce([path])
        feature = try explain("\(app.pid)").feature("loopback")
        #expect(feature.applies && feature.entry == path && feature.matchedBy == "file", "\(feature)")
        try enforce(["*"])
        feature = try explain("\(app.pid)").feature("loopback")
        #expect(feature.applies && feature.entry == "*" && feature.matchedBy == nil, "\(feature)")

        // A script is identified by the name of its process.
        try enforce(["serve.py"])
        let script = try sandbox.script("serve.py", in: Party.ann.cgroup)
        try script.must("pid")
        feature = try explain("\(script.pid)").feature("virtual-ip")
        #expect(feature.applies && feature.entry == "serve.py" && feature.matchedBy == "process name", "\(feature)")
        let file = try explain("--exe", "\(sandbox.directory)/bin/serve.py", "--session", "7")
        #expect(try file.feature("virtual-ip").matchedBy == "process name", "\(file)")
        #expect(file.notes.contains { $0.contains("is a script") }, "\(file)")

        // An entry for another file with the same name; and for a file that does not exist.
        try enforce(["/bin/app"])
        feature = try explain("\(app.pid)").feature("virtual-ip")
        #expect(!feature.applies && feature.reason.contains("'/bin/app': there is no such file"), "\(feature)")
        try enforce(["other"])
        feature = try explain("\(app.pid)").feature("virtual-ip")
        #expect(!feature.applies && feature.reason.contains("process name 'app'"), "\(feature)")

        // A program that was started by a link. The process has the link's name until it changes it.
        try sandbox.sh("ln -sf app '\(sandbox.directory)/bin/link'")
        let linked = try sandbox.probe("link", in: Party.ann.cgroup)
        try linked.must("rename something")
        try enforce(["link"])
        feature = try explain("\(linked.pid)").feature("virtual-ip")
        #expect(!feature.applies && feature.reason.contains("its executable is 'app'"), "\(feature)")
    }

    /// An upgrade has replaced a listed file: the old program still runs, and the maps do not have the new one yet.
    @Test func saysThatTheFileWasReplaced() throws {
        let path = "\(sandbox.directory)/bin/upgraded"
        let old = try sandbox.probe("upgraded", in: Party.ann.cgroup)
        try stage.enforce(Self.vl.with { $0.programs = [path] })
        #expect(try explain("\(old.pid)").feature("virtual-ip").applies)
        try sandbox.sh("cp '\(path)' '\(path).new' && mv '\(path).new' '\(path)'")
        #expect(try explain("\(old.pid)").feature("virtual-ip").applies, "as long as the policy is not applied again")
        let new = try sandbox.probe("upgraded", in: Party.ann.cgroup)
        var feature = try explain("\(new.pid)").feature("virtual-ip")
        #expect(!feature.applies && feature.reason.contains("apply it again"), "\(feature)")
        try sandbox.mustCtl("policy", "apply", "\(sandbox.directory)/policy.yaml")
        #expect(try explain("\(new.pid)").feature("virtual-ip").applies)
        feature = try explain("\(old.pid)").feature("virtual-ip")
        #expect(!feature.applies && feature.reason.contains("start the program again"), "\(feature)")
    }

    // MARK: Refusals

    @Test func refuses() throws {
        try stage.enforce(Self.vl)
        let ended = try sandbox.start(["/bin/true"], in: "outside")
        try ended.wait()
        let path = "\(sandbox.directory)/bin/app"
        _ = try stage.start(.app)
        let rows: [([String], Int32, String)] = [
            (["\(ended.pid)"], 1, "there is no such process"),
            (["2"], 1, "kernel thread"),
            (["0"], 64, "not a process ID"),
            (["x"], 64, "'x'"),
            ([], 64, "give a process ID"),
            (["1", "--exe", path, "--session", "7"], 64, "give a process ID"),
            (["--exe", path], 64, "give a process ID"),
            (["--exe", path, "--session", "99"], 1, "there is no such session"),
            (["--exe", "/nowhere/app", "--session", "7"], 1, "there is no file /nowhere/app"),
            (["--exe", "app", "--session", "7"], 64, "not an absolute path"),
            (["--exe", "/etc", "--session", "7"], 1, "not a regular file"),
            (["--exe", "/etc/passwd", "--session", "7"], 1, "cannot be executed"),
            (["1", "--port", "70000"], 64, "70000"),
        ]
        for (arguments, status, text) in rows {
            let result = try sandbox.ctl(["explain"] + arguments)
            #expect(result.status == status && result.stderr.contains(text), "\(result)")
            #expect(result.stderr.split(separator: "\n").count == 1 && result.stdout.isEmpty, "\(result)")
        }
    }

    /// Each row is on one line, and the JSON is valid, whatever the program's name is.
    @Test func namesThatAreHardToPrint() throws {
        try stage.enforce(Self.vl)
        let name = "a\nb\u{1b}[31m"
        let program = try sandbox.probe(name, in: Party.ann.cgroup)
        let text = try sandbox.mustCtl("explain", "\(program.pid)").stdout
        #expect(!text.contains("\u{1b}") && text.contains("a\\u{a}b\\u{1b}[31m"), "\(text)")
        #expect(try explain("\(program.pid)").processName == name)
    }
}
