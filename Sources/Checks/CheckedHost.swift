// SPDX-License-Identifier: Apache-2.0

import Host
package import Sessions
package import SystemPackage

/// The host and instance that `check` inspects.
package struct CheckedHost {
    package let instance: Instance
    /// The policy file that was named; `nil` for the default one.
    package let policyFile: FilePath?

    package init(instance: Instance, policyFile: FilePath?) {
        self.instance = instance
        self.policyFile = policyFile
    }

    /// The facts of every subject.
    package func facts() -> [CheckedFact] { Self.subjects.flatMap { $0.facts(of: self) } }

    /// The subjects in the order in which they depend on each other.
    private static var subjects: [any CheckedSubject.Type] {
        [
            KernelFacts.self, PrivilegeFacts.self, CgroupFacts.self, BPFFSFacts.self, HookFacts.self,
            AttachmentFacts.self, NeighbourFacts.self, PolicyFacts.self, LoopbackFacts.self, AddressFacts.self,
            LeaseFacts.self, DisplayFacts.self,
            SysctlFacts.self, BlockerFacts.self, DualStackFacts.self, SessionCgroupFacts.self, CopyFacts.self,
            NameFacts.self,
            LogindFacts.self, DaemonFacts.self,
        ]
    }
}

/// A subject of `check`, which has one or more lines. A failure in one does not hide the others.
package protocol CheckedSubject {
    static func facts(of host: CheckedHost) -> [CheckedFact]
}
