// SPDX-License-Identifier: Apache-2.0

import Foundation
import Host
import Policy
import SystemPackage
import TestSupport
import Testing

@testable import Sessions

@Suite struct PolicyHistoryTests {
    let directory: TemporaryDirectory
    let registry: Registry

    init() throws {
        directory = try TemporaryDirectory()
        registry = try Registry(directory.path.appending("registry.sqlite"), access: .readWrite)
    }

    private static let boot = RegistryTests.boot
    private static let ann = PolicyAuthor(uid: 0, user: "root", login: "ann")

    private static func policy(_ days: Int) -> Policy { Policy(history: Policy.History(retentionDays: days)) }

    private func apply(_ days: Int, as action: PolicyAction = .apply) throws {
        try registry.set(Self.policy(days), at: .now(bootID: Self.boot), as: action, by: Self.ann)
    }

    @Test func keepsTheLastTen() throws {
        #expect(try registry.policyHistory() == [])
        for days in 1...12 { try apply(days) }
        let history = try registry.policyHistory()
        #expect(history.map(\.number) == Array(3...12))
        #expect(history.map(\.policy.history.retentionDays) == Array(3...12))
        let last = try #require(history.last)
        #expect(last.author == Self.ann && last.action == .apply && last.appliedAt != nil)
    }

    @Test func aPolicyThatIsInForceIsNotNotedAgain() throws {
        try apply(1)
        try apply(1, as: .reload)
        try apply(2)
        try apply(1, as: .rollback)
        #expect(try registry.policyHistory().map(\.action) == [.apply, .apply, .rollback])
    }

    /// An earlier version has put a policy in force and kept no history, before this version or in between.
    @Test func notesAPolicyOfAnEarlierVersion() throws {
        try apply(1)
        try registry.set(.policyHistory, to: nil)
        try apply(2)
        var history = try registry.policyHistory()
        #expect(history.map(\.action) == [.unknown, .apply])
        #expect(history.map(\.policy) == [Self.policy(1), Self.policy(2)])
        #expect(history[0].appliedAt == nil && history[0].author == nil)
        try registry.set(.policy, to: Registry.json(Self.policy(7)))
        try apply(8)
        history = try registry.policyHistory()
        #expect(history.map(\.policy.history.retentionDays) == [1, 2, 7, 8])
        #expect(history.map(\.number) == [1, 2, 3, 4])
    }

    @Test func aHistoryThatCannotBeReadBeginsAnew() throws {
        try apply(1)
        try registry.set(.policyHistory, to: "nonsense")
        #expect(try registry.policyHistory() == [])
        try apply(2)
        #expect(try registry.policyHistory().map(\.policy) == [Self.policy(1), Self.policy(2)])
    }

    @Test func findsTheFormerPolicy() throws {
        let instance = Instance(bpffs: "/nonexistent", state: directory.path)
        func why(_ number: Int?) -> String {
            do throws(Failure) {
                _ = try instance.formerPolicy(number, registry)
                return "found"
            } catch {
                return "\(error)"
            }
        }
        #expect(why(nil).contains("the history has none"))
        #expect(why(1).contains("the history is empty"))
        try apply(1)
        #expect(why(nil).contains("the history has none"))
        try apply(2)
        #expect(try instance.formerPolicy(nil, registry).policy == Self.policy(1))
        #expect(try instance.formerPolicy(2, registry).policy == Self.policy(2))
        #expect(why(3) == "go back to policy 3: the history has 1 to 2; see vip-bpfctl policy history")
        #expect(why(0).contains("the history has 1 to 2") && why(-1).contains("the history has"))
    }

    @Test func namesTheUserWhoLoggedIn() {
        #expect(PolicyAuthor(uid: 0, user: "root", login: nil).text == "root")
        #expect(PolicyAuthor(uid: 0, user: "root", login: "root").text == "root")
        #expect(PolicyAuthor(uid: 0, user: "root", login: "ann").text == "ann (as root)")
        #expect(PolicyAuthor(uid: 4711, user: nil, login: nil).text == "4711")
        #expect(PolicyAuthor.current().uid == geteuid())
    }

    // MARK: Trials

    private func trial(_ deadline: Int64, boot: String = boot) -> PolicyTrial {
        PolicyTrial(
            policy: Self.policy(2), former: Self.policy(1), deadline: deadline, bootID: boot, endsAt: Date(),
            watcher: PolicyTrial.Watcher(pid: 7, startTime: 8))
    }

    @Test func aTrialEndsWithItsDeadlineOrTheBoot() {
        let now = Moment.uptime()
        let open = trial(now + 60_000).left(bootID: Self.boot)
        #expect(open > .seconds(50) && open <= .seconds(60))
        #expect(trial(now - 1).left(bootID: Self.boot) == .zero)
        #expect(trial(now + 60_000).left(bootID: "another") == .zero)
    }

    @Test func aTrialIsNotedWithThePendingPolicy() throws {
        let pending = Registry.PendingPolicy(generation: 7, policy: Self.policy(2), action: .trial, author: Self.ann)
        try registry.set(pending: pending, trial: trial(99))
        try registry.set(pending: nil)
        let noted = try #require(try registry.policyTrial())
        #expect(noted.deadline == 99 && noted.former == Self.policy(1) && noted.watcher?.identity.startTime == 8)
        try registry.set(.policyTrial, to: "nonsense")
        #expect(try registry.policyTrial() == nil)
        // One that an earlier version has written.
        try registry.set(
            .pendingPolicy, to: #"{"generation":7,"policy":\#(Registry.json(Self.policy(3)))}"#)
        #expect(try registry.pendingPolicy()?.policy == Self.policy(3))
    }
}
