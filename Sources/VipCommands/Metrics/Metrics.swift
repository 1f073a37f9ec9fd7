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
            Calls by hook and outcome, sessions, pools, listeners, and whether the daemon runs, in Prometheus's text format. \
            For node_exporter's textfile collector, let a timer write a file that ends in .prom; it is replaced in one step. \
            The daemon serves the same, and its own events besides, where it is asked to: vip-bpfctl daemon --metrics.

            EXAMPLES
              vip-bpfctl metrics
              vip-bpfctl metrics --output /var/lib/prometheus/node-exporter/vip-bpf.prom
            """
    )

    @Option(
        help: ArgumentHelp("Write this file instead of standard output.", valueName: "file"),
        completion: .file(extensions: ["prom"]))
    var output: String?

    @OptionGroup var options: InstanceOptions

    func run() throws {
        let text = try MetricsPage.page(of: options.instance).text
        guard let output else { return try StandardOutput.text(text) }
        var status = stat()
        if lstat(output, &status) == 0, status.st_mode & S_IFMT != S_IFREG {
            // It would be replaced: a device, a directory, or the link to either.
            throw Failure(
                .failed, "write \(output)", "not a regular file",
                hint: "choose another path, or redirect standard output")
        }
        try replaceFile(FilePath(output), with: Array(text.utf8), hint: "choose a path in an existing directory")
    }
}
