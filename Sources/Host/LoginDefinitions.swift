// SPDX-License-Identifier: Apache-2.0

import SystemPackage

/// /etc/login.defs, login.defs(5): `NAME VALUE` on each line.
public enum LoginDefinitions {
    /// The PATH of a user at login, as `runuser -l` and login(1) set it.
    public static func path(ofRoot isRoot: Bool) -> String {
        let definitions = (try? String(contentsOf: FilePath("/etc/login.defs"))) ?? ""
        return path(ofRoot: isRoot, definitions)
    }

    static func path(ofRoot isRoot: Bool, _ definitions: String) -> String {
        let names = isRoot ? ["ENV_ROOTPATH", "ENV_SUPATH"] : ["ENV_PATH"]
        for name in names {
            guard let value = value(of: name, definitions) else { continue }
            return value.hasPrefix("PATH=") ? String(value.dropFirst(5)) : value
        }
        // _PATH_DEFPATH_ROOT and _PATH_DEFPATH of util-linux's pathnames.h, with /usr/local as Debian has it.
        return isRoot
            ? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" : "/usr/local/bin:/usr/bin:/bin"
    }

    private static func value(of name: String, _ definitions: String) -> String? {
        for line in definitions.split(whereSeparator: \.isNewline) {
            let words = line.split(maxSplits: 1, whereSeparator: \.isWhitespace)
            guard words.count == 2, words[0] == name else { continue }
            let value = words[1].split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false)[0]
            return String(value).trimmingWhitespace
        }
        return nil
    }
}

extension String {
    fileprivate var trimmingWhitespace: String {
        let start = drop(while: \.isWhitespace)
        guard let last = start.lastIndex(where: { !$0.isWhitespace }) else { return "" }
        return String(start[...last])
    }
}
