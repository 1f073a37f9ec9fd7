// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
public import SystemPackage

/// Why an operation failed, in the parts of an error line: the operation, the reason, a hint.
///
/// Rendered as `OPERATION: REASON; HINT`. When one is thrown, state is unchanged unless the function's documentation
/// says otherwise.
public struct Failure: Error, Sendable, Hashable {
    /// The kind of failure, which decides the exit code. It is extensible and no enum: callers must accept codes that
    /// they do not know.
    public struct Code: Sendable, Hashable {
        /// Distinguishes codes with the same exit code.
        private let name: String
        /// The exit code of `vip-bpfctl`, from sysexits.h if it has one.
        public let exitCode: Int32

        /// A code that another module defines.
        public init(_ name: String, exitCode: Int32) {
            self.name = name
            self.exitCode = exitCode
        }

        /// Failed: state or input does not allow it.
        public static let failed = Code("failed", exitCode: 1)
        /// Failed: another process holds a lock or an object that is needed.
        public static let busy = Code("busy", exitCode: 1)
        /// Bad usage (EX_USAGE).
        public static let usage = Code("usage", exitCode: 64)
        /// This kernel or host lacks what is needed (EX_UNAVAILABLE).
        public static let unavailable = Code("unavailable", exitCode: 69)
        /// Privilege is missing (EX_NOPERM).
        public static let notPermitted = Code("not permitted", exitCode: 77)
    }

    public let code: Code
    /// What was tried, and on what: `open session 7`.
    public let operation: String
    /// Why it failed: `its cgroup is already session 3`.
    public let reason: String
    /// What to do about it: `close session 3 first`. `nil` if there is nothing to do.
    public let hint: String?
    /// The errno of the failed call; `nil` if no call failed.
    public let errno: Errno?
    /// Details for `-v`, such as the verifier's whole log.
    public let detail: String?

    /// A failure that does not come from a system call, or whose reason is not the errno's text.
    ///
    /// - Parameter errno: the errno of the failed call, if there was one.
    public init(
        _ code: Code = .failed, _ operation: String, _ reason: String, hint: String? = nil, errno: Errno? = nil,
        detail: String? = nil
    ) {
        self.code = code
        self.operation = operation
        self.reason = reason
        self.hint = hint
        self.errno = errno
        self.detail = detail
    }

    /// A failed system call or library call.
    ///
    /// EPERM and EACCES become ``Code/notPermitted``, with a hint that names the privilege, if the caller lacks one: it
    /// is not root, a capability is not in its effective set, or it is in a user namespace. All other errors are
    /// ``Code/failed``.
    ///
    /// - Parameters:
    ///   - errno: the call's errno, a positive number.
    ///   - needed: the capabilities that the operation needs. EACCES needs CAP_DAC_OVERRIDE as well.
    ///   - hint: what to do if no privilege is missing.
    ///   - detail: details for `-v`.
    public init(
        _ operation: String, errno: Errno, needs needed: [Capability] = [], hint: String? = nil, detail: String? = nil
    ) {
        self.init(operation, errno: errno, needs: needed, hint: hint, detail: detail, privileges: .current)
    }

    /// A failed read of a file that belongs to every host, such as one of /proc.
    ///
    /// - Parameter remedy: what makes the file. If it does not exist, the code is ``Code/unavailable``, with this hint.
    package init(reading file: FilePath, errno: Errno, ifMissing remedy: String) {
        let operation = "read \(file)"
        if errno == .noSuchFileOrDirectory {
            self.init(.unavailable, operation, errno.text, hint: remedy, errno: errno)
        } else {
            self.init(operation, errno: errno)
        }
    }

    package init(
        _ operation: String, errno: Errno, needs needed: [Capability] = [], hint: String? = nil, detail: String? = nil,
        privileges: @autoclosure () -> Privileges
    ) {
        let isRefusal = errno == .notPermitted || errno == .permissionDenied
        let missing = isRefusal ? privileges().hint(needed: needed, isFile: errno == .permissionDenied) : nil
        self.init(
            missing == nil ? .failed : .notPermitted, operation, errno.text, hint: missing ?? hint, errno: errno,
            detail: detail)
    }
}

extension Failure: CustomStringConvertible {
    /// The failure on one line, whatever the parts contain.
    public var description: String {
        (hint.map { "\(operation): \(reason); \($0)" } ?? "\(operation): \(reason)").printableLine
    }
}

extension Errno {
    /// `strerror(3)` for use inside a line: its first letter is in lower case unless it begins an abbreviation.
    public var text: String {
        let text = description
        guard let first = text.first, text.dropFirst().first?.isLowercase == true else { return text }
        return first.lowercased() + text.dropFirst()
    }

    /// The constant's name, such as `EADDRINUSE`.
    package var name: String { vip_errno_name(rawValue).map { String(cString: $0) } ?? "errno \(rawValue)" }

    /// The calling thread's errno. Read it in the statement directly after the call.
    public static var current: Errno { Errno(rawValue: Glibc.errno) }
}
