// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
internal import CVipABI
internal import CVipObject
public import Host
import Network
public import SystemPackage

/// The numbers of rows that the maps get when they are created. They cannot change later.
public struct MapSizes: Sendable, Hashable {
    /// The number of sessions that can be open at the same time. A row takes memory only once it is used.
    public var sessions: Int

    /// 65536 sessions: four times what the largest session hosts hold, 50,000 in the benchmark.
    public static let `default` = MapSizes(sessions: 65536)
    /// The smallest and the largest number: there are no more session IDs.
    public static let allowed = 1...16_777_214

    public init(sessions: Int) {
        self.sessions = sessions
    }

    /// The rows by map name, for maps whose size differs from that in bpf/maps.h.
    var rows: [String: Int] {
        [
            "sessions": sessions,
            "ids": sessions,
            "listener_counts": sessions,
            // Two virtual IPs for each session, and 4096 addresses of the host.
            "addresses": 2 * sessions + 4096,
        ]
    }
}

// bpf/vip.bpf.o, which is embedded in this binary.
extension BPFObject {
    /// The SHA-256 of the embedded object, 32 bytes. It identifies the build that the pinned programs come from.
    public static var embeddedID: [UInt8] {
        let digits = Array(String(cString: vip_object_id()).utf8.prefix(64))
        return stride(from: 0, to: digits.count - 1, by: 2).compactMap {
            UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)
        }
    }

    /// Opens the embedded object.
    ///
    /// - Parameters:
    ///   - hooks: the hooks whose programs are loaded; others are left out.
    ///   - sizes: the sizes of the maps that will be created.
    init(programsOf hooks: [Hook], _ sizes: MapSizes) throws(Failure) {
        var size = 0
        let bytes = vip_object_bytes(&size)
        let object = try BPFObject(
            UnsafeRawBufferPointer(start: bytes, count: size), name: "vip", subject: "the BPF programs")
        let names = object.programNames
        if let missing = hooks.first(where: { !names.contains($0.programName) }) {
            throw Failure(
                .failed, "open the BPF programs", "the embedded object has no program \(missing.programName)",
                hint: "build vip-bpfctl again: make object all")
        }
        for name in names {
            if let hook = hooks.first(where: { $0.programName == name }) {
                object.setAttachType(hook.attachType, ofProgram: name)
            } else {
                object.setLoads(false, program: name)
            }
        }
        for (name, rows) in sizes.rows { try object.setRows(rows, ofMap: name) }
        self = object
    }

    /// Writes the layout's version into the `config` map of the loaded object, before the map is pinned.
    func writeLayoutVersion() throws(Failure) {
        let config: BPFMap<UInt32, vip_config> = try map("config")
        var row = vip_config()
        row.abi = UInt32(VIP_ABI_VERSION)
        try config.set(0, to: row)
    }
}

/// Whether this kernel loads one hook's program.
public struct HookSupport: Sendable {
    public let hook: Hook
    /// Why the kernel refuses the program; `nil` if it accepts it.
    public let failure: Failure?

    /// Finds out whether the running kernel accepts each hook's program, by loading each one separately.
    ///
    /// It pins and attaches nothing. Feature probes that load something else have given wrong results.
    public static func probe(hooks: [Hook] = Hook.all) -> [HookSupport] {
        hooks.map { hook in
            do throws(Failure) {
                try BPFObject(programsOf: [hook], MapSizes(sessions: 1)).load()
                return HookSupport(hook: hook, failure: nil)
            } catch {
                return HookSupport(hook: hook, failure: error)
            }
        }
    }
}

extension AttachedPrograms {
    /// The programs that run at a hook for a cgroup: ``effective(on:_:)-(_,AttachType)``.
    public static func effective(on cgroup: FilePath, _ hook: Hook) throws(Failure) -> [UInt32] {
        try effective(on: cgroup, hook.attachType)
    }

    /// The programs attached to the cgroup itself; for a hook of the network namespace, those of the caller's
    /// namespace.
    public static func own(of cgroup: FilePath, _ hook: Hook) throws(Failure) -> [UInt32] {
        switch hook.place {
        case .cgroup, .guarded: try own(of: .cgroup(cgroup), hook.attachType)
        case .network: try own(of: .networkNamespace(NetworkNamespace.ownFile), hook.attachType)
        }
    }
}
