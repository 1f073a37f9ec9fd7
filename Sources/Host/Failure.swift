// SPDX-License-Identifier: Apache-2.0

/// Why something could not be done, in the four parts of an error line:
/// what was tried (on what), why it failed, what to do.
///
/// Rendered as `WHAT: WHY; TRY`. State is unchanged when one is thrown, unless its documentation says otherwise.
public struct Failure: Error, Sendable, Hashable {
    /// What kind of failure it is; it decides the exit code. An extensible code, not an enum:
    /// a caller must be ready for one it does not know.
    public struct Code: Sendable, Hashable {
        /// Tells codes of one exit code apart.
        private let name: String
        /// The exit code of `vip-bpfctl`, from sysexits.h where there is one.
        public let exitCode: Int32

        /// A code of another module's.
        public init(_ name: String, exitCode: Int32) {
            self.name = name
            self.exitCode = exitCode
        }

        /// Failed: state or input does not allow it.
        public static let failed = Code("failed", exitCode: 1)
        /// Failed: another process is at it.
        public static let busy = Code("busy", exitCode: 1)
        /// Bad usage (EX_USAGE).
        public static let usage = Code("usage", exitCode: 64)
        /// This kernel or host lacks what is needed (EX_UNAVAILABLE).
        public static let unavailable = Code("unavailable", exitCode: 69)
        /// Not permitted (EX_NOPERM).
        public static let notPermitted = Code("not permitted", exitCode: 77)
    }

    public let code: Code
    /// What was tried, and on what: `open session 7`.
    public let what: String
    /// Why it failed: `its cgroup is already session 3`.
    public let why: String
    /// What to do about it: `close session 3 first`. `nil` where nothing helps.
    public let remedy: String?
    /// More, for `-v`: the verifier's whole log.
    public let detail: String?

    public init(_ code: Code = .failed, _ what: String, _ why: String, try remedy: String? = nil, detail: String? = nil)
    {
        self.code = code
        self.what = what
        self.why = why
        self.remedy = remedy
        self.detail = detail
    }
}

extension Failure: CustomStringConvertible {
    /// One line, whatever the parts contain.
    public var description: String {
        let line = remedy.map { "\(what): \(why); \($0)" } ?? "\(what): \(why)"
        return String(line.map { $0.isNewline ? " " : $0 })
    }
}
