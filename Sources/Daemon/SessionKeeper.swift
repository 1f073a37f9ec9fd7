// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Policy
import Sessions
import SystemPackage

/// Opens sessions when users log in, and closes them when their last process ends.
final class SessionKeeper {
    /// A cgroup that should be a session.
    private struct DesiredSession: Hashable {
        let cgroup: FilePath
        let user: Logind.User
        /// logind's ID of the login, if each login is a session.
        let login: String?
    }

    /// Called with the sessions of this boot after they were reconciled.
    var reconciled: ([SessionRecord]) -> Void = { _ in }
    /// Whether logind answers.
    private(set) var isFollowing = false

    private let context: KeeperContext
    /// The cgroup that contains the users' slices; `nil` for user.slice below the root.
    private let userSlice: FilePath?
    private var troubles: Troubles { context.troubles }
    private var reconciler: Reconciler?
    private var logind: Logind?
    /// Watches cgroup.events of sessions' cgroups, which change when a cgroup becomes empty or populated.
    private var cgroupEvents: FileWatch?
    /// Watches the directories in which sessions' cgroups are created and removed.
    private var cgroupDirectories: FileWatch?
    private var stateDirectory: FileWatch?

    /// The last list from logind; `nil` before the first one.
    private var logins: Logind.List?
    /// When the cgroups of logged-in users became empty.
    private var emptySince: [FilePath: ContinuousClock.Instant] = [:]
    private var isReady = false
    private var sessionCount = 0

    /// Longer than a restart of user@.service, and short enough to free the address soon.
    private static let betweenPrograms: Duration = .seconds(3)

    /// - Parameters:
    ///   - bus: the address of logind's bus, in the form of D-Bus; `nil` for the system bus.
    ///   - userSlice: the cgroup that contains the users' slices; `nil` for user.slice below the root.
    init(_ context: KeeperContext, bus: String?, userSlice: FilePath?) throws(Failure) {
        self.context = context
        self.userSlice = userSlice
        reconciler = try Reconciler(context.loop, context.troubles, .sessions) { [unowned self] () throws(Failure) in
            // Logins wait for the daemon at boot (Before= in the unit), also if this fails: it is reported and tried
            // again.
            defer { if logins != nil { becomeReady() } }
            return try reconcile()
        }
        logind = try Logind(address: bus, context.loop) { [unowned self] news in handle(news) }
        cgroupEvents = FileWatch(context.loop, IN_MODIFY) { [unowned self] _ in runSoon() }
        cgroupDirectories = FileWatch(context.loop, IN_CREATE, IN_DELETE, IN_MOVED_TO, CInt(IN_ONLYDIR)) {
            [unowned self] _ in runSoon()
        }
        stateDirectory = FileWatch(context.loop, IN_CLOSE_WRITE, CInt(IN_ONLYDIR)) { [unowned self] name in
            // A change closes the lock file at its end. The daemon's own changes are no reason to reconcile.
            let lock = context.instance.state.lockFile.lastComponent?.string
            if name == nil || name == lock, context.isRegistryChanged { runSoon() }
        }
    }

    func runNow() { reconciler?.runNow() }

    func runSoon() { reconciler?.runSoon() }

    /// Starts following logind.
    func followLogind() { logind?.start() }

    // MARK: News

    private func handle(_ news: Logind.News) {
        switch news {
        case .listed(let new):
            if !isFollowing {
                context.log.report(Event(.logindFollowed, "following logind: \(new.logins.count) logins"))
            }
            isFollowing = true
            if logins != new { runSoon() }
            logins = new
        case .lost(let failure):
            isFollowing = false
            context.log.report(Event(.logindLost, "\(failure)", priority: .warning, reason: failure.reason))
            becomeReady()
        }
        updateStatus()
    }

    /// Notifies the service manager, once: the users who are logged in have sessions, or logind does not answer.
    private func becomeReady() {
        guard !isReady else { return }
        isReady = true
        ServiceManager.notify("READY=1")
    }

    private func updateStatus() {
        ServiceManager.notify(
            "STATUS=\(sessionCount) sessions; \(isFollowing ? "following logind" : "logind does not answer; retrying")")
    }

    // MARK: Reconciliation

    /// Opens and closes sessions to match logind's list and the cgroups.
    ///
    /// - Returns: `false` if a login has no session yet for a reason that may be temporary.
    private func reconcile() throws(Failure) -> Bool {
        context.noteRegistryVersion()
        let registry = try context.instance.registry()
        try context.readPolicy(registry)
        let desired = try desiredSessions()
        var records = try closeEnded(try context.sessions(registry), desired)
        var isDone = true
        let missing = cgroupsWithoutSession(desired, records)
        if !missing.isEmpty { records += try open(missing, &isDone) }
        reconciled(records)
        troubles.clear {
            if case .noSession(let cgroup) = $0 { !desired.contains { $0.cgroup == cgroup } } else { false }
        }
        watch(records, desired)
        sessionCount = records.count
        updateStatus()
        return isDone
    }

    private func desiredSessions() throws(Failure) -> [DesiredSession] {
        guard let logins else { return [] }
        let slice: FilePath
        if let userSlice {
            slice = userSlice
        } else {
            slice = try Cgroup.wholeHierarchy(.current()).appending("user.slice")
        }
        switch context.policy.sessions.unit {
        case .userSlice:
            return logins.users.map { user in
                DesiredSession(cgroup: slice.appending("user-\(user.uid).slice"), user: user, login: nil)
            }
        case .sessionScope:
            // Only letters and digits, as logind makes them, because the name becomes part of a path.
            return logins.logins.filter { Self.isLoginName($0.id) }.map { login in
                DesiredSession(
                    cgroup: slice.appending("user-\(login.user.uid).slice").appending("session-\(login.id).scope"),
                    user: login.user, login: login.id)
            }
        }
    }

    private static func isLoginName(_ name: String) -> Bool {
        (1...64).contains(name.utf8.count) && name.utf8.allSatisfy { isalnum(CInt($0)) != 0 }
    }

    // MARK: Closing

    /// Closes the sessions that have ended.
    ///
    /// - Returns: the other sessions.
    private func closeEnded(
        _ records: [SessionRecord], _ desired: [DesiredSession]
    ) throws(Failure) -> [SessionRecord] {
        let ended = records.filter { $0.end != nil && !isBetweenPrograms($0, desired) }
        for record in records where record.end == nil { emptySince[record.cgroupPath] = nil }
        guard !ended.isEmpty else { return records }
        let result = try context.change { change throws(Failure) in
            let result = try change.closeEnded(ended)
            for (session, reason) in result.closed {
                for event in Event.closing(of: session, because: reason) { context.log.report(event) }
            }
            report(result.reopened, change)
            return result
        }
        let ids = Set(result.closed.map(\.closed.record.id))
        return records.filter { !ids.contains($0.id) } + result.reopened
    }

    /// Whether the cgroup of a user who is logged in was empty only for a short time. When the user's systemd restarts,
    /// for example, the next program must start in the session.
    private func isBetweenPrograms(_ record: SessionRecord, _ desired: [DesiredSession]) -> Bool {
        let cgroup = record.cgroupPath
        guard record.isCgroupThere, desired.contains(where: { $0.cgroup == cgroup }) else {
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
        reconciler?.run(within: left)
        return true
    }

    // MARK: Opening

    /// The populated cgroups that should be sessions, unless an existing session prevents it.
    private func cgroupsWithoutSession(_ desired: [DesiredSession], _ records: [SessionRecord]) -> [DesiredSession] {
        let taken = records.map(\.cgroupPath)
        let sessionCgroups = Set(taken)
        return desired.filter { one in
            guard !sessionCgroups.contains(one.cgroup) else { return false }
            // A session at, above or below it stays until it ends: one of PAM, an administrator's, or one of the other
            // `unit`.
            guard let other = taken.first(where: { $0.starts(with: one.cgroup) || one.cgroup.starts(with: $0) }) else {
                return isPopulated(one.cgroup)
            }
            troubles.report(
                .noSession(one.cgroup),
                Event(
                    .sessionRefused, "no session opened on \(one.cgroup): \(other) is a session until it ends",
                    priority: .notice, user: one.user.name, cgroup: one.cgroup.string,
                    reason: "another session exists"))
            return false
        }
    }

    private func isPopulated(_ cgroup: FilePath) -> Bool {
        guard let text = try? readWholeFile(cgroup.appending("cgroup.events")) else { return false }
        return Cgroup.isPopulated(text)
    }

    /// Opens sessions in one change. If that fails, opens them one by one, so that one does not prevent the others.
    private func open(_ missing: [DesiredSession], _ isDone: inout Bool) throws(Failure) -> [SessionRecord] {
        let mounts = try MountTable.current()
        var opened: [SessionRecord] = []
        do throws(Failure) {
            opened = try open(missing, mounts)
            for one in missing { troubles.clear(.noSession(one.cgroup)) }
        } catch {
            // If the lock is busy, do not wait for it again.
            guard error.code != .busy else { throw error }
            for one in missing {
                ServiceManager.notify("WATCHDOG=1")
                do throws(Failure) {
                    opened += try open([one], mounts)
                    troubles.clear(.noSession(one.cgroup))
                } catch {
                    // Its last process has ended in between, so there is nothing to do.
                    guard isPopulated(one.cgroup) else { continue }
                    isDone = false
                    troubles.report(
                        .noSession(one.cgroup),
                        Event(
                            .sessionRefused, "\(error)", priority: .error, user: one.user.name,
                            cgroup: one.cgroup.string, reason: error.reason))
                }
            }
        }
        return opened
    }

    private func open(_ missing: [DesiredSession], _ mounts: MountTable) throws(Failure) -> [SessionRecord] {
        try context.change { change throws(Failure) in
            let records = try change.open(requests(missing, mounts, change))
            report(records, change)
            return records
        }
    }

    /// Reports the opening of sessions. The change reports the warnings itself.
    private func report(_ records: [SessionRecord], _ change: borrowing Change) {
        let opened = Opened(
            records: records, warnings: [], unaddressed: change.unaddressed, squatters: change.squatters)
        for event in Event.opening(of: opened) { context.log.report(event) }
        for refused in opened.unaddressed {
            troubles.note(.noAddress(session: refused.session, family: nil), "\(refused.failure)")
        }
    }

    private func requests(
        _ missing: [DesiredSession], _ mounts: MountTable, _ change: borrowing Change
    ) throws(Failure) -> [SessionRequest] {
        // A login becomes a session at once, and gets its address after other hosts were asked about it.
        let isAsking = try !Instance.askedLinks(context.policy, context.netlink).isEmpty
        var requests: [SessionRequest] = []
        var ids: Set<UInt32> = []
        for one in missing {
            // Another command may have opened it in between.
            let cgroup = try Cgroup(path: one.cgroup, mounts: mounts)
            if try change.session(on: cgroup) != nil { continue }
            var request = SessionRequest(cgroup: cgroup)
            request.user = UserName.isAcceptable(one.user.name) ? one.user.name : "\(one.user.uid)"
            request.keeper = .logind
            request.opensWithoutAddress = true
            request.getsAddressLater = isAsking
            if let login = one.login, let id = try change.sessionID(ofLogin: login), ids.insert(id).inserted {
                request.id = id
                request.prefersID = true
            }
            requests.append(request)
        }
        return requests
    }

    // MARK: Watches

    /// Watches the files whose changes are a reason to reconcile.
    private func watch(_ records: [SessionRecord], _ desired: [DesiredSession]) {
        let events = Set((records.map(\.cgroupPath) + desired.map(\.cgroup)).map { $0.appending("cgroup.events") })
        var directories = Set(desired.map { $0.cgroup.removingLastComponent() })
        for one in desired where one.login != nil {
            directories.insert(one.cgroup.removingLastComponent().removingLastComponent())
        }
        // The removal of an empty cgroup raises no event of its cgroup.events.
        for record in records { directories.insert(record.cgroupPath.removingLastComponent()) }
        let results = [
            cgroupEvents?.set(events), cgroupDirectories?.set(directories),
            stateDirectory?.set([context.instance.state.path]),
        ].compactMap(\.self)
        if results.contains(where: \.hasBegun) { runSoon() }
        if let failure = results.compactMap(\.failure).first {
            troubles.report(.watches, failure)
        } else {
            troubles.clear(.watches)
        }
    }
}
