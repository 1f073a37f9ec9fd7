// SPDX-License-Identifier: Apache-2.0

import CLibBPF
import Glibc
public import Host
public import SystemPackage

/// Hints for errors of a map. They come from the caller, which knows what the map is for.
public struct MapHints: Sendable {
    public var missing: String?
    public var otherLayout: String?
    public var full: String?

    public init(missing: String? = nil, otherLayout: String? = nil, full: String? = nil) {
        self.missing = missing
        self.otherLayout = otherLayout
        self.full = full
    }
}

/// An open BPF map whose keys and values are C structs.
///
/// The sizes that the kernel reports are compared with the types' when it is opened, so a row is never
/// misread. `Key` and `Value` must have no padding at their end (size = stride).
public struct BPFMap<Key: BitwiseCopyable & Sendable, Value: BitwiseCopyable & Sendable>: ~Copyable, Sendable {
    public let name: String
    public let maxEntries: Int
    private let descriptor: Descriptor
    private let hints: MapHints
    /// The map's descriptor, for C code that reads the map. It is open as long as this value lives.
    public var rawDescriptor: CInt { descriptor.raw }

    /// How many rows one batch call carries: 4096 × the largest of our rows is well below a megabyte.
    private static var batchSize: Int { 4096 }

    /// Opens the map pinned at `path` (`bpf_obj_get(2)`).
    public init(pinnedAt path: FilePath, hints: MapHints = MapHints()) throws(Failure) {
        let name = path.lastComponent?.string ?? path.string
        let raw = path.withPlatformString { bpf_obj_get($0) }
        guard raw >= 0 else {
            throw Failure(
                "open map \(path)", errno: .current, needs: Capability.bpfPrograms,
                hint: hints.missing)
        }
        try self.init(name: name, "map \(path)", Descriptor(owning: raw), hints)
    }

    /// Opens a map of a loaded object that is not pinned. Object and map each have their own descriptor.
    init(name: String, duplicating map: CInt) throws(Failure) {
        let raw = fcntl(map, F_DUPFD_CLOEXEC, 0)
        guard raw >= 0 else { throw Failure("open map \(name)", errno: .current, needs: Capability.bpfPrograms) }
        try self.init(name: name, "map \(name)", Descriptor(owning: raw), MapHints())
    }

    private init(
        name: String, _ what: String, _ descriptor: consuming Descriptor, _ hints: MapHints
    ) throws(Failure) {
        var info = bpf_map_info()
        var length = UInt32(MemoryLayout<bpf_map_info>.size)
        guard bpf_obj_get_info_by_fd(descriptor.raw, &info, &length) == 0 else {
            throw Failure("read the description of \(what)", errno: .current, needs: Capability.bpfPrograms)
        }
        guard info.key_size == MemoryLayout<Key>.stride, info.value_size == MemoryLayout<Value>.stride else {
            throw Failure(
                .failed, "open \(what)",
                "its rows are \(info.key_size) + \(info.value_size) bytes, not "
                    + "\(MemoryLayout<Key>.stride) + \(MemoryLayout<Value>.stride)",
                hint: hints.otherLayout)
        }
        self.name = name
        self.maxEntries = Int(info.max_entries)
        self.descriptor = descriptor
        self.hints = hints
    }

    /// The value of `key`, or `nil` if there is none (`BPF_MAP_LOOKUP_ELEM`).
    public func value(of key: Key) throws(Failure) -> Value? {
        var key = key
        let value = withUnsafeTemporaryAllocation(of: Value.self, capacity: 1) { buffer -> Result<Value, Errno> in
            guard let base = buffer.baseAddress, bpf_map_lookup_elem(descriptor.raw, &key, base) == 0 else {
                return .failure(.current)
            }
            return .success(base.pointee)
        }
        switch value {
        case .success(let value): return value
        case .failure(.noSuchFileOrDirectory): return nil
        case .failure(let error):
            throw Failure("read a row of map \(name)", errno: error, needs: Capability.bpfPrograms)
        }
    }

    /// One value for each possible CPU, of a per-CPU map.
    public func valuesPerCPU(of key: Key) throws(Failure) -> [Value] {
        let count = Int(libbpf_num_possible_cpus())
        precondition(MemoryLayout<Value>.stride % 8 == 0, "the kernel rounds a CPU's value up to 8 bytes")
        guard count > 0 else { throw Failure(.failed, "read map \(name)", "the number of CPUs is unknown") }
        var key = key
        var error = Errno(rawValue: 0)
        let values = [Value](unsafeUninitializedCapacity: count) { buffer, filled in
            if bpf_map_lookup_elem(descriptor.raw, &key, buffer.baseAddress) == 0 {
                filled = count
            } else {
                error = .current
            }
        }
        guard !values.isEmpty else {
            throw Failure("read a row of map \(name)", errno: error, needs: Capability.bpfPrograms)
        }
        return values
    }

    /// Inserts or replaces a row (`BPF_MAP_UPDATE_ELEM`). A reader sees the old value or the new one.
    public func set(_ key: Key, to value: Value) throws(Failure) {
        var key = key
        var value = value
        guard bpf_map_update_elem(descriptor.raw, &key, &value, UInt64(BPF_ANY)) == 0 else {
            throw updateFailure(.current)
        }
    }

    /// Deletes a row (`BPF_MAP_DELETE_ELEM`); `false` if there was none.
    @discardableResult
    public func remove(_ key: Key) throws(Failure) -> Bool {
        var key = key
        if bpf_map_delete_elem(descriptor.raw, &key) == 0 { return true }
        let error = Errno.current
        guard error == .noSuchFileOrDirectory else {
            throw Failure("delete a row of map \(name)", errno: error, needs: Capability.bpfPrograms)
        }
        return false
    }

    /// Inserts or replaces many rows, in batches (`BPF_MAP_UPDATE_BATCH`, kernel 5.6).
    ///
    /// Rows before a failing one are written. The caller applies the difference again once the cause is fixed.
    public func set(_ rows: [(key: Key, value: Value)]) throws(Failure) {
        if rows.count < 8 {  // Below this, one call each is no slower.
            for row in rows { try set(row.key, to: row.value) }
            return
        }
        var start = 0
        while start < rows.count {
            let chunk = rows[start..<min(start + Self.batchSize, rows.count)]
            var keys = chunk.map(\.key)
            var values = chunk.map(\.value)
            var count = UInt32(chunk.count)
            guard bpf_map_update_batch(descriptor.raw, &keys, &values, &count, nil) == 0 else {
                throw updateFailure(.current)
            }
            start += chunk.count
        }
    }

    /// Deletes many rows. Rows that do not exist are ignored.
    public func remove(_ keys: [Key]) throws(Failure) {
        // BPF_MAP_DELETE_BATCH stops at the first row that does not exist, so it gains little. A deletion takes
        // half a microsecond.
        for key in keys { try remove(key) }
    }

    /// Every row, in the map's own order (`BPF_MAP_LOOKUP_BATCH`, for hashes and arrays).
    ///
    /// Rows that are written during the call may or may not be among them.
    public func rows() throws(Failure) -> [(key: Key, value: Value)] {
        var result: [(key: Key, value: Value)] = []
        // Opaque. A hash writes a bucket number of 4 bytes, other maps the last key (generic_map_lookup_batch).
        var cursor = [UInt8](repeating: 0, count: max(MemoryLayout<UInt64>.size, MemoryLayout<Key>.stride))
        var next = cursor
        var isFirst = true
        var capacity = min(Self.batchSize, maxEntries)
        while true {
            var count = UInt32(capacity)
            var error = Errno(rawValue: 0)
            var values: [Value] = []
            let keys = [Key](unsafeUninitializedCapacity: capacity) { keyBuffer, keyCount in
                values = [Value](unsafeUninitializedCapacity: capacity) { valueBuffer, valueCount in
                    let status = cursor.withUnsafeMutableBytes { cursor in
                        next.withUnsafeMutableBytes { next in
                            vip_map_lookup_batch(
                                descriptor.raw, isFirst ? nil : cursor.baseAddress, next.baseAddress,
                                keyBuffer.baseAddress, valueBuffer.baseAddress, &count)
                        }
                    }
                    if status != 0 { error = .current }
                    let isUsable = status == 0 || error == .noSuchFileOrDirectory
                    valueCount = isUsable ? Int(count) : 0
                    keyCount = valueCount
                }
            }
            result.append(contentsOf: zip(keys, values).map { (key: $0, value: $1) })
            switch error.rawValue {
            case 0: break
            case ENOENT: return result
            case ENOSPC where capacity < 1 << 20:  // one bucket of the hash holds more rows than that
                capacity *= 2
                continue
            default: throw Failure("read map \(name)", errno: error, needs: Capability.bpfPrograms)
            }
            cursor = next
            isFirst = false
        }
    }

    /// Every row, one after the other (`BPF_MAP_GET_NEXT_KEY`): for a map without batch calls, such as a socket hash.
    ///
    /// Rows that are written or deleted during the call may or may not be among them.
    public func rowsOneByOne() throws(Failure) -> [(key: Key, value: Value)] where Key: Hashable {
        var result: [(key: Key, value: Value)] = []
        var seen: Set<Key> = []
        var last: Key?
        // After a row that no longer exists the kernel starts again. The limit ends a loop that would never finish.
        for _ in 0..<2 * maxEntries {
            var error = Errno(rawValue: 0)
            let next = [Key](unsafeUninitializedCapacity: 1) { buffer, count in
                let status =
                    if var key = last {
                        bpf_map_get_next_key(descriptor.raw, &key, buffer.baseAddress)
                    } else {
                        bpf_map_get_next_key(descriptor.raw, nil, buffer.baseAddress)
                    }
                if status != 0 { error = .current }
                count = status == 0 ? 1 : 0
            }
            guard let key = next.first else {
                if error == .noSuchFileOrDirectory { return result }
                throw Failure("read map \(name)", errno: error, needs: Capability.bpfPrograms)
            }
            if seen.insert(key).inserted, let value = try value(of: key) { result.append((key: key, value: value)) }
            last = key
        }
        return result
    }

    private func updateFailure(_ error: Errno) -> Failure {
        switch error.rawValue {
        case E2BIG, ENOSPC:
            Failure(
                .failed, "write a row of map \(name)", "it is full at \(maxEntries) rows",
                hint: hints.full, errno: error)
        default: Failure("write a row of map \(name)", errno: error, needs: Capability.bpfPrograms)
        }
    }
}

extension BPFMap where Key == UInt32, Value == UInt32 {
    /// The first four bytes of row 0 of a pinned map, however long its rows are.
    ///
    /// - Throws: ``Failure``, without an errno if the map has another type or other sizes.
    public static func firstWord(pinnedAt path: FilePath) throws(Failure) -> UInt32 {
        let raw = path.withPlatformString { bpf_obj_get($0) }
        guard raw >= 0 else { throw Failure("open map \(path)", errno: .current, needs: Capability.bpfPrograms) }
        let map = Descriptor(owning: raw)
        var info = bpf_map_info()
        var length = UInt32(MemoryLayout<bpf_map_info>.size)
        guard bpf_obj_get_info_by_fd(map.raw, &info, &length) == 0, info.key_size == 4, info.value_size >= 4 else {
            throw Failure(.failed, "read map \(path)", "its rows do not have 4-byte keys and values of 4 bytes or more")
        }
        var key: UInt32 = 0
        var value = [UInt8](repeating: 0, count: Int(info.value_size))
        guard bpf_map_lookup_elem(map.raw, &key, &value) == 0 else {
            throw Failure("read map \(path)", errno: .current, needs: Capability.bpfPrograms)
        }
        return value.withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
    }
}
