// SPDX-License-Identifier: Apache-2.0

import CNetlink
import CSystemd
import Glibc
import Host
import SystemPackage

/// Watches of files and directories: inotify(7).
final class FileWatch {
    /// What a watch is for; several may ask for one path.
    enum Subject: Hashable {
        /// A cgroup.events file: the cgroup has become empty, or is not any more.
        case cgroupEvents
        /// A directory of cgroups: one was made in it, or removed.
        case cgroups
        /// A directory with listed programs in it.
        case programs
        /// The state directory: a change by another command has ended.
        case state
    }

    private struct Key: Hashable {
        var path: FilePath
        var subject: Subject
    }

    private let file: CInt
    private var watches: [Key: CInt] = [:]
    private var keys: [CInt: Key] = [:]
    /// Whether ``set(_:for:)`` has begun to watch something since this was asked for last.
    private var hasBegun = false

    var descriptor: CInt { file }

    init() throws(Failure) {
        file = inotify_init1(CInt(IN_CLOEXEC) | CInt(IN_NONBLOCK))
        guard file >= 0 else {
            throw Failure("watch files", errno: .current, hint: "raise fs.inotify.max_user_instances")
        }
    }

    deinit { close(file) }

    /// Watches these paths for a subject, and no others. One that is not there is left out, to be asked for again.
    ///
    /// - Returns: why some are not watched though they are there: the limit of watches, as a rule.
    func set(_ paths: Set<FilePath>, for subject: Subject) -> Failure? {
        for (key, watch) in watches where key.subject == subject && !paths.contains(key.path) {
            inotify_rm_watch(file, watch)
            forget(watch)
        }
        var failure: Failure?
        // A cgroup that was removed says nothing of its watch (cgroupfs sends no IN_IGNORED), and one of its name may be there
        // again: asked for once more, a file that is watched gives the same number.
        let mayBeAnother = subject == .cgroupEvents || subject == .cgroups
        for path in paths {
            let known = watches[Key(path: path, subject: subject)]
            guard known == nil || mayBeAnother else { continue }
            let (watch, error) = path.withPlatformString {
                (inotify_add_watch(file, $0, Self.events(subject)), Errno.current)
            }
            guard watch >= 0 else {
                if error != .noSuchFileOrDirectory, error != .notDirectory, failure == nil {
                    failure = Failure("watch \(path)", errno: error, hint: "raise fs.inotify.max_user_watches")
                }
                continue
            }
            if watch == known { continue }
            if let known {
                inotify_rm_watch(file, known)
                forget(known)
            }
            // The same inode by another path has the same watch; the newer name is as good.
            forget(watch)
            let key = Key(path: path, subject: subject)
            watches[key] = watch
            keys[watch] = key
            hasBegun = true
        }
        return failure
    }

    /// Whether something is watched that was not the last time: what happened to it before, nobody has told.
    func takeBegun() -> Bool {
        defer { hasBegun = false }
        return hasBegun
    }

    private static func events(_ subject: Subject) -> UInt32 {
        switch subject {
        case .cgroupEvents: UInt32(IN_MODIFY)
        case .cgroups: UInt32(IN_CREATE) | UInt32(IN_DELETE) | UInt32(IN_MOVED_TO) | UInt32(IN_ONLYDIR)
        case .programs:
            UInt32(IN_CREATE) | UInt32(IN_DELETE) | UInt32(IN_MOVED_TO) | UInt32(IN_MOVED_FROM) | UInt32(IN_ONLYDIR)
        case .state: UInt32(IN_CLOSE_WRITE) | UInt32(IN_ONLYDIR)
        }
    }

    private func forget(_ watch: CInt) {
        if let key = keys.removeValue(forKey: watch) { watches[key] = nil }
    }

    /// Reads what has come.
    ///
    /// - Returns: what it is about, and with the file's name where a directory is watched; everything where events were lost.
    func drain() -> [(subject: Subject, name: String)] {
        var found: [(Subject, String)] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        let header = MemoryLayout<inotify_event>.size
        for _ in 0..<64 {
            let count = read(file, &buffer, buffer.count)
            guard count > 0 else { break }
            var offset = 0
            while offset + header <= count {
                let event = buffer.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: inotify_event.self) }
                let name = buffer[(offset + header)..<(offset + header + Int(event.len))].prefix { $0 != 0 }
                offset += header + Int(event.len)
                if event.mask & UInt32(IN_Q_OVERFLOW) != 0 {
                    found += [(.cgroupEvents, ""), (.cgroups, ""), (.programs, ""), (.state, "lock")]
                } else if let key = keys[event.wd] {
                    found.append((key.subject, String(decoding: name, as: UTF8.self)))
                }
                if event.mask & UInt32(IN_IGNORED) != 0 { forget(event.wd) }
            }
        }
        return found
    }
}
