// SPDX-License-Identifier: Apache-2.0

/// Names of users as others give them: they go into records, lists and logs.
public enum UserName {
    /// In bytes: LOGIN_NAME_MAX of limits.h, without its NUL.
    public static let limit = 255

    /// Whether it is text of one line, and no longer than Linux allows.
    public static func isAcceptable(_ name: String) -> Bool {
        !name.isEmpty && name.utf8.count <= limit
            && !name.unicodeScalars.contains { $0.properties.generalCategory == .control }
    }
}
