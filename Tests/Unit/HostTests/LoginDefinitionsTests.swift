// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Host

@Suite struct LoginDefinitionsTests {
    @Test(
        "takes the PATH of a login from login.defs",
        arguments: [
            ("ENV_PATH PATH=/a:/b\n", false, "/a:/b"), ("  ENV_PATH\t/a:/b  # the users'\n", false, "/a:/b"),
            ("# ENV_PATH /a\nENV_SUPATH PATH=/s\nENV_PATH /b", true, "/s"),
            ("ENV_SUPATH PATH=/s\nENV_ROOTPATH /r", true, "/r"),
            ("ENV_SUPATH PATH=/s", false, "/usr/local/bin:/usr/bin:/bin"),
            ("", true, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ])
    func path(definitions: String, isRoot: Bool, expected: String) {
        #expect(LoginDefinitions.path(ofRoot: isRoot, definitions) == expected)
    }
}
