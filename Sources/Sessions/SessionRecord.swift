// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Network
public import SystemPackage

public import struct FoundationEssentials.Date

/// What the registry knows of one session.
public struct SessionRecord: Sendable, Hashable {
    /// How far opening or closing has come. Anything but `open` that is found without the lock's holder being
    /// at it is the trace of a crash, for the next command to undo or finish.
    public enum State: String, Sendable, CaseIterable {
        /// Registered; addresses and maps may or may not be there.
        case opening
        /// Everything is in place.
        case open
        /// Being taken down; addresses and maps may or may not be there.
        case closing
    }

    /// One virtual IP of the session.
    public struct Address: Sendable, Hashable {
        public let address: IPAddress
        /// The interface it is on; `lo` where a route makes it local.
        public var interface: String
        /// Whether we put it there, and so take it off again. Written before it is placed: set it only for an address that the
        /// host did not have.
        public var placed: Bool
        /// Whether it was picked from the pool, not asked for.
        public var fromPool: Bool
        /// Where it is leased, which of the user's leases it is; `nil` where it is not.
        public var leaseSlot: UInt32?

        public init(
            _ address: IPAddress, interface: String, placed: Bool, fromPool: Bool, leaseSlot: UInt32? = nil
        ) {
            self.address = address
            self.interface = interface
            self.placed = placed
            self.fromPool = fromPool
            self.leaseSlot = leaseSlot
        }
    }

    /// Who ends the session. An extensible code: a caller must be ready for one that it does not know.
    public struct Keeper: RawRepresentable, Sendable, Hashable {
        public let rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// Opened by `session open`, until `session close`.
        public static let command = Keeper(rawValue: "command")
        /// Made by `run`, which ends it with its last process.
        public static let run = Keeper(rawValue: "run")
        /// Opened by the daemon for a user who is logged in; it ends with the last process in its cgroup.
        public static let logind = Keeper(rawValue: "logind")
        /// Opened as a user logged in, by `session open --pam`; the daemon ends it as it does its own.
        public static let pam = Keeper(rawValue: "pam")

        /// Whether the session is a login's, and so ends with the last process in its cgroup.
        public var isLogin: Bool { self == .logind || self == .pam }
    }

    /// The session ID.
    public let id: UInt32
    public let cgroupPath: FilePath
    /// ``Cgroup/id``, of the boot ``bootID``.
    public let cgroupID: UInt64
    /// ``Cgroup/level``.
    public let cgroupLevel: UInt32
    /// The user whose session it is; `nil` where nobody said.
    public var user: String?
    /// The override named with --policy; `nil` where the session's match decides.
    public var policy: String?
    /// The boot in which it was opened (``BootID``): cgroups, addresses and maps of another one are gone.
    public let bootID: String
    /// To the second.
    public let openedAt: Date
    public var state: State
    /// Whether the cgroup was made for the session and goes with it.
    public var createdCgroup: Bool
    public var keeper: Keeper
    /// The process that ends the session, if one stays for that: `run`.
    public var keeperProcess: ProcessIdentity?
    /// At most one of each family.
    public var addresses: [Address]

    public init(
        id: UInt32, cgroup: Cgroup, user: String? = nil, policy: String? = nil, bootID: String, openedAt: Date = Date(),
        state: State = .opening, createdCgroup: Bool = false, keeper: Keeper = .command,
        keeperProcess: ProcessIdentity? = nil, addresses: [Address] = []
    ) {
        self.init(
            id: id, cgroupPath: cgroup.path, cgroupID: cgroup.id, cgroupLevel: cgroup.level, user: user, policy: policy,
            bootID: bootID, openedAt: openedAt, state: state, createdCgroup: createdCgroup, keeper: keeper,
            keeperProcess: keeperProcess, addresses: addresses)
    }

    public init(
        id: UInt32, cgroupPath: FilePath, cgroupID: UInt64, cgroupLevel: UInt32, user: String? = nil,
        policy: String? = nil, bootID: String, openedAt: Date = Date(), state: State = .opening,
        createdCgroup: Bool = false, keeper: Keeper = .command, keeperProcess: ProcessIdentity? = nil,
        addresses: [Address] = []
    ) {
        self.id = id
        self.cgroupPath = cgroupPath
        self.cgroupID = cgroupID
        self.cgroupLevel = cgroupLevel
        self.user = user
        self.policy = policy
        self.bootID = bootID
        self.openedAt = Date(timeIntervalSince1970: openedAt.timeIntervalSince1970.rounded(.down))
        self.state = state
        self.createdCgroup = createdCgroup
        self.keeper = keeper
        self.keeperProcess = keeperProcess
        self.addresses = addresses
    }
}

extension SessionRecord {
    /// Whether its cgroup is still there, and not another one at the same path.
    public var isCgroupThere: Bool { Cgroup.isThere(cgroupPath, id: cgroupID) }
}
