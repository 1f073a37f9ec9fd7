// SPDX-License-Identifier: Apache-2.0

import Sessions
import SystemPackage
import Testing

@testable import Activity
@testable import VipCommands

@Suite struct TopRowTests {
    static func row(
        _ id: UInt32, user: String? = nil, rewritten: Double? = nil, sockets: Int? = nil,
        programs: SessionActivity.Programs? = nil
    ) -> SessionActivity.Row {
        let record = SessionRecord(
            id: id, cgroupPath: FilePath("/sys/fs/cgroup/\(id)"), cgroupID: UInt64(id), cgroupLevel: 1, user: user,
            bootID: "")
        return SessionActivity.Row(
            record: record, rates: rewritten.map { .init(rewritten: $0, refused: 0) }, sockets: sockets,
            programs: programs)
    }

    @Test func rates() {
        let wanted: [(Double?, String, String)] = [
            (nil, "-", "-"), (0, "0", ">0"), (0.01, "0.1", ">0.1"), (0.5, "0.5", ">0.5"), (2.96, "3", ">3"),
            (9.94, "9.9", ">9.9"), (9.96, "10", ">10"), (12.34, "12", ">12"), (123_456.7, "123457", ">123457"),
        ]
        for (rate, text, atLeast) in wanted {
            #expect(TopText.rate(rate, false) == text && TopText.rate(rate, true) == atLeast, "\(rate as Any)")
        }
    }

    @Test func programs() {
        func text(_ programs: SessionActivity.Programs?) -> [String] {
            Array(TopText.cells(Self.row(7, programs: programs), isLowerBound: false)[5...])
        }
        #expect(text(nil) == ["-", "-", "127.0.0.8", "-"])
        #expect(text(.init()) == ["0", "-", "127.0.0.8", "-"])
        #expect(text(.init(isCgroupThere: false))[3] == "(cgroup gone)")
        let names = (0..<6).map { SessionActivity.Programs.Program(name: "p\($0)", processes: $0 == 0 ? 3 : 1) }
        #expect(text(.init(processes: 4, names: Array(names[..<2])))[3] == "p0*3, p1")
        #expect(text(.init(processes: 8, names: names))[3] == "p0*3, p1, p2, p3, p4, ...")
        #expect(
            text(.init(processes: 900, names: Array(names[..<1]), isAll: false)) == [
                ">900", "-", "127.0.0.8", "p0*3, ...",
            ])
    }

    /// Unknown values come last; equal ones keep the order of their IDs in both directions.
    @Test func orders() {
        let rows = [
            Self.row(1, user: "ben", rewritten: 5, sockets: 1), Self.row(2, rewritten: 5),
            Self.row(3, user: "ann", rewritten: 9, sockets: 7, programs: .init(processes: 2)),
            Self.row(4, user: "ben", sockets: 1, programs: .init(processes: 3)),
        ]
        let wanted: [(ActivityKey, [UInt32], [UInt32])] = [
            (.session, [1, 2, 3, 4], [4, 3, 2, 1]), (.user, [3, 1, 4, 2], [2, 1, 4, 3]),
            (.rate, [3, 1, 2, 4], [4, 1, 2, 3]), (.sockets, [3, 1, 4, 2], [2, 1, 4, 3]),
            (.programs, [4, 3, 1, 2], [1, 2, 3, 4]),
        ]
        for (key, rising, reversed) in wanted {
            for (order, ids) in [
                (ActivityOrder(key: key), rising), (ActivityOrder(key: key, isReversed: true), reversed),
            ] {
                var sorted = rows.shuffled()
                order.sort(&sorted)
                #expect(sorted.map(\.record.id) == ids, "\(order)")
            }
        }
    }
}
