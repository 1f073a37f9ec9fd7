// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Host
import Network
import Sessions
import TestSupport
import Testing

@Suite struct SessionIDsTests {
    @Test(
        "gives each ID its loopback",
        arguments: [
            (7, "127.0.0.8"), (254, "127.0.0.255"), (255, "127.0.1.0"), (0, "127.0.0.1"), (65535, "127.1.0.0"),
            (16_777_213, "127.255.255.254"),
        ] as [(UInt32, String)])
    func loopback(id: UInt32, text: String) {
        #expect(SessionIDs.loopback(of: id).description == text)
        #expect(SessionIDs.id(ofLoopback: SessionIDs.loopback(of: id)) == id)
    }

    @Test(
        "gives no loopback to IDs out of range",
        arguments: ["127.0.0.0", "127.255.255.255", "128.0.0.1", "126.255.255.255", "::1", "::7f00:8"])
    func noLoopback(text: String) throws {
        #expect(SessionIDs.id(ofLoopback: try #require(IPAddress(text))) == nil)
    }

    @Test("ends where the maps end")
    func lastIsThatOfTheMaps() {
        #expect(SessionIDs.last == UInt32(VIP_ID_LAST))
    }

    @Test(
        "refuses reserved IDs that are not asked for",
        arguments: [
            (0, false, false), (1, false, true), (2, true, true), (5, false, false), (6, true, true), (51, true, true),
            (52, false, true),
            (53, false, true),
            (54, true, true), (256, false, true), (16_777_213, true, true), (16_777_214, false, false),
            (.max, false, false),
        ] as [(UInt32, Bool, Bool)])
    func check(id: UInt32, plain: Bool, withReserved: Bool) throws {
        for (allowReserved, isFine) in [(false, plain), (true, withReserved)] {
            if isFine {
                try SessionIDs.check(id, allowReserved: allowReserved)
            } else {
                let error = try failure { try SessionIDs.check(id, allowReserved: allowReserved) }
                #expect(error.operation == "use session ID \(id)" && error.hint != nil)
            }
        }
    }

    @Test(
        "gives the lowest free ID",
        arguments: [
            ([], 2), ([2, 3, 6], 4), ([2, 3, 4], 6), (Set(2...51), 54), (Set(2...255), 257), ([0, 1], 2),
            (Set(2...49_999), 50_000),
        ] as [(Set<UInt32>, UInt32)])
    func lowestFree(taken: Set<UInt32>, id: UInt32) throws {
        #expect(try SessionIDs.lowestFree(taken: taken) == id)
    }

    @Test("gives many IDs in one pass")
    func manyAreOnePass() throws {
        var free = FreeSessionIDs(taken: Set(2...400_000))
        free.take(400_002)
        var found: [UInt32] = []
        let time = try ContinuousClock().measure {
            for _ in 0..<50_000 { found.append(try free.next()) }
        }
        #expect(found.first == 400_001 && found[1] == 400_003 && found.last == 450_001)
        #expect(Set(found).count == 50_000)
        #expect(time < hang, "50,000 passes over 400,000 would take longer")
    }
}
