// SPDX-License-Identifier: Apache-2.0

import SystemPackage
import Testing

@testable import Host

/// The code and the hint of a failed call.
@Suite struct FailureTests {
    private static let all = UInt64.max
    private static let root = Privileges(isRoot: true, effective: all)
    private static let user = Privileges(isRoot: false, effective: 0)

    private func failure(
        _ errno: Errno, needs needed: [Capability] = [], _ privileges: Privileges
    ) -> Failure {
        Failure("do it", errno: errno, needs: needed, hint: "see there", privileges: privileges)
    }

    @Test(arguments: [Errno.notPermitted, .permissionDenied])
    func onlyOtherUsersAreToldToRunAsRoot(errno: Errno) {
        let refused = failure(errno, Self.user)
        #expect(refused.code == .notPermitted && refused.hint == "run as root" && refused.errno == errno)
        let root = failure(errno, Self.root)
        #expect(root.code == .failed && root.hint == "see there" && root.errno == errno)
    }

    @Test func rootIsToldWhichCapabilitiesItLacks() {
        let lacking = Privileges(
            isRoot: true, effective: Self.all & ~(1 << Capability.bpf.bit | 1 << Capability.sysAdmin.bit))
        let refused = failure(.notPermitted, needs: Capability.bpfPrograms, lacking)
        #expect(refused.code == .notPermitted && refused.hint == "grant CAP_BPF, which root lacks here")
        // CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON: capabilities(7).
        let administrator = Privileges(isRoot: true, effective: 1 << Capability.sysAdmin.bit)
        #expect(failure(.notPermitted, needs: [.bpf, .perfmon], administrator).code == .failed)
        let none = failure(.notPermitted, needs: Capability.bpfPrograms, Privileges(isRoot: true, effective: 0))
        #expect(none.hint == "grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, which root lacks here")
        let files = failure(.permissionDenied, Privileges(isRoot: true, effective: 0))
        #expect(files.hint == "grant CAP_DAC_OVERRIDE, which root lacks here")
    }

    @Test func othersAreToldWhatToGrantBesides() {
        let refused = failure(.notPermitted, needs: Capability.bpfPrograms, Self.user)
        #expect(refused.hint == "run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")
        let half = Privileges(isRoot: false, effective: 1 << Capability.bpf.bit)
        #expect(
            failure(.permissionDenied, needs: [.bpf, .perfmon], half).hint == "run as root, or grant CAP_PERFMON")
        // If all needed capabilities are there, the failure has another reason.
        let granted = failure(.notPermitted, needs: [.bpf], half)
        #expect(granted.code == .failed && granted.hint == "see there")
        #expect(failure(.permissionDenied, needs: [.bpf], half).hint == "run as root, or grant CAP_DAC_OVERRIDE")
    }

    @Test func rootOfAUserNamespaceIsToldToLeaveIt() {
        let inside = Privileges(isRoot: true, effective: Self.all, isInUserNamespace: true)
        let refused = failure(.notPermitted, needs: [.bpf], inside)
        #expect(refused.code == .notPermitted && refused.hint == "run as root outside of this user namespace")
    }

    @Test func otherErrorsAreNoMatterOfPrivilege() {
        let missing = failure(.noSuchFileOrDirectory, needs: [.bpf], Self.user)
        #expect(missing.code == .failed && missing.hint == "see there")
        #expect(missing.description == "do it: no such file or directory; see there")
        #expect(failure(.notPermitted, Self.root).reason == "operation not permitted")
        #expect(failure(.permissionDenied, Self.root).reason == "permission denied")
    }

    /// Only a missing file is the host's lack.
    @Test func aFileOfEveryHost() {
        let missing = Failure(reading: "/proc/x", errno: .noSuchFileOrDirectory, ifMissing: "mount it")
        #expect(missing.code == .unavailable && missing.hint == "mount it" && missing.errno == .noSuchFileOrDirectory)
        let other = Failure(reading: "/proc/x", errno: .ioError, ifMissing: "mount it")
        #expect(other.code == .failed && other.hint == nil && other.errno == .ioError)
    }

    @Test func namesOfErrors() {
        #expect(Errno.addressInUse.name == "EADDRINUSE" && Errno(rawValue: 95).name == "EOPNOTSUPP")
        #expect(Errno(rawValue: 4711).name == "errno 4711")
    }
}
