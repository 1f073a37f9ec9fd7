// SPDX-License-Identifier: Apache-2.0

import BPFLoader
package import CVipABI
import Glibc
package import Host
import Network
package import Policy
import PolicyMaps
package import Sessions
package import SystemPackage

/// Observes some cgroups: by BPF programs from the start on, and by the sockets that are open.
///
/// It identifies a process while that runs. If the process ends first, only the kernel's name of its file is known.
package final class Observation {
    /// The uppermost of the requested cgroups.
    package let cgroups: [Cgroup]
    /// Whether calls are seen as they were made, in all of the cgroups: see ``CallObserver/Order``.
    package private(set) var order = CallObserver.Order.first
    private var observer: CallObserver
    private let instance: Instance
    private let ephemeral = EphemeralPorts.current()

    /// A program as the kernel's maps distinguish it.
    private struct KernelProgram: Hashable {
        var inode: UInt64
        var device: UInt32
        var comm: [UInt8]

        init(_ row: vip_seen_program) {
            inode = row.inode
            device = row.device
            comm = Observation.text(of: row.comm)
        }
    }
    /// A program as the report distinguishes it.
    private struct Identity: Hashable {
        var path: [UInt8]?
        var name: [UInt8]
        var script: [UInt8]?
        /// Distinguishes programs whose path is not known.
        var inode: UInt64 = 0
    }

    private var executables: [KernelProgram: ProcessFacts.Executable] = [:]
    /// The paths of cgroups by ID, relative to the hierarchy's root.
    private var paths: [UInt64: FilePath] = [:]
    /// The programs with open sockets, from the socket tables.
    private var open: [Identity: ObservedProgram] = [:]
    private var openProcesses: [Identity: Set<pid_t>] = [:]
    private var hosts = HostAddresses()
    /// The number of processes whose sockets could not be read.
    package private(set) var unreadable = 0

    /// The most sockets of one program that are kept from the tables; as many as the kernel's map keeps of its calls.
    private static let openLimit = Int(VIP_SEEN_ENDPOINTS_EACH)

    /// Loads the observing programs. It attaches none yet.
    package init(of cgroups: [Cgroup], _ instance: Instance) throws(Failure) {
        self.cgroups = cgroups
        self.instance = instance
        observer = try CallObserver()
    }

    /// Attaches the observing programs, then reads which sockets are open.
    package func start() throws(Failure) {
        try refreshAddresses()
        for cgroup in cgroups {
            if try observer.attach(to: cgroup) == .asAttached { order = .asAttached }
        }
        try takeInOpen()
    }

    /// Readable when ``takeInNew()`` has something to do.
    package var eventDescriptor: CInt { observer.eventDescriptor }

    // MARK: During the observation

    /// Identifies processes that were seen for the first time, while they run.
    package func takeInNew() {
        for event in observer.newProcesses() {
            let program = KernelProgram(event.process.program)
            let needsPath = paths[event.owner.cgroup] == nil
            guard executables[program] == nil || needsPath else { continue }
            let process = ProcessFacts(pid_t(bitPattern: event.process.pid))
            if executables[program] == nil, let executable = process.executable,
                // The process may have executed another program since, or the PID may be another process's.
                executable.inode == program.inode
                    || Self.bytes(executable.path.lastComponent) == Self.text(of: event.name)
            {
                executables[program] = executable
            }
            if needsPath, let path = process.cgroup, let cgroup = cgroup(at: path), cgroup.id == event.owner.cgroup {
                paths[cgroup.id] = path
            }
        }
    }

    private func cgroup(at path: FilePath) -> (id: UInt64, path: FilePath)? {
        guard let observed = cgroups.first else { return nil }
        // The mount point: the observed cgroup's path without as many components as it is deep.
        var root = observed.path
        for _ in 0..<observed.level { root.removeLastComponent() }
        var status = stat()
        let full = root.appending(path.components)
        guard full.withPlatformString({ stat($0, &status) }) == 0 else { return nil }
        return (UInt64(status.st_ino), full)
    }

    /// Reads which addresses are this host's and which are sessions'.
    package func refreshAddresses() throws(Failure) {
        var found = HostAddresses()
        let registry = try? instance.registry()
        let sessions = (try? registry?.sessions()) ?? []
        let prefix = (try? instance.policyInForce())?.loopbackPrefix
        for session in sessions {
            found.virtualIPs.formUnion(session.addresses.map(\.address))
            found.virtualLoopbacks.insert(SessionIDs.loopback(of: session.id))
            if let prefix { found.virtualLoopbacks.insert(prefix.loopback(of: session.id)) }
        }
        found.own = Set(try Netlink().hostAddresses().map(\.address)).subtracting(found.virtualIPs)
        let all = found.own.union(found.virtualIPs).union(found.virtualLoopbacks)
        let fresh = all.subtracting(hosts.own).subtracting(hosts.virtualIPs).subtracting(hosts.virtualLoopbacks)
        // The observer knows 127/8 and ::1 itself.
        try observer.setLocal(fresh.filter { !$0.isLoopback }.map { vip_address($0) })
        hosts = HostAddresses(
            own: hosts.own.union(found.own).subtracting(found.virtualIPs),
            virtualIPs: hosts.virtualIPs.union(found.virtualIPs),
            virtualLoopbacks: hosts.virtualLoopbacks.union(found.virtualLoopbacks))
    }

    /// Reads the sockets that processes of the observed cgroups have open now.
    package func takeInOpen() throws(Failure) {
        let sockets = try SocketDump.sockets()
        let served = Set(sockets.filter { $0.isServing && $0.transport != .udp }.map(\.local.port))
        let relevant = sockets.filter { $0.inode != 0 && $0.local.port != 0 }
        let owners = SocketOwners(of: Set(relevant.map(\.inode)))
        unreadable = max(unreadable, owners.unreadable)
        struct Holder {
            var identity: Identity
            var name: [UInt8]
            var cgroup: UInt64
            var user: UInt32
        }
        var holders: [pid_t: Holder?] = [:]
        for socket in relevant {
            guard let use = Self.use(of: socket, servedPorts: served, hosts) else { continue }
            for pid in owners.processes[socket.inode] ?? [] {
                if holders[pid] == nil {
                    let process = ProcessFacts(pid)
                    var holder: Holder?
                    if let path = process.cgroup, let cgroup = cgroup(at: path),
                        cgroups.contains(where: { cgroup.path.starts(with: $0.path) }),
                        let executable = process.executable, let user = process.user
                    {
                        paths[cgroup.id] = path
                        holder = Holder(
                            identity: Self.identity(executable, comm: process.name ?? []), name: process.name ?? [],
                            cgroup: cgroup.id, user: user)
                    }
                    holders[pid] = .some(holder)
                }
                guard let known = holders[pid], let holder = known else { continue }
                var program = open[holder.identity] ?? Self.program(holder.identity)
                if program.opened.count < Self.openLimit {
                    program.opened.insert(use)
                } else if !program.opened.contains(use) {
                    program.isCut = true
                }
                program.cgroups.insert(holder.cgroup)
                program.users.insert(holder.user)
                if !holder.name.isEmpty { program.note(processName: holder.name) }
                open[holder.identity] = program
                openProcesses[holder.identity, default: []].insert(pid)
            }
        }
    }

    /// The use that an open socket shows; `nil` for a connection that a server has accepted.
    private static func use(
        of socket: InternetSocket, servedPorts: Set<UInt16>, _ hosts: HostAddresses
    ) -> AddressUse? {
        let transport: AddressUse.Transport = socket.transport == .udp ? .udp : .tcp
        if socket.isServing || socket.state == .boundInactive {
            let address = socket.local.address
            return AddressUse(
                call: .bind, transport: transport, addressClass: hosts.addressClass(of: address), address: address,
                port: socket.local.port, isAsked: false, isV6Only: address.family == .v6 && socket.isV6Only == true)
        }
        guard socket.remote.port != 0, transport == .udp || !servedPorts.contains(socket.local.port) else { return nil }
        return connection(transport, socket.remote.address, socket.remote.port, isAsked: false, hosts)
    }

    private static func connection(
        _ transport: AddressUse.Transport, _ address: IPAddress, _ port: UInt16, isAsked: Bool, _ hosts: HostAddresses
    ) -> AddressUse {
        let kind = hosts.addressClass(of: address)
        let isKept = kind != .elsewhere
        return AddressUse(
            call: .connect, transport: transport, addressClass: kind, address: isKept ? address : nil,
            port: isKept ? port : 0, isAsked: isAsked)
    }

    // MARK: At the end

    package struct Result {
        package var programs: [ObservedProgram]
        package var ephemeral: ClosedRange<UInt16>
        package var order: CallObserver.Order
        package var lost: vip_seen_lost
        /// The paths of the cgroups, by ID, as far as they are known.
        package var cgroupPaths: [UInt64: FilePath]
    }

    /// All that was seen, by program. It reads the open sockets once more, because `listen` without `bind` is not
    /// observed.
    package func result() throws(Failure) -> Result {
        takeInNew()
        try? refreshAddresses()
        try? takeInOpen()
        let names = try observer.programs()
        let identities = identities(names)
        var programs = open
        var pids = openProcesses.mapValues { $0.count }

        var seenPIDs: [Identity: Set<UInt32>] = [:]
        var counts: [Identity: Int] = [:]
        for (process, owner) in try observer.processes() {
            guard let identity = identities[KernelProgram(process.program)] else { continue }
            counts[identity, default: 0] += 1
            seenPIDs[identity, default: []].insert(process.pid)
            programs[identity, default: Self.program(identity)].cgroups.insert(owner.cgroup)
            programs[identity, default: Self.program(identity)].users.insert(owner.user)
            programs[identity, default: Self.program(identity)].note(
                processName: Self.text(of: process.program.comm))
        }
        for (identity, seen) in seenPIDs {
            // Add the processes with open sockets that made no call during the observation.
            pids[identity] =
                counts[identity, default: 0]
                + (openProcesses[identity] ?? []).count { !seen.contains(UInt32(bitPattern: $0)) }
        }
        for (key, name) in names where name.processes >= UInt32(VIP_SEEN_PROCESSES_EACH) {
            if let identity = identities[KernelProgram(key)] {
                programs[identity, default: Self.program(identity)].hasMoreProcesses = true
            }
        }
        for (endpoint, _) in try observer.endpoints() {
            guard let identity = identities[KernelProgram(endpoint.program)] else { continue }
            if endpoint.flags & VIP_SEEN_MANY.rawValue != 0 {
                programs[identity, default: Self.program(identity)].isCut = true
            } else {
                programs[identity, default: Self.program(identity)].opened.insert(use(endpoint))
            }
        }
        locateCgroups(Set(programs.values.flatMap(\.cgroups)))
        let sessions = (try? instance.registry().sessions()) ?? []
        for (identity, program) in programs {
            var program = program
            program.processes = pids[identity] ?? 0
            for id in program.cgroups {
                guard let path = paths[id], let full = cgroupPath(path) else { continue }
                for session in sessions where full.starts(with: session.cgroupPath) {
                    program.sessions.insert(session.id)
                }
            }
            programs[identity] = program
        }
        return Result(
            programs: Array(programs.values), ephemeral: ephemeral, order: order, lost: try observer.lost(),
            cgroupPaths: paths)
    }

    private func cgroupPath(_ path: FilePath) -> FilePath? {
        guard let observed = cgroups.first else { return nil }
        var root = observed.path
        for _ in 0..<observed.level { root.removeLastComponent() }
        return root.appending(path.components)
    }

    /// The program that each of the kernel's rows belongs to. For each file, one identified process is enough.
    private func identities(
        _ names: [(key: vip_seen_program, value: vip_seen_name)]
    ) -> [KernelProgram: Identity] {
        struct File: Hashable {
            var inode: UInt64
            var device: UInt32
        }
        var files: [File: ProcessFacts.Executable] = [:]
        for (program, executable) in executables {
            files[File(inode: program.inode, device: program.device)] = executable
        }
        var result: [KernelProgram: Identity] = [:]
        for (key, value) in names {
            let program = KernelProgram(key)
            if let executable = files[File(inode: program.inode, device: program.device)] {
                result[program] = Self.identity(executable, comm: program.comm)
            } else {
                let name = Self.text(of: value.name)
                // No process of these calls was identified: look for one with open sockets and the same name and inode.
                let script = Self.script(name, comm: program.comm)
                result[program] =
                    open.keys.first { $0.name == name && $0.script == script && $0.inode == program.inode }
                    ?? Identity(path: nil, name: name, script: script, inode: program.inode)
            }
        }
        return result
    }

    private static func identity(_ executable: ProcessFacts.Executable, comm: [UInt8]) -> Identity {
        let name = bytes(executable.path.lastComponent)
        return Identity(
            path: bytes(executable.path), name: name, script: script(name, comm: comm), inode: executable.inode)
    }

    /// The process's name, if it is that of a script which the executable runs.
    private static func script(_ name: [UInt8], comm: [UInt8]) -> [UInt8]? {
        guard ObservedProgram.isInterpreter(name), !comm.isEmpty, !name.starts(with: comm),
            !ObservedProgram.isInterpreter(comm)
        else { return nil }
        return comm
    }

    private static func program(_ identity: Identity) -> ObservedProgram {
        ObservedProgram(path: identity.path, name: identity.name, script: identity.script)
    }

    private func use(_ row: vip_seen_endpoint) -> AddressUse {
        let transport: AddressUse.Transport = CInt(row.protocol) == CInt(IPPROTO_UDP) ? .udp : .tcp
        let sixteen = IPAddress(bytes: withUnsafeBytes(of: row.address) { Array($0) }) ?? IPAddress(.v6, value: 0)
        let address = sixteen.isMapped ? IPAddress(v4: UInt32(truncatingIfNeeded: sixteen.value)) : sixteen
        guard UInt32(row.call) == VIP_SEEN_BIND.rawValue else {
            if row.flags & VIP_SEEN_ELSEWHERE.rawValue != 0 {
                return AddressUse(
                    call: .connect, transport: transport, addressClass: .elsewhere, address: nil, port: 0, isAsked: true
                )
            }
            return Self.connection(transport, address, row.port, isAsked: true, hosts)
        }
        return AddressUse(
            call: .bind, transport: transport, addressClass: hosts.addressClass(of: address), address: address,
            port: row.port, isAsked: true,
            isV6Only: address.family == .v6 && row.flags & VIP_SEEN_V6ONLY.rawValue != 0,
            sharesPort: row.flags & VIP_SEEN_REUSEPORT.rawValue != 0,
            sharesAddress: row.flags & VIP_SEEN_REUSEADDR.rawValue != 0)
    }

    /// Finds the paths of cgroups whose processes ended before they were identified, by a walk through the observed
    /// cgroups.
    private func locateCgroups(_ wanted: Set<UInt64>) {
        var missing = wanted.subtracting(paths.keys)
        guard !missing.isEmpty else { return }
        for top in cgroups {
            var below = FilePath("/")
            below.append(top.path.components.suffix(Int(top.level)))
            var left = [(top.path, below)]
            while let (full, path) = left.popLast(), !missing.isEmpty {
                var status = stat()
                guard full.withPlatformString({ stat($0, &status) }) == 0 else { continue }
                if missing.remove(UInt64(status.st_ino)) != nil { paths[UInt64(status.st_ino)] = path }
                for entry in (try? Directory.entries(of: full)) ?? [] where entry.isDirectory {
                    left.append((full.appending(entry.component), path.appending(entry.component)))
                }
            }
        }
    }

    /// The bytes of a C string in an array of fixed size.
    private static func text<Characters>(of characters: Characters) -> [UInt8] {
        withUnsafeBytes(of: characters) { Array($0.prefix { $0 != 0 }) }
    }

    private static func bytes(_ path: FilePath) -> [UInt8] {
        path.withPlatformString {
            Array(UnsafeBufferPointer(start: $0, count: strlen($0))).map(UInt8.init(bitPattern:))
        }
    }

    private static func bytes(_ component: FilePath.Component?) -> [UInt8] {
        component.map { component in
            component.withPlatformString {
                Array(UnsafeBufferPointer(start: $0, count: strlen($0))).map(UInt8.init(bitPattern:))
            }
        } ?? []
    }
}

extension Instance {
    /// The policy that sessions have now; the defaults if none was applied or there is no registry.
    package func policyInForce() throws(Failure) -> Policy {
        guard FileStatus.exists(state.registry) else { return Policy() }
        return try policy(try registry())
    }
}
