// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import Network

// The types that the sections of the file are read into. A part that cannot be read is reported and left at its
// default. The policy is then not used, but the rest of the file is still checked.

/// A pool's range, with its place in the file.
private struct PlacedRange {
    let range: AddressRange
    let value: PolicyValue
    /// Its index among all ranges of the file.
    let index: Int
}

extension PolicyValue {
    /// Reports that a text cannot be read. It names the text unless the reason does.
    ///
    /// - Parameter kind: what the text should be, followed by a space.
    fileprivate func refuse(_ text: String, _ failure: Failure, named kind: String = "") {
        let name = text.quotedForMessage
        let reason = failure.reason
        refuse(reason.hasPrefix(name) ? reason : "\(kind)\(name): \(reason)", hint: failure.hint)
    }
}

private func readProgram(_ value: PolicyValue) -> ProgramEntry? {
    guard let text = value.text() else { return nil }
    do throws(Failure) {
        return try ProgramEntry(text)
    } catch {
        value.refuse(text, error, named: "program ")
        return nil
    }
}

private func readPorts(_ value: PolicyValue?) -> Set<UInt16> {
    Set((value?.list { $0.ports() } ?? []).flatMap { $0.first...$0.last })
}

private func readRange(_ value: PolicyValue) -> AddressRange? {
    guard let text = value.text() else { return nil }
    do throws(Failure) {
        let range = try AddressRange(text)
        guard let why = range.whyNotAssignable else { return range }
        value.refuse("\(text.quotedForMessage): \(why)", hint: "leave them to the host")
    } catch {
        value.refuse(text, error)
    }
    return nil
}

/// Addresses of 127/8 beside 127.0.0.1, which is the host's anyhow.
private func readHostAddresses(_ value: PolicyValue) -> AddressRange? {
    guard let text = value.text() else { return nil }
    do throws(Failure) {
        let range = try AddressRange(text)
        if range.prefixes.allSatisfy({ AddressPrefix.loopback4.contains($0) }) { return range }
        value.refuse("\(text.quotedForMessage) is not in 127.0.0.0/8", hint: "list loopback addresses alone")
    } catch {
        value.refuse(text, error)
    }
    return nil
}

private func readPrefix(_ value: PolicyValue) -> LoopbackPrefix? {
    guard let text = value.text() else { return nil }
    do throws(Failure) {
        return try LoopbackPrefix(text)
    } catch {
        value.refuse(text, error)
        return nil
    }
}

/// An interface's name, by the rules of dev_valid_name (net/core/dev.c).
private func readInterface(_ value: PolicyValue) -> String? {
    guard let name = value.text() else { return nil }
    let limit = Int(IFNAMSIZ) - 1
    guard name.utf8.count <= limit else {
        value.refuse("\(name.quotedForMessage) is not an interface name: it has more than \(limit) bytes")
        return nil
    }
    // Compare scalars: a slash followed by a combining accent is one character, which is not "/".
    guard name != ".", name != "..",
        !name.unicodeScalars.contains(where: { "/:".unicodeScalars.contains($0) || $0.properties.isWhitespace })
    else {
        value.refuse(
            "\(name.quotedForMessage) is not an interface name: it is . or .., or has a slash, a colon or a space")
        return nil
    }
    return name
}

extension Policy {
    mutating func read(_ root: PolicyValue) {
        guard let section = root.section() else { return }
        var ranges: [PlacedRange] = []
        if let value = section["virtualIP"] {
            virtualIP = VirtualIP(value, &ranges)
            virtualIP.withoutSession = virtualIP.withoutSession ?? .allow
            virtualIP.dualStackServers = virtualIP.dualStackServers ?? VirtualIP.defaultDualStackServers
            virtualIP.addresses.restSeconds = virtualIP.addresses.restSeconds ?? Addresses.defaultRestSeconds
            virtualIP.addresses.probeSeconds = virtualIP.addresses.probeSeconds ?? Addresses.defaultProbeSeconds
        }
        if let value = section["virtualLoopback"] {
            virtualLoopback = VirtualLoopback(value)
            virtualLoopback.prefix = virtualLoopback.prefix ?? .default
        }
        if let value = section["preferLoopback"] { preferLoopback = PreferLoopback(value) }
        wildcardName = section["wildcardName"]?.choice() ?? wildcardName
        isolation = section["isolation"]?.boolean() ?? isolation
        sessions.unit = section["sessions"]?.section()?["unit"]?.choice() ?? sessions.unit
        history.retentionDays =
            section["history"]?.section()?["retentionDays"]?.number("a number of days", 0...History.retentionLimit)
            ?? history.retentionDays
        let entries = section["overrides"]?.values(orNothing: true) ?? []
        readOverrides(entries, &ranges)
        Self.checkDisjoint(ranges)
        // The other checks compare parts of the file with one another. With a part that could not be read, they would
        // report false problems.
        guard root.problems.all.isEmpty else { return }
        Self.checkApart(ranges, from: loopbackPrefix)
        checkPreferLoopback(rules(for: nil), root, section, suffix: "")
        for (override, value) in zip(overrides, entries) {
            checkPreferLoopback(
                rules(for: override), value, value.section() ?? [:],
                suffix: " under the override \(override.name.quotedForMessage)")
        }
    }

    private mutating func readOverrides(_ entries: [PolicyValue], _ ranges: inout [PlacedRange]) {
        if entries.count > Self.overrideLimit {
            entries[Self.overrideLimit].refuse(
                "there are \(entries.count) overrides, at most \(Self.overrideLimit) are possible")
        }
        var lines: [String: Int] = [:]
        for value in entries.prefix(Self.overrideLimit) {
            guard let override = Override(value, &ranges) else { continue }
            if let line = lines[override.name] {
                value.refuse(
                    "the override on line \(line) has the name \(override.name.quotedForMessage) as well",
                    hint: "give each its own name")
            }
            lines[override.name] = value.line
            overrides.append(override)
        }
    }

    /// Preferred loopback needs virtual IP and virtual loopback, in the base policy and with each override.
    private func checkPreferLoopback(
        _ rules: Rules, _ value: PolicyValue, _ section: [String: PolicyValue], suffix: String
    ) {
        guard rules.preferLoopback.enabled else { return }
        let off = [
            rules.virtualIP.enabled ? nil : "virtualIP", rules.virtualLoopback.enabled ? nil : "virtualLoopback",
        ].compactMap(\.self)
        guard let first = off.first else { return }
        // An override may have enabled the one or disabled the other: its own line is the place of the problem.
        let enabling = section["preferLoopback"]?.section(as: "preferLoopback")?["enabled"]
        let place = enabling ?? off.lazy.compactMap { section[$0] }.first ?? value
        place.refuse(
            "preferLoopback is enabled while \(off.joined(separator: " and ")) \(off.count > 1 ? "are" : "is") off\(suffix)",
            hint: "enable \(off.count > 1 ? "both" : first), or disable preferLoopback")
    }

    private static func checkApart(_ ranges: [PlacedRange], from prefix: LoopbackPrefix) {
        let loopbacks = prefix.network.value...prefix.network.value + UInt128(UInt32.max)
        for placed in ranges where placed.range.family == .v6 {
            guard loopbacks.overlaps(placed.range.first.value...placed.range.last.value) else { continue }
            placed.value.refuse(
                "\(placed.range) overlaps \(prefix), the prefix of the IPv6 loopbacks",
                hint: "choose another virtualLoopback.prefix, or other addresses")
        }
    }

    private static func checkDisjoint(_ ranges: [PlacedRange]) {
        // Sorted by first address, a range that overlaps any earlier one overlaps the one that reaches farthest.
        var farthest: PlacedRange?
        var refused: Set<Int> = []
        for placed in ranges.sorted(by: { $0.range.first < $1.range.first }) {
            if let farthest, farthest.range.overlaps(placed.range) {
                let (earlier, later) = farthest.index < placed.index ? (farthest, placed) : (placed, farthest)
                if refused.insert(later.index).inserted {
                    later.value.refuse(
                        "\(later.range) overlaps \(earlier.range) (line \(earlier.value.line), \(earlier.value.path))",
                        hint: "give each address to one range")
                }
                if placed.range.last <= farthest.range.last { continue }
            }
            farthest = placed
        }
    }
}

extension Policy.VirtualIP {
    /// - Parameter isBase: whether it is in the base policy, and not in an override.
    fileprivate init(_ value: PolicyValue, _ ranges: inout [PlacedRange], isBase: Bool = true) {
        self.init()
        guard let section = value.section(as: "virtualIP") else { return }
        enabled = section["enabled"]?.boolean() ?? enabled
        mode = section["mode"]?.choice() ?? mode
        programs = section["programs"]?.list(of: readProgram) ?? programs
        whenUnavailable = section["whenUnavailable"]?.choice() ?? whenUnavailable
        dualStackServers = section["dualStackServers"]?.number("a number of servers", 0...Self.dualStackServerLimit)
        let ports = readPorts(section["excludedPorts"])
        excludedPorts = ports.isEmpty ? nil : ports.sorted()
        if isBase {
            withoutSession = section["withoutSession"]?.choice()
        } else {
            section["withoutSession"]?.refuse(
                "it is about programs of no session, and an override is for some sessions",
                hint: "write it in the base policy's virtualIP")
        }
        if let value = section["addresses"] { addresses = Policy.Addresses(value, &ranges, isBase: isBase) }
    }
}

extension Policy.Addresses {
    fileprivate init(_ value: PolicyValue, _ ranges: inout [PlacedRange], isBase: Bool) {
        self.init()
        guard let section = value.section() else { return }
        source = section["source"]?.choice() ?? source
        interface = section["interface"].flatMap(readInterface)
        if source == .dhcp, interface == "lo" {
            section["interface"]?.refuse(
                "no DHCP server is on lo", hint: "name the interface of the server's network")
        }
        let before = value.problems.all.count
        for value in section["pool"]?.values() ?? [] {
            guard let range = readRange(value) else { continue }
            if source == .dhcp, range.family == .v4 {
                value.refuse(
                    "with source: dhcp, IPv4 addresses come from the server, and the pool is for IPv6 alone",
                    hint: "leave \(range) out, or use source: pool")
            }
            pool.append(range)
            ranges.append(PlacedRange(range: range, value: value, index: ranges.count))
        }
        let isPoolWhole = value.problems.all.count == before
        placement = section["placement"]?.choice()
        if isPoolWhole, let value = section["placement"], placement != nil {
            checkPlacement(value, interface: section["interface"], pool: section["pool"], isBase: isBase)
        }
        restSeconds = section["restSeconds"]?.number("a number of seconds", 0...Self.restLimit)
        probeSeconds = section["probeSeconds"]?.number("a number of seconds", 0...Self.probeLimit)
        readReservations(section["reservations"]?.values(orNothing: true) ?? [], isPoolWhole: isPoolWhole)
    }

    private func checkPlacement(
        _ value: PolicyValue, interface: PolicyValue?, pool values: PolicyValue?, isBase: Bool
    ) {
        // An override without addresses of its own has the base policy's placement.
        guard !pool.isEmpty || source == .dhcp || (isBase && placement != .prefix) else {
            return value.refuse(
                "it belongs to a pool, and this section has none", hint: "write it where the pool is")
        }
        guard placement == .prefix else { return }
        if source == .dhcp {
            return value.refuse(
                "with source: dhcp, addresses are placed one by one", hint: "write placement: route, or leave it out")
        }
        interface?.refuse("with placement: prefix, no address is placed on an interface", hint: "leave it out")
        for (range, value) in zip(pool, values?.values() ?? []) where range.prefix == nil {
            value.refuse(
                "\(range) is not a prefix, and with placement: prefix only whole prefixes can be local",
                hint: "write prefixes, like 10.20.0.0/24")
        }
    }

    /// - Parameter isPoolWhole: whether the whole pool could be read. If not, a missing address may be in the other
    ///   part.
    private mutating func readReservations(_ values: [PolicyValue], isPoolWhole: Bool) {
        var lines: (users: [String: Int], addresses: [IPAddress: Int]) = ([:], [:])
        for value in values {
            guard let section = value.section() else { continue }
            guard let user = section["user"], let addresses = section["addresses"] else {
                value.refuse("a reservation has a user and addresses", hint: "write both")
                continue
            }
            let name = user.text()
            if let name, let line = lines.users[name] {
                user.refuse(
                    "\(name.quotedForMessage) has a reservation already, on line \(line)",
                    hint: "write all addresses there")
            }
            var reservation = Policy.Reservation(user: name ?? "", addresses: [])
            lines.users[reservation.user] = user.line
            for place in addresses.values() ?? [] {
                guard let text = place.text() else { continue }
                guard let address = IPAddress(text) else {
                    place.refuse("\(text.quotedForMessage) is not an IP address")
                    continue
                }
                if isPoolWhole, !pool.contains(where: { $0.contains(address) }) {
                    place.refuse(
                        "\(address) is not in the pool of this section"
                            + (pool.contains { $0.family == address.family }
                                ? "" : ", which has no \(address.family.rawValue) range"),
                        hint: "reserve addresses of that pool alone")
                }
                if let line = lines.addresses[address] {
                    place.refuse("\(address) is reserved already, on line \(line)", hint: "leave one out")
                }
                lines.addresses[address] = place.line
                reservation.addresses.append(address)
            }
            reservations.append(reservation)
        }
    }
}

extension Policy.VirtualLoopback {
    /// - Parameter isBase: whether it is in the base policy, and not in an override.
    fileprivate init(_ value: PolicyValue, isBase: Bool = true) {
        self.init()
        guard let section = value.section(as: "virtualLoopback") else { return }
        enabled = section["enabled"]?.boolean() ?? enabled
        programs = section["programs"]?.list(of: readProgram) ?? programs
        excludedPorts = readPorts(section["excludedPorts"])
        fallback = section["fallback"]?.choice() ?? fallback
        if isBase {
            prefix = section["prefix"].flatMap(readPrefix)
            placement = section["placement"]?.choice()
            hostAddresses = section["hostAddresses"]?.list(of: readHostAddresses)
            if hostAddresses?.isEmpty == true { hostAddresses = nil }
        } else {
            for (key, subject) in [
                ("prefix", "the prefix is"), ("placement", "the placement is"),
                ("hostAddresses", "the host's addresses are"),
            ] {
                section[key]?.refuse(
                    "\(subject) for the whole host, not for some sessions",
                    hint: "write it in the base policy's virtualLoopback")
            }
        }
    }
}

extension Policy.PreferLoopback {
    fileprivate init(_ value: PolicyValue) {
        self.init()
        guard let section = value.section(as: "preferLoopback") else { return }
        enabled = section["enabled"]?.boolean() ?? enabled
        programs = section["programs"]?.list(of: readProgram) ?? programs
    }
}

extension Policy.Override {
    /// - Returns: `nil` if its name cannot be read.
    fileprivate init?(_ value: PolicyValue, _ ranges: inout [PlacedRange]) {
        guard let section = value.section() else { return nil }
        if section["name"] == nil { value.refuse("it has no name", hint: "give it one that no other override has") }
        let name = section["name"]?.text()
        self.init(name: name ?? "")
        if let value = section["match"] { match = Policy.Match(value) }
        if let value = section["virtualIP"] { virtualIP = Policy.VirtualIP(value, &ranges, isBase: false) }
        if let value = section["virtualLoopback"] { virtualLoopback = Policy.VirtualLoopback(value, isBase: false) }
        if let value = section["preferLoopback"] { preferLoopback = Policy.PreferLoopback(value) }
        wildcardName = section["wildcardName"]?.choice()
        isolation = section["isolation"]?.boolean()
        if name == nil { return nil }
    }
}

extension Policy.Match {
    fileprivate init(_ value: PolicyValue) {
        self.init()
        guard let section = value.section() else { return }
        users = section["users"]?.list { $0.text() } ?? users
        groups = section["groups"]?.list { $0.text() } ?? groups
        units = section["units"]?.list { $0.text() } ?? units
    }
}
