// SPDX-License-Identifier: Apache-2.0

import Host
import Logging
import Network
import Policy
import Sessions

/// What the keepers of one daemon have in common.
final class KeeperContext {
    let instance: Instance
    let log: EventLog
    let loop: EventLoop
    let netlink: Netlink
    let troubles: Troubles
    private let bootID: String
    private let logLevel: Logger.Level

    /// The policy in force, when it was last read.
    private(set) var policy = Policy()
    private var policyText: String??
    /// The registry's version after the daemon's last change.
    private var seenVersion: UInt32?

    /// Called where another process has changed the registry.
    var registryChanged: () -> Void = {}
    /// Called where another policy is in force.
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

    /// Whether another process has changed the registry since the daemon last did, or looked.
    var isRegistryChanged: Bool { instance.registryVersion != seenVersion }

    func noteRegistryVersion() { seenVersion = instance.registryVersion }

    /// Reads the policy in force where it is another one than last time.
    func readPolicy(_ registry: Registry) throws(Failure) {
        let text = try registry.value(of: .policy)
        if let known = policyText, known == text { return }
        policy = try instance.policy(registry)
        policyText = .some(text)
        policyChanged()
    }

    // MARK: Changes

    /// Takes the lock; each change holds it by itself.
    func change<T>(_ body: (inout Change) throws(Failure) -> T) throws(Failure) -> T {
        var change = try instance.change(log.logger(logLevel))
        if isRegistryChanged { registryChanged() }
        // Before the lock is released: a version that differs afterwards is another process's.
        defer { noteRegistryVersion() }
        let result = try body(&change)
        for warning in change.warnings {
            troubles.report(.warning(warning), Event(.warning, warning, priority: .warning))
        }
        return result
    }
}
