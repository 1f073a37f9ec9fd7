// SPDX-License-Identifier: Apache-2.0

/// A value that is encoded as the text from which it can be read again.
public protocol CodableAsText: Codable, CustomStringConvertible {
    init(_ text: String) throws(Failure)
}

extension CodableAsText {
    /// Decodes the value from its text.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        do {
            try self.init(text)
        } catch {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\(error)")
        }
    }

    /// Encodes the value as its text.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}
