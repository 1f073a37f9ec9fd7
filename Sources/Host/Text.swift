// SPDX-License-Identifier: Apache-2.0

extension StringProtocol {
    /// The text with what would break a line, turn its direction or reach the terminal's controls as `\u{…}`: for names
    /// that others have given (paths, users, programs).
    package var printableLine: String {
        guard unicodeScalars.contains(where: \.properties.generalCategory.breaksLine) else { return String(self) }
        return unicodeScalars.map {
            $0.properties.generalCategory.breaksLine ? "\\u{\(String($0.value, radix: 16))}" : String($0)
        }.joined()
    }

    /// The text in quotes for a message: one line, control characters as `\u{…}`, no longer than a line.
    package var quotedForMessage: String {
        let limit = 64  // characters; what is wrong shows in fewer
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

    /// The first character that no text in a policy may have, as `U+0007`: control characters (category Cc), NUL
    /// among them, and the byte order mark, which whoever reads a text may drop.
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

    /// Would break the line or the reader's eye: controls, bidirectional and other format characters, separators.
    fileprivate var isUnprintable: Bool {
        switch self {
        case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .unassigned: true
        default: false
        }
    }
}
