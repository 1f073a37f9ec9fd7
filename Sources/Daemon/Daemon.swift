// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Logging
import Metrics
import Policy
import PolicyMaps
public import Sessions
public import SystemPackage

/// Opens sessions as users log in, closes them as their last processes end, and keeps addresses, programs and leases as they
/// should be.
///
/// One thread runs an event loop, and a keeper for each concern on it. No event is acted upon by itself: it is a reason for a
/// keeper to compare what is with what should be. So nothing is missed that happened while the daemon did not run, and nothing
/// needs to be remembered over a restart but the registry. The lock is held for each change alone. All times are the boot
/// clock's, so that setting the wall clock does not matter.
public final class Daemon {
    public struct Options: Sendable {
        /// What SIGHUP puts in force.
        public var policyFile = Instance.defaultPolicyFile
        /// The bus that logind is on, as D-Bus writes addresses; `nil` is the system bus.
        public var bus: String?
        /// The cgroup with the users' slices; `nil` is user.slice below the root.
        public var userSlice: FilePath?
        /// For what outlives the daemon, but not a boot; `nil` is the instance's.
        public var runtime: FilePath?
        /// Where events go; `nil` is the journal where there is one.
        public var events: EventLog.Place?
        /// How much of what ``Instance`` logs is reported.
        public var logLevel = Logger.Level.warning

        public init() {}
    }

    private let context: KeeperContext
    private let policyFile: FilePath
    private let sessions: SessionKeeper
    private let addresses: AddressKeeper
    private let programs: ProgramKeeper
    private let leases: LeaseKeeper
    private let status: StatusFile

    /// Everything is checked this often in any case: some changes raise no event, such as those of a program on a network file
    /// system.
    private static let sweepInterval: Duration = .seconds(60)

    public init(_ instance: Instance, _ options: Options) throws(Failure) {
        context = try KeeperContext(instance, EventLog(options.events), options.logLevel)
        policyFile = options.policyFile
        let runtime = options.runtime ?? instance.state.runtime
        sessions = try SessionKeeper(context, bus: options.bus, userSlice: options.userSlice)
        addresses = try AddressKeeper(context)
        programs = try ProgramKeeper(context)
        leases = try LeaseKeeper(context, runtime: runtime.appending("leases"))
        status = StatusFile(runtime)
        context.registryChanged = { [sessions] in sessions.runSoon() }
        context.policyChanged = { [programs] in programs.runNow() }
        sessions.reconciled = { [leases] records in leases.sessionsReconciled(records) }
        addresses.interfacesRenamed = { [leases] names in leases.interfacesRenamed(names) }
    }

    /// Runs until SIGTERM or SIGINT; sessions stay open.
    ///
    /// - Throws: ``Failure`` where it cannot begin: no root, another daemon, a state directory that cannot be written.
    public func run() throws(Failure) {
        let (loop, instance) = (context.loop, context.instance)
        let signals = try SignalReader([SIGTERM, SIGINT, SIGHUP])
        let lock = try instance.state.lockForDaemon()
        defer { _ = lock }
        defer { leases.close() }
        // What a killed command or an earlier boot has left is repaired first; where that fails, so does the start.
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
        // Leases come after the sessions, so that those that have ended release theirs.
        runAll()
        try withExtendedLifetime((sources, sweep)) { () throws(Failure) in try loop.run() }
        ServiceManager.notify("STOPPING=1")
        context.log.report(Event(.stopped, "daemon stopped; sessions stay open"))
    }

    private func runAll() {
        addresses.runNow()
        programs.runNow()
        sessions.runNow()
    }

    /// Puts the policy file in force.
    private func reload() {
        ServiceManager.notifyReloading()
        do throws(Failure) {
            // A pipe would be waited for.
            var status = stat()
            if policyFile.withPlatformString({ stat($0, &status) }) == 0, status.st_mode & S_IFMT != S_IFREG {
                throw Failure(.failed, "read \(policyFile)", "it is not a regular file", hint: "put the policy there")
            }
            let policy = try Policy.read(contentsOf: policyFile)
            let changes = try context.change { change throws(Failure) in try change.apply(policy) }
            context.log.report(
                Event(
                    .policyReloaded, "applied policy \(policyFile), generation \(changes.generation)",
                    priority: .notice))
        } catch {
            context.log.report(
                Event(.error, "policy unchanged: \(error)", priority: .error, reason: error.reason))
        }
        runAll()
        ServiceManager.notify("READY=1")
    }
}
