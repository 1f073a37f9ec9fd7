// SPDX-License-Identifier: Apache-2.0

import Foundation

/// The command lines of DHCP servers for tests on eth0. Their files are in a directory of the test.
public enum DHCPServer {
    /// dnsmasq, whose leases last at least 120 s. It is ready when its log has "DHCP, IP range".
    public static func dnsmasq(
        in directory: String, from first: String, to last: String, mask: String, _ more: [String] = []
    ) -> [String] {
        [
            "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces",
            "--user=root", "--pid-file=", "--no-ping", "--dhcp-authoritative", "--log-dhcp",
            "--dhcp-leasefile=\(directory)/dnsmasq.leases", "--dhcp-range=\(first),\(last),\(mask),120",
        ] + more
    }

    /// Kea, with leases of any length. It is ready when `kea.log` has "DHCP4_STARTED".
    public static func kea(in directory: String, seconds: Int, pool: String, subnet: String) throws -> [String] {
        let configuration = """
            { "Dhcp4": {
                "interfaces-config": { "interfaces": ["eth0"], "dhcp-socket-type": "raw" },
                "lease-database": { "type": "memfile", "persist": true, "name": "\(directory)/kea.csv", "lfc-interval": 0 },
                "valid-lifetime": \(seconds), "authoritative": true,
                "subnet4": [{ "id": 1, "subnet": "\(subnet)", "pools": [{ "pool": "\(pool)" }] }],
                "loggers": [{ "name": "kea-dhcp4", "severity": "INFO",
                    "output_options": [{ "output": "\(directory)/kea.log" }] }]
            } }
            """
        try configuration.write(toFile: "\(directory)/kea.json", atomically: true, encoding: .utf8)
        return [
            "env", "KEA_PIDFILE_DIR=\(directory)", "KEA_LOCKFILE_DIR=none", "kea-dhcp4", "-c", "\(directory)/kea.json",
        ]
    }
}
