// SPDX-License-Identifier: Apache-2.0

import Host
import PolicyMaps

/// Whether this kernel accepts the program of each hook. It loads each, as attach does.
package enum HookFacts: CheckedSubject {
    package static func facts(of host: CheckedHost) -> [CheckedFact] {
        HookSupport.probe().map { support in
            let subject = "hook \(support.hook.name)"
            guard let failure = support.failure else { return .good(subject, "this kernel accepts its program") }
            let isPrivilege = failure.code == .notPermitted
            return .bad(
                subject, failure.reason,
                fix: isPrivilege
                    ? failure.hint : "it came with Linux \(support.hook.since); update the kernel",
                isPrivilege ? .privilege : .host)
        }
    }
}
