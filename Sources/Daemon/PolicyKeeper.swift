// SPDX-License-Identifier: Apache-2.0

import Host
import Policy
import Sessions

/// Ends the trial of a policy that is not confirmed in time. Reports the hazards of the policy in force.
final class PolicyKeeper {
    private let context: KeeperContext
    private var reconciler: Reconciler?

    init(_ context: KeeperContext) throws(Failure) {
        self.context = context
        reconciler = try Reconciler(context.loop, context.troubles, .policy) { [unowned self] () throws(Failure) in
            try reconcile()
            return true
        }
    }

    func runNow() { reconciler?.runNow() }

    private func reconcile() throws(Failure) {
        var registry = try context.instance.registry()
        if let trial = try registry.policyTrial() {
            let left = trial.left(bootID: try BootID.current())
            if left == .zero {
                // Any change ends the trial. The process that waits for the same moment may have done so.
                try context.change { _ in }
                registry = try context.instance.registry()
            } else {
                reconciler?.run(within: left)
            }
        }
        try context.readPolicy(registry)
        var current: Set<Trouble> = []
        for risk in try context.instance.risksInForce(registry, context.netlink) {
            let hazard = risk.hazard
            let trouble = Trouble.hazard(hazard.kind, subject: "\(hazard.key) \(hazard.subject)")
            current.insert(trouble)
            context.troubles.report(
                trouble,
                Event(
                    .policyHazard, "the policy in force: \(hazard)", priority: .warning, reason: hazard.message))
        }
        context.troubles.clear { if case .hazard = $0 { !current.contains($0) } else { false } }
    }
}
