// SPDX-License-Identifier: Apache-2.0

public import Host

/// One thing that is wrong with a policy file.
public struct PolicyProblem: Error, Hashable, Sendable {
    public let file: String
    /// The line, counted from 1; `nil` if the problem concerns the whole file.
    public let line: Int?
    /// The column in characters (Unicode scalars), counted from 1; `nil` if ``line`` is.
    public let column: Int?
    /// The path of the key, with list entries counted from 0 as in jq(1): `overrides[0].match.units[2]`; `nil` if there
    /// is none.
    public let key: String?
    /// What is wrong: `'x' is not one of deny, useHostAddress`.
    public let message: String
    /// What to do about it; `nil` if that is plain.
    public let hint: String?

    /// `FILE:LINE:COLUMN`, or `FILE`.
    public var place: String {
        if let line, let column { "\(file):\(line):\(column)" } else { file }
    }

    /// `KEY: MESSAGE`, or `MESSAGE`.
    public var messageOfKey: String { key.map { "\($0): \(message)" } ?? message }

    /// The problem as the reason why the file could not be read.
    ///
    /// - Parameter others: how many more problems the file has.
    fileprivate func failure(others: Int) -> Failure {
        let more = others == 0 ? "" : " (and \(others) more: vip-bpfctl policy check lists them)"
        return Failure(.failed, "read policy \(place)", messageOfKey + more, hint: hint)
    }
}

extension PolicyProblem: CustomStringConvertible {
    /// `FILE:LINE:COLUMN: KEY: MESSAGE; HINT` on one line.
    public var description: String {
        ["\(place): \(messageOfKey)", hint].compactMap(\.self).joined(separator: "; ").printableLine
    }
}

/// All problems of a policy file, in the order of the text; never empty.
public struct PolicyProblems: Error, Hashable, Sendable {
    /// No more than this many problems are collected: a file of 1 MiB could have half a million.
    public static let limit = 100

    public let all: [PolicyProblem]

    init(_ all: [PolicyProblem]) { self.all = all }

    /// The first problem, with the number of the others.
    public var failure: Failure { all[0].failure(others: all.count - 1) }
}
