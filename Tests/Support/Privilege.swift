// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
public import Testing

/// The requirements of the kernel tests on the process and the host.
public enum Privilege {
    /// The capabilities that the tests need, by bit (include/uapi/linux/capability.h).
    private static let needed: KeyValuePairs = [
        "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39,
    ]

    /// Why these tests cannot run here; `nil` if they can.
    public static let missing: String? = {
        guard geteuid() == 0 else { return "not root: build as yourself, then `sudo swift test --skip-build`" }
        let status = (try? KernelFile.read("/proc/self/status")) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        let effective =
            line.flatMap { UInt64($0.dropFirst("CapEff:".count).trimmingCharacters(in: .whitespaces), radix: 16) } ?? 0
        for (name, bit) in needed where effective >> UInt64(bit) & 1 == 0 {
            return "root without \(name), as in a container: give it the capability"
        }
        guard CgroupMount.path != nil else { return "cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup" }
        return nil
    }()

    /// In CI, a test that cannot run must fail.
    public static var mustRun: Bool { ProcessInfo.processInfo.environment["CI"] != nil }
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, `/sys/fs/cgroup/unified` or elsewhere.
public enum CgroupMount {
    public static let path: String? = {
        let table = (try? KernelFile.read("/proc/self/mounts")) ?? ""
        for line in table.split(separator: "\n") {
            let fields = line.split(separator: " ")
            if fields.count > 2, fields[2] == "cgroup2" { return String(fields[1]) }
        }
        return nil
    }()
}

/// Files whose contents the kernel generates when they are read.
public enum KernelFile {
    /// The whole file. Foundation takes a short read for the end, but in /proc each page gives one.
    public static func read(_ path: String) throws -> String {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw HarnessError.errno("open \(path)") }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        while true {
            let chunk = try [UInt8](unsafeUninitializedCapacity: 65536) { buffer, count in
                let got = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
                guard got >= 0 else { throw HarnessError.errno("read \(path)") }
                count = got
            }
            if chunk.isEmpty { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk
        }
    }
}

extension Trait where Self == ConditionTrait {
    /// Skips with the reason if privileges are missing; in CI it fails.
    public static var requiresRoot: Self {
        .enabled(Comment(rawValue: Privilege.missing ?? "may run")) {
            guard let missing = Privilege.missing else { return true }
            if Privilege.mustRun { throw HarnessError("this test must run where CI is set, and cannot: \(missing)") }
            return false
        }
    }
}

/// A failure of the harness itself, and not of what it tests.
public struct HarnessError: Error, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }

    /// An error for a C call that has just failed.
    public static func errno(_ call: String) -> HarnessError {
        HarnessError("\(call): \(String(cString: strerror(Glibc.errno)))")
    }
}
