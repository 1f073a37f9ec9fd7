// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF
internal import CVipABI
internal import CVipObject
import Glibc
public import Host
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

/// A BPF object file, opened by libbpf: `bpf_object__open_mem(3)` until it is loaded, then the kernel's
/// programs and maps. Everything is freed when it goes out of scope; what is pinned stays.
public struct BPFObject: ~Copyable {
    private let object: OpaquePointer
    public let hooks: [Hook]

    /// SHA-256 of the embedded object, 32 bytes: which build the pinned programs come from.
    public static var embeddedID: [UInt8] {
        let digits = Array(String(cString: vip_object_id()).utf8.prefix(64))
        return stride(from: 0, to: digits.count - 1, by: 2).compactMap {
            UInt8(String(decoding: digits[$0...$0 + 1], as: UTF8.self), radix: 16)
        }
    }

    /// Opens the object that is embedded in this binary.
    ///
    /// - Parameter hooks: The hooks to load programs for; others are left out. An attach type that the kernel does
    ///   not know fails at ``load()``.
    public init(hooks: [Hook] = Hook.all) throws(Failure) {
        var size = 0
        let bytes = vip_object_bytes(&size)
        var error: CInt = 0
        let (opened, log) = LibBPFLog.capturing { vip_object_open(bytes, size, "vip", &error) }
        guard let opened else {
            throw Failure(
                "open the embedded BPF object", errno: Errno(rawValue: -error), needs: Capability.bpfPrograms,
                detail: log)
        }
        for hook in hooks where bpf_object__find_program_by_name(opened, hook.programName) == nil {
            bpf_object__close(opened)
            throw Failure(
                .failed, "open the embedded BPF object", "it has no program \(hook.programName)",
                hint: "build vip-bpfctl again: make object all")
        }
        object = opened
        self.hooks = hooks
        var program = bpf_object__next_program(object, nil)
        while let current = program {
            let name = String(cString: bpf_program__name(current))
            if let hook = hooks.first(where: { $0.programName == name }) {
                bpf_program__set_expected_attach_type(current, bpf_attach_type(rawValue: hook.attachType))
            } else {
                bpf_program__set_autoload(current, false)
            }
            program = bpf_object__next_program(object, current)
        }
    }

    deinit {
        bpf_object__close(object)
    }

    /// The names of the maps of bpf/maps.h, in the order in which they are declared. The compiler's own (constants that
    /// do not fit an instruction) belong to the programs and come and go with them.
    public var mapNames: [String] {
        var names: [String] = []
        var map = bpf_object__next_map(object, nil)
        while let current = map {
            if !bpf_map__is_internal(current) { names.append(String(cString: bpf_map__name(current))) }
            map = bpf_object__next_map(object, current)
        }
        return names
    }

    /// Sets the sizes of the maps that will be made. Before ``load()``.
    public func resize(_ sizes: MapSizes) throws(Failure) {
        for (name, rows) in sizes.rows {
            let error = bpf_map__set_max_entries(bpf_object__find_map_by_name(object, name), UInt32(rows))
            guard error == 0 else {
                throw Failure(
                    "give map \(name) \(rows) rows", errno: Errno(rawValue: -error), needs: Capability.bpfPrograms)
            }
        }
    }

    /// Uses the map pinned at `path` in place of a new one. Before ``load()``.
    public func reuse(map name: String, pinnedAt path: FilePath) throws(Failure) {
        let raw = path.withPlatformString { bpf_obj_get($0) }
        guard raw >= 0 else { throw Failure("open map \(path)", errno: .current, needs: Capability.bpfPrograms) }
        let pinned = Descriptor(owning: raw)
        let error = bpf_map__reuse_fd(bpf_object__find_map_by_name(object, name), pinned.raw)
        guard error == 0 else {
            throw Failure("use map \(path) again", errno: Errno(rawValue: -error), needs: Capability.bpfPrograms)
        }
    }

    /// Has the kernel make the maps and verify the programs: `bpf_object__load(3)`.
    ///
    /// A refusal is one telling line of the verifier's; its whole log is the failure's detail.
    public func load() throws(Failure) {
        let (error, log) = LibBPFLog.capturing { bpf_object__load(object) }
        guard error != 0 else { return }
        let what = "load the BPF programs\(LoadRefusal.program(in: log).map { ": \($0)" } ?? "")"
        switch -error {
        case EPERM:
            throw Failure(
                what, errno: .notPermitted, needs: Capability.bpfPrograms, hint: "run vip-bpfctl check", detail: log)
        case EACCES, EINVAL:
            throw Failure(
                .unavailable, what,
                "this kernel's verifier refuses it: \(tellingLine(ofVerifierLog: log) ?? Errno(rawValue: -error).text)",
                hint: "run vip-bpfctl check, and -v for the whole log", detail: log)
        default:
            throw Failure(
                .unavailable, what, tellingLine(ofVerifierLog: log) ?? Errno(rawValue: -error).text,
                hint: "run vip-bpfctl check", detail: log)
        }
    }

    /// Writes the layout's version into the `config` map of the loaded object, before anybody can open its pin.
    public func writeLayoutVersion() throws(Failure) {
        var key: UInt32 = 0
        var row = vip_config()
        row.abi = UInt32(VIP_ABI_VERSION)
        let map = bpf_object__find_map_by_name(object, "config")
        guard bpf_map_update_elem(bpf_map__fd(map), &key, &row, UInt64(BPF_ANY)) == 0 else {
            throw Failure("write map config", errno: .current, needs: Capability.bpfPrograms)
        }
    }

    /// Pins a map of the loaded object at `path`, on a BPF file system.
    public func pin(map name: String, at path: FilePath) throws(Failure) {
        let map = bpf_object__find_map_by_name(object, name)
        let error = path.withPlatformString { bpf_obj_pin(bpf_map__fd(map), $0) }
        guard error == 0 else {
            throw Failure("pin map \(name) at \(path)", errno: Errno(rawValue: -error), needs: Capability.bpfPrograms)
        }
    }

    /// Pins the program of `hook` at `path`, replacing what is there at once.
    public func pin(programOf hook: Hook, at path: FilePath) throws(Failure) {
        let fresh = path.removingLastComponent().appending("\(hook.name)_new")  // bpffs allows no dot in a name
        let program = bpf_object__find_program_by_name(object, hook.programName)
        _ = fresh.withPlatformString { unlink($0) }  // left by a process that was killed here
        let error = fresh.withPlatformString { bpf_obj_pin(bpf_program__fd(program), $0) }
        guard error == 0 else {
            throw Failure(
                "pin program \(hook.name) at \(path)", errno: Errno(rawValue: -error), needs: Capability.bpfPrograms)
        }
        let renamed = fresh.withPlatformString { old in path.withPlatformString { new in rename(old, new) } }
        guard renamed == 0 else {
            throw Failure("pin program \(hook.name) at \(path)", errno: .current, needs: Capability.bpfPrograms)
        }
    }
}

/// What libbpf says about the program that was refused.
enum LoadRefusal {
    /// `libbpf: prog 'vip_bind4': failed to load: -22` → `bind4`.
    static func program(in log: String) -> String? {
        guard
            let line = log.split(separator: "\n").last(where: {
                $0.contains("prog 'vip_") && $0.contains("failed to load")
            }),
            let start = line.firstRange(of: "prog 'vip_")?.upperBound,
            let end = line[start...].firstIndex(of: "'")
        else { return nil }
        return String(line[start..<end])
    }
}

/// What one hook's program says when this kernel is asked to load it.
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
                let object = try BPFObject(hooks: [hook])
                try object.resize(MapSizes(sessions: 1))
                try object.load()
                return HookSupport(hook: hook, failure: nil)
            } catch {
                return HookSupport(hook: hook, failure: error)
            }
        }
    }
}
