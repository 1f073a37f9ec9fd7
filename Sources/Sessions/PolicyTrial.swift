// SPDX-License-Identifier: Apache-2.0

public import FoundationEssentials
import Glibc
public import Host
import Logging
import Policy
import PolicyMaps
import SystemPackage

/// A policy that is in force until a deadline, unless it is confirmed before.
///
/// Three look at the deadline, and each of them suffices: a process that ``Instance/watchTrial(for:command:)`` starts,
/// the daemon, and every command that changes something.
public struct PolicyTrial: Codable, Sendable {
    /// The policy that is in force on trial.
    let policy: Policy
    /// The one that is in force again if it is not confirmed.
    let former: Policy
    /// The end by CLOCK_BOOTTIME in milliseconds, and the boot.
    let deadline: Int64
    let bootID: String
    /// The end by the wall clock, as it was when the policy was applied.
    public let endsAt: Date
    /// The process that waits for the deadline.
    let watcher: Watcher?

    struct Watcher: Codable, Sendable {
        let pid: Int32
        let startTime: UInt64

        var identity: ProcessIdentity { ProcessIdentity(pid: pid, startTime: startTime) }
    }

    /// The time until the deadline; zero if it has passed, or the system was started again.
    public func left(bootID: String) -> Duration {
        guard bootID == self.bootID else { return .zero }
        return .milliseconds(max(0, deadline - Moment.uptime()))
    }
}

/// A wish that a policy is applied on trial.
public struct TrialRequest: Sendable {
    /// How long a policy may be on trial, in seconds: up to a day.
    public static let allowedSeconds = 1...86400

    /// The end by CLOCK_BOOTTIME in milliseconds.
    let deadline: Int64
    /// The end by the wall clock.
    public let endsAt: Date
    let watcher: ProcessIdentity?
}

extension Registry.Setting {
    /// The ``PolicyTrial``, as JSON.
    static let policyTrial = Registry.Setting(rawValue: "policy_trial")
}

extension Registry {
    /// The policy on trial; `nil` if there is none. One that cannot be read counts as none.
    public func policyTrial() throws(Failure) -> PolicyTrial? {
        guard let text = try value(of: .policyTrial) else { return nil }
        return try? JSONDecoder().decode(PolicyTrial.self, from: Data(text.utf8))
    }
}

extension Instance {
    /// Starts the process that ends a trial. It is in a session of its own (setsid(2)), and has nothing of the caller's
    /// but its cgroup: neither the end of the caller nor that of its terminal ends it.
    ///
    /// - Parameter command: returns the arguments with which this program waits for a deadline (``wait(until:)``) and
    ///   then makes a change.
    public func watchTrial(for seconds: Int, command: (_ deadline: Int64) -> [String]) throws(Failure) -> TrialRequest {
        let deadline = Moment.uptime() + Int64(seconds) * 1000
        let process: ChildProcess
        do throws(Errno) {
            process = try ChildProcess(
                ["/proc/self/exe"] + command(deadline) + ["--bpffs", pins.path.string, "--state", state.path.string],
                output: .nowhere, inNewSession: true)
        } catch {
            throw Failure("start the process that ends the trial", errno: error)
        }
        return TrialRequest(
            deadline: deadline, endsAt: Date(timeIntervalSinceNow: Double(seconds)),
            watcher: ProcessIdentity(pid: process.pid))
    }

    /// Ends the process of a trial that does not take place.
    public func stopWatching(_ request: TrialRequest) {
        guard let watcher = request.watcher else { return }
        kill(watcher.pid, SIGKILL)
        waitpid(watcher.pid, nil, 0)
    }

    /// Waits until a deadline, by CLOCK_BOOTTIME in milliseconds.
    public static func wait(until deadline: Int64) {
        var time = timespec(tv_sec: Int(deadline / 1000), tv_nsec: Int(deadline % 1000) * 1_000_000)
        while clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &time, nil) == EINTR {}
    }
}

extension Change {
    /// Notes that the policy in force stays.
    ///
    /// - Throws: ``Failure`` if none is on trial.
    public func confirmPolicy() throws(Failure) {
        guard let trial = try registry.policyTrial() else {
            throw Failure(
                .failed, "confirm the policy", "none is on trial: it was confirmed, or the time for that is over",
                hint: "see vip-bpfctl policy history")
        }
        try forget(trial)
    }

    /// Removes the note of a trial, and ends the process that waits for its end.
    func forget(_ trial: PolicyTrial) throws(Failure) {
        try registry.set(.policyTrial, to: nil)
        if let watcher = trial.watcher?.identity, watcher.pid != getpid(), watcher.isAlive {
            kill(watcher.pid, SIGTERM)
        }
    }

    /// Throws if another policy is on trial than the one that is to be applied.
    func requireNoTrial(_ policy: Policy) throws(Failure) {
        guard let trial = try registry.policyTrial(), policy != trial.policy else { return }
        throw Failure(
            .failed, "apply the policy",
            "the one in force is on trial for \(trial.left(bootID: bootID).components.seconds) s more",
            hint: "keep it (vip-bpfctl policy confirm) or go back first (vip-bpfctl policy rollback)")
    }

    /// Puts the former policy in force again if the deadline of one on trial has passed. Drops the note of a trial that
    /// was not begun, or has been ended.
    ///
    /// A failure is logged and not thrown: the next change tries again.
    mutating func settleTrial() throws(Failure) {
        guard let text = try registry.value(of: .policyTrial) else { return }
        guard let trial = try registry.policyTrial() else {
            logger.warning("the note of a policy on trial cannot be read, and is dropped: \(text.count) bytes")
            return try registry.set(.policyTrial, to: nil)
        }
        // The policy that is in force cannot be read if the registry is damaged; then it is not the one on trial.
        guard (try? instance.policy(registry)) == trial.policy else { return try forget(trial) }
        guard trial.left(bootID: bootID) == .zero else { return }
        do throws(Failure) {
            if pins.isLoaded {
                try apply(trial.former, as: .notConfirmed)
            } else {
                try registry.set(trial.former, at: .now(bootID: bootID), as: .notConfirmed, by: .current())
                try forget(trial)
            }
            logger.warning("the policy was not confirmed in time: the one before is in force again")
            EventLog.reportOfCommand([
                Event(
                    .policyReverted, "the policy was not confirmed in time: the one before is in force again",
                    priority: .warning)
            ])
        } catch {
            logger.warning("the policy was not confirmed in time, and the one before cannot be applied: \(error)")
        }
    }
}
