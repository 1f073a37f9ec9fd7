// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import BPFLoader
import CVipABI
import Host
import Network
import Policy
import PolicyMaps
import Sessions

/// How one map is read and shown: the field names of bpf/abi.h with readable values.
struct MapView: Sendable {
    let name: String
    let about: String
    let count: @Sendable (PinDirectory) throws(Failure) -> (rows: Int, limit: Int)
    let rows: @Sendable (PinDirectory) throws(Failure) -> [Row]

    enum Value: Encodable {
        case text(String)
        case number(UInt64)
        case list([String])
        case none

        var text: String {
            switch self {
            case .text(let text): text
            case .number(let number): "\(number)"
            case .list(let items): items.isEmpty ? "-" : items.joined(separator: ",")
            case .none: "-"
            }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            switch self {
            case .text(let text): try container.encode(text)
            case .number(let number): try container.encode(number)
            case .list(let items): try container.encode(items)
            case .none: try container.encodeNil()
            }
        }
    }

    struct Row: Encodable {
        var fields: [(key: String, value: Value)]

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: Key.self)
            for field in fields { try container.encode(field.value, forKey: Key(stringValue: field.key)) }
        }

        private struct Key: CodingKey {
            var stringValue: String
            var intValue: Int? { nil }
            init(stringValue: String) { self.stringValue = stringValue }
            init?(intValue: Int) { nil }
        }
    }

    static let all: [MapView] = [
        view("config", "the layout's version, the generation in force, depths of the sessions' cgroups") {
            (_: UInt32, config: vip_config) in
            [
                ("abi", .number(UInt64(config.abi))), ("generation", .number(UInt64(config.generation))),
                ("bank", .number(UInt64(config.bank))), ("levels", .list(config.levelsInUse.map { "\($0)" })),
                (
                    "host_addresses",
                    config.hostAddresses.map { .list($0.map(\.description)) } ?? .text("too many, see addresses")
                ),
                (
                    "host_addresses6",
                    config.hostIPv6Addresses.map { .list($0.map(\.description)) } ?? .text("too many, see addresses")
                ),
                ("loopback_prefix", config.loopbackPrefix.map { .text("\($0)") } ?? .none),
                ("attached", .list(config.attachedCgroups.map { "\($0.cgroup)@\($0.level)" })),
                ("netns", .number(config.netns)),
                ("deny_outside", .text("\(config.flags & VIP_CONFIG_DENY_OUTSIDE.rawValue != 0)")),
                ("as_requested", .text("\(config.flags & VIP_CONFIG_AS_REQUESTED.rawValue != 0)")),
                ("object_id", .text(hex(config.objectID))),
            ]
        },
        view("sessions", "the session of a cgroup") { (cgroup: UInt64, session: vip_session) in
            [
                ("cgroup_id", .number(cgroup)), ("id", .number(UInt64(session.id))),
                ("vip4", session.virtualIPv4.map { .text("\($0)") } ?? .none),
                ("vip6", session.virtualIPv6.map { .text("\($0)") } ?? .none),
                ("policy", .list(["\(session[policyInBank: 0])", "\(session[policyInBank: 1])"])),
            ]
        },
        view("ids", "which session IDs are open") { (id: UInt32, cgroup: UInt64) in
            [
                ("id", .number(UInt64(id))), ("loopback", .text("\(SessionIDs.loopback(of: id))")),
                ("cgroup_id", .number(cgroup)),
            ]
        },
        view("addresses", "which session or host has an address") { (address: vip_address, owner: vip_address_owner) in
            let isSession = owner.owner == VIP_OWNER_SESSION.rawValue
            let other = owner.owner == VIP_OWNER_BROADCAST.rawValue ? "broadcast" : "host"
            return [
                ("address", .text("\(address.address)")), ("owner", .text(isSession ? "session" : other)),
                ("id", isSession ? .number(UInt64(owner.id)) : .none),
            ]
        },
        view("governed", "which prefixes belong to sessions, and the host's exceptions") {
            (prefix: vip_prefix, owner: UInt32) in
            [
                ("prefix", .text("\(prefix.prefix)")),
                ("owner", .text(owner == VIP_OWNER_SESSION.rawValue ? "sessions" : "host")),
            ]
        },
        view("policies", "the rules, by bank and policy number") { (key: UInt32, policy: vip_policy) in
            guard policy.flags != 0 else { return [] }
            return [
                ("bank", .number(UInt64(key) / UInt64(VIP_POLICIES_PER_BANK))),
                ("number", .number(UInt64(key) % UInt64(VIP_POLICIES_PER_BANK))),
                ("flags", .list(flagNames(policy.flags))),
                ("excluded_ports", .list(policy.excludedPorts(VIP_EXCLUDED_LOOPBACK).map { "\($0)" })),
                ("ip_excluded_ports", .list(policy.excludedPorts(VIP_EXCLUDED_VIRTUAL_IP).map { "\($0)" })),
                ("listener_limit", .number(UInt64(policy.listener_limit))),
            ]
        },
        view("program_names", "programs by their executable's name") { (key: vip_program_name, lists: vip_listing) in
            [("name", .text(key.text))] + listFields(lists)
        },
        view("program_scripts", "programs by their process's name") { (key: vip_program_script, lists: vip_listing) in
            [("name", .text(key.text))] + listFields(lists)
        },
        view("program_files", "programs by file") { (key: vip_program_file, lists: vip_listing) in
            [("name", .text(key.fileName)), ("inode", .number(key.inode)), ("device", .text(device(key.device)))]
                + listFields(lists)
        },
        view("verdicts", "cached: which lists a program is on") { (key: vip_program, verdict: vip_verdict) in
            [
                ("process", .text(key.processName)), ("inode", .number(key.inode)),
                ("device", .text(device(key.device))),
                ("generation", .number(UInt64(verdict.generation))), ("virtual_ip", mask(verdict.lists.0)),
                ("loopback", mask(verdict.lists.1)), ("prefer_loopback", mask(verdict.lists.2)),
            ]
        },
        MapView(
            name: "listeners", about: "dual-stack TCP servers that sk_lookup finds again, by session and port",
            count: { pins throws(Failure) in
                let map: BPFMap<vip_listener, UInt64> = try pins.map("listeners")
                return (try map.rowsOneByOne().count, map.maxEntries)
            },
            rows: { pins throws(Failure) in
                let map: BPFMap<vip_listener, UInt64> = try pins.map("listeners")
                return try map.rowsOneByOne().map { row in
                    // From user space, a look-up returns a socket's cookie: SO_COOKIE of socket(7).
                    Row(fields: [
                        ("cgroup_id", .number(row.key.cgroup)), ("port", .number(UInt64(row.key.port))),
                        ("slot", .number(UInt64(row.key.slot))), ("cookie", .number(row.value)),
                    ])
                }
            }),
        view("listener_counts", "how many dual-stack TCP servers of a session are in listeners") {
            (cgroup: UInt64, count: Int32) in
            [("cgroup_id", .number(cgroup)), ("servers", .number(UInt64(max(0, count))))]
        },
        MapView(
            name: "counters", about: "calls of sessions, by hook and outcome",
            count: { _ throws(Failure) in (Hook.all.count, Hook.all.count) },
            rows: { pins throws(Failure) in
                try HookCounters.read(pins).map { counters in
                    Row(
                        fields: [("hook", .text(counters.hook.name)), ("seen", .number(counters.seen))]
                            + CallOutcome.allCases.dropFirst().map { outcome in
                                let name = [outcome.verdict, outcome.reason].compactMap(\.self).joined(separator: "_")
                                return (name, .number(counters[outcome]))
                            })
                }
            }),
        MapView(
            name: "watchers", about: "the listeners to events",
            count: { pins throws(Failure) in
                (try EventListener.listeners(pins).count, EventListener.limit)
            },
            rows: { pins throws(Failure) in
                try EventListener.listeners(pins).map { listener in
                    Row(fields: [
                        ("slot", .number(UInt64(listener.slot))), ("pid", .number(UInt64(listener.pid))),
                        ("session", listener.filter.session.map { .number(UInt64($0)) } ?? .none),
                        (
                            "verdicts",
                            .list(
                                CallOutcome.allCases.filter(listener.filter.outcomes.contains).map { outcome in
                                    [outcome.verdict, outcome.reason].compactMap(\.self).joined(separator: "_")
                                })
                        ),
                        ("written", .number(listener.written)), ("dropped", .number(listener.dropped)),
                    ])
                }
            }),
        MapView(
            name: "watcher_rings", about: "the listeners' ring buffers, by slot, also of listeners that were killed",
            count: { pins throws(Failure) in (try rings(pins).count, EventListener.limit) },
            rows: { pins throws(Failure) in
                try rings(pins).map { ring in
                    Row(fields: [("slot", .number(UInt64(ring.slot))), ("map_id", .number(UInt64(ring.map)))])
                }
            }),
    ]

    /// An array of maps does not support batch calls.
    private static func rings(_ pins: PinDirectory) throws(Failure) -> [(slot: UInt32, map: UInt32)] {
        let map: BPFMap<UInt32, UInt32> = try pins.map("watcher_rings")
        var rings: [(UInt32, UInt32)] = []
        for slot in 0..<UInt32(EventListener.limit) {
            if let id = try map.value(of: slot) { rings.append((slot, id)) }
        }
        return rings
    }

    /// A map of ordinary rows. A row without `fields` is an unused slot of an array, and is left out.
    private static func view<Key: BitwiseCopyable & Sendable, Value: BitwiseCopyable & Sendable>(
        _ name: String, _ about: String, fields: @escaping @Sendable (Key, Value) -> [(String, MapView.Value)]
    ) -> MapView {
        MapView(
            name: name, about: about,
            count: { pins throws(Failure) in
                let map: BPFMap<Key, Value> = try pins.map(name)
                return (try map.rows().count { !fields($0.key, $0.value).isEmpty }, map.maxEntries)
            },
            rows: { pins throws(Failure) in
                let map: BPFMap<Key, Value> = try pins.map(name)
                return try map.rows().compactMap { row in
                    let fields = fields(row.key, row.value)
                    return fields.isEmpty ? nil : Row(fields: fields.map { (key: $0.0, value: $0.1) })
                }
            })
    }

    private static func listFields(_ listing: vip_listing) -> [(String, Value)] {
        ProgramList.allCases.flatMap { list in
            (0..<2).map { bank in
                ("\(list.rawValue.replacing("-", with: "_"))_bank\(bank)", mask(listing[bank: bank][list]))
            }
        }
    }

    /// The numbers of the policies whose bits are set.
    private static func mask(_ bits: UInt32) -> Value {
        .list((0..<32).filter { bits >> UInt32($0) & 1 == 1 }.map { "\($0)" })
    }

    private static func device(_ device: UInt32) -> String { ProgramFile.text(ofDevice: device) }

    static func hex(_ bytes: [UInt8]) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    private static func flagNames(_ flags: UInt32) -> [String] {
        let names: [(vip_policy_flag, String)] = [
            (VIP_POLICY_VIRTUAL_IP, "virtual_ip"), (VIP_POLICY_VIRTUAL_IP_ALL, "virtual_ip_all"),
            (VIP_POLICY_LOOPBACK, "loopback"), (VIP_POLICY_LOOPBACK_ALL, "loopback_all"),
            (VIP_POLICY_PREFER_LOOPBACK, "prefer_loopback"), (VIP_POLICY_PREFER_LOOPBACK_ALL, "prefer_loopback_all"),
            (VIP_POLICY_USE_HOST_ADDRESS, "use_host_address"), (VIP_POLICY_FALLBACK_HOST, "fallback_host"),
            (VIP_POLICY_ISOLATION, "isolation"), (VIP_POLICY_AS_REQUESTED, "as_requested"),
            (VIP_POLICY_EXCLUDED_PORTS, "excluded_ports"), (VIP_POLICY_LISTS, "lists"),
            (VIP_POLICY_DENY_OUTSIDE, "deny_outside"),
        ]
        return names.filter { flags & $0.0.rawValue != 0 }.map(\.1)
    }
}
