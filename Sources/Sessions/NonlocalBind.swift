// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage

/// net.ipv6.ip_nonlocal_bind of this network namespace. The kernel lets a socket bind an IPv6 address that is local
/// only by a route, and on no interface, if it is 1 (inet6_bind() of Linux). For IPv4, the route is enough.
///
/// With 1, every program can bind IPv6 addresses that the host does not have.
public enum NonlocalBind {
    private static let file = FilePath("/proc/sys/net/ipv6/ip_nonlocal_bind")

    /// Its value; `nil` if there is no IPv6.
    public static func value() -> String? {
        (try? readWholeFile(file)).map { String(decoding: $0.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self) }
    }

    static func set(_ value: String) throws(Failure) {
        let what = "set net.ipv6.ip_nonlocal_bind to \(value)"
        do throws(Errno) {
            let file = try openFile(file, O_WRONLY)
            defer { close(file) }
            guard write(file, value, value.utf8.count) == value.utf8.count else { throw Errno(rawValue: errno) }
        } catch {
            throw Failure(what, errno: error, needs: [.netAdmin], hint: "sysctl net.ipv6.ip_nonlocal_bind=\(value)")
        }
    }
}
