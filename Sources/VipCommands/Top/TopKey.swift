// SPDX-License-Identifier: Apache-2.0

import Activity
import ArgumentParser

extension ActivityKey: ExpressibleByArgument {
    /// The key that selects it.
    var letter: Character {
        switch self {
        case .session: "s"
        case .user: "u"
        case .rate: "r"
        case .sockets: "k"
        case .programs: "p"
        }
    }
}
