// SPDX-License-Identifier: Apache-2.0

import Glibc
import Host
import SystemPackage
import TestSupport
import Testing

/// What of a directory, and above it, others may not do. Another user's directories: `OwnershipTests`.
@Suite struct OwnedDirectoryTests {
    let temporary: TemporaryDirectory
    let above: FilePath
    let path: FilePath

    init() throws {
        temporary = try TemporaryDirectory()
        above = temporary.path.appending("above")
        path = above.appending("state")
        try OwnedDirectory(path).create()
    }

    private func refusal(of path: FilePath) -> Failure? {
        do throws(Failure) {
            try OwnedDirectory(path).requireSafe()
            return nil
        } catch { return error }
    }

    @Test(arguments: [
        (0o755, 0o755, nil), (0o755, 0o700, nil), (0o1777, 0o755, nil), (0o755, 0o775, "it"), (0o755, 0o757, "it"),
        (0o755, 0o1777, "it"), (0o777, 0o755, "above"), (0o775, 0o755, "above"),
    ])
    func modes(of aboveMode: Int, and mode: Int, refused: String?) throws {
        try #require(chmod(above.string, mode_t(aboveMode)) == 0 && chmod(path.string, mode_t(mode)) == 0)
        switch refused {
        case "it"?:
            #expect(
                refusal(of: path)?.description
                    == "use directory \(path): other users may write to it; chown root \(path) && chmod go-w \(path)")
        case "above"?:
            #expect(
                refusal(of: path)?.description
                    == "use directory \(path): other users may write to \(above) above it, and so can replace it; "
                    + "chown root \(above) && chmod go-w \(above)")
        default: #expect(refusal(of: path) == nil)
        }
    }

    @Test("looks where links lead, and at what is above them")
    func links() throws {
        let link = temporary.path.appending("link")
        try #require(symlink("above/../above/state", link.string) == 0)
        #expect(refusal(of: link) == nil)
        try #require(chmod(above.string, 0o777) == 0)
        #expect(refusal(of: link)?.reason == "other users may write to \(above) above it, and so can replace it")
        let loop = temporary.path.appending("loop")
        try #require(symlink("loop", loop.string) == 0)
        #expect(refusal(of: loop) == nil, "its use says what is wrong")
    }

    @Test("leaves what is not there to its use")
    func nothingThere() throws {
        #expect(refusal(of: path.appending("a/b")) == nil)
        try #require(chmod(above.string, 0o777) == 0)
        #expect(refusal(of: path.appending("a/b")) != nil)
    }
}
