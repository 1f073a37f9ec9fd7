// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import BPFLoader
import CVipABI
import Glibc
import Leases
import PolicyMaps
import Sessions
import SystemPackage

struct Check: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Say whether this host can do it, and what stands in the way.",
        discussion: """
            A line for each fact, with the mend where it is bad. Nothing is changed; the hooks are tried by loading the \
            real programs and dropping them again. Exit code 69 where the host lacks something without which it cannot work, 77 where only \
            privileges are missing, 1 where something is wrong that a command can mend.

            EXAMPLES
              vip-bpfctl check
              vip-bpfctl check --json | jq '.facts[] | select(.verdict != "good")'
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let payload = CheckPayload(facts: HostCheck(options.instance).facts())
        try output.print(payload)
        if let code = payload.code { throw ExitCode(code.exitCode) }
    }
}

struct CheckPayload: Payload {
    struct Fact: Encodable {
        enum Verdict: String, Encodable {
            case good
            /// Works, but not all of it or not for everybody.
            case warning
            /// Cannot work.
            case bad
        }

        /// What a bad fact is a matter of.
        enum Kind { case host, privilege, state }

        private enum CodingKeys: CodingKey { case subject, verdict, fact, mend }

        var subject: String
        var kind: Kind
        var verdict: Verdict
        var fact: String
        /// What to do about it.
        @Nullable var mend: String?

        init(subject: String, kind: Kind = .state, verdict: Verdict, fact: String, mend: String? = nil) {
            self.subject = subject
            self.kind = kind
            self.verdict = verdict
            self.fact = fact
            self.mend = mend
        }
    }

    var facts: [Fact]

    /// What the bad facts come to: the host lacks something, else the caller's privileges, else what a command can mend.
    var code: Failure.Code? {
        let bad = Set(facts.filter { $0.verdict == .bad }.map(\.kind))
        return bad.contains(.host)
            ? .unavailable : bad.contains(.privilege) ? .notPermitted : bad.isEmpty ? nil : .failed
    }

    var table: Table {
        Table(
            rows: facts.map { fact in
                [fact.verdict.rawValue, fact.subject, fact.mend.map { "\(fact.fact); \($0)" } ?? fact.fact]
            })
    }
}

/// The facts of `check`, each found out by itself: one that cannot be found out does not hide the others.
struct HostCheck {
    let instance: Instance

    init(_ instance: Instance) {
        self.instance = instance
    }

    func facts() -> [CheckPayload.Fact] {
        var facts: [CheckPayload.Fact] = [kernel(), privileges()]
        facts += fact("cgroup v2") { () throws(Failure) in "at \(try MountTable.current().cgroup2Mount().mountPoint)" }
        facts += fact("bpffs") { () throws(Failure) in
            try instance.pins.requireBPFFS()
            return "\(instance.pins.path) is on one"
        }
        facts += hooks()
        facts += attached()
        facts += loopbacks()
        facts += addresses()
        facts += leases()
        facts += blockers()
        facts += NameFacts.all()
        return facts
    }

    private func fact(_ subject: String, _ body: () throws(Failure) -> String) -> [CheckPayload.Fact] {
        do throws(Failure) {
            return [.init(subject: subject, verdict: .good, fact: try body())]
        } catch {
            return [Self.bad(subject, error)]
        }
    }

    private static func bad(_ subject: String, _ failure: Failure) -> CheckPayload.Fact {
        let kind: CheckPayload.Fact.Kind =
            failure.code == .unavailable ? .host : failure.code == .notPermitted ? .privilege : .state
        return .init(
            subject: subject, kind: kind, verdict: .bad, fact: "\(failure.what): \(failure.why)", mend: failure.remedy)
    }

    private static func failure(of body: () throws(Failure) -> Void) -> Failure? {
        do throws(Failure) { try body() } catch { return error }
        return nil
    }

    private func kernel() -> CheckPayload.Fact {
        var name = utsname()
        uname(&name)
        let release = withUnsafeBytes(of: name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        let hasBTF = FileStatus.exists("/sys/kernel/btf/vmlinux")
        var fact = CheckPayload.Fact(
            subject: "kernel", kind: .host, verdict: hasBTF ? .good : .bad,
            fact: hasBTF ? "\(release), with BTF" : "\(release) has no BTF")
        if !hasBTF { fact.mend = "use a kernel with CONFIG_DEBUG_INFO_BTF" }
        return fact
    }

    /// CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON among the effective capabilities: CapEff of proc_pid_status(5).
    private func privileges() -> CheckPayload.Fact {
        let names: [(bit: UInt64, name: String)] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")]
        let status = (try? String(contentsOf: "/proc/self/status")) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        let effective = line.flatMap { UInt64($0.dropFirst(7).drop { $0 == "\t" || $0 == " " }, radix: 16) } ?? 0
        let missing = names.filter { effective >> $0.bit & 1 == 0 }.map(\.name)
        guard !missing.isEmpty else { return .init(subject: "privileges", verdict: .good, fact: "all that are needed") }
        var fact = CheckPayload.Fact(
            subject: "privileges", kind: .privilege, verdict: .bad, fact: "\(missing.joined(separator: ", ")) missing")
        fact.mend = "run as root"
        return fact
    }

    private func hooks() -> [CheckPayload.Fact] {
        HookSupport.probe().map { support in
            guard let failure = support.failure else {
                return .init(
                    subject: "hook \(support.hook.name)", verdict: .good, fact: "this kernel takes its program")
            }
            return .init(
                subject: "hook \(support.hook.name)", kind: failure.code == .notPermitted ? .privilege : .host,
                verdict: .bad, fact: failure.why,
                mend: failure.code == .notPermitted
                    ? failure.remedy : "it came with Linux \(support.hook.since); update the kernel")
        }
    }

    private func attached() -> [CheckPayload.Fact] {
        if case .some(let unreadable) = Self.failure(of: instance.pins.requireReadable) {
            return [Self.bad("attached", unreadable)]
        }
        guard instance.pins.isLoaded else {
            return [
                .init(
                    subject: "attached", verdict: .warning, fact: "nothing is",
                    mend: "attach a cgroup: vip-bpfctl attach cgroup PATH")
            ]
        }
        return fact("attached") { () throws(Failure) in
            let maps = try PolicyMapSet(instance.pins)
            let config = try maps.configuration()
            guard config.objectID == BPFObject.embeddedID else {
                throw Failure(
                    .failed, "compare programs", "the kernel has another build's",
                    try: "update them: vip-bpfctl attach cgroup PATH")
            }
            let links = try instance.pins.attachments()
            for (id, hooks) in links {
                for hook in Hook.ofCgroups where hooks[hook.name] == nil {
                    throw Failure(
                        .failed, "look at cgroup \(id)", "hook \(hook.name) is not attached",
                        try: "attach it again: vip-bpfctl attach cgroup PATH")
                }
            }
            let network = try instance.pins.networkAttachments()
            for hook in Hook.ofNetwork where !links.isEmpty && network[hook.name]?.isHere != true {
                throw Failure(
                    .failed, "look at the network namespace",
                    "hook \(hook.name) is \(network[hook.name] == nil ? "not attached" : "attached to another one")",
                    try: "attach it again: vip-bpfctl attach cgroup PATH")
            }
            return "\(links.count) cgroups, \(Hook.ofCgroups.count) hooks each, policy generation \(config.generation)"
        }
    }

    /// Whether sessions can have IPv6 loopbacks, and have them.
    private func loopbacks() -> [CheckPayload.Fact] {
        let subject = "IPv6 loopback"
        if let obstacle = LoopbackHost.obstacle() {
            return [.init(subject: subject, verdict: .warning, fact: obstacle.why, mend: obstacle.mend)]
        }
        guard (try? instance.pins.requireLoaded()) != nil, let maps = try? PolicyMapSet(instance.pins) else {
            return [.init(subject: subject, verdict: .good, fact: "this host can have it")]
        }
        return fact(subject) { () throws(Failure) in
            guard let prefix = try maps.configuration().loopbackPrefix else {
                guard try instance.pins.attachments().isEmpty else {
                    throw Failure(
                        .failed, "look at map config", "this host could not have one when it was attached",
                        try: "attach again: vip-bpfctl attach cgroup PATH")
                }
                return "this host can have it"
            }
            let mend = "put it back: vip-bpfctl policy apply FILE"
            guard try Netlink().routes(.v6).contains(where: { $0.isLocal(prefix) }) else {
                throw Failure(.failed, "look at the routes", "\(prefix) is not local", try: mend)
            }
            guard LoopbackHost.nonlocalBind() == "1" else {
                throw Failure(
                    .failed, "look at the sysctls",
                    "net.ipv6.ip_nonlocal_bind is not 1, and nothing can bind to \(prefix)",
                    try: mend)
            }
            return "\(prefix) is local, and net.ipv6.ip_nonlocal_bind is 1"
        }
    }

    private func addresses() -> [CheckPayload.Fact] {
        do throws(Failure) {
            let wanted = try instance.registry().sessions().flatMap { record in record.addresses.map { (record.id, $0) }
            }
            let present = Set(try Netlink().hostAddresses().map(\.address))
            let routed = wanted.filter { !$0.1.placed }
            var routes: [HostRoute] = []
            for family in IPAddress.Family.allCases where routed.contains(where: { $0.1.address.family == family }) {
                routes += try Netlink().routes(family).filter(\.isLocalOnLoopback)
            }
            for (id, address) in routed where !routes.contains(where: { $0.prefix.contains(address.address) }) {
                throw Failure(
                    .failed, "look at the routes", "session \(id)'s \(address.address) is not local",
                    try: "put its prefix back: vip-bpfctl policy apply FILE")
            }
            let missing = wanted.filter { $0.1.placed && !present.contains($0.1.address) }
            guard missing.isEmpty else {
                return missing.map { id, address in
                    .init(
                        subject: "addresses", verdict: .bad,
                        fact: "session \(id)'s \(address.address) is not on \(address.interface)",
                        mend: "put it back: vip-bpfctl policy apply FILE")
                }
            }
            return [
                .init(
                    subject: "addresses", verdict: .good,
                    fact: "all \(wanted.count) virtual IPs are on their interfaces"
                        + (routed.isEmpty ? "" : ", \(routed.count) of them by a route"))
            ]
        } catch {
            return [Self.bad("addresses", error)]
        }
    }

    /// What it takes to lease addresses, where the policy in force does.
    private func leases() -> [CheckPayload.Fact] {
        let subject = "DHCP"
        guard let registry = try? instance.registry(), let policy = try? instance.policy(registry),
            policy.leasesAddresses
        else { return [] }
        guard let client = UDHCPCLeases.installedClient else {
            return [
                .init(
                    subject: subject, verdict: .bad, fact: "the policy leases addresses, and udhcpc is not installed",
                    mend: "apt-get install udhcpc")
            ]
        }
        // Who may not open the daemon's lock file cannot see it.
        guard geteuid() != 0 || instance.state.hasDaemon else {
            return [
                .init(
                    subject: subject, verdict: .bad, fact: "the policy leases addresses, and the daemon does not run",
                    mend: "start it: systemctl start vip-bpfd")
            ]
        }
        return [.init(subject: subject, verdict: .good, fact: "addresses are leased by \(client[0])")]
    }

    /// Processes outside every session that hold a wildcard port: it is taken on every address, the sessions' too.
    private func blockers() -> [CheckPayload.Fact] {
        do throws(Failure) {
            let sessions = try instance.registry().sessions().map(\.cgroupPath)
            let blockers = try WildcardListener.all(outside: sessions)
            guard !blockers.isEmpty else {
                return [
                    .init(
                        subject: "blockers", verdict: .good, fact: "no process outside a session holds a wildcard port")
                ]
            }
            return blockers.map { blocker in
                let holder =
                    blocker.process.map { "\($0.name) (PID \($0.pid)) in \($0.cgroup)" } ?? "an unknown process"
                return .init(
                    subject: "blockers", verdict: .warning,
                    fact: "\(holder) holds \(blocker.transport) port \(blocker.port) on every address",
                    mend: "no session can have that port: run it in a session, or bind it to one address")
            }
        } catch {
            return [Self.bad("blockers", error)]
        }
    }
}

extension String {
    /// A small file of /proc or /sys, which have no size to go by.
    init(contentsOf path: FilePath) throws(Failure) {
        let raw = path.withPlatformString { open($0, O_RDONLY | O_CLOEXEC) }
        guard raw >= 0 else { throw .kernel(.current, "read \(path)") }
        let file = Descriptor(owning: raw)
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(file.raw, &buffer, buffer.count)
            guard count >= 0 else { throw .kernel(.current, "read \(path)") }
            if count == 0 { break }
            bytes += buffer[..<count]
        }
        self = String(decoding: bytes, as: UTF8.self)
    }
}
