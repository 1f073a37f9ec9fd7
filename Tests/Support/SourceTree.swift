// SPDX-License-Identifier: Apache-2.0

public import Foundation

/// The source tree from which the tests were built.
public enum SourceTree {
    private static let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardized

    /// - Parameter path: of a file or directory, relative to the root of the tree.
    public static func url(_ path: String) -> URL { root.appending(path: path) }
}
