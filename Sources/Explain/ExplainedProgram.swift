// SPDX-License-Identifier: Apache-2.0

import BPFLoader
package import CVipABI
package import Glibc
package import Host
import PolicyMaps
package import SystemPackage

/// A program as program lists identify it: `struct vip_program` of bpf/abi.h, and where it comes from.
package struct ExplainedProgram {
    /// The identity of the file. Its name is cut to the length in the map.
    package var identity: vip_program_file
    package var path: [UInt8]
    /// The last component of the path, not cut.
    package var name: [UInt8]
    /// The name of the thread-group leader, at most 15 bytes.
    package var processName: [UInt8]
    /// The last component of the path by which it was started, if that is another name: a link's.
    package var startedAs: [UInt8]?
    /// Whether the file is no longer at its path, or another one is there, as after an upgrade.
    package var isDeleted = false
    /// Remarks about unexpected properties.
    package var notes: [String] = []

    /// The device, `8:1`.
    package var device: String { ProgramFile.text(ofDevice: identity.device) }

    // MARK: A process

    /// The program of a running process.
    package static func running(_ pid: pid_t) throws(Failure) -> ExplainedProgram {
        let what = "explain process \(pid)"
        guard let status = read("/proc/\(pid)/status") else {
            throw Failure(.failed, what, "there is no such process", hint: "see ps -e")
        }
        // The names of a list are compared with the leader's name, whichever thread calls.
        let leader = field("Tgid", of: status).flatMap { pid_t($0) } ?? pid
        guard let program = try ProgramFile.running(in: leader) else {
            throw Failure(.failed, what, try reason(pid, status), hint: "see ps -e")
        }
        guard let comm = read("/proc/\(leader)/comm") else {
            throw Failure(.failed, what, "it has ended in the meantime", hint: "see ps -e")
        }
        var explained = ExplainedProgram(
            identity: program.identity, path: program.path, name: program.name,
            processName: Array(comm.dropLast(comm.last == UInt8(ascii: "\n") ? 1 : 0)), isDeleted: program.isDeleted)
        let arguments = read("/proc/\(leader)/cmdline") ?? []
        let first = arguments.prefix { $0 != 0 }.split(separator: UInt8(ascii: "/")).last.map(Array.init)
        if let first, first != explained.name { explained.startedAs = first }
        return explained
    }

    /// Why a process has no program, by `Kthread` and `State` of proc_pid_status(5). `Kthread` exists since Linux 6.8.
    private static func reason(_ pid: pid_t, _ status: [UInt8]) throws(Failure) -> String {
        guard read("/proc/\(pid)/status") != nil else { return "it has ended in the meantime" }
        if field("State", of: status)?.hasPrefix("Z") == true {
            return "it has ended, and its parent has not reaped it yet"
        }
        // A kernel thread has no memory of its own.
        return field("VmSize", of: status) == nil
            ? "it is a kernel thread, which runs no program" : "it has ended in the meantime"
    }

    private static func field(_ name: String, of status: [UInt8]) -> String? {
        let line = status.split(separator: UInt8(ascii: "\n")).first { $0.starts(with: Array("\(name):".utf8)) }
        return line.map { String(decoding: $0.dropFirst(name.utf8.count + 1), as: UTF8.self) }
            .map { String($0.drop { $0 == " " || $0 == "\t" }) }
    }

    private static func read(_ path: String) -> [UInt8]? { try? readWholeFile(FilePath(path)) }

    // MARK: A file

    /// The program of a process that executes `path`. For a script, it is the interpreter, and the process has the
    /// script's name.
    package static func file(_ path: FilePath) throws(Failure) -> ExplainedProgram {
        let mounts = try MountTable.current()
        let what = "explain \(path)"
        var program = try self.program(path, what, mounts)
        let asked = path.lastComponent.map { Array($0.string.utf8) } ?? []
        program.processName = Array(asked.prefix(Int(VIP_COMM_MAX) - 1))
        if asked != program.name { program.startedAs = asked }
        guard let line = scriptLine(path) else { return program }
        // binfmt_script.c: the interpreter's path, and at most one argument, which may contain spaces.
        let words = line.split { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") }
        guard let first = words.first else {
            throw Failure(.failed, what, "its first line names no interpreter")
        }
        let interpreter = FilePath(String(decoding: first, as: UTF8.self))
        var run = try self.program(interpreter, what, mounts)
        run.processName = program.processName
        run.startedAs = nil
        run.notes.append("\(path) is a script: it runs as \(interpreter) with the script's process name")
        if run.name == Array("env".utf8) {
            run.notes.append(
                "env executes another program, and the process loses the script's name; explain the running process instead"
            )
        }
        return run
    }

    private static func program(
        _ path: FilePath, _ what: String, _ mounts: MountTable
    ) throws(Failure) -> ExplainedProgram {
        guard let identity = try ProgramFile.identity(of: path, mounts: mounts) else {
            throw Failure(.failed, what, "there is no file \(path)", hint: "give the path of an executable file")
        }
        guard let real = (try? path.real())?.bytes, path.withPlatformString({ access($0, X_OK) }) == 0 else {
            throw Failure(.failed, what, "\(path) cannot be executed", hint: "give the path of an executable file")
        }
        let name = real.split(separator: UInt8(ascii: "/")).last.map(Array.init) ?? []
        return ExplainedProgram(identity: identity, path: real, name: name, processName: [])
    }

    /// The text after `#!` on a script's first line. The kernel reads 256 bytes of it (BINPRM_BUF_SIZE).
    private static func scriptLine(_ path: FilePath) -> [UInt8]? {
        guard let file = try? openFile(path, O_RDONLY | O_NONBLOCK) else { return nil }
        defer { close(file) }
        var buffer = [UInt8](repeating: 0, count: 256)
        let count = Glibc.read(file, &buffer, buffer.count)
        guard count > 2, buffer.starts(with: Array("#!".utf8)) else { return nil }
        return Array(buffer[2..<count].prefix { $0 != UInt8(ascii: "\n") })
    }

    // MARK: On the lists

    /// How the hooks find a program on a list: the three look-ups of `vip_evaluate_program()`.
    package enum Way: String, CaseIterable {
        case executableName = "executable name"
        case processName = "process name"
        case file
    }
}
