// SPDX-License-Identifier: Apache-2.0

import CLibBPF
import Glibc
public import Host
public import SystemPackage

/// A ring buffer (BPF_MAP_TYPE_RINGBUF, kernel 5.8): programs put records in, one thread takes them out.
///
/// The kernel keeps it as long as this value or a map of maps holds it.
public struct RingBuffer: ~Copyable, @unchecked Sendable {
    /// The map's descriptor, to be put into a map of maps.
    public let descriptor: CInt
    private let map: Descriptor
    private let ring: OpaquePointer
    private let sink: UnsafeMutablePointer<Sink>

    /// Where the callback puts the records.
    private struct Sink {
        var records: UnsafeMutableRawPointer?
        var size = 0
        var count = 0
        var limit = 0
    }

    /// - Parameters:
    ///   - name: For `bpftool map`: at most 15 bytes.
    ///   - bytes: The room for records; a power of two, and at least a page.
    public init(name: String, bytes: UInt32) throws(Failure) {
        let raw = bpf_map_create(BPF_MAP_TYPE_RINGBUF, name, 0, 0, bytes, nil)
        guard raw >= 0 else {
            throw Failure("make a ring buffer of \(bytes) bytes", errno: .current, needs: Capability.bpfPrograms)
        }
        try self.init(owning: raw)
    }

    /// Reads a ring buffer of a loaded object.
    init(duplicating map: CInt, _ name: String) throws(Failure) {
        let raw = fcntl(map, F_DUPFD_CLOEXEC, 0)
        guard raw >= 0 else { throw Failure("open map \(name)", errno: .current) }
        try self.init(owning: raw)
    }

    private init(owning raw: CInt) throws(Failure) {
        let map = Descriptor(owning: raw)
        let sink = UnsafeMutablePointer<Sink>.allocate(capacity: 1)
        sink.initialize(to: Sink())
        let take: ring_buffer_sample_fn = { context, data, size in
            guard let sink = context?.assumingMemoryBound(to: Sink.self), let data, let records = sink.pointee.records
            else { return -EINVAL }
            // A shorter record has another type.
            if size >= sink.pointee.size {
                memcpy(records + sink.pointee.count * sink.pointee.size, data, sink.pointee.size)
                sink.pointee.count += 1
            }
            // libbpf counts a record as taken whatever we return, and stops at an error.
            return sink.pointee.count < sink.pointee.limit ? 0 : -ENOSPC
        }
        guard let ring = ring_buffer__new(raw, take, sink, nil) else {
            let error = Errno.current
            sink.deallocate()
            throw Failure("read a ring buffer", errno: error, needs: Capability.bpfPrograms)
        }
        self.descriptor = raw
        self.map = map
        self.ring = ring
        self.sink = sink
    }

    deinit {
        ring_buffer__free(ring)
        sink.deallocate()
    }

    /// For poll(2): readable when there is a record.
    public var pollDescriptor: CInt { ring_buffer__epoll_fd(ring) }

    /// Waits until there is a record, `wake` is readable, or the time is over: poll(2).
    public func wait(orFor wake: borrowing Descriptor, timeout: Duration) {
        var polls = [
            pollfd(fd: pollDescriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: wake.raw, events: Int16(POLLIN), revents: 0),
        ]
        poll(&polls, 2, timeout.pollTimeout)
    }

    /// Takes out the records that are there, at most `limit`, and never waits. Only one thread may call it at a time.
    public func take<Record: BitwiseCopyable>(_: Record.Type = Record.self, atMost limit: Int) -> [Record] {
        [Record](unsafeUninitializedCapacity: limit) { buffer, count in
            sink.pointee = Sink(
                records: UnsafeMutableRawPointer(buffer.baseAddress), size: MemoryLayout<Record>.stride, limit: limit)
            // An error of this call comes from the callback.
            _ = ring_buffer__consume(ring)
            count = sink.pointee.count
            sink.pointee.records = nil
        }
    }
}

/// The one row of an array map, in this process's memory as well as in the programs' (BPF_F_MMAPABLE, kernel 5.5).
///
/// Fields that others may write at the same time are words of 8 bytes, which are read and replaced atomically.
public struct SharedRow<Value: BitwiseCopyable & Sendable>: ~Copyable, @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    private let length: Int

    /// Maps a row of the map at `path`.
    public init(pinnedAt path: FilePath) throws(Failure) {
        let map: BPFMap<UInt32, Value> = try BPFMap(pinnedAt: path)  // compares the sizes
        let page = Int(getpagesize())
        let length = (MemoryLayout<Value>.stride + page - 1) / page * page
        let mapped = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_SHARED, map.rawDescriptor, 0)
        guard let mapped, mapped != MAP_FAILED else {
            throw Failure("map \(path) into memory", errno: .current, needs: Capability.bpfPrograms)
        }
        self.length = length
        base = mapped
    }

    deinit {
        munmap(base, length)
    }

    /// The word at a byte offset that is a multiple of 8.
    public func word(at offset: Int) -> UInt64 { vip_word(base + offset) }

    /// Replaces `old` by `new` atomically; `false` if the word has another value.
    public func replace(_ old: UInt64, with new: UInt64, at offset: Int) -> Bool {
        vip_word_replace(base + offset, old, new) != 0
    }

    /// A field as it is now. If others write it at the same time, some of its words may be older than others.
    public func load<Field: BitwiseCopyable>(_: Field.Type = Field.self, at offset: Int) -> Field {
        base.load(fromByteOffset: offset, as: Field.self)
    }

    /// Overwrites a field that only the caller writes.
    public func store(_ field: some BitwiseCopyable, at offset: Int) {
        base.storeBytes(of: field, toByteOffset: offset, as: type(of: field))
    }
}
