// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF
import Glibc
public import Host
public import SystemPackage

/// A BPF object file, opened by libbpf: `bpf_object__open_mem(3)` until it is loaded, then the kernel's
/// programs and maps. When the value goes out of scope, everything is freed except what is pinned.
public struct BPFObject: ~Copyable {
    private let object: OpaquePointer
    /// What the object is, for errors: `the BPF programs`.
    private let subject: String

    /// Opens an object.
    ///
    /// - Parameters:
    ///   - bytes: an ELF file, aligned to 8 bytes; they are copied.
    ///   - name: libbpf's name for it.
    ///   - subject: what it is, for errors.
    public init(_ bytes: UnsafeRawBufferPointer, name: String, subject: String) throws(Failure) {
        var error: CInt = 0
        let (opened, log) = LibBPFLog.capturing { vip_object_open(bytes.baseAddress, bytes.count, name, &error) }
        guard let opened else { throw Failure("open \(subject)", errno: Errno(rawValue: -error), detail: log) }
        object = opened
        self.subject = subject
    }

    deinit {
        bpf_object__close(object)
    }

    // MARK: Before it is loaded

    /// The names of its programs, in the order in which they are declared.
    public var programNames: [String] {
        var names: [String] = []
        var program = bpf_object__next_program(object, nil)
        while let current = program {
            names.append(String(cString: bpf_program__name(current)))
            program = bpf_object__next_program(object, current)
        }
        return names
    }

    /// The names of its maps, in the order in which they are declared. The maps that the compiler makes (constants that
    /// do not fit an instruction) belong to the programs, and exist as long as those do.
    public var mapNames: [String] {
        var names: [String] = []
        var map = bpf_object__next_map(object, nil)
        while let current = map {
            if !bpf_map__is_internal(current) { names.append(String(cString: bpf_map__name(current))) }
            map = bpf_object__next_map(object, current)
        }
        return names
    }

    /// Sets whether ``load()`` loads a program. By default it loads all.
    public func setLoads(_ loads: Bool, program name: String) {
        bpf_program__set_autoload(bpf_object__find_program_by_name(object, name), loads)
    }

    /// The attach type for which a program is loaded. ``load()`` fails if the kernel does not know it.
    public func setAttachType(_ type: AttachType, ofProgram name: String) {
        bpf_program__set_expected_attach_type(bpf_object__find_program_by_name(object, name), type.raw)
    }

    /// Sets how many rows a map will have.
    public func setRows(_ rows: Int, ofMap name: String) throws(Failure) {
        let error = bpf_map__set_max_entries(bpf_object__find_map_by_name(object, name), UInt32(rows))
        guard error == 0 else { throw Failure("give map \(name) \(rows) rows", errno: Errno(rawValue: -error)) }
    }

    /// Uses the map pinned at `path` in place of a new one.
    public func reuse(map name: String, pinnedAt path: FilePath) throws(Failure) {
        let raw = path.withPlatformString { bpf_obj_get($0) }
        guard raw >= 0 else { throw Failure("open map \(path)", errno: .current, needs: Capability.bpfPrograms) }
        let pinned = Descriptor(owning: raw)
        let error = bpf_map__reuse_fd(bpf_object__find_map_by_name(object, name), pinned.raw)
        guard error == 0 else {
            throw Failure("use map \(path) again", errno: Errno(rawValue: -error), needs: Capability.bpfPrograms)
        }
    }

    /// Lets the kernel make the maps and verify the programs: `bpf_object__load(3)`.
    ///
    /// If the verifier refuses a program, the reason is one line of its log. The whole log is the failure's detail.
    public func load() throws(Failure) {
        let (error, log) = LibBPFLog.capturing { bpf_object__load(object) }
        guard error != 0 else { return }
        let operation = "load \(subject)"
        guard error != -EPERM else {
            throw Failure(
                operation, errno: .notPermitted, needs: Capability.bpfPrograms, hint: "run vip-bpfctl check",
                detail: log)
        }
        throw VerifierError(log: log, errno: Errno(rawValue: -error)).failure(operation)
    }

    // MARK: Once it is loaded

    /// One of the object's programs. The caller gets its own descriptor.
    public func program(_ name: String) throws(Failure) -> BPFProgram {
        try BPFProgram(duplicating: bpf_program__fd(bpf_object__find_program_by_name(object, name)), name)
    }

    /// One of the object's maps. The caller gets its own descriptor.
    public func map<Key, Value>(
        _ name: String, _: Key.Type = Key.self, _: Value.Type = Value.self
    ) throws(Failure) -> BPFMap<Key, Value> {
        try BPFMap(name: name, duplicating: bpf_map__fd(bpf_object__find_map_by_name(object, name)))
    }

    /// Reads one of the object's maps, a ring buffer.
    public func ringBuffer(_ name: String) throws(Failure) -> RingBuffer {
        try RingBuffer(duplicating: bpf_map__fd(bpf_object__find_map_by_name(object, name)), name)
    }

    /// Pins a map at `path`, on a BPF file system.
    public func pin(map name: String, at path: FilePath) throws(Failure) {
        let map = bpf_object__find_map_by_name(object, name)
        let error = path.withPlatformString { bpf_obj_pin(bpf_map__fd(map), $0) }
        guard error == 0 else {
            throw Failure("pin map \(name) at \(path)", errno: Errno(rawValue: -error), needs: Capability.bpfPrograms)
        }
    }
}
