// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
public import Host

/// What became of a call of a session's program: `enum vip_outcome` of bpf/abi.h.
public enum CallOutcome: UInt8, Sendable, Hashable, CaseIterable {
    /// Left as it is.
    case seen
    /// It got another address, or another source.
    case rewritten
    /// Left as it is: the session has no address, and the policy has `whenUnavailable: useHostAddress`.
    case unaddressed
    /// Refused, EADDRNOTAVAIL: the address is another session's.
    case refusedIsolation
    /// Refused, EADDRNOTAVAIL: the session has no virtual IP, and the policy says `deny`.
    case refusedUnavailable
    /// Refused, ECONNREFUSED: the peer is another session's loopback.
    case refusedPeer
    /// Refused, EADDRINUSE: another server of the session has the port. Of sock_ops: no room to note a listener.
    case refusedInUse

    /// In one word, the same for all that were refused.
    public var verdict: String {
        switch self {
        case .seen: "seen"
        case .rewritten: "rewritten"
        case .unaddressed: "unaddressed"
        case .refusedIsolation, .refusedUnavailable, .refusedPeer, .refusedInUse: "refused"
        }
    }

    /// Why it was refused; `nil` where it was not.
    public var reason: String? {
        switch self {
        case .seen, .rewritten, .unaddressed: nil
        case .refusedIsolation: "isolation"
        case .refusedUnavailable: "unavailable"
        case .refusedPeer: "peer"
        case .refusedInUse: "in_use"
        }
    }

    public var isRefused: Bool { reason != nil }
}

/// What the `counters` map says of one hook, all CPUs together, since the maps were made.
public struct HookCounters: Sendable, Hashable {
    public let hook: Hook
    private let calls: [UInt64]  // by CallOutcome.rawValue

    /// Calls that came to `outcome`.
    public subscript(outcome: CallOutcome) -> UInt64 { calls[Int(outcome.rawValue)] }

    /// All of them, whatever the outcome.
    public var seen: UInt64 { calls.reduce(0, &+) }
    public var refused: UInt64 { CallOutcome.allCases.filter(\.isRefused).reduce(0) { $0 &+ self[$1] } }

    /// Of every hook, in the order of their numbers.
    public static func read(_ pins: PinDirectory) throws(Failure) -> [HookCounters] {
        let map: BPFMap<UInt32, vip_counters> = try pins.map("counters")
        var result: [HookCounters] = []
        for hook in Hook.all {
            var sum = [UInt64](repeating: 0, count: Int(VIP_OUTCOMES_MAX.rawValue))
            for row in try map.valuesPerCPU(of: hook.number) {
                withUnsafeBytes(of: row.calls) { bytes in
                    for (index, count) in bytes.bindMemory(to: UInt64.self).enumerated() { sum[index] &+= count }
                }
            }
            result.append(HookCounters(hook: hook, calls: sum))
        }
        return result
    }
}
