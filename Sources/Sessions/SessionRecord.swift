// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
public import Network
public import SystemPackage

public import struct FoundationEssentials.Date

/// A session in the registry.
public struct SessionRecord: Sendable, Hashable {
    /// The state of opening or closing. A state other than `open`, while no command holds the lock, is left from a
    /// crash. The next command undoes or completes it.
    public enum State: String, Sendable, CaseIterable {
        /// Registered; the addresses and the rows in the maps may be missing.
        case opening
        /// Complete.
        case open
        /// Being removed; the addresses and the rows in the maps may be missing.
        case closing
    }

    /// A virtual IP of the session.
    public struct Address: Sendable, Hashable {
        public let address: IPAddress
        /// The interface that it is on, or to which its route leads; `lo` if the route of a whole prefix makes it
        /// local.
        public var interface: String
        public var form: AddressPlace.Form
        /// Whether vip-bpf put it there and will remove it. This is recorded before the address is placed, and only for
        /// an address that the host did not have. `false` if the route of a whole prefix makes it local.
        public var placed: Bool
        /// Whether it was picked from the pool; `false` if it was requested.
        public var fromPool: Bool
        /// For a leased address, the slot of the lease among the user's; `nil` if it is not leased.
        public var leaseSlot: UInt32?

        public init(
            _ address: IPAddress, interface: String, form: AddressPlace.Form = .address, placed: Bool, fromPool: Bool,
            leaseSlot: UInt32? = nil
        ) {
            self.address = address
            self.interface = interface
            self.form = form
            self.placed = placed
            self.fromPool = fromPool
            self.leaseSlot = leaseSlot
        }

        public var place: AddressPlace { AddressPlace(interface, form) }
    }

    /// What ends the session. It is extensible: callers must accept values that they do not know.
    public struct Keeper: RawRepresentable, Sendable, Hashable {
        public let rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// Opened by `session open`, and closed by `session close`.
        public static let command = Keeper(rawValue: "command")
        /// Opened by `run`, which closes it after its last process.
        public static let run = Keeper(rawValue: "run")
        /// Opened by the daemon for a logged-in user. It ends with the last process in its cgroup.
        public static let logind = Keeper(rawValue: "logind")
        /// Opened at a login by `session open --pam`. The daemon closes it like its own.
        public static let pam = Keeper(rawValue: "pam")

        /// Whether it is the session of a login, which ends with the last process in its cgroup.
        public var isLogin: Bool { self == .logind || self == .pam }
    }

    /// The session ID.
    public let id: UInt32
    public let cgroupPath: FilePath
    /// The ``Cgroup/id`` in the boot ``bootID``.
    public let cgroupID: UInt64
    /// The ``Cgroup/level``.
    public let cgroupLevel: UInt32
    /// The user of the session; `nil` if none was given.
    public var user: String?
    /// The override named with --policy; `nil` if the match rules decide.
    public var policy: String?
    /// The boot in which it was opened (``BootID``). Cgroups, addresses and maps of another boot no longer exist.
    public let bootID: String
    /// When it was opened, in whole seconds.
    public let openedAt: Date
    public var state: State
    /// Whether the cgroup was created for the session and is removed with it.
    public var createdCgroup: Bool
    public var keeper: Keeper
    /// The process that ends the session, if there is one: `run`.
    public var keeperProcess: ProcessIdentity?
    /// The addresses, at most one of each family.
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
    /// Whether its cgroup still exists, and is not another one at the same path.
    public var isCgroupThere: Bool { Cgroup.isThere(cgroupPath, id: cgroupID) }

    /// Its cgroup as it was when the session was opened.
    package var cgroup: Cgroup { Cgroup(notedPath: cgroupPath, id: cgroupID, level: cgroupLevel) }
}
