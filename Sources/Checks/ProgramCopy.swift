// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network
import Policy
import Sessions
import SystemPackage

/// The executable files that program lists mean: paths, and names in the directories of the system's programs.
struct ListedExecutables {
    struct File {
        /// Without symbolic links.
        var path: FilePath
        var device: UInt64
        var inode: UInt64
    }

    /// By their sizes in bytes.
    private(set) var files: [Int: [File]] = [:]
    private var names: Set<String> = []
    private var processNames: Set<[UInt8]> = []
    private var paths: Set<FilePath> = []

    var isEmpty: Bool { files.isEmpty }

    /// Where programs are looked for by name.
    private static let directories: [FilePath] = [
        "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
    ]

    /// Those of lists that are in force and do not hold every program.
    init(_ policy: Policy) {
        for rules in policy.allRules {
            var lists: [[ProgramEntry]] = []
            if rules.virtualIP.enabled, rules.virtualIP.mode == .perProgram { lists.append(rules.virtualIP.programs) }
            if rules.virtualLoopback.enabled { lists.append(rules.virtualLoopback.programs) }
            if rules.preferLoopback.enabled { lists.append(rules.preferLoopback.programs) }
            for entry in lists.filter({ !$0.contains(.everyProgram) }).flatMap(\.self) { add(entry) }
        }
    }

    private mutating func add(_ entry: ProgramEntry) {
        switch entry {
        case .everyProgram: return
        case .path(let path):
            paths.insert((try? path.real()) ?? path)
            add(file: path)
        case .name(let name):
            guard names.insert(name).inserted else { return }
            if let processName = entry.processName { processNames.insert(processName) }
            for directory in Self.directories { add(file: directory.appending(name)) }
        }
    }

    private mutating func add(file: FilePath) {
        var status = stat()
        // A script runs as its interpreter, which is not what is listed.
        guard let real = try? file.real(), real.withPlatformString({ stat($0, &status) }) == 0,
            status.st_mode & S_IFMT == S_IFREG, status.st_size > 0, ProgramCopy.isELF(real)
        else { return }
        let found = File(path: real, device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
        guard files[Int(status.st_size)]?.contains(where: { $0.path == real }) != true else { return }
        files[Int(status.st_size), default: []].append(found)
    }

    /// Whether the hooks find a process on a list: by its executable's name, by its own, or by its file.
    func match(_ executable: FilePath, processName: [UInt8]?) -> Bool {
        paths.contains(executable) || executable.lastComponent.map { names.contains($0.string) } == true
            || processName.map { processNames.contains($0) } == true
    }
}

/// A process in a session that runs a listed program's contents under another name, or by the dynamic loader.
struct ProgramCopy {
    var pid: pid_t
    var name: String
    var session: UInt32
    /// What it is to ``original``: `is a copy of`.
    var how: String
    /// The listed program's file.
    var original: FilePath

    struct Search {
        var copies: [ProgramCopy] = []
        /// Whether something was left out.
        var isCut = false
    }

    /// Limits: bytes of files that are read, processes that are named.
    private static let readLimit = 256 << 20
    private static let copyLimit = 20

    static func all(of listed: ListedExecutables, in sessions: [SessionRecord]) throws(Failure) -> Search {
        let root = try Cgroup.wholeHierarchy(.current())
        var search = Search()
        var comparison = Comparison(left: readLimit)
        for pid in SocketOwners.allProcesses() {
            let process = ProcessFacts(pid)
            guard let cgroup = process.cgroup, let executable = process.executable else { continue }
            let path = root.appending(cgroup.components)
            guard let session = sessions.first(where: { path.starts(with: $0.cgroupPath) }) else { continue }
            let processName = process.name
            guard !listed.match(executable.path, processName: processName),
                let (how, original) = relation(pid, executable, to: listed, &comparison)
            else { continue }
            guard search.copies.count < copyLimit else {
                search.isCut = true
                break
            }
            search.copies.append(
                ProgramCopy(
                    pid: pid, name: String(decoding: processName ?? [], as: UTF8.self), session: session.id, how: how,
                    original: original))
        }
        search.isCut = search.isCut || comparison.isCut
        return search
    }

    private static func relation(
        _ pid: pid_t, _ executable: ProcessFacts.Executable, to listed: ListedExecutables,
        _ comparison: inout Comparison
    ) -> (how: String, original: FilePath)? {
        // It can be opened even if the file was deleted.
        if let original = comparison.original(of: FilePath("/proc/\(pid)/exe"), executable.path, among: listed) {
            return ("is a copy of", original)
        }
        guard let name = executable.path.lastComponent?.string, name.hasPrefix("ld-") || name.hasPrefix("ld.so")
        else { return nil }
        for path in mappedFiles(pid) {
            let seen = FilePath("/proc/\(pid)/root").appending(path.components)
            if let original = comparison.original(of: seen, nil, among: listed) {
                return ("runs, by the dynamic loader,", original)
            }
        }
        return nil
    }

    /// The files of which a process has mapped code, proc_pid_maps(5): each once, a program's few dozen.
    private static func mappedFiles(_ pid: pid_t) -> [FilePath] {
        guard let maps = try? readWholeFile(FilePath("/proc/\(pid)/maps")) else { return [] }
        var found: [FilePath] = []
        for line in maps.split(separator: UInt8(ascii: "\n")) {
            let fields = line.split(separator: UInt8(ascii: " "), maxSplits: 5, omittingEmptySubsequences: true)
            guard fields.count == 6, fields[1].dropFirst(2).first == UInt8(ascii: "x") else { continue }
            let path = FilePath(
                platformString: fields[5].drop { $0 == UInt8(ascii: " ") }.map(CChar.init(bitPattern:)) + [0])
            if path.isAbsolute, !found.contains(path), found.count < 256 { found.append(path) }
        }
        return found
    }

    static func isELF(_ path: FilePath) -> Bool {
        guard let file = try? openFile(path, O_RDONLY | O_NONBLOCK) else { return false }
        defer { close(file) }
        var head = [UInt8](repeating: 0, count: 4)
        return read(file, &head, 4) == 4 && head == [0x7f] + Array("ELF".utf8)
    }
}

/// Compares files by size first, then by contents, each pair once.
private struct Comparison {
    private struct Pair: Hashable {
        var device, inode: UInt64
        var original: FilePath
    }

    /// Bytes that may be read yet.
    var left: Int
    private(set) var isCut = false
    private var known: [Pair: Bool] = [:]

    init(left: Int) { self.left = left }

    /// The listed file that has the same contents as the file that `open` opens, or is that file.
    ///
    /// - Parameter path: where the file is, if a listed file at that path is no copy.
    mutating func original(of open: FilePath, _ path: FilePath?, among listed: ListedExecutables) -> FilePath? {
        var status = stat()
        guard open.withPlatformString({ stat($0, &status) }) == 0, status.st_mode & S_IFMT == S_IFREG,
            let same = listed.files[Int(status.st_size)]
        else { return nil }
        for file in same where file.path != path {
            if (file.device, file.inode) == (UInt64(status.st_dev), UInt64(status.st_ino)) { return file.path }
            let pair = Pair(device: UInt64(status.st_dev), inode: UInt64(status.st_ino), original: file.path)
            let isSame = known[pair] ?? hasSameContents(open, file.path, size: Int(status.st_size))
            known[pair] = isSame
            if isSame { return file.path }
        }
        return nil
    }

    private mutating func hasSameContents(_ first: FilePath, _ second: FilePath, size: Int) -> Bool {
        guard 2 * size <= left else {
            isCut = true
            return false
        }
        guard let one = try? openFile(first, O_RDONLY | O_NONBLOCK) else { return false }
        defer { close(one) }
        guard let other = try? openFile(second, O_RDONLY | O_NONBLOCK) else { return false }
        defer { close(other) }
        let chunk = 1 << 18
        var (a, b) = ([UInt8](repeating: 0, count: chunk), [UInt8](repeating: 0, count: chunk))
        var offset = 0
        while offset < size {
            let (got, gotOther) = (pread(one, &a, chunk, offset), pread(other, &b, chunk, offset))
            guard got > 0, got == gotOther, a[..<got] == b[..<got] else { return false }
            left -= 2 * got
            offset += got
        }
        return true
    }
}
