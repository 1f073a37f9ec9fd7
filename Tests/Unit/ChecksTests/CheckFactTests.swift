// SPDX-License-Identifier: Apache-2.0

import Checks
import Policy
import Testing

/// Facts of `check` about hosts that differ from the test's.
@Suite struct CheckFactTests {
    static let lockdowns: [(text: String?, verdict: CheckedFact.Verdict, says: String)] = [
        ("[none] integrity confidentiality\n", CheckedFact.Verdict.good, "none"),
        ("none [integrity] confidentiality\n", .good, "integrity"),
        ("none integrity [confidentiality]\n", .bad, "which program is calling"),
        (nil, .good, "lockdown is off"),
        ("", .good, "unknown"),
    ]

    @Test(arguments: lockdowns) func lockdown(text: String?, verdict: CheckedFact.Verdict, says: String) {
        let fact = KernelFacts.lockdown(text)
        #expect(fact.verdict == verdict && fact.fact.contains(says))
        #expect((fact.fix == nil) == (verdict == .good))
    }

    static let units: [(path: String, unit: String?)] = [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.service", "app-x.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        ("/system.slice/docker.service/worker", "docker.service"),
        ("/", nil), ("/user.slice", nil), ("/.service", nil),
    ]

    @Test(arguments: units) func unit(path: String, unit: String?) {
        #expect(BlockerFacts.unit(ofCgroup: path) == unit)
    }

    @Test func policyDifferences() {
        var file = Policy()
        #expect(PolicyFacts.differences(Policy(), file).isEmpty)
        file.virtualIP.enabled = true
        file.isolation = false
        let differences = PolicyFacts.differences(Policy(), file)
        #expect(
            differences == ["isolation is true, false in the file", "virtualIP.enabled is false, true in the file"])
    }
}
