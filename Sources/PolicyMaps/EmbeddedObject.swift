// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
internal import CVipABI
internal import CVipObject
public import Host
import Network
public import SystemPackage

/// How many rows the maps get when they are made. A map's size is fixed for its life.
public struct MapSizes: Sendable, Hashable {
    /// Sessions that can be open at once. Each costs nothing until it is open: the hashes grow.
    public var sessions: Int

    /// 65536 sessions: four times what the largest session hosts hold, 50,000 in the benchmark.
    public static let `default` = MapSizes(sessions: 65536)
    /// Fewest and most: there are no more session IDs.
    public static let allowed = 1...16_777_214

    public init(sessions: Int) {
        self.sessions = sessions
    }

    /// Rows by map name, for those that do not keep the size that bpf/maps.h gives them.
    var rows: [String: Int] {
        [
            "sessions": sessions,
            "ids": sessions,
            // Two virtual IPs a session, and 4096 addresses of the host's own.
            "addresses": 2 * sessions + 4096,
        ]
    }
}

// bpf/vip.bpf.o, which is embedded in this binary.
extension BPFObject {
    /// SHA-256 of the embedded object, 32 bytes: which build the pinned programs come from.
    public static var embeddedID: [UInt8] {
        let digits = Array(String(cString: vip_object_id()).utf8.prefix(64))
        return stride(from: 0, to: digits.count - 1, by: 2).compactMap {
            UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)
        }
    }

    /// Opens the embedded object.
    ///
    /// - Parameters:
    ///   - hooks: The hooks to load programs for; others are left out.
    ///   - sizes: Of the maps that will be made.
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

    /// Writes the layout's version into the `config` map of the loaded object, before its pin can be opened.
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
    /// `nil` where the kernel takes it.
    public let failure: Failure?

    /// Asks the running kernel, by loading each hook's real program by itself and dropping it again.
    ///
    /// Nothing is pinned or attached. Feature probes that load something else have been seen to be wrong.
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

    /// Those that are attached to the cgroup itself, or of a hook of the network namespace to the caller's.
    public static func own(of cgroup: FilePath, _ hook: Hook) throws(Failure) -> [UInt32] {
        switch hook.place {
        case .cgroup: try own(of: .cgroup(cgroup), hook.attachType)
        case .network: try own(of: .networkNamespace(NetworkNamespace.ownFile), hook.attachType)
        }
    }
}
