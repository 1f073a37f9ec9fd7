// SPDX-License-Identifier: Apache-2.0

import Host
import Network
import Policy

/// Which addresses are free at present: in the host's networks, and in each pool of the policy.
struct FreeAddresses {
    /// Every address of the host, with its network.
    let placed: [PlacedAddress]
    /// The session that has each address, by the registry and by ``give(_:to:)``.
    private(set) var owners: [IPAddress: UInt32]
    /// The interface on which the host has each address.
    private let interfaces: [IPAddress: String]
    /// Network and broadcast addresses, and subnet-router anycast addresses.
    private let unusable: Set<IPAddress>
    /// Addresses that other hosts have, or are being asked about.
    private let held: Set<IPAddress>
    /// Those on which programs of no session have sockets.
    private let occupied: Set<IPAddress>
    private let registry: Registry
    private let now: Moment
    /// The pools, by the number of the policy's rules.
    private var pools: [Int: PoolPicker] = [:]

    init(
        _ registry: Registry, _ placed: [PlacedAddress], _ now: Moment, occupied: Set<IPAddress> = []
    ) throws(Failure) {
        self.registry = registry
        self.placed = placed
        self.now = now
        owners = try registry.usedAddresses()
        // A prefix of one address that is local as a whole is not in use for that.
        let prefixes = try registry.value(of: .routeNote).flatMap { RouteNote($0) }?.prefixes ?? []
        let used = placed.filter { place in
            place.form == .address || !prefixes.contains(AddressPrefix(of: place.address, length: place.prefixLength))
        }
        interfaces = Dictionary(used.map { ($0.address, $0.interface) }) { first, _ in first }
        let networks = placed.filter { $0.prefixLength < $0.address.family.bits }
        unusable = Set(networks.flatMap(\.networkAndBroadcast) + networks.compactMap(\.subnetRouter))
        held = try registry.heldAddresses(bootID: now.bootID)
        self.occupied = try occupied.union(registry.occupiedAddresses(bootID: now.bootID))
    }

    /// The interface on which the host has an address; `nil` if the host does not have it.
    func interface(of address: IPAddress) -> String? { interfaces[address] }

    func isTaken(_ address: IPAddress) -> Bool {
        owners[address] != nil || interfaces[address] != nil || unusable.contains(address) || held.contains(address)
            || occupied.contains(address)
    }

    mutating func give(_ address: IPAddress, to session: UInt32) { owners[address] = session }

    // MARK: The policy's pools

    /// Prepares the pool of the rules with a number, if they have one.
    mutating func usePool(_ number: Int, of policy: Policy) throws(Failure) {
        let addresses = policy.rules(number: number).virtualIP.addresses
        guard !addresses.pool.isEmpty, pools[number] == nil else { return }
        let override = number == 0 ? nil : policy.overrides[number - 1]
        let isOwn = override?.virtualIP?.addresses.pool.isEmpty == false
        pools[number] = try PoolPicker(addresses, override: isOwn ? override?.name : nil, now: now)
    }

    /// Whether the pool, if there is one, has addresses of a family.
    func hasPool(_ number: Int, _ family: IPAddress.Family) -> Bool { pools[number]?.has(family) == true }

    /// Whether an address is free, and the pool may give it to a user.
    func canPick(_ address: IPAddress, from number: Int, for user: String?) -> Bool {
        !isTaken(address) && pools[number]?.allows(address, for: user) == true
    }

    /// Picks a free address of the pool. Call ``give(_:to:)`` to take it.
    ///
    /// - Precondition: ``hasPool(_:_:)``.
    /// - Throws: ``Failure`` if none is free. It says why.
    mutating func pick(
        _ family: IPAddress.Family, from number: Int, for user: String?
    ) throws(Failure) -> PoolPicker.Pick {
        guard var pool = pools[number] else { preconditionFailure("the rules have no pool") }
        defer { pools[number] = pool }
        return try pool.pick(family, for: user, registry, used: owners, held: held, occupied: occupied, taken: isTaken)
    }
}
