// SPDX-License-Identifier: Apache-2.0

import BPFLoader
import CVipABI
public import Host

/// The result of a call of a session's program: `enum vip_outcome` of bpf/abi.h.
public enum CallOutcome: UInt8, Sendable, Hashable, CaseIterable {
    /// The call was not changed.
    case seen
    /// The call got another address, or another source.
    case rewritten
    /// The call was not changed: the session has no address, and the policy has `whenUnavailable: useHostAddress`.
    case unaddressed
    /// Refused with EADDRNOTAVAIL: the address is another session's.
    case refusedIsolation
    /// Refused with EADDRNOTAVAIL: the session has no virtual IP, and the policy has `whenUnavailable: deny`.
    case refusedUnavailable
    /// Refused with ECONNREFUSED: the peer is another session's loopback.
    case refusedPeer
    /// Refused with EADDRINUSE: another server of the session has the port. For sock_ops: there was no room to note a
    /// listener.
    case refusedInUse
    /// Refused, ENOPROTOOPT or EPROTONOSUPPORT: it would go around the other hooks.
    case refusedUnsupported

    /// The outcome in one word; the same word for all refusals.
    public var verdict: String {
        switch self {
        case .seen: "seen"
        case .rewritten: "rewritten"
        case .unaddressed: "unaddressed"
        case .refusedIsolation, .refusedUnavailable, .refusedPeer, .refusedInUse, .refusedUnsupported: "refused"
        }
    }

    /// Why the call was refused; `nil` if it was not.
    public var reason: String? {
        switch self {
        case .seen, .rewritten, .unaddressed: nil
        case .refusedIsolation: "isolation"
        case .refusedUnavailable: "unavailable"
        case .refusedPeer: "peer"
        case .refusedInUse: "in_use"
        case .refusedUnsupported: "unsupported"
        }
    }

    public var isRefused: Bool { reason != nil }
}

/// The `counters` row of one hook, summed over all CPUs, since the maps were created.
public struct HookCounters: Sendable, Hashable {
    public let hook: Hook
    private let calls: [UInt64]  // by CallOutcome.rawValue

    /// The number of calls with this outcome.
    public subscript(outcome: CallOutcome) -> UInt64 { calls[Int(outcome.rawValue)] }

    /// The number of all calls, whatever the outcome.
    public var seen: UInt64 { calls.reduce(0, &+) }
    public var refused: UInt64 { CallOutcome.allCases.filter(\.isRefused).reduce(0) { $0 &+ self[$1] } }

    /// The counters of every hook, in the order of the hooks' numbers.
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
