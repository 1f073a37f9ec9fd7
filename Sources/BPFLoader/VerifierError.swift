// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF
import Glibc
import Host
import Synchronization
public import SystemPackage

/// Captures what libbpf prints, the verifier's log included.
///
/// libbpf has one print function for the process (`libbpf_set_print(3)`), so the buffer is global too.
enum LibBPFLog {
    private static let lines = Mutex<[String]>([])
    private static let installed = Mutex(false)

    /// Runs `body`. Returns its result, and what libbpf printed during it without the debug lines.
    static func capturing<T, E: Error>(_ body: () throws(E) -> T) throws(E) -> (T, log: String) {
        install()
        lines.withLock { $0.removeAll() }
        let result = try body()
        return (result, log: lines.withLock { $0.joined() })
    }

    private static func install() {
        let isFirst = installed.withLock { installed in
            defer { installed = true }
            return !installed
        }
        guard isFirst else { return }
        _ = libbpf_set_print { level, format, arguments in
            guard level != LIBBPF_DEBUG, let format, let arguments else { return 0 }
            // A verifier log is one message of up to 16 MiB (libbpf's own cap); more than this does not help.
            let capacity = 1 << 20
            let text = withUnsafeTemporaryAllocation(of: CChar.self, capacity: capacity) { buffer -> String in
                guard let base = buffer.baseAddress, vsnprintf(base, capacity, format, arguments) >= 0 else {
                    return ""
                }
                return String(cString: base)
            }
            LibBPFLog.lines.withLock { $0.append(text) }
            return 0
        }
    }
}

/// The line of a verifier log that gives the reason.
///
/// The verifier's message stands at the end of the log, followed only by statistics (`kernel/bpf/verifier.c`,
/// `print_verification_stats`). The instructions that led to it stand before it.
public func tellingLine(ofVerifierLog log: String) -> String? {
    let lines = log.split(whereSeparator: \.isNewline).map { $0.trimmingSpaces() }.filter { !$0.isEmpty }
    let end = lines.firstIndex { $0.hasPrefix("processed ") && $0.contains(" insns ") } ?? lines.endIndex
    func isNoise(_ line: String) -> Bool {
        line.hasPrefix("libbpf:") || line.hasPrefix("-- ") || line.hasPrefix(";") || line.hasPrefix("verification time")
            || line.hasPrefix("stack depth") || line.hasPrefix("from ")
            || line.first?.isNumber == true && line.contains(": (")
            || line.hasPrefix("R") && line.dropFirst().first?.isNumber == true && line.contains("=")
    }
    if let line = lines[..<end].last(where: { !isNoise($0) }) { return line }
    // There is no verifier log: use the last line of libbpf.
    return lines.last { $0.hasPrefix("libbpf:") }.map { String($0.dropFirst("libbpf:".count)).trimmingSpaces() }
}

extension StringProtocol {
    package func trimmingSpaces() -> String {
        let rest = drop { $0.isWhitespace }
        guard let end = rest.lastIndex(where: { !$0.isWhitespace }) else { return "" }
        return String(rest[...end])
    }
}

/// Why the kernel refused an object, according to libbpf and the verifier.
public struct VerifierError: Sendable {
    /// All that libbpf printed, the verifier's log included.
    public let log: String
    public let errno: Errno

    public init(log: String, errno: Errno) {
        self.log = log
        self.errno = errno
    }

    /// The C name of the program that was refused; `nil` if no program was.
    ///
    /// `libbpf: prog 'vip_bind4': failed to load: -22` → `vip_bind4`.
    public var program: String? {
        guard
            let line = log.split(separator: "\n").last(where: {
                $0.contains("prog '") && $0.contains("failed to load")
            }),
            let start = line.firstRange(of: "prog '")?.upperBound, let end = line[start...].firstIndex(of: "'")
        else { return nil }
        return String(line[start..<end])
    }

    /// The line that gives the reason.
    public var line: String { tellingLine(ofVerifierLog: log) ?? errno.text }

    func failure(_ operation: String) -> Failure {
        let isVerifier = errno == .permissionDenied || errno == .invalidArgument
        return Failure(
            .unavailable, operation + (program.map { ": \($0)" } ?? ""),
            isVerifier ? "this kernel's verifier refuses it: \(line)" : line,
            hint: isVerifier ? "run vip-bpfctl check, and -v for the whole log" : "run vip-bpfctl check", errno: errno,
            detail: log)
    }
}
