// SPDX-License-Identifier: Apache-2.0

public import Glibc
import SystemPackage

/// Users and groups as this host's name services know them: files, LDAP or others, by nsswitch.conf.
public enum SystemUsers {
    /// The names of the groups that a user is in, the primary one first: getgrouplist(3).
    ///
    /// An unknown user has no groups. A group without a name is left out.
    ///
    /// - Throws: ``Failure`` if the look-up itself fails; the groups are unknown then.
    public static func groups(of user: String) throws(Failure) -> [String] {
        let primary: gid_t? = try lookUp("find the groups of user \(user)") { buffer, size in
            var entry = passwd()
            var result: UnsafeMutablePointer<passwd>?
            let error = getpwnam_r(user, &entry, buffer, size, &result)
            return (error, result?.pointee.pw_gid)
        }
        guard let primary else { return [] }
        var groups = [gid_t](repeating: 0, count: 64)
        var count = CInt(groups.count)
        while getgrouplist(user, primary, &groups, &count) < 0 {
            // The call returns the number of groups; in some versions of libc it does not.
            groups = [gid_t](repeating: 0, count: max(Int(count), 2 * groups.count))
            count = CInt(groups.count)
        }
        var names: [String] = []
        for group in groups.prefix(Int(count)) {
            let name: String? = try lookUp("find the name of group \(group)") { buffer, size in
                var entry = Glibc.group()
                var result: UnsafeMutablePointer<Glibc.group>?
                let error = getgrgid_r(group, &entry, buffer, size, &result)
                return (error, result.map { String(cString: $0.pointee.gr_name) })
            }
            if let name { names.append(name) }
        }
        return names
    }

    /// The name of a user, `nil` if no user has the number: getpwuid_r(3).
    ///
    /// - Throws: ``Failure`` if the look-up itself fails.
    public static func name(of user: uid_t) throws(Failure) -> String? {
        try lookUp("find the name of user \(user)") { buffer, size in
            var entry = passwd()
            var result: UnsafeMutablePointer<passwd>?
            let error = getpwuid_r(user, &entry, buffer, size, &result)
            return (error, result.map { String(cString: $0.pointee.pw_name) })
        }
    }

    /// The number of a user, `nil` if no user has the name: getpwnam_r(3).
    ///
    /// - Throws: ``Failure`` if the look-up itself fails.
    public static func number(of user: String) throws(Failure) -> uid_t? {
        try account(of: user)?.number
    }

    /// The number of a group, `nil` if no group has the name: getgrnam_r(3).
    ///
    /// - Throws: ``Failure`` when the look-up itself fails.
    public static func number(ofGroup name: String) throws(Failure) -> gid_t? {
        guard !name.utf8.contains(0) else { return nil }
        return try lookUp("find group \(name)") { buffer, size in
            var entry = Glibc.group()
            var result: UnsafeMutablePointer<Glibc.group>?
            let error = getgrnam_r(name, &entry, buffer, size, &result)
            return (error, result?.pointee.gr_gid)
        }
    }

    /// A user's passwd(5) entry.
    public struct Account: Sendable, Hashable {
        public let name: String
        public let number: uid_t
        public let home: String
        public let shell: String
    }

    /// The account of a user; `nil` if no user has the name: getpwnam_r(3).
    ///
    /// - Throws: ``Failure`` if the look-up itself fails.
    public static func account(of user: String) throws(Failure) -> Account? {
        guard !user.utf8.contains(0) else { return nil }
        return try lookUp("find user \(user)") { buffer, size in
            var entry = passwd()
            var result: UnsafeMutablePointer<passwd>?
            let error = getpwnam_r(user, &entry, buffer, size, &result)
            let account = result.map {
                Account(
                    name: String(cString: $0.pointee.pw_name), number: $0.pointee.pw_uid,
                    home: String(cString: $0.pointee.pw_dir), shell: String(cString: $0.pointee.pw_shell))
            }
            return (error, account)
        }
    }

    /// Calls one of the `get…_r` functions with a buffer that grows until the entry fits.
    private static func lookUp<T>(
        _ what: String, _ call: (UnsafeMutablePointer<CChar>, Int) -> (error: CInt, answer: T?)
    ) throws(Failure) -> T? {
        var size = 1024
        while true {
            let buffer = UnsafeMutablePointer<CChar>.allocate(capacity: size)
            defer { buffer.deallocate() }
            let (error, answer) = call(buffer, size)
            switch error {
            case 0: return answer
            case ERANGE: size *= 2
            case EINTR: continue
            // getpwnam(3), "the given name or uid was not found": the errno depends on the name service.
            case ENOENT, ESRCH, EBADF, EPERM: return nil
            default:
                throw Failure(
                    what, errno: Errno(rawValue: error),
                    hint: "see whether the host's name services answer: getent passwd")
            }
        }
    }
}
