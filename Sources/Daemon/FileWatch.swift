// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// Watches a set of files or directories for the same events: inotify(7).
final class FileWatch {
    private struct Watched {
        let device: dev_t
        let inode: ino_t
        let source: EventLoop.Source
    }

    private let loop: EventLoop
    private let mask: UInt32
    private let handle: (_ name: String?) -> Void
    private var watched: [FilePath: Watched] = [:]

    /// - Parameters:
    ///   - mask: the bits of inotify(7).
    ///   - handle: called with the name of the file in a watched directory; with `nil` if events were lost.
    init(_ loop: EventLoop, _ mask: CInt..., handle: @escaping (_ name: String?) -> Void) {
        self.loop = loop
        self.mask = mask.reduce(0) { $0 | UInt32($1) }
        self.handle = handle
    }

    /// Watches these paths and no others. A path that does not exist is left out, so pass it again later.
    ///
    /// - Returns: `hasBegun` if a path is watched that was not watched before, so that earlier changes of it were
    ///   missed. `failure` is why existing paths are not watched, usually the limit of watches.
    func set(_ paths: Set<FilePath>) -> (hasBegun: Bool, failure: Failure?) {
        for path in watched.keys where !paths.contains(path) { watched[path] = nil }
        var hasBegun = false
        var failure: Failure?
        for path in paths {
            // The path may lead to another file now. For a removed cgroup, cgroupfs does not even send IN_IGNORED.
            var status = stat()
            guard path.withPlatformString({ stat($0, &status) }) == 0 else {
                watched[path] = nil
                continue
            }
            if let known = watched[path], known.device == status.st_dev, known.inode == status.st_ino { continue }
            do throws(Errno) {
                let source = try loop.watch(path, mask) { [unowned self] event in
                    if event.mask & UInt32(IN_IGNORED) != 0 {
                        watched[path] = nil
                        return
                    }
                    handle(event.mask & UInt32(IN_Q_OVERFLOW) != 0 ? nil : event.name)
                }
                watched[path] = Watched(device: status.st_dev, inode: status.st_ino, source: source)
                hasBegun = true
            } catch {
                watched[path] = nil
                if error != .noSuchFileOrDirectory, error != .notDirectory, failure == nil {
                    failure = Failure("watch \(path)", errno: error, hint: "raise fs.inotify.max_user_watches")
                }
            }
        }
        return (hasBegun, failure)
    }
}
