// SPDX-License-Identifier: Apache-2.0

import Host
import PolicyMaps
import Sessions

/// Whether there is a BPF file system to pin in.
package enum BPFFSFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        looking(at: "bpffs") { () throws(Failure) in
            try host.instance.pins.requireBPFFS()
            return [.good("bpffs", "\(host.instance.pins.path) is on a BPF file system")]
        }
    }
}
