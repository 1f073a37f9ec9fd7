// SPDX-License-Identifier: Apache-2.0

import Glibc
public import SystemPackage

/// Why an operation failed, in the parts of an error line: the operation, the reason, a hint.
///
/// Rendered as `OPERATION: REASON; HINT`. State is unchanged when one is thrown, unless its documentation says otherwise.
public struct Failure: Error, Sendable, Hashable {
    /// What kind of failure it is; it decides the exit code. An extensible code, not an enum:
    /// a caller must be ready for one it does not know.
    public struct Code: Sendable, Hashable {
        /// Tells codes of one exit code apart.
        private let name: String
        /// The exit code of `vip-bpfctl`, from sysexits.h where it has one.
        public let exitCode: Int32

        /// A code that another module defines.
        public init(_ name: String, exitCode: Int32) {
            self.name = name
            self.exitCode = exitCode
        }

        /// Failed: state or input does not allow it.
        public static let failed = Code("failed", exitCode: 1)
        /// Failed: another process holds what is needed.
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
    /// What to do about it: `close session 3 first`. `nil` where nothing helps.
    public let hint: String?
    /// The errno of the failed call; `nil` where no call failed.
    public let errno: Errno?
    /// More, for `-v`: the verifier's whole log.
    public let detail: String?

    /// A failure without a failed call behind it.
    ///
    /// - Parameter errno: That of the call behind it, where `reason` says more than the errno's text.
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
    /// EPERM and EACCES are ``Code/notPermitted``, with a hint that names the privilege, where the caller lacks one:
    /// it is not root, a capability is not in its effective set, or it is in a user namespace. All else is ``Code/failed``.
    ///
    /// - Parameters:
    ///   - errno: The call's errno, a positive number.
    ///   - needed: The capabilities that the operation takes. EACCES takes CAP_DAC_OVERRIDE besides.
    ///   - hint: What to do where privilege is not what is missing.
    ///   - detail: More, for `-v`.
    public init(
        _ operation: String, errno: Errno, needs needed: [Capability] = [], hint: String? = nil, detail: String? = nil
    ) {
        self.init(operation, errno: errno, needs: needed, hint: hint, detail: detail, privileges: .current)
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
    /// One line, whatever the parts contain.
    public var description: String {
        (hint.map { "\(operation): \(reason); \($0)" } ?? "\(operation): \(reason)").printableLine
    }
}

extension Errno {
    /// `strerror(3)`, its first letter in lower case unless it begins an abbreviation: as it stands inside a line.
    public var text: String {
        let text = description
        guard let first = text.first, text.dropFirst().first?.isLowercase == true else { return text }
        return first.lowercased() + text.dropFirst()
    }

    /// The calling thread's errno. Read it in the statement after the call.
    public static var current: Errno { Errno(rawValue: Glibc.errno) }
}
