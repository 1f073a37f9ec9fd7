// SPDX-License-Identifier: Apache-2.0

package import Policy

/// Which rules of the policy apply to a session, and why.
package struct PolicyFinding {
    /// `nil` for the base policy, or if the override is not known.
    package let override: Policy.Override?
    package let reason: String

    /// - Parameters:
    ///   - policy: the policy in force; `nil` if it cannot be read.
    ///   - name: the override that was named when the session was opened.
    package init(_ live: LiveSession, in policy: Policy?, openedWith name: String?) {
        override = policy?.override(number: live.number)
        if live.number == 0 {
            reason =
                name.map { "the override '\($0)', which it was opened with, no longer exists" }
                ?? "no override matches the session"
        } else if let override {
            reason = name == override.name ? "the session was opened with it" : "its match fits the session"
        } else {
            reason = "its name is not known: the registry does not have the policy in force"
        }
    }
}
