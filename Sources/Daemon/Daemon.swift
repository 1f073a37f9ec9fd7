// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Logging
import Metrics
import Policy
import PolicyMaps
public import Sessions
public import SystemPackage

/// Opens sessions when users log in, closes them when their last process ends, and keeps addresses, programs and leases
/// as the policy and the registry have them.
///
/// One thread runs an event loop, with a keeper for each concern. An event has no effect by itself: it makes a keeper
/// compare the present state with the desired one. So the daemon also handles what happened while it did not run, and
/// its only state over a restart is the registry. It holds the lock for each change alone. All times are from the boot
/// clock, so setting the wall clock has no effect.
public final class Daemon {
    public struct Options: Sendable {
        /// The policy file that SIGHUP applies.
        public var policyFile = Instance.defaultPolicyFile
        /// The address of logind's bus, in the form of D-Bus; `nil` for the system bus.
        public var bus: String?
        /// The cgroup that contains the users' slices; `nil` for user.slice below the root.
        public var userSlice: FilePath?
        /// The directory for files that outlive the daemon, but not a boot; `nil` for the instance's.
        public var runtime: FilePath?
        /// Where events are written; `nil` for the journal if there is one.
        public var events: EventLog.Place?
        /// The lowest level of ``Instance``'s log messages that is reported.
        public var logLevel = Logger.Level.warning

        public init() {}
    }

    private let context: KeeperContext
    private let policyFile: FilePath
    private let sessions: SessionKeeper
    private let addresses: AddressKeeper
    private let conflicts: ConflictKeeper
    private let programs: ProgramKeeper
    private let wildcards: WildcardKeeper
    private let leases: LeaseKeeper
    private let policy: PolicyKeeper
    private let status: StatusFile

    /// The interval at which everything is checked. Some changes raise no event, such as those of a program on a
    /// network file system.
    private static let sweepInterval: Duration = .seconds(60)

    public init(_ instance: Instance, _ options: Options) throws(Failure) {
        context = try KeeperContext(instance, EventLog(options.events), options.logLevel)
        policyFile = options.policyFile
        let runtime = options.runtime ?? instance.state.runtime
        sessions = try SessionKeeper(context, bus: options.bus, userSlice: options.userSlice)
        addresses = try AddressKeeper(context)
        conflicts = try ConflictKeeper(context)
        programs = try ProgramKeeper(context)
        wildcards = try WildcardKeeper(context)
        leases = try LeaseKeeper(context, runtime: runtime.appending("leases"))
        policy = try PolicyKeeper(context)
        status = StatusFile(runtime)
        context.registryChanged = { [sessions] in sessions.runSoon() }
        context.policyChanged = { [context, programs, policy] in
            context.troubles.clear(.policyRefused)
            programs.runNow()
            policy.runNow()
        }
        sessions.reconciled = { [leases, conflicts] records in
            leases.sessionsReconciled(records)
            conflicts.follow(records)
        }
        addresses.interfacesFollowed = { [conflicts, policy] records in
            conflicts.follow(records)
            policy.runNow()
        }
        addresses.interfacesRenamed = { [leases] names in leases.interfacesRenamed(names) }
    }

    /// Runs until SIGTERM or SIGINT. Sessions stay open.
    ///
    /// - Throws: ``Failure`` if it cannot start: it is not root, another daemon runs, or the state directory cannot be
    ///   written.
    public func run() throws(Failure) {
        let (loop, instance) = (context.loop, context.instance)
        let signals = try SignalReader([SIGTERM, SIGINT, SIGHUP])
        let lock = try instance.state.lockForDaemon()
        defer { _ = lock }
        defer { leases.close() }
        // First repair what a killed command or an earlier boot has left. If that fails, the start fails.
        try context.change { _ in }

        var sources: [EventLoop.Source] = []
        sources.append(
            try loop.watch(signals.descriptor) { [unowned self] in
                while let signal = signals.next() { if signal.number == SIGHUP { reload() } else { loop.exit() } }
            })
        var sweep: EventLoop.Deadline?
        sweep = try loop.deadline { [unowned self] in
            sweep?.set(in: Self.sweepInterval)
            context.troubles.clear { if case .warning = $0 { true } else { false } }
            runAll()
            leases.runNow()
        }
        sweep?.set(in: Self.sweepInterval)
        sources.append(
            try loop.afterwards { [unowned self] in
                status.update(
                    isFollowing: sessions.isFollowing, troubles: context.troubles.count, events: context.log.counts.all)
            })
        loop.feedWatchdog()

        context.log.report(
            Event(.started, "daemon started; state in \(instance.state.path), pins in \(instance.pins.path)"))
        sessions.followLogind()
        // Leases come after sessions, so that those of ended sessions are released.
        runAll()
        try withExtendedLifetime((sources, sweep)) { () throws(Failure) in try loop.run() }
        ServiceManager.notify("STOPPING=1")
        context.log.report(Event(.stopped, "daemon stopped; sessions stay open"))
    }

    private func runAll() {
        addresses.runNow()
        programs.runNow()
        sessions.runNow()
        wildcards.runNow()
        policy.runNow()
    }

    /// Applies the policy file, unless it would leave open sessions without an address, or refuse all that they do.
    private func reload() {
        ServiceManager.notifyReloading()
        do throws(Failure) {
            let file = try PolicyFile.read(contentsOf: policyFile)
            let changes = try context.change { change throws(Failure) in
                try change.requireHarmless(file)
                return try change.apply(file.policy, as: .reload)
            }
            context.troubles.clear(.policyRefused)
            context.log.report(
                Event(
                    .policyReloaded, "applied policy \(policyFile), generation \(changes.generation)",
                    priority: .notice))
        } catch {
            let isHarmful = error.code == .harmfulPolicy
            let event = Event(
                isHarmful ? .policyRefused : .error, "policy unchanged: \(error)", priority: .error,
                reason: error.reason)
            context.log.report(event)
            if isHarmful { context.troubles.note(.policyRefused, event.message) }
        }
        runAll()
        ServiceManager.notify("READY=1")
    }
}
