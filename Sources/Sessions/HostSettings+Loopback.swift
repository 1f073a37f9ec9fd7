// SPDX-License-Identifier: Apache-2.0

import Glibc
public import Host
import Logging
import Network
public import Policy
import SystemPackage

// A session's IPv6 loopback is on no interface: a route makes the whole prefix local. The kernel lets a socket bind to
// such an address only if net.ipv6.ip_nonlocal_bind is 1 (inet6_bind() of Linux). For IPv4, the route is enough.

extension Registry.Setting {
    /// What was changed in a network namespace for the IPv6 loopbacks: a ``LoopbackNote``, written before the change.
    static let loopbackNote = Registry.Setting(rawValue: "loopback_note")
    /// The prefix of the IPv6 loopbacks; not set if this host cannot have them.
    static let loopbackPrefix = Registry.Setting(rawValue: "loopback_prefix")
}

extension Registry {
    /// The prefix of the sessions' IPv6 loopbacks; `nil` if this host has none.
    public func loopbackPrefix() throws(Failure) -> LoopbackPrefix? {
        guard let text = try value(of: .loopbackPrefix) else { return nil }
        return try LoopbackPrefix(text)
    }
}

/// What must be undone with the last cgroup's links: `BOOT-ID INODE FORMER-SYSCTL PREFIX…`.
struct LoopbackNote: Equatable {
    /// The network namespace, as ``HostSettings/network()`` returns it.
    var network: String
    /// The former value of net.ipv6.ip_nonlocal_bind.
    var formerSysctl: String
    /// The prefixes whose routes vip-bpf made.
    var prefixes: [LoopbackPrefix]

    init(network: String, formerSysctl: String, prefixes: [LoopbackPrefix]) {
        self.network = network
        self.formerSysctl = formerSysctl
        self.prefixes = prefixes
    }

    init?(_ text: String) {
        let words = text.split(separator: " ").map(String.init)
        guard words.count >= 3 else { return nil }
        let prefixes = words.dropFirst(3).compactMap { try? LoopbackPrefix($0) }
        self.init(network: "\(words[0]) \(words[1])", formerSysctl: words[2], prefixes: prefixes)
    }

    var text: String { ([network, formerSysctl] + prefixes.map(\.description)).joined(separator: " ") }
}

/// The settings of this network namespace for IPv6 loopbacks. Only ``setNonlocalBind(_:)`` changes any.
public enum LoopbackHost {
    private static let sysctl = FilePath("/proc/sys/net/ipv6/ip_nonlocal_bind")

    /// Why IPv6 loopbacks are not possible, and what to do about it; `nil` if they are possible.
    public static func obstacle() -> (reason: String, fix: String)? {
        guard nonlocalBind() != nil else {
            return ("this kernel has no IPv6", "boot without ipv6.disable=1, or use IPv4 only")
        }
        let disabled = FilePath("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
        guard (try? readWholeFile(disabled))?.first == UInt8(ascii: "0") else {
            return ("IPv6 is disabled on lo", "sysctl net.ipv6.conf.lo.disable_ipv6=0, then attach again")
        }
        return nil
    }

    /// The value of net.ipv6.ip_nonlocal_bind; `nil` if there is no IPv6.
    public static func nonlocalBind() -> String? {
        (try? readWholeFile(sysctl)).map { String(decoding: $0.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self) }
    }

    /// The number of TCP and UDP sockets of this network namespace with a local address of the prefix, except those in
    /// TIME_WAIT. In /proc/net/tcp6 and udp6, an address is four words of 8 hexadecimal digits in the host's byte
    /// order.
    static func sockets(on prefix: LoopbackPrefix) -> Int {
        let words = stride(from: 0, to: 12, by: 4).map { start in
            let word = prefix.network.bytes[start..<start + 4].withUnsafeBytes { $0.loadUnaligned(as: UInt32.self) }
            let digits = String(word, radix: 16, uppercase: true)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }
        let start = words.joined()
        let timeWait = "06"  // TCP_TIME_WAIT, net/tcp_states.h
        return ["tcp6", "udp6"].reduce(0) { count, name in
            let table = (try? readWholeFile(FilePath("/proc/net/\(name)"))) ?? []
            return count
                + String(decoding: table, as: UTF8.self).split(separator: "\n").dropFirst().count { line in
                    let fields = line.split(separator: " ", maxSplits: 4)
                    return fields.count > 3 && fields[1].hasPrefix(start) && fields[3] != timeWait
                }
        }
    }

    static func setNonlocalBind(_ value: String) throws(Failure) {
        let what = "set net.ipv6.ip_nonlocal_bind to \(value)"
        do throws(Errno) {
            let file = try openFile(sysctl, O_WRONLY)
            defer { close(file) }
            guard write(file, value, value.utf8.count) == value.utf8.count else { throw Errno(rawValue: errno) }
        } catch {
            throw Failure(what, errno: error, needs: [.netAdmin], hint: "sysctl net.ipv6.ip_nonlocal_bind=\(value)")
        }
    }
}

extension HostSettings {
    private func loopbackNote() throws(Failure) -> LoopbackNote? {
        guard let note = try registry.value(of: .loopbackNote).flatMap({ LoopbackNote($0) }),
            note.network.hasPrefix(bootID)
        else { return nil }
        return note
    }

    /// Throws if addresses of the prefix are used elsewhere. It is called before anything is changed.
    func checkLoopback(_ prefix: LoopbackPrefix) throws(Failure) {
        guard LoopbackHost.obstacle() == nil else { return }
        if let other = try netlink.routes(.v6).first(where: { $0.isInTheWay(of: prefix) }) {
            throw Failure(
                .failed, "make the IPv6 loopbacks \(prefix.local) local", "there is a route \(other) already",
                hint: "set another virtualLoopback.prefix in the policy")
        }
    }

    /// Makes the prefix local, if it is not yet and this host can have it. Notes of other prefixes stay, for
    /// ``settleLoopback(_:)``.
    ///
    /// - Returns: the prefix; `nil` with a warning if this host cannot have it.
    func prepareLoopback(_ wanted: LoopbackPrefix, warnings: inout [String]) throws(Failure) -> LoopbackPrefix? {
        let prefix = wanted.local
        if let obstacle = LoopbackHost.obstacle() {
            warnings.append("sessions have no IPv6 loopback: \(obstacle.reason); \(obstacle.fix)")
            return nil
        }
        let network = try network()
        let sysctl = LoopbackHost.nonlocalBind() ?? "1"
        var note = LoopbackNote(network: network, formerSysctl: sysctl, prefixes: [])
        if let noted = try loopbackNote() {
            if noted.network == network {
                note = noted
                if sysctl != "1" { note.formerSysctl = sysctl }  // another program has set it since
            } else {
                logger.warning("the IPv6 loopbacks stay local in the network namespace that they were in until now")
            }
        }
        // A route that exists and was not noted was made by another instance: use it, and do not remove it later.
        if !note.prefixes.contains(prefix), !(try netlink.routes(.v6).contains { $0.isLocal(prefix) }) {
            note.prefixes.append(prefix)
        }
        if try registry.value(of: .loopbackNote) != note.text { try registry.set(.loopbackNote, to: note.text) }
        do throws(Failure) {
            if sysctl != "1" { try LoopbackHost.setNonlocalBind("1") }
            try netlink.addLocalRoute(prefix)
        } catch {
            warnings.append("sessions have no IPv6 loopback: \(error)")
            return nil
        }
        return prefix
    }

    /// Records the prefix in force, and removes the routes of other prefixes. With `nil`, undoes everything.
    func settleLoopback(_ prefix: LoopbackPrefix?) throws(Failure) {
        if try registry.value(of: .loopbackPrefix) != prefix?.description {
            try registry.set(.loopbackPrefix, to: prefix?.description)
        }
        guard let prefix else { return try undoLoopback() }
        guard var note = try loopbackNote() else { return }
        let others = note.prefixes.filter { $0 != prefix }
        guard !others.isEmpty else { return }
        for other in others { try netlink.removeLocalRoute(other) }
        note.prefixes.removeAll { $0 != prefix }
        try registry.set(.loopbackNote, to: note.text)
    }

    /// Restores the route and the sysctl, if another program has changed them since the last attach.
    func repairLoopback(_ prefix: LoopbackPrefix, warnings: inout [String]) throws(Failure) {
        if let note = try loopbackNote(), note.network == (try network()), note.prefixes.contains(prefix),
            LoopbackHost.nonlocalBind() == "1"
        {
            do throws(Failure) {
                if try netlink.addLocalRoute(prefix) {
                    warnings.append("the local route of the IPv6 loopbacks \(prefix) was missing and is back")
                }
            } catch {
                warnings.append("the local route of the IPv6 loopbacks is missing: \(error)")
            }
            return
        }
        _ = try prepareLoopback(prefix, warnings: &warnings)
    }

    /// Undoes all changes for the IPv6 loopbacks. Missing parts are no error.
    func undoLoopback() throws(Failure) {
        if let note = try loopbackNote() {
            if note.network == (try network()) {
                for prefix in note.prefixes {
                    // Without the route, packets of such a socket would leave this host by the default route.
                    let sockets = LoopbackHost.sockets(on: prefix)
                    if sockets > 0 {
                        logger.warning(
                            "\(sockets) sockets are still on IPv6 loopbacks of \(prefix), so its route stays; when they are closed, run: ip -6 route del local \(prefix) dev lo"
                        )
                    } else {
                        try netlink.removeLocalRoute(prefix)
                    }
                }
                if note.formerSysctl != "1", LoopbackHost.nonlocalBind() == "1" {
                    do throws(Failure) {
                        try LoopbackHost.setNonlocalBind(note.formerSysctl)
                    } catch {
                        logger.warning("\(error)")
                    }
                }
            } else {
                logger.warning("the IPv6 loopbacks stay local in the network namespace that they are in")
            }
        }
        for setting in [Registry.Setting.loopbackNote, .loopbackPrefix] { try registry.set(setting, to: nil) }
    }
}
