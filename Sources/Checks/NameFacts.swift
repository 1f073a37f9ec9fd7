// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// Whether libc asks the name service module and can load it, and whether nscd answers in its place.
package enum NameFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        [hostsLine(), module(), nscd()].compactMap { verdict, fact, fix in
            fact.map { .init(subject: "names", verdict: verdict, fact: $0, fix: fix) }
        }
    }

    /// Whether programs of a session get its address for the host's name.
    package static var isEnabled: Bool { [hostsLine(), module(), nscd()].allSatisfy { $0.verdict == .good } }

    private typealias Finding = (verdict: CheckedFact.Verdict, fact: String?, fix: String?)

    private static let enable = "vip-bpfctl names enable"

    private static func hostsLine() -> Finding {
        let path = NameServiceSwitch.defaultPath
        do throws(Failure) {
            let bytes: [UInt8]
            do throws(Errno) { bytes = try readWholeFile(path) } catch { throw Failure("read \(path)", errno: error) }
            let line = try HostsLine(in: bytes, "read \(path)")
            return finding(line, path)
        } catch {
            return (.warning, "\(error.operation): \(error.reason)", error.hint)
        }
    }

    private static func finding(_ line: HostsLine, _ path: FilePath) -> Finding {
        let fix = "make it '\(line.enabledText)': \(enable)"
        guard line.hasModule else {
            return (
                .warning,
                "\(path) does not ask \(HostsLine.module), so programs in a session get the host's address by its name",
                fix
            )
        }
        guard line.before.isEmpty else {
            return (.warning, "\(path) asks \(line.before.joined(separator: ", ")) before \(HostsLine.module)", fix)
        }
        guard line.endsSearch else {
            return (
                .warning, "\(path) asks other sources when \(HostsLine.module) answers that a session has no address",
                fix
            )
        }
        return line.isEnabled
            ? (.good, "\(path) has the line '\(line.text)'", nil)
            : (.warning, "\(path) lists \(HostsLine.module) twice", fix)
    }

    /// Loads the module as libc does, which uses the linker's whole search path.
    private static func module() -> Finding {
        let name = "libnss_\(HostsLine.module).so.2"
        guard let library = dlopen(name, RTLD_LAZY | RTLD_LOCAL) else {
            return (.warning, "\(name) is not in the linker's path", "make install, then ldconfig")
        }
        defer { dlclose(library) }
        guard dlsym(library, "_nss_\(HostsLine.module)_gethostbyname4_r") != nil else {
            return (.warning, "\(name) is another library of that name", "make install, then ldconfig")
        }
        return (.good, "\(name) can be loaded", nil)
    }

    /// nscd asks the sources in place of libc, from outside all sessions.
    private static func nscd() -> Finding {
        guard FileStatus.exists("/run/nscd/socket") else { return (.good, nil, nil) }
        let configuration = (try? String(contentsOf: "/etc/nscd.conf")) ?? ""
        let words = configuration.split(separator: "\n").map { line in
            line.prefix { $0 != "#" }.split { $0 == " " || $0 == "\t" }
        }
        guard words.last(where: { $0.starts(with: ["enable-cache", "hosts"]) })?.last == "yes" else {
            return (.good, nil, nil)
        }
        return (
            .warning, "nscd answers for the host's name, outside every session",
            "set 'enable-cache hosts no' in /etc/nscd.conf and restart nscd"
        )
    }
}
