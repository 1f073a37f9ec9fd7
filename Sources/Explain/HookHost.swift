// SPDX-License-Identifier: Apache-2.0

import BPFLoader
package import CVipABI
package import CVipHooks
package import Glibc
package import Host
package import PolicyMaps
import SystemPackage

/// The hooks, compiled for the host (`CVipHooks`). They run on simulated calls over the live maps.
///
/// This type makes no decision. It sets which task calls and which sockets listen; every result comes from the code in
/// bpf/.
package final class HookHost {
    private let host: OpaquePointer

    /// - Parameter maps: must live as long as this object.
    package init(_ maps: borrowing PolicyMapSet) throws(Failure) {
        var descriptors = [CInt](repeating: -1, count: Int(VIP_HOST_MAPS.rawValue))
        descriptors[Int(VIP_HOST_MAP_CONFIG.rawValue)] = maps.config.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_SESSIONS.rawValue)] = maps.sessions.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_IDS.rawValue)] = maps.ids.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_ADDRESSES.rawValue)] = maps.addresses.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_GOVERNED.rawValue)] = maps.governed.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_POLICIES.rawValue)] = maps.policies.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_PROGRAM_NAMES.rawValue)] = maps.names.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_PROGRAM_SCRIPTS.rawValue)] = maps.scripts.rawDescriptor
        descriptors[Int(VIP_HOST_MAP_PROGRAM_FILES.rawValue)] = maps.files.rawDescriptor
        guard let host = vip_host_open(descriptors) else {
            throw Failure("run the hooks on the host", errno: .noMemory)
        }
        self.host = host
    }

    deinit { vip_host_free(host) }

    /// Returns a result of the hooks, unless they could not read a map.
    private func read<T>(_ answer: T) throws(Failure) -> T {
        let error = vip_host_error(host)
        guard error == 0 else { throw Failure("read the maps", errno: Errno(rawValue: error)) }
        return answer
    }

    // MARK: The caller

    /// Sets the cgroups of the calling task, from the root down.
    package func setCgroups(_ ids: [UInt64]) { precondition(vip_host_set_cgroups(host, ids, UInt32(ids.count)) == 1) }

    /// Makes the calling task one of a session's cgroup.
    package func setCgroup(_ id: UInt64) { vip_host_set_cgroup(host, id) }

    /// Sets the calling task's real user, in the initial user namespace. It is root unless set.
    package func setUser(_ id: uid_t) { vip_host_set_user(host, id) }

    package func setProgram(_ program: ExplainedProgram) {
        let isSet = vip_host_set_program(
            host, program.identity.inode, program.identity.device, program.name, UInt32(program.name.count),
            program.processName, UInt32(program.processName.count))
        precondition(isSet == 1, "out of memory")
    }

    /// The session that the task is in.
    package func session() throws(Failure) -> LiveSession? {
        var session = vip_host_session()
        let isFound = try read(vip_host_find_session(host, &session))
        return isFound == 1 ? LiveSession(session) : nil
    }

    /// The lists of the session's policy that contain the program: bit 1 << `enum vip_list`.
    ///
    /// - Parameter way: use only this one of the three look-ups.
    package func lists(by way: ExplainedProgram.Way) throws(Failure) -> UInt32 {
        let maps: [ExplainedProgram.Way: vip_host_map] = [
            .executableName: VIP_HOST_MAP_PROGRAM_NAMES, .processName: VIP_HOST_MAP_PROGRAM_SCRIPTS,
            .file: VIP_HOST_MAP_PROGRAM_FILES,
        ]
        for (other, map) in maps { vip_host_show_map(host, map, other == way ? 1 : 0) }
        defer { for map in maps.values { vip_host_show_map(host, map, 1) } }
        return try read(vip_host_program_lists(host))
    }

    /// The features that apply to the program for at least one address family: `enum vip_feature`.
    package func features() throws(Failure) -> UInt32 { try read(vip_host_features(host)) }

    // MARK: Calls

    /// Runs a hook.
    ///
    /// - Parameters:
    ///   - port: in host byte order.
    ///   - listener: the number of a look-up, and what it finds. All other look-ups find nothing.
    package func call(
        _ hook: vip_hook, _ socket: inout vip_host_socket, _ address: vip_address, port: UInt16,
        listener: (number: Int, vip_host_listener)? = nil
    ) throws(Failure) -> vip_host_answer {
        if let listener { vip_host_set_listener(host, UInt32(listener.number), listener.1) }
        defer { if let listener { vip_host_set_listener(host, UInt32(listener.number), VIP_HOST_NOTHING) } }
        return try read(vip_host_call(host, &socket, hook, address, port, nil))
    }

    /// The look-ups of sockets that the last call made, in their order.
    package var questions: [vip_host_question] {
        (0..<vip_host_question_count(host)).map { vip_host_question(host, $0) }
    }

    /// Whether a TCP server can be reached at an IPv6 address that it is not bound to.
    package func leads(to socket: vip_host_socket, from address: vip_address) throws(Failure) -> Bool {
        var socket = socket
        vip_host_listen(host, &socket)
        return try read(vip_host_packet(host, address, socket.local_port, 1, 1)) == 2
    }
}
