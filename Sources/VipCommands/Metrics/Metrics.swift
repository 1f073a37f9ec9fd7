// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc
import Host
import Metrics
import SystemPackage

struct MetricsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics",
        abstract: "Print counters and gauges for Prometheus.",
        discussion: """
            Calls by hook and outcome, sessions, pools, listeners, and the daemon's own counters, in Prometheus's text \
            format. The page is complete also while the daemon does not run; its counters are those that it wrote \
            last.

            vip-bpf-page.timer writes the page to /run/vip-bpf/metrics.prom. vip-bpf-metrics.socket serves that file \
            by HTTP, on 127.0.0.1:9464, from processes without privileges. For node_exporter's textfile collector, \
            link the file into the collector's directory.

            EXAMPLES
              vip-bpfctl metrics
              systemctl enable --now vip-bpf-metrics.socket
              systemctl enable --now vip-bpf-page.timer &&
                ln -s /run/vip-bpf/metrics.prom /var/lib/prometheus/node-exporter/vip-bpf.prom
            """
    )

    @Option(
        help: ArgumentHelp(
            "Write this file instead of standard output; it is replaced in one step.", valueName: "file"),
        completion: .file(extensions: ["prom"]))
    var output: String?

    @Option(
        help: ArgumentHelp(
            "Answer one HTTP request on standard input with this file: for a socket unit with Accept=yes.",
            valueName: "file"),
        completion: .file(extensions: ["prom"]))
    var serve: String?

    @Option(
        help: ArgumentHelp(
            "The daemon's --runtime. Default: /run/vip-bpf, or 'run' in another --state.", valueName: "dir"),
        completion: .directory)
    var runtime: String?

    @OptionGroup var options: InstanceOptions

    func validate() throws {
        if output != nil, serve != nil { throw ValidationError("--output and --serve exclude each other") }
    }

    func run() throws {
        if let serve { return PageRequest.answer(FilePath(serve), input: STDIN_FILENO, output: STDOUT_FILENO) }
        let text = try MetricsPage.page(of: options.instance, runtime: runtime.map { FilePath($0) }).text
        guard let output else { return try StandardOutput.text(text) }
        var status = stat()
        if lstat(output, &status) == 0, status.st_mode & S_IFMT != S_IFREG {
            // Writing would replace a device, a directory, or a link to one of them.
            throw Failure(
                .failed, "write \(output.debugDescription)", "it is not a regular file",
                hint: "choose another path, or redirect standard output")
        }
        try replaceFile(FilePath(output), with: Array(text.utf8), hint: "choose a path in an existing directory")
    }
}
