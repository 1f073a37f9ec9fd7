// SPDX-License-Identifier: Apache-2.0

import Glibc
public import SystemPackage

extension Failure {
    /// A failed system call or libbpf call as an error line.
    ///
    /// - Parameters:
    ///   - error: The errno. Permission errors get the code ``Code/notPermitted`` and their own remedy.
    ///   - what: What was tried, on what.
    ///   - remedy: What to do about any other error.
    ///   - detail: More, for `-v`.
    public static func kernel(_ error: Errno, _ what: String, try remedy: String? = nil, detail: String? = nil)
        -> Failure
    {
        switch error {
        case .notPermitted, .permissionDenied:
            Failure(
                .notPermitted, what, error.text,
                try: "run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON", detail: detail)
        default:
            Failure(.failed, what, error.text, try: remedy, detail: detail)
        }
    }
}

extension Errno {
    /// `strerror(3)` in lower case at its beginning, as it stands inside a line.
    public var text: String {
        let text = description
        guard let first = text.first, text.dropFirst().first?.isLowercase == true else { return text }
        return first.lowercased() + text.dropFirst()
    }

    /// The calling thread's errno. Read it in the statement after the call.
    public static var current: Errno { Errno(rawValue: errno) }
}

extension Failure {
    /// What an errno means, as the middle of an error line: `permission denied` for both EACCES and EPERM.
    package static func reason(_ errno: Errno) -> String {
        switch errno {
        case .permissionDenied, .notPermitted: return "permission denied"
        default:
            let text = errno.description
            return text.prefix(1).lowercased() + text.dropFirst()
        }
    }

    /// A failed system call. EACCES and EPERM become the code ``Code/notPermitted``, with its remedy where none is given.
    package static func system(
        _ what: String, _ errno: Errno, try remedy: String? = nil, needs capability: String? = nil
    ) -> Failure {
        guard errno == .permissionDenied || errno == .notPermitted else {
            return Failure(.failed, what, reason(errno), try: remedy)
        }
        return Failure(
            .notPermitted, what, reason(errno), try: "run as root\(capability.map { " or grant \($0)" } ?? "")")
    }
}
