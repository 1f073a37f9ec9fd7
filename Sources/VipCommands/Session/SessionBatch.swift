// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc
import Host
import Network
import Sessions
import SystemPackage

/// Reads sessions to open, one per line, with the words of `session open`. As in `ip -batch`, words are separated by
/// blanks and there is no quoting. Empty lines and lines that begin with `#` are skipped.
///
/// It does not use ArgumentParser, which takes a millisecond for each line: ten seconds for ten thousand.
enum SessionBatch {
    /// More bytes than ten million sessions need. The limit keeps endless input from filling the memory.
    private static let limit = 1 << 30

    static func read(_ file: String, mounts: MountTable) throws(Failure) -> [SessionRequest] {
        let what = "read sessions from \(file == "-" ? "standard input" : file)"
        var descriptor = STDIN_FILENO
        if file != "-" {
            descriptor = open(file, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw Failure(what, errno: .current) }
        }
        defer { if descriptor != STDIN_FILENO { close(descriptor) } }
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw Failure(what, errno: .current) }
            if count == 0 { break }
            text += buffer[..<count]
            guard text.count <= limit else { throw Failure(.usage, what, "it is longer than \(limit) bytes") }
        }
        return try parse(text, what, mounts: mounts)
    }

    static func parse(_ text: [UInt8], _ what: String, mounts: MountTable) throws(Failure) -> [SessionRequest] {
        var requests: [SessionRequest] = []
        for (index, line) in text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
            let words = line.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: "\r") }
            guard let first = words.first, first.first != UInt8(ascii: "#") else { continue }
            guard let words = words.map({ String(validating: $0, as: UTF8.self) }) as? [String] else {
                throw Failure(.usage, what, "line \(index + 1): it is not UTF-8")
            }
            do throws(Failure) {
                requests.append(try request(words, mounts: mounts))
            } catch {
                throw Failure(
                    error.code, what, "line \(index + 1): \(error.operation): \(error.reason)", hint: error.hint)
            }
        }
        return requests
    }

    private static func request(_ words: [String], mounts: MountTable) throws(Failure) -> SessionRequest {
        var cgroup: Cgroup?
        var id: UInt32?
        var allowReserved = false
        var addresses: [IPAddress] = []
        var user: String?
        var policy: String?
        var rest = words[...]
        while let option = rest.popFirst() {
            if option == "--allow-reserved" {
                allowReserved = true
                continue
            }
            guard let value = rest.popFirst() else {
                throw Failure(.usage, "read \(option)", "a value is missing", hint: "write \(option) VALUE")
            }
            func once(_ isFirst: Bool) throws(Failure) {
                guard isFirst else {
                    throw Failure(.usage, "read \(option)", "it is given twice", hint: "give it once")
                }
            }
            switch option {
            case "--cgroup":
                try once(cgroup == nil)
                cgroup = try Cgroup(path: FilePath(value), mounts: mounts)
            case "--id":
                try once(id == nil)
                guard let number = UInt32(value) else {
                    throw Failure(
                        .usage, "read --id", "'\(value)' is not a session ID",
                        hint: "give a number, 2…\(SessionIDs.last)")
                }
                id = number
            case "--ip":
                guard let address = IPAddress(value) else {
                    throw Failure(
                        .usage, "read --ip", "'\(value)' is not an IP address",
                        hint: "write it as 10.20.0.17 or 2001:db8::17")
                }
                addresses.append(address)
            case "--user":
                try once(user == nil)
                try check(user: value)
                user = value
            case "--policy":
                try once(policy == nil)
                policy = value
            default:
                throw Failure(
                    .usage, "read \(option)", "there is no such option",
                    hint: "use --cgroup, --id, --allow-reserved, --ip, --user or --policy")
            }
        }
        guard let cgroup else {
            throw Failure(.usage, "open a session", "--cgroup is missing", hint: "write --cgroup PATH")
        }
        guard !cgroup.isRoot else {
            throw Failure(
                .failed, "open a session on \(cgroup.path)", "it is the root of cgroup v2",
                hint: "name a cgroup below it")
        }
        var request = SessionRequest(cgroup: cgroup)
        request.id = id
        request.allowReserved = allowReserved
        request.addresses = addresses
        request.user = user
        request.policy = policy
        return request
    }

    /// Checks a user's name for records and lists: any text of one line, not longer than Linux allows.
    static func check(user: String) throws(Failure) {
        guard UserName.isAcceptable(user) else {
            throw Failure(
                .usage, "read --user", "the user name is not valid",
                hint: "give 1 to \(UserName.limit) bytes, no control characters")
        }
    }
}
