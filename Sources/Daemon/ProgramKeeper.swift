// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Policy
import Sessions
import SystemPackage

/// Makes listed programs match again after an upgrade has replaced their files.
final class ProgramKeeper {
    private let context: KeeperContext
    private var reconciler: Reconciler?
    private var directories: FileWatch?

    init(_ context: KeeperContext) throws(Failure) {
        self.context = context
        reconciler = try Reconciler(context.loop, context.troubles, .programs) { [unowned self] () throws(Failure) in
            try reconcile()
            return true
        }
        directories = FileWatch(context.loop, IN_CREATE, IN_DELETE, IN_MOVED_TO, IN_MOVED_FROM, CInt(IN_ONLYDIR)) {
            [unowned self] _ in reconciler?.runSoon()
        }
    }

    func runNow() { reconciler?.runNow() }

    private func reconcile() throws(Failure) {
        let instance = context.instance
        try context.readPolicy(instance.registry())
        let policy = context.policy
        let paths = policy.listedPaths
        var parents = Set(paths.map { $0.removingLastComponent() })
        for path in paths {
            // If a listed path is a link, the file is replaced in the directory of its target.
            if let real = try? path.real() { parents.insert(real.removingLastComponent()) }
        }
        if let failure = directories?.set(parents).failure {
            context.troubles.report(.programWatches, failure)
        } else {
            context.troubles.clear(.programWatches)
        }
        guard !paths.isEmpty, !(try instance.knowsPrograms(of: policy)) else { return }
        try context.change { change throws(Failure) in
            _ = try change.apply(instance.policy(change.registry), as: .reload)
        }
        context.log.report(
            Event(.programsRefreshed, "listed programs were replaced on disk; maps updated", priority: .notice))
    }
}
