// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
import Testing

@testable import PolicyMaps

@Suite struct HookListTests {
    @Test func theHooksAreThoseOfTheABI() {
        #expect(Hook.all.map(\.number) == Array(0..<VIP_HOOK_COUNT.rawValue))
        #expect(Set(Hook.all.map(\.name)).count == Hook.all.count)
        let ofSessions = Hook.ofCgroups + Hook.ofNetwork
        #expect(Set(ofSessions.map(\.attachType)).count == ofSessions.count)
        #expect(Hook.ofGuard.map(\.attachType) == [.bind4, .connect4, .sendmsg4, .bind6, .connect6, .sendmsg6])
        #expect(Hook.attachOrder.first?.name == "sock_create" && Hook.attachOrder.last?.name == "bind4")
        #expect(Hook.ofNetwork.map(\.name) == ["sk_lookup"])
    }
}
