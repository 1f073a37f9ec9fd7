// SPDX-License-Identifier: Apache-2.0

import CVipABI
import Glibc
public import Host
public import SystemPackage

/// One entry of a program list: which programs a feature applies to.
///
/// ``init(_:)`` checks the text; the cases themselves are not checked.
public enum ProgramEntry: Hashable, Sendable {
    /// `*`
    case everyProgram
    /// The file name of an executable or a script, without a slash: `java`. At most 63 bytes of UTF-8.
    case name(String)
    /// One file by its absolute path: `/opt/crm/bin/crm`.
    case path(FilePath)

    /// The longest name in bytes: `VIP_NAME_MAX` has room for the NUL.
    static let nameLimit = Int(VIP_NAME_MAX) - 1
    /// The longest path in bytes: PATH_MAX (limits.h) has room for the NUL.
    static let pathLimit = Int(PATH_MAX) - 1

    /// Reads `*`, a file name or an absolute path.
    ///
    /// - Throws: `Failure` with exit code 64. Its `reason` says what is wrong with the text.
    public init(_ text: String) throws(Failure) {
        func refused(_ why: String, hint remedy: String? = nil) -> Failure {
            Failure(.usage, "read program \(text.quotedForMessage)", why, hint: remedy)
        }
        guard !text.isEmpty else {
            throw refused("it is empty", hint: "give a file name, an absolute path or *")
        }
        if let character = text.firstForbiddenCharacter {
            throw refused("it has the character \(character) in it")
        }
        if text == "*" {
            self = .everyProgram
            return
        }
        guard text.utf8.contains(UInt8(ascii: "/")) else {
            guard text != ".", text != ".." else { throw refused("it names a directory") }
            guard text.utf8.count <= Self.nameLimit else {
                throw refused(
                    "a name has at most \(Self.nameLimit) bytes, this one has \(text.utf8.count)",
                    hint: "give its absolute path")
            }
            self = .name(text)
            return
        }
        guard text.utf8.first == UInt8(ascii: "/") else {
            throw refused("it is a relative path", hint: "give the file name alone or an absolute path")
        }
        guard text.utf8.last != UInt8(ascii: "/") else {
            throw refused("it ends in a slash as a directory does", hint: "give the path of an executable file")
        }
        guard text.utf8.count <= Self.pathLimit else {
            throw refused("a path has at most \(Self.pathLimit) bytes, this one has \(text.utf8.count)")
        }
        let parts = text.utf8.split(separator: UInt8(ascii: "/"))
        guard !parts.contains(where: { $0.elementsEqual(".".utf8) || $0.elementsEqual("..".utf8) }) else {
            throw refused("it has . or .. in it", hint: "give the path without them")
        }
        self = .path(FilePath(text))
    }

    /// The kernel's name of a process that runs a script of this name: the first 15 bytes of the name (`VIP_COMM_MAX`
    /// includes the NUL; `comm` in proc_pid_comm(5)). It is bytes and not text, because the end may be inside a
    /// character. `nil` for a path or `*`.
    public var processName: [UInt8]? {
        guard case .name(let name) = self else { return nil }
        return Array(name.utf8.prefix(Int(VIP_COMM_MAX) - 1))
    }
}

extension ProgramEntry: CustomStringConvertible {
    /// The text that it is read from, with repeated slashes of a path as one.
    public var description: String {
        switch self {
        case .everyProgram: "*"
        case .name(let name): name
        case .path(let path): path.string
        }
    }
}

extension ProgramEntry: CodableAsText {}
