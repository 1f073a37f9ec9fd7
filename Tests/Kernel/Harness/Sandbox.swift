// SPDX-License-Identifier: Apache-2.0

import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

/// A simulated host for a test: network namespaces, cgroups, a BPF file system, a state directory.
///
/// Inside, the host has 198.51.100.1/24 on eth0. 198.51.100.2 is another host, `.outside`, and the default route. They
/// also have 2001:db8:51::1/64 and 2001:db8:51::2/64. `janitor.sh` makes all of this and removes it when this process
/// ends, also if it is killed.
final class Sandbox: Sendable {
    /// The sandbox's name, unique on this machine. The network namespace and the cgroup have it as well.
    let name: String
    let directory: String
    /// The topmost cgroup of the test: an absolute path.
    let cgroup: String

    private struct State {
        var janitor: Program?
        var programs = 0
    }
    private let state: Mutex<State>
    private static let count = Atomic(0)

    /// The address of the host inside, and that of the host outside.
    static let hostAddress = "198.51.100.1"
    static let outsideAddress = "198.51.100.2"
    static let hostAddress6 = "2001:db8:51::1"
    static let outsideAddress6 = "2001:db8:51::2"

    /// Which of the two hosts a program runs on.
    enum Place { case inside, outside }

    init() throws {
        guard let mount = CgroupMount.path else { throw HarnessError("cgroup v2 is not mounted") }
        let number = Self.count.add(1, ordering: .relaxed).newValue
        name = "vip-test-\(getpid())-\(number)"
        directory = "/tmp/\(name)"
        cgroup = "\(mount)/\(name)"
        let script = SourceTree.url("Tests/Support/janitor.sh").path
        // setsid, so that a signal to the test's process group, such as Ctrl-C, does not reach it.
        let janitor = try Program(
            ["setsid", "/bin/sh", script, name, cgroup, directory, Build.probe.path], name: "janitor of \(name)")
        guard try janitor.readLine() == "ready" else { throw HarnessError("the janitor of \(name) said nonsense") }
        state = Mutex(State(janitor: janitor))
    }

    /// Ends all processes, removes everything, and throws if anything is left.
    func tearDown() throws {
        let code: Int32? = try state.withLock { state in
            guard let janitor = state.janitor else { return nil }
            state.janitor = nil
            janitor.closeInput()
            return try janitor.wait()
        }
        guard code == nil || code == 0 else {
            throw HarnessError("the janitor of \(name) left something (exit code \(code ?? 0))")
        }
        try Self.expectNothingLeft(of: name)
    }

    /// Checks that nothing of a sandbox with this name is left.
    static func expectNothingLeft(of name: String) throws {
        let places = [
            "\(CgroupMount.path ?? "")/\(name)", "/run/netns/\(name)", "/run/netns/\(name)-out", "/tmp/\(name)",
        ]
        let left = places.filter { FileManager.default.fileExists(atPath: $0) }
        let mounts = try KernelFile.read("/proc/self/mounts")
        guard left.isEmpty else { throw HarnessError("left behind: \(left.joined(separator: ", "))") }
        guard !mounts.contains("/tmp/\(name)/") else { throw HarnessError("left behind: a mount in /tmp/\(name)") }
    }

    /// Runs `body` in a new sandbox, and removes it in any case.
    static func with<R>(_ body: (Sandbox) throws -> R) throws -> R {
        let sandbox = try Sandbox()
        do {
            let result = try body(sandbox)
            try sandbox.tearDown()
            return result
        } catch {
            try? sandbox.tearDown()
            throw error
        }
    }

    // MARK: Cgroups

    /// The absolute path of a cgroup below this sandbox's, which is created if it does not exist.
    func cgroup(_ relative: String) throws -> String {
        let path = "\(cgroup)/\(relative)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }

    // MARK: Programs

    /// Starts an executable in a cgroup (a path relative to the sandbox's) of one of the two hosts.
    func start(
        _ command: [String], in cgroup: String, at place: Place = .inside, environment: [String: String] = [:],
        errorOutput: Bool = false
    ) throws -> Program {
        // nsenter, because `ip netns exec` mounts a new /sys, which hides cgroups and the BPF file system.
        let enter = #"echo $$ >"$0/cgroup.procs" && net=$1 && shift && exec nsenter --net="$net" -- "$@""#
        let namespace = "/run/netns/\(place == .inside ? name : "\(name)-out")"
        return try Program(
            ["/bin/sh", "-c", enter, try self.cgroup(cgroup), namespace] + command,
            name: "\(command.joined(separator: " ")) in \(cgroup)", environment: environment, errorOutput: errorOutput)
    }

    /// Runs a command in `control` on the inner host until it ends, and returns its standard output.
    @discardableResult
    func sh(_ script: String, at place: Place = .inside) throws -> String {
        let program = try start(["/bin/sh", "-ec", script], in: "control", at: place, errorOutput: true)
        program.closeInput()
        let code = try program.wait()
        guard code == 0 else { throw HarnessError("\(script): exit code \(code): \(program.errorText)") }
        return program.outputText
    }

    /// The IPv4 virtual IPs on an interface: by a route of their own, or as /32. They may be of several instances.
    func virtualIPs(on interface: String = "eth0") throws -> Set<String> {
        let routes = try sh("ip -4 route show table local type local dev \(interface)").split(separator: "\n")
            .filter { !$0.contains(" src ") }
            .compactMap { $0.split(separator: " ").first { $0.first?.isNumber == true }.map(String.init) }
        let addresses = try sh("ip -o -4 address show dev \(interface)").matches(of: #/inet ([0-9.]+)/32/#)
        return Set(routes.filter { !$0.contains("/") } + addresses.map { String($0.1) })
    }

    /// Starts a probe whose program matches `name` on a program list: a copy at bin/`name`, or at the path `name`,
    /// which is absolute or relative to the sandbox's directory.
    func probe(_ name: String = "vip-probe", in cgroup: String, at place: Place = .inside) throws -> Probe {
        let path = name.hasPrefix("/") ? name : "\(directory)/\(name.contains("/") ? name : "bin/\(name)")"
        try install(copyOf: Build.probe.path, at: path)
        return try Probe(start([path], in: cgroup, at: place))
    }

    /// Starts a script of that name which works like a probe: the kernel runs its interpreter, python3.
    func script(_ name: String, in cgroup: String) throws -> Probe {
        let path = "\(directory)/bin/\(name)"
        try Probe.script.write(toFile: "\(path).text", atomically: true, encoding: .utf8)
        try install(copyOf: "\(path).text", at: path)
        return try Probe(start([path], in: cgroup))
    }

    private func install(copyOf source: String, at path: String) throws {
        guard !FileManager.default.fileExists(atPath: path) else { return }
        // By another process: a child that another test forks at the same time would inherit this process's descriptor,
        // and executing a file that is open for writing fails (ETXTBSY).
        try sh("install -D -m 755 '\(source)' '\(path)'")
    }
}

/// The products of the build, beside the test bundle.
enum Build {
    private static let directory = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()

    static var probe: URL { directory.appending(path: "vip-probe") }
    static var mockLogind: URL { directory.appending(path: "vip-mock-logind") }
    static var controller: URL { directory.appending(path: "vip-bpfctl") }

    /// What runs a command with exactly the capabilities of a unit in `packaging`.
    static func leastPrivileges(of unit: String) throws -> [String] {
        let text = try String(contentsOf: SourceTree.url("packaging/\(unit).service.in"), encoding: .utf8)
        let key = "CapabilityBoundingSet="
        guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix(key) }) else {
            throw HarnessError("\(unit).service says nothing of capabilities")
        }
        let names = line.dropFirst(key.count).split(separator: " ").map {
            "+\($0.dropFirst("CAP_".count).lowercased())"
        }
        return ["setpriv", "--inh-caps=-all", "--bounding-set=\((["-all"] + names).joined(separator: ","))"]
    }
}
