// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy
import Sessions

/// The objects that the keepers of one daemon share.
final class KeeperContext {
    let instance: Instance
    let log: EventLog
    let loop: EventLoop
    let netlink: Netlink
    let troubles: Troubles
    private let bootID: String
    private let logLevel: Logger.Level

    /// The policy in force, as it was last read.
    private(set) var policy = Policy()
    private var policyText: String??
    /// The version of the registry after the daemon's last change.
    private var seenVersion: UInt32?

    /// Called when another process has changed the registry.
    var registryChanged: () -> Void = {}
    /// Called when another policy is in force.
    var policyChanged: () -> Void = {}

    init(_ instance: Instance, _ log: EventLog, _ logLevel: Logger.Level) throws(Failure) {
        self.instance = instance
        self.log = log
        self.logLevel = logLevel
        loop = try EventLoop()
        netlink = try Netlink()
        troubles = Troubles(log)
        bootID = try BootID.current()
    }

    // MARK: The registry

    /// The sessions of this boot.
    func sessions(_ registry: Registry) throws(Failure) -> [SessionRecord] {
        try registry.sessions().filter { $0.bootID == bootID }
    }

    /// Whether another process has changed the registry since the daemon last changed or read it.
    var isRegistryChanged: Bool { instance.registryVersion != seenVersion }

    func noteRegistryVersion() { seenVersion = instance.registryVersion }

    /// Reads the policy in force again if it has changed.
    func readPolicy(_ registry: Registry) throws(Failure) {
        let text = try registry.value(of: .policy)
        if let known = policyText, known == text { return }
        policy = try instance.policy(registry)
        policyText = .some(text)
        policyChanged()
    }

    // MARK: Changes

    /// Runs one change, under the lock.
    func change<T>(_ body: (inout Change) throws(Failure) -> T) throws(Failure) -> T {
        var change = try instance.change(log.logger(logLevel))
        if isRegistryChanged { registryChanged() }
        // Before the lock is released: if the version differs afterwards, another process has changed it.
        defer { noteRegistryVersion() }
        let result = try body(&change)
        for warning in change.warnings {
            troubles.report(.warning(warning), Event(.warning, warning, priority: .warning))
        }
        return result
    }
}
