// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import SystemPackage

extension Policy {
    /// The largest policy file in bytes: room for 50,000 program names, and read in well under a second.
    public static let sizeLimit = 1 << 20

    /// Reads a policy file.
    ///
    /// - Throws: `Failure` if the file is missing or cannot be read (exit code 77 if the permission is missing), and
    ///   for its first problem.
    public static func read(contentsOf path: FilePath) throws(Failure) -> Policy {
        try policy(from: check(contentsOf: path))
    }

    /// Reads the text of a policy file.
    ///
    /// - Parameters:
    ///   - yaml: one YAML document, or nothing at all, which means the defaults. At most `sizeLimit` bytes.
    ///   - file: the file's name, for the error.
    /// - Throws: `Failure` for the first problem of the text: `read policy FILE:4:9: virtualIP.mode: …`.
    public static func read(yaml: String, file: String) throws(Failure) -> Policy {
        try policy(from: check(yaml: yaml, file: file))
    }

    private static func policy(from result: Result<Policy, PolicyProblems>) throws(Failure) -> Policy {
        switch result {
        case .success(let policy): return policy
        case .failure(let problems): throw problems.failure
        }
    }

    /// Reads a policy file, and finds all of its problems.
    ///
    /// - Throws: `Failure` if the file is missing or cannot be read (exit code 77 if the permission is missing).
    public static func check(contentsOf path: FilePath) throws(Failure) -> Result<Policy, PolicyProblems> {
        try PolicyFile.check(contentsOf: path).map(\.policy)
    }

    /// Reads the text of a policy file, and finds all of its problems. The parameters are those of `read(yaml:file:)`.
    public static func check(yaml: String, file: String) -> Result<Policy, PolicyProblems> {
        PolicyFile.check(yaml: yaml, file: file).map(\.policy)
    }
}

extension PolicyFile {
    /// Reads a policy file, and finds all of its problems.
    ///
    /// - Parameter path: ``standardInput`` for standard input.
    /// - Throws: `Failure` if the file is missing or cannot be read (exit code 77 if the permission is missing).
    public static func check(contentsOf path: FilePath) throws(Failure) -> Result<PolicyFile, PolicyProblems> {
        let file = path == standardInput ? "<stdin>" : path.string
        let bytes: [UInt8]
        do {
            bytes = try readBytes(path, limit: Policy.sizeLimit + 1)
        } catch {
            let what = "read policy \(file)"
            switch error {
            case .noSuchFileOrDirectory: throw Failure(.failed, what, "there is no such file")
            case .isDirectory: throw Failure(.failed, what, "it is a directory", hint: "name the file in it")
            case .notRegularFile, .noSuchAddressOrDevice:
                throw Failure(
                    .failed, what, "it is not a regular file",
                    hint: "put the policy into one, or give it on standard input: -")
            default: throw Failure(what, errno: error)
            }
        }
        let problems = FoundProblems(file: file)
        // Check the size before the encoding, because the text may be cut inside a character.
        guard bytes.count <= Policy.sizeLimit else { return tooLarge(problems) }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            problems.report("it is not UTF-8", at: markOfInvalidUTF8(bytes), hint: "save it as UTF-8")
            return .failure(PolicyProblems(problems.sorted))
        }
        return check(yaml: text, file: file)
    }

    /// Reads the text of a policy file, and finds all of its problems. The parameters are those of
    /// ``Policy/read(yaml:file:)``.
    public static func check(yaml: String, file: String) -> Result<PolicyFile, PolicyProblems> {
        let problems = FoundProblems(file: file)
        guard yaml.utf8.count <= Policy.sizeLimit else { return tooLarge(problems) }
        var policy = Policy()
        do throws(YAMLError) {
            if let root = try YAMLNode(document: yaml) { policy.read(PolicyValue(root: root, problems)) }
        } catch {
            problems.report(error.message, at: error.mark, hint: error.hint)
        }
        guard problems.all.isEmpty else { return .failure(PolicyProblems(problems.sorted)) }
        return .success(PolicyFile(policy, file, problems.places, problems.keyPlaces))
    }

    private static func tooLarge(_ problems: FoundProblems) -> Result<PolicyFile, PolicyProblems> {
        problems.report("it is larger than 1 MiB", at: nil)
        return .failure(PolicyProblems(problems.all))
    }
}

extension Errno {
    /// Not of a call: what is opened is a pipe, a device or a socket.
    fileprivate static let notRegularFile = Errno(rawValue: Glibc.ENOSTR)
}

/// Whether a path names one of the caller's own descriptors, `<(COMMAND)` of a shell among them: these may be pipes.
private func isOwnDescriptor(_ path: FilePath) -> Bool {
    path == "/dev/stdin" || ["/dev/fd", "/proc/self/fd"].contains(path.removingLastComponent())
}

private func readBytes(_ path: FilePath, limit: Int) throws(Errno) -> [UInt8] {
    do {
        // Not by /dev/stdin, which cannot be opened if it is a socket.
        if path == PolicyFile.standardInput { return try readBytes(.standardInput, limit: limit) }
        let isOwn = isOwnDescriptor(path)
        // A pipe that nobody writes to would be waited for, and to open a device may do something.
        var options: FileDescriptor.OpenOptions = [.closeOnExec]
        if !isOwn { options.formUnion([.nonBlocking, .init(rawValue: O_NOCTTY)]) }
        let file = try FileDescriptor.open(path, .readOnly, options: options)
        return try file.closeAfter {
            var status = stat()
            guard fstat(file.rawValue, &status) == 0 else { throw Errno(rawValue: Glibc.errno) }
            switch status.st_mode & S_IFMT {
            case S_IFREG: break
            case S_IFDIR: throw Errno.isDirectory
            default: guard isOwn else { throw Errno.notRegularFile }
            }
            return try readBytes(file, limit: limit)
        }
    } catch let error as Errno {
        throw error
    } catch {
        // swift-system throws no other errors, but its closures are untyped.
        throw .ioError
    }
}

private func readBytes(_ file: FileDescriptor, limit: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: limit)
    var count = 0
    while count < limit {
        let more = try bytes.withUnsafeMutableBytes {
            try file.read(into: UnsafeMutableRawBufferPointer(rebasing: $0[count...]))
        }
        if more == 0 { break }
        count += more
    }
    return Array(bytes[..<count])
}

/// The place of the first byte that is not part of a valid character.
private func markOfInvalidUTF8(_ bytes: [UInt8]) -> YAMLNode.Mark {
    var codec = UTF8()
    var rest = bytes.makeIterator()
    var offset = 0
    while case .scalarValue(let scalar) = codec.decode(&rest) { offset += UTF8.width(scalar) }
    return YAMLNode.Mark(offset: offset, in: bytes)
}
