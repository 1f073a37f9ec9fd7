// SPDX-License-Identifier: Apache-2.0

import Host
import PolicyMaps
import Sessions

/// Whether there is a place to pin.
enum BPFFSFacts: CheckedSubject {
    static func facts(of host: CheckedHost) -> [CheckPayload.Fact] {
        looking(at: "bpffs") { () throws(Failure) in
            try host.instance.pins.requireBPFFS()
            return [.good("bpffs", "\(host.instance.pins.path) is on one")]
        }
    }
}
