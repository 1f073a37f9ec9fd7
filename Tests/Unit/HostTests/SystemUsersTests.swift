// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import TestSupport
import Testing

@Suite struct SystemUsersTests {
    /// The comparison would cut names of groups at a space; root and daemon have no such groups.
    @Test("lists a user's groups as id(1)", arguments: ["root", "daemon"])
    func groups(user: String) throws {
        let id = try Child("id", "-Gn", user).line().split(separator: " ").map(String.init)
        #expect(!id.isEmpty)
        #expect(try Set(SystemUsers.groups(of: user)) == Set(id))
    }

    @Test("knows no user of an unknown name")
    func unknown() throws {
        #expect(try SystemUsers.groups(of: "no-such-user-here") == [])
        #expect(try SystemUsers.name(of: 4_294_967_000) == nil)
    }

    @Test("names the user of a uid")
    func name() throws {
        #expect(try SystemUsers.name(of: 0) == "root")
    }
}
