// SPDX-License-Identifier: Apache-2.0

/// What stands in a document as the text that it is read from.
public protocol CodableAsText: Codable, CustomStringConvertible {
    init(_ text: String) throws(Failure)
}

extension CodableAsText {
    /// From its text.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        let text = try container.decode(String.self)
        do {
            try self.init(text)
        } catch {
            throw DecodingError.dataCorruptedError(in: container, debugDescription: "\(error)")
        }
    }

    /// As its text.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        try container.encode(description)
    }
}
