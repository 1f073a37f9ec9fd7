// SPDX-License-Identifier: Apache-2.0

/// Checks names of users that come from outside and are used in records, lists and logs.
public enum UserName {
    /// The longest name in bytes: LOGIN_NAME_MAX of limits.h, without the NUL.
    public static let limit = 255

    /// Whether the name is one line of text, and no longer than Linux allows.
    public static func isAcceptable(_ name: String) -> Bool {
        !name.isEmpty && name.utf8.count <= limit
            && !name.unicodeScalars.contains { $0.properties.generalCategory == .control }
    }
}
