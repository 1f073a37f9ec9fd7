// SPDX-License-Identifier: Apache-2.0

public import ArgumentParser
import Glibc
import Host

/// The root of the command line.
public struct VipBPFCtl: ParsableCommand {
    public static let configuration = CommandConfiguration(
        commandName: "vip-bpfctl",
        abstract: "Give each session on this host its own IP address and loopback.",
        discussion: """
            A session is a cgroup and everything below it. Programs in it keep asking for 0.0.0.0 and 127.0.0.1; the \
            kernel gives them the session's virtual IP and virtual loopback, as the policy says.

            EXAMPLES
              vip-bpfctl check                                   does this host meet the requirements?
              vip-bpfctl discover --for 60 --cgroup DIR          which programs need it?
              vip-bpfctl attach cgroup /sys/fs/cgroup/user.slice --policy policy.yaml
              vip-bpfctl run -- redis-server --port 6379         one command in its own session
              vip-bpfctl session list

            Exit codes: 0 done, 1 failed, 64 bad usage, 69 this kernel or host lacks what is needed, 77 not permitted.
            """,
        version: "0.1.0",
        subcommands: [
            Attach.self, Detach.self, PolicyCommand.self, ProgramCommand.self, SessionCommand.self, Run.self,
            MapCommand.self, Status.self, Watch.self, Top.self, MetricsCommand.self, Check.self, Explain.self,
            Discover.self, DaemonCommand.self, NamesCommand.self, Who.self, Whoami.self, SelfTestChild.self,
        ]
    )

    public init() {}

    /// Moves the options that all commands have from before the command, where `ip` and `systemctl` accept them, to
    /// after the command's words, where each command declares them.
    static func commonOptionsLast(_ arguments: [String]) -> [String] {
        var rest = arguments[...]
        var common: [String] = []
        while let first = rest.first {
            if ["-v", "--verbose", "--json"].contains(first)
                || ["--bpffs=", "--state="].contains(where: first.hasPrefix)
            {
                common.append(rest.removeFirst())
            } else if ["--bpffs", "--state"].contains(first), rest.count > 1 {
                common += [rest.removeFirst(), rest.removeFirst()]
            } else {
                break
            }
        }
        // What follows the options of `run` is another command, which may contain a `--` of its own.
        let end = rest.first == "run" ? rest.startIndex + 1 : rest.firstIndex(of: "--") ?? rest.endIndex
        return Array(rest[..<end]) + common + Array(rest[end...])
    }

    /// Parses the process's arguments, runs the command, and returns the exit code.
    ///
    /// An error is one line on standard error, `vip-bpfctl: OPERATION: REASON; HINT`.
    public static func run() -> Int32 {
        signal(SIGPIPE, SIG_IGN)  // writing to a closed pipe must be an error of write(2), and not end the process
        StandardStreams.openClosed()
        let arguments = commonOptionsLast(Array(ProcessArguments.all.dropFirst()))
        do {
            var command = try parseAsRoot(arguments)
            try command.run()
            return 0
        } catch let failure as Failure {
            StandardError.line("vip-bpfctl: \(failure)")
            let isVerbose = arguments.prefix { $0 != "--" }.contains { $0 == "-v" || $0 == "--verbose" }
            if isVerbose, let detail = failure.detail { StandardError.line(detail) }
            return failure.code.exitCode
        } catch let code as ExitCode {
            return code.rawValue
        } catch {
            let code = exitCode(for: error)
            guard !code.isSuccess else {  // --help, --version, --generate-completion-script
                return (try? StandardOutput.text(fullMessage(for: error) + "\n")) == nil ? 1 : 0
            }
            let message = message(for: error).split(whereSeparator: \.isNewline).joined(separator: " ").printableLine
            StandardError.line("vip-bpfctl: \(arguments.first ?? "vip-bpfctl"): \(message); see vip-bpfctl --help")
            return Failure.Code.usage.exitCode
        }
    }
}
