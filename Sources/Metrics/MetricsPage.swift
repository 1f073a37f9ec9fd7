// SPDX-License-Identifier: Apache-2.0

/// Metrics in Prometheus's text format, version 0.0.4: prometheus.io/docs/instrumenting/exposition_formats.
public struct MetricsPage: Sendable {
    /// How a metric's value changes.
    public enum Kind: String, Sendable {
        /// It only rises, except that it starts again at 0 when what counts is restarted.
        case counter
        /// It rises and falls.
        case gauge
    }

    /// The format's media type, for HTTP.
    public static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// The page as it is sent.
    public private(set) var text = ""

    public init() {}

    /// Adds a metric with its samples; adds nothing if there are none.
    ///
    /// - Parameters:
    ///   - name: with its unit; a counter's name ends in `_total`: prometheus.io/docs/practices/naming.
    ///   - help: one sentence.
    ///   - samples: the labels, in their order, and the value.
    public mutating func add(
        _ name: String, _ kind: Kind, _ help: String, _ samples: [(labels: [(String, String)], value: Double)]
    ) {
        guard !samples.isEmpty else { return }
        text += "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
        for (labels, value) in samples {
            let list = labels.map { "\($0.0)=\"\(Self.escaped($0.1, quotes: true))\"" }.joined(separator: ",")
            text += "\(name)\(list.isEmpty ? "" : "{\(list)}") \(Self.number(value))\n"
        }
    }

    /// Adds a metric of one sample without labels.
    public mutating func add(_ name: String, _ kind: Kind, _ help: String, _ value: Double) {
        add(name, kind, help, [([], value)])
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\"" where quotes: escaped += "\\\""
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }

    /// Writes whole numbers without a fraction, as long as a Double is exact.
    private static func number(_ value: Double) -> String {
        if let whole = Int64(exactly: value) { return "\(whole)" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        return value.isNaN ? "NaN" : "\(value)"
    }
}
