// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Foundation
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
                .failed, "write \(output.debugDescription)", "it is there and no regular file",
                try: "name another, or redirect standard output")
        }
        do {
            // Atomically: a collector never sees half of it.
            try Data(text.utf8).write(to: URL(fileURLWithPath: output), options: .atomic)
            try FileManager.default.setAttributes([.posixPermissions: 0o644], ofItemAtPath: output)
        } catch {
            throw Failure(
                .failed, "write \(output.debugDescription)", error.localizedDescription,
                try: "name a file in a directory that is there")
        }
    }
}
