// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Logging
public import Metrics
import Network
import Policy
import PolicyMaps
public import Sessions
public import SystemPackage

/// Opens sessions as users log in, ends them as their last processes go, and keeps addresses and programs as they should be.
///
/// One thread, which sleeps in poll(2). Nothing that comes in is acted upon by itself: it says what to look at again, and
/// ``reconcile()``, ``keepAddresses()`` and ``keepPrograms()`` compare what is with what should be. So nothing is missed that
/// happened while the daemon was not there, and nothing needs to be remembered over a restart but the registry. The lock is
/// held for each change alone; all times are the monotonic clock's, so that one that is set does not matter.
public final class Daemon {
    public struct Options: Sendable {
        /// What SIGHUP puts in force.
        public var policyFile = Instance.defaultPolicyFile
        /// The bus that logind is on, as D-Bus writes addresses; `nil` is the system bus.
        public var bus: String?
        /// The cgroup with the users' slices; `nil` is user.slice below the root.
        public var userSlice: FilePath?
        /// For what outlives the daemon, but not a boot; `nil` is /run/vip-bpf, or for another state directory than the default
        /// one, a directory in there.
        public var runtime: FilePath?
        /// Where events go; `nil` is the journal where there is one.
        public var events: EventLog.Place?
        /// Where metrics are served; `nil` is nowhere.
        public var metrics: MetricsServer.Address?
        /// How much of what ``Instance`` logs is reported.
        public var logLevel = Logger.Level.warning

        public init() {}
    }

    private let instance: Instance
    private let options: Options
    private let log: EventLog
    private let netlink: Netlink
    private let files: FileWatch
    private let bootID: String
    private let lessee: Lessee
    private let questions: LinkQuestions
    /// Addresses that the link was asked about a moment ago, and that no other host has.
    private var cleared: Set<AddressProbe.Question> = []

    /// Who is logged in, as logind said last; `nil` before its first word.
    private var list: Logind.List?
    /// By index, as they were last seen.
    private var interfaces: [CInt: Interface] = [:]
    private var policy = Policy()
    private var policyText: String??
    /// Failures that were reported and are not over, by what they are of: each is said once.
    private var said: [String: String] = [:]
    /// Since when cgroups of logins have been empty.
    private var emptySince: [FilePath: ContinuousClock.Instant] = [:]
    /// When one of them has been so for long enough.
    private var lookAgainAt: ContinuousClock.Instant?
    /// Whether the sessions are to be looked at once more when what is being done is done.
    private var isStale = false
    /// The registry's version after our last change.
    private var seen: UInt32?
    private var isStopping = false
    private var hasLogind = false
    private var isReady = false

    // When to look again, by the monotonic clock; `nil` is never.
    private var reconcileAt: ContinuousClock.Instant? = .now
    private var addressesAt: ContinuousClock.Instant? = .now
    private var programsAt: ContinuousClock.Instant? = .now
    private var leasesAt: ContinuousClock.Instant? = .now
    /// When the next try of one that failed is due.
    private var leaseRetryAt: ContinuousClock.Instant?
    private var sweepAt: ContinuousClock.Instant
    private var reconcileBackoff = Backoff(from: .seconds(1), to: .seconds(60))
    private var addressesBackoff = Backoff(from: .seconds(1), to: .seconds(60))
    private var leasesBackoff = Backoff(from: .seconds(1), to: .seconds(60))

    /// Longer than user@.service takes to come back, and not so long that anybody waits for the address.
    private static let betweenPrograms: Duration = .seconds(3)
    /// What comes in a burst, many logins or addresses, is looked at together.
    private static let settling: Duration = .milliseconds(50)
    /// Everything is looked at this often in any case: for what no watch tells, a listed program on a file system of the
    /// network, say.
    private static let sweep: Duration = .seconds(60)

    public init(_ instance: Instance, _ options: Options) throws(Failure) {
        self.instance = instance
        self.options = options
        log = EventLog(options.events)
        netlink = try Netlink()
        files = try FileWatch()
        bootID = try BootID.current()
        let runtime =
            options.runtime
            ?? (instance.state.path == "/var/lib/vip-bpf" ? "/run/vip-bpf" : instance.state.path.appending("run"))
        lessee = try Lessee(instance, runtime: runtime.appending("leases"), log: log)
        questions = try LinkQuestions(AddressProbe())
        sweepAt = .now + Self.sweep
    }

    /// Runs until SIGTERM or SIGINT; sessions stay open.
    ///
    /// - Throws: ``Failure`` where it cannot begin: no root, another daemon, a state directory that cannot be written.
    public func run() throws(Failure) {
        let signals = try SignalReader([SIGTERM, SIGINT, SIGHUP])
        let lock = try instance.state.lockForDaemon()
        defer { _ = lock }
        defer { lessee.close() }
        let watch = try NetlinkWatch()
        // What a killed command or an earlier boot has left is mended before anything is looked at; and where that cannot be
        // done, it is better said now.
        _ = try instance.change(log.logger(options.logLevel))
        interfaces = try netlink.interfaces()
        let logind = Logind(address: options.bus) { [unowned self] news in hear(news) }
        let watchdog = ServiceManager.watchdogInterval().map { $0 / 2 }
        var watchdogAt: ContinuousClock.Instant? = watchdog.map { .now + $0 }

        let health = DaemonHealth()
        let server = try options.metrics.map { address throws(Failure) in
            let (instance, log) = (instance, log)
            return try MetricsServer(address) { () throws(Failure) in
                var page = try MetricsPage.page(of: instance)
                page.add(health, log.counts)
                return page
            }
        }
        defer { _ = server }

        log.report(Event(.started, "following logind; state in \(instance.state.path), pins in \(instance.pins.path)"))
        while !isStopping {
            let bus = logind.wait
            var polled = [
                pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: watch.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: files.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: bus.descriptor, events: bus.events, revents: 0),
                pollfd(fd: lessee.descriptor, events: Int16(POLLIN), revents: 0),
                pollfd(fd: questions.descriptor, events: Int16(POLLIN), revents: 0),
            ]
            let times = [reconcileAt, addressesAt, programsAt, leasesAt, sweepAt, bus.until, watchdogAt]
                .compactMap(\.self)
            let count = poll(&polled, nfds_t(polled.count), Self.milliseconds(until: times.min()))
            guard count >= 0 || errno == EINTR else { throw Failure("wait for events", errno: .current) }

            if let watchdog, let at = watchdogAt, at <= .now {
                ServiceManager.notify("WATCHDOG=1")
                watchdogAt = .now + watchdog
            }
            while let signal = signals.next() { if signal.number == SIGHUP { reload() } else { isStopping = true } }
            if isStopping { break }
            health.turn(isFollowing: hasLogind, troubles: said.keys.count { !$0.hasPrefix("warning ") })
            if watch.drain() { addressesAt = soon(addressesAt) }
            look(files.drain())
            logind.process()
            if lessee.hear() { leasesAt = .now }
            if let result = questions.take() { hear(result) }
            if sweepAt <= .now {
                sweepAt = .now + Self.sweep
                // Each of them once a minute is not too often, and what is remembered stays little.
                for key in said.keys where key.hasPrefix("warning ") { said[key] = nil }
                (reconcileAt, addressesAt, programsAt, leasesAt) = (.now, .now, .now, .now)
            }
            if take(&addressesAt) { attempt("addresses", &addressesBackoff, &addressesAt, keepAddresses) }
            if take(&programsAt) { attempt("programs", keepPrograms) }
            if take(&reconcileAt) {
                attempt("sessions", &reconcileBackoff, &reconcileAt, reconcile)
                // Logins wait for us at boot (the unit's Before=); what has failed is said, and tried again.
                if list != nil { becomeReady() }
            }
            if let at = lookAgainAt {
                lookAgainAt = nil
                reconcileAt = min(reconcileAt ?? at, at)
            }
            if isStale {
                isStale = false
                reconcileAt = soon(reconcileAt)
            }
            if take(&leasesAt) {
                attempt("leases", &leasesBackoff, &leasesAt, keepLeases)
                leasesAt = [leasesAt, leaseRetryAt].compactMap(\.self).min()
            }
        }
        ServiceManager.notify("STOPPING=1")
        log.report(Event(.stopped, "ended; sessions stay open"))
    }

    // MARK: When

    private static func milliseconds(until time: ContinuousClock.Instant?) -> CInt {
        guard let time else { return -1 }
        // Rounded up, so that the last turn does not spin.
        let left = ContinuousClock.now.duration(to: time)
        return left <= .zero ? 0 : CInt(clamping: Int64((left / .milliseconds(1)).rounded(.up)))
    }

    /// A time a little later, or the one that is set already where that is earlier.
    private func soon(_ time: ContinuousClock.Instant?) -> ContinuousClock.Instant {
        let soon = ContinuousClock.now + Self.settling
        return time.map { min($0, soon) } ?? soon
    }

    private func take(_ time: inout ContinuousClock.Instant?) -> Bool {
        guard let at = time, at <= .now else { return false }
        time = nil
        return true
    }

    /// Does a part of the work; where it fails, says so once, and tries again later and later.
    private func attempt(
        _ subject: String, _ backoff: inout Backoff, _ time: inout ContinuousClock.Instant?,
        _ work: () throws(Failure) -> Bool
    ) {
        do throws(Failure) {
            // `false`: not all could be done, and it has been said what.
            let isDone = try work()
            settle(subject)
            if isDone {
                backoff.reset()
            } else {
                time = min(time ?? .now + .seconds(3600), backoff.next())
            }
        } catch {
            complain(subject, error)
            time = min(time ?? .now + .seconds(3600), backoff.next())
        }
    }

    private func attempt(_ subject: String, _ work: () throws(Failure) -> Void) {
        do throws(Failure) {
            try work()
            settle(subject)
        } catch {
            complain(subject, error)
        }
    }

    // MARK: Saying it

    /// Reports a failure, unless the last one of the same subject was just so.
    private func complain(_ subject: String, _ failure: Failure) {
        once(subject, Event(.error, "\(failure)", priority: .error, reason: failure.reason))
    }

    private func once(_ subject: String, _ event: Event) {
        guard said[subject] != event.message else { return }
        said[subject] = event.message
        log.report(event)
    }

    private func settle(_ subject: String) { said[subject] = nil }

    private func change<T>(_ body: (inout Change) throws(Failure) -> T) throws(Failure) -> T {
        var change = try beginChange()
        // Before the lock goes: what is different afterwards, somebody else has changed.
        defer { seen = instance.registryVersion }
        let result = try body(&change)
        for warning in change.warnings { once("warning \(warning)", Event(.warning, warning, priority: .warning)) }
        return result
    }

    /// Takes the lock, and notes what others have changed since our last change.
    private func beginChange() throws(Failure) -> Change {
        let change = try instance.change(log.logger(options.logLevel))
        if instance.registryVersion != seen { isStale = true }
        return change
    }

    // MARK: What comes in

    private func hear(_ news: Logind.News) {
        switch news {
        case .listed(let new):
            if !hasLogind { log.report(Event(.logindFollowed, "logind has \(new.logins.count) sessions")) }
            hasLogind = true
            if list != new { reconcileAt = soon(reconcileAt) }
            list = new
        case .lost(let failure):
            hasLogind = false
            log.report(Event(.logindLost, "\(failure)", priority: .warning, reason: failure.reason))
            becomeReady()
        }
        tellStatus()
    }

    /// Tells the service manager, once: those who are logged in have their sessions, or nobody can say who is.
    private func becomeReady() {
        guard !isReady else { return }
        isReady = true
        ServiceManager.notify("READY=1")
    }

    private func look(_ events: [(subject: FileWatch.Subject, name: String)]) {
        for event in events {
            switch event.subject {
            case .cgroupEvents, .cgroups: reconcileAt = soon(reconcileAt)
            case .programs: programsAt = soon(programsAt)
            // The lock file: a change by somebody has ended; our own is no news.
            case .state:
                if event.name == instance.state.lockFile.lastComponent?.string, instance.registryVersion != seen {
                    reconcileAt = soon(reconcileAt)
                }
            }
        }
    }

    private func tellStatus(_ sessions: Int? = nil) {
        if let sessions { sessionCount = sessions }
        ServiceManager.notify(
            "STATUS=\(sessionCount) sessions; \(hasLogind ? "following logind" : "logind is away, and is tried again")")
    }
    private var sessionCount = 0

    private func reload() {
        ServiceManager.notifyReloading()
        do throws(Failure) {
            // A pipe would be waited for.
            var status = stat()
            if options.policyFile.withPlatformString({ stat($0, &status) }) == 0, status.st_mode & S_IFMT != S_IFREG {
                throw Failure(
                    .failed, "read \(options.policyFile)", "it is no regular file", hint: "put the policy there")
            }
            let policy = try Policy.read(contentsOf: options.policyFile)
            let changes = try change { change throws(Failure) in try change.apply(policy) }
            log.report(
                Event(
                    .policyReloaded, "policy \(options.policyFile) is in force, generation \(changes.generation)",
                    priority: .notice))
            settle("reload")
        } catch {
            log.report(
                Event(.error, "the policy in force stays: \(error)", priority: .error, reason: error.reason))
        }
        (reconcileAt, programsAt, addressesAt) = (.now, .now, .now)
        ServiceManager.notify("READY=1")
    }

    // MARK: Sessions

    /// A cgroup that should be a session.
    private struct Wanted: Hashable {
        let cgroup: FilePath
        let user: Logind.User
        /// logind's own name for the login, where each is a session.
        let login: String?
    }

    /// Makes the sessions what logind and the cgroups say.
    ///
    /// - Returns: `false` where a login has no session yet for which there is a reason that may pass.
    private func reconcile() throws(Failure) -> Bool {
        seen = instance.registryVersion
        let registry = try instance.registry()
        try readPolicy(registry)
        var records = try registry.sessions().filter { $0.bootID == bootID }

        let wanted = try wantedCgroups()
        let ended = records.filter { $0.end != nil && !isBetweenPrograms($0, wanted) }
        for record in records where record.end == nil { emptySince[record.cgroupPath] = nil }
        if !ended.isEmpty {
            let closed = try change { change throws(Failure) in try change.closeEnded(ended) }
            for (record, reason) in closed { report(closed: record, reason) }
            let gone = Set(closed.map(\.record.id))
            records.removeAll { gone.contains($0.id) }
        }

        let taken = records.map(\.cgroupPath)
        let sessionCgroups = Set(taken)
        var isDone = true
        var pending: [Wanted] = []
        for one in wanted where !sessionCgroups.contains(one.cgroup) {
            // One at, above or below it stands until it ends: PAM's, an administrator's, or one of the other unit.
            if let other = taken.first(where: { $0.starts(with: one.cgroup) || one.cgroup.starts(with: $0) }) {
                once(
                    "refused \(one.cgroup)",
                    Event(
                        .sessionRefused, "\(one.cgroup) gets no session: \(other) is one, as long as that lasts",
                        priority: .notice, user: one.user.name, cgroup: one.cgroup.string,
                        reason: "another session is there"))
            } else if isPopulated(one.cgroup) {
                pending.append(one)
            }
        }
        if !pending.isEmpty {
            let opened = try open(pending, &isDone)
            records += opened
        }
        // Who goes without IPv6 alone is looked after once a minute.
        if lessee.isBusy || records.contains(where: { !$0.addresses.contains { $0.address.family == .v4 } }) {
            leasesAt = .now
        }
        for key in said.keys where key.hasPrefix("refused ") {
            if !wanted.contains(where: { key == "refused \($0.cgroup)" }) { said[key] = nil }
        }
        watch(records, wanted)
        tellStatus(records.count)
        return isDone
    }

    /// Whether the cgroup of somebody who is logged in yet has been empty for a moment only: the next program may be about to
    /// start, as where the user's systemd is restarted, and shall not find itself outside of every session.
    private func isBetweenPrograms(_ record: SessionRecord, _ wanted: [Wanted]) -> Bool {
        let cgroup = record.cgroupPath
        guard record.isCgroupThere, wanted.contains(where: { $0.cgroup == cgroup }) else {
            emptySince[cgroup] = nil
            return false
        }
        let since = emptySince[cgroup] ?? .now
        emptySince[cgroup] = since
        let left = Self.betweenPrograms - since.duration(to: .now)
        guard left > .zero else {
            emptySince[cgroup] = nil
            return false
        }
        lookAgainAt = min(lookAgainAt ?? .now + left, .now + left)
        return true
    }

    private func wantedCgroups() throws(Failure) -> [Wanted] {
        guard let list else { return [] }
        let slice: FilePath
        if let named = options.userSlice {
            slice = named
        } else {
            slice = try Cgroup.wholeHierarchy(.current()).appending("user.slice")
        }
        switch policy.sessions.unit {
        case .userSlice:
            return list.users.map { user in
                Wanted(cgroup: slice.appending("user-\(user.uid).slice"), user: user, login: nil)
            }
        case .sessionScope:
            // Letters and digits, as logind makes them; the name becomes a path.
            return list.logins.filter { Self.isLoginName($0.id) }.map { login in
                Wanted(
                    cgroup: slice.appending("user-\(login.user.uid).slice").appending("session-\(login.id).scope"),
                    user: login.user, login: login.id)
            }
        }
    }

    private static func isLoginName(_ name: String) -> Bool {
        (1...64).contains(name.utf8.count) && name.utf8.allSatisfy { isalnum(CInt($0)) != 0 }
    }

    private func isPopulated(_ cgroup: FilePath) -> Bool {
        guard let text = try? readWholeFile(cgroup.appending("cgroup.events")) else { return false }
        return Cgroup.isPopulated(text)
    }

    /// Opens sessions, all in one change; where that fails, one by one, so that one does not keep the others from theirs.
    private func open(_ wanted: [Wanted], _ isDone: inout Bool) throws(Failure) -> [SessionRecord] {
        let mounts = try MountTable.current()
        var opened: [SessionRecord] = []
        do throws(Failure) {
            opened = try open(wanted, mounts)
            for one in wanted { settle("refused \(one.cgroup)") }
        } catch {
            // Who waits for the lock waits long enough once.
            guard error.code != .busy else { throw error }
            for one in wanted {
                ServiceManager.notify("WATCHDOG=1")
                do throws(Failure) {
                    opened += try open([one], mounts)
                    settle("refused \(one.cgroup)")
                } catch {
                    // It went while we were at it: no failure, but nothing to do.
                    guard isPopulated(one.cgroup) else { continue }
                    isDone = false
                    once(
                        "refused \(one.cgroup)",
                        Event(
                            .sessionRefused, "\(error)", priority: .error, user: one.user.name,
                            cgroup: one.cgroup.string, reason: error.reason))
                }
            }
        }
        return opened
    }

    private func open(_ wanted: [Wanted], _ mounts: MountTable) throws(Failure) -> [SessionRecord] {
        var change = try beginChange()
        defer { seen = instance.registryVersion }
        let records = try change.open(requests(wanted, mounts, change))
        let opened = Opened(records: records, warnings: change.warnings, unaddressed: change.unaddressed)
        for event in Event.opening(of: opened) { log.report(event) }
        for refused in opened.unaddressed { said["lease \(refused.session)"] = "\(refused.failure)" }
        return records
    }

    private func requests(
        _ wanted: [Wanted], _ mounts: MountTable, _ change: borrowing Change
    ) throws(Failure) -> [SessionRequest] {
        // A login is a session at once, and gets its address when the link has been asked.
        let isAsking = try !Instance.askedLinks(policy, netlink).isEmpty
        var requests: [SessionRequest] = []
        var ids: Set<UInt32> = []
        for one in wanted {
            // Somebody else was quicker.
            let cgroup = try Cgroup(path: one.cgroup, mounts: mounts)
            if try change.session(on: cgroup) != nil { continue }
            var request = SessionRequest(cgroup: cgroup)
            request.user = UserName.isAcceptable(one.user.name) ? one.user.name : "\(one.user.uid)"
            request.keeper = .logind
            request.opensWithoutAddress = true
            request.getsAddressLater = isAsking
            if let login = one.login, let id = try change.sessionID(ofLogin: login), ids.insert(id).inserted {
                request.id = id
            }
            requests.append(request)
        }
        return requests
    }

    // MARK: Addresses that come later

    /// Gives sessions the addresses that they had to be opened without, as the pool has some again or leases arrive, and takes
    /// away those whose lease is over.
    ///
    /// - Returns: `false` where something could not be done for a reason that may pass.
    private func keepLeases() throws(Failure) -> Bool {
        let registry = try instance.registry()
        try readPolicy(registry)
        let records = try registry.sessions().filter { $0.bootID == bootID }
        let wishes = try instance.wishes(records, under: policy, registry, netlink)
        let picked = try askTheLink(wishes.picked)
        let plan = lessee.plan(wishes.leases)
        let ids = Set(records.map { "\($0.id)" })
        for key in said.keys where key.hasPrefix("lease ") {
            if !ids.contains(String(key.split(separator: " ")[1])) { said[key] = nil }
        }
        for (interface, failure) in plan.broken.sorted(by: { $0.key < $1.key }) {
            if let failure { complain("leases of \(interface)", failure) } else { settle("leases of \(interface)") }
        }
        for (record, failure) in plan.refused {
            once("lease \(record.id)", Self.refused(record, failure))
        }
        // Why changes as addresses come and go, so that it has been said is what counts.
        for (record, family, failure) in wishes.unavailable where said["lease \(record.id)"] == nil {
            let key = "lease \(record.id) \(family.rawValue)"
            if said[key] == nil { once(key, Self.refused(record, failure, family.rawValue)) }
        }
        leaseRetryAt = plan.until
        let gifts = plan.given + picked.map { ($0.record, $0.address) }
        guard !gifts.isEmpty || !plan.taken.isEmpty else { return true }
        var given: [AddressProbe.Question] = []
        // After the change: neighbours are told without the lock.
        defer { questions.announce(given) }
        return try change { change throws(Failure) in
            var isDone = true
            for (record, address, ending, reason) in plan.taken {
                do throws(Failure) {
                    guard try change.take(address.address, from: record, because: ending) != nil else { continue }
                    log.report(
                        Event(
                            .addressTaken, "\(address.address) was session \(record.id)'s", priority: .warning,
                            of: record, address: address, reason: reason))
                } catch {
                    isDone = false
                    complain("lease \(record.id)", error)
                }
            }
            for (record, address) in gifts {
                let subject = "lease \(record.id)"
                do throws(Failure) {
                    guard let after = try change.give(address, to: record) else { continue }
                    settle(subject)
                    settle("\(subject) \(address.address.family.rawValue)")
                    given.append(AddressProbe.Question(address.address, on: address.interface))
                    log.report(
                        Event(
                            .addressGiven, "\(address.address) is session \(record.id)'s, on \(address.interface)",
                            of: after, address: address))
                } catch {
                    isDone = false
                    once(
                        subject,
                        Event(
                            .addressRefused, "session \(record.id) has no address: \(error)", priority: .error,
                            of: record, address: address, reason: error.reason))
                }
            }
            return isDone
        }
    }

    private static func refused(_ record: SessionRecord, _ failure: Failure, _ family: String = "") -> Event {
        Event(
            .addressRefused,
            "session \(record.id) has no \(family.isEmpty ? "" : family + " ")address: \(failure)", priority: .error,
            of: record,
            reason: failure.reason)
    }

    /// Those of the addresses that no other host has, as far as is known; the link is asked about the others, and this is called
    /// again when it has been.
    private func askTheLink(_ picked: [KeptAddress]) throws(Failure) -> [KeptAddress] {
        let known = cleared
        cleared = []
        let links = try Instance.askedLinks(policy, netlink)
        var open: [AddressProbe.Question] = []
        let free = picked.filter { kept in
            guard kept.address.placed, links.contains(kept.address.interface) else { return true }
            let question = AddressProbe.Question(kept.address.address, on: kept.address.interface)
            if known.contains(question) { return true }
            open.append(question)
            return false
        }
        guard !open.isEmpty, !questions.isBusy else { return free }
        let seconds = policy.probeSeconds
        let asked = open
        try change { change throws(Failure) in try change.hold(asked, seconds: seconds) }
        questions.ask(open, seconds: seconds)
        return free
    }

    private func hear(_ result: LinkQuestions.Result) {
        leasesAt = .now
        var conflicts: [AddressConflict] = []
        for question in result.asked {
            if let other = result.answers.taken[question.address] {
                conflicts.append(AddressConflict(question: question, other: other))
            } else {
                cleared.insert(question)
            }
        }
        for conflict in conflicts { log.report(Event(conflict)) }
        if let failure = result.answers.failures.first { complain("link", failure) } else { settle("link") }
        do throws(Failure) {
            let conflicts = conflicts
            try change { change throws(Failure) in try change.settleHeld(conflicts: conflicts) }
        } catch {
            complain("held addresses", error)
        }
    }

    private func report(closed record: SessionRecord, _ reason: String) {
        for event in Event.closing(of: record, because: reason) { log.report(event) }
    }

    /// Watches what says that there is something to do.
    private func watch(_ records: [SessionRecord], _ wanted: [Wanted]) {
        let events = Set((records.map(\.cgroupPath) + wanted.map(\.cgroup)).map { $0.appending("cgroup.events") })
        var directories = Set(wanted.map { $0.cgroup.removingLastComponent() })
        for cgroup in wanted where cgroup.login != nil {
            directories.insert(cgroup.cgroup.removingLastComponent().removingLastComponent())
        }
        // A cgroup that is removed empty says nothing itself.
        for record in records { directories.insert(record.cgroupPath.removingLastComponent()) }
        let failures = [
            files.set(events, for: .cgroupEvents), files.set(directories, for: .cgroups),
            files.set([instance.state.path], for: .state),
        ].compactMap(\.self)
        if files.takeBegun() { isStale = true }
        if let failure = failures.first { complain("watches", failure) } else { settle("watches") }
    }

    // MARK: Addresses

    private func keepAddresses() throws(Failure) -> Bool {
        let registry = try instance.registry()
        var records = try registry.sessions().filter { $0.bootID == bootID }
        records = try keepInterfaces(records)
        guard try instance.needsUpkeep(records, netlink.hostAddresses()) else {
            for key in said.keys where key.hasPrefix("missing ") { said[key] = nil }
            return true
        }
        let upkeep = try change { change throws(Failure) in try change.keepAddresses() }
        for kept in upkeep.restored {
            settle("missing \(kept.address.address)")
            log.report(
                Event(
                    .addressRestored,
                    "virtual IP \(kept.address.address) was missing on \(kept.address.interface) and is back",
                    priority: .notice, of: kept.record, address: kept.address))
        }
        for (kept, failure) in upkeep.missing {
            once(
                "missing \(kept.address.address)",
                Event(
                    .addressMissing, "virtual IP \(kept.address.address) is missing: \(failure)", priority: .error,
                    of: kept.record, address: kept.address, reason: failure.reason))
        }
        if upkeep.hasHostChanged {
            log.report(Event(.hostAddresses, "the host's own addresses have changed, and the hooks know"))
        }
        return upkeep.missing.isEmpty
    }

    /// Says what has become of interfaces with virtual IPs on them, and follows one to its new name.
    ///
    /// - Returns: the records, with the names as they are.
    private func keepInterfaces(_ records: [SessionRecord]) throws(Failure) -> [SessionRecord] {
        let now = try netlink.interfaces()
        let before = interfaces
        interfaces = now
        var used = Set(records.flatMap(\.addresses).map(\.interface))
        // All at once: one may have taken another's name.
        var renamed: [String: String] = [:]
        for (index, old) in before {
            if let new = now[index], new.name != old.name { renamed[old.name] = new.name }
        }
        if !renamed.isEmpty {
            lessee.rename(renamed)
            leasesAt = .now
        }
        var counts: [String: Int] = [:]
        if renamed.keys.contains(where: used.contains) {
            let names = renamed
            counts = try change { change throws(Failure) in try change.renameInterfaces(names) }
        }
        for (index, old) in before.sorted(by: { $0.key < $1.key }) {
            guard let new = now[index] else {
                if used.contains(old.name) {
                    say(
                        .interfaceRemoved, "interface \(old.name) is gone; its virtual IPs come back with it", old.name,
                        .warning)
                }
                continue
            }
            if let count = counts[new.name], new.name != old.name {
                used.insert(new.name)
                say(
                    .interfaceRenamed, "interface \(old.name) is \(new.name) now, with \(count) virtual IPs", new.name,
                    .notice)
            }
            guard new.isUp != old.isUp, used.contains(new.name) else { continue }
            if new.isUp {
                say(.interfaceUp, "interface \(new.name) is up", new.name, .notice)
            } else {
                say(.interfaceDown, "interface \(new.name) is down", new.name, .warning)
            }
        }
        for (index, new) in now where before[index] == nil && used.contains(new.name) {
            say(.interfaceAdded, "interface \(new.name) is there", new.name, .notice)
        }
        return !counts.isEmpty ? try instance.registry().sessions().filter { $0.bootID == bootID } : records
    }

    private func say(_ kind: Event.Kind, _ message: String, _ interface: String, _ priority: Event.Priority) {
        log.report(Event(kind, message, priority: priority, interface: interface))
    }

    // MARK: Policy and programs

    /// Reads the policy in force where it is another one than last time.
    private func readPolicy(_ registry: Registry) throws(Failure) {
        let text = try registry.value(of: .policy)
        if let known = policyText, known == text { return }
        policy = try instance.policy(registry)
        policyText = .some(text)
        programsAt = .now
    }

    /// Lets programs match again whose file was replaced by an upgrade.
    private func keepPrograms() throws(Failure) {
        try readPolicy(instance.registry())
        programsAt = nil
        let paths = policy.listedPaths
        var directories = Set(paths.map { $0.removingLastComponent() })
        for path in paths {
            // Where a listed path is a link, its target's directory is where the file is replaced.
            if let real = path.withPlatformString({ realpath($0, nil) }) {
                directories.insert(FilePath(platformString: real).removingLastComponent())
                free(real)
            }
        }
        if let failure = files.set(directories, for: .programs) { complain("program watches", failure) }
        guard !paths.isEmpty, !(try instance.knowsPrograms(of: policy)) else { return }
        try change { change throws(Failure) in _ = try change.apply(instance.policy(change.registry)) }
        log.report(
            Event(.programsRefreshed, "files of listed programs were replaced, and match again", priority: .notice))
    }
}
