// SPDX-License-Identifier: Apache-2.0

extension StringProtocol {
    /// The text with unprintable characters as `\u{…}`: those that break the line, change its direction or control the
    /// terminal. Use it for names that come from outside (paths, users, programs).
    package var printableLine: String {
        guard unicodeScalars.contains(where: \.properties.generalCategory.breaksLine) else { return String(self) }
        return unicodeScalars.map {
            $0.properties.generalCategory.breaksLine ? "\\u{\(String($0.value, radix: 16))}" : String($0)
        }.joined()
    }

    /// The text in quotes for a message: on one line, shortened if it is long, with control characters as `\u{…}`.
    package var quotedForMessage: String {
        let limit = 64  // characters; enough to show what is wrong
        var shown = ""
        for scalar in self.prefix(limit).unicodeScalars {
            if scalar.properties.generalCategory.isUnprintable {
                shown += "\\u{\(String(scalar.value, radix: 16))}"
            } else {
                shown.unicodeScalars.append(scalar)
            }
        }
        return dropFirst(limit).isEmpty ? "'\(shown)'" : "'\(shown)…'"
    }

    /// The first character that a policy's text must not contain, as `U+0007`: a control character (category Cc), NUL
    /// included, or the byte order mark, which some readers drop.
    package var firstForbiddenCharacter: String? {
        unicodeScalars.first { $0.properties.generalCategory == .control || $0 == "\u{feff}" }.map { scalar in
            let digits = String(scalar.value, radix: 16, uppercase: true)
            return "U+" + String(repeating: "0", count: Swift.max(0, 4 - digits.count)) + digits
        }
    }
}

extension Unicode.GeneralCategory {
    fileprivate var breaksLine: Bool {
        switch self {
        case .control, .format, .lineSeparator, .paragraphSeparator: true
        default: false
        }
    }

    /// Whether a reader could not see the character: those of ``breaksLine``, private-use and unassigned ones.
    fileprivate var isUnprintable: Bool {
        switch self {
        case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .unassigned: true
        default: false
        }
    }
}
