// SPDX-License-Identifier: Apache-2.0

import Host
package import Sessions
package import SystemPackage

/// What `check` looks at.
package struct CheckedHost {
    package let instance: Instance
    /// The one that was named; `nil` is the default one.
    package let policyFile: FilePath?

    package init(instance: Instance, policyFile: FilePath?) {
        self.instance = instance
        self.policyFile = policyFile
    }

    /// The facts of every subject.
    package func facts() -> [CheckedFact] { Self.subjects.flatMap { $0.facts(of: self) } }

    /// In the order in which one needs the other.
    private static var subjects: [any CheckedSubject.Type] {
        [
            KernelFacts.self, PrivilegeFacts.self, CgroupFacts.self, BPFFSFacts.self, HookFacts.self,
            AttachmentFacts.self, NeighbourFacts.self, PolicyFacts.self, LoopbackFacts.self, AddressFacts.self,
            LeaseFacts.self,
            SysctlFacts.self, BlockerFacts.self, NameFacts.self, LogindFacts.self, DaemonFacts.self,
        ]
    }
}

/// Something that `check` has a line or more about. One that cannot be found out does not hide the others.
package protocol CheckedSubject {
    static func facts(of host: CheckedHost) -> [CheckedFact]
}
