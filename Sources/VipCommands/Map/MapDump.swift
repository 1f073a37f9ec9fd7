// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import BPFLoader
import Host
import Network
import Policy
import PolicyMaps
import Sessions

struct MapDump: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dump",
        abstract: "Print the rows of one map, or of all, decoded.",
        discussion: """
            Socket storage cannot be listed from user space and is not among them.

            EXAMPLES
              vip-bpfctl map dump sessions
              vip-bpfctl map dump --json
            """
    )

    @Argument(
        help: ArgumentHelp("The map: \(MapView.all.map(\.name).joined(separator: ", ")).", valueName: "name"),
        completion: .list(MapView.all.map(\.name)))
    var name: String?

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let views = MapView.all.filter { name == nil || $0.name == name }
        guard !views.isEmpty else {
            throw Failure(
                .usage, "dump map \(name ?? "")", "there is no such map",
                hint: "name one of \(MapView.all.map(\.name).joined(separator: ", "))")
        }
        let pins = options.instance.pins
        try pins.requireLoaded()
        var maps: [MapDumpPayload.Map] = []
        for view in views { maps.append(.init(map: view.name, rows: try view.rows(pins))) }
        try output.print(MapDumpPayload(maps: maps))
    }
}

struct MapDumpPayload: Payload {
    struct Map: Encodable {
        var map: String
        var rows: [MapView.Row]
    }

    var maps: [Map]

    /// The rows are aligned within each map, because the fields of different maps are unrelated.
    var table: Table {
        Table(
            rows: maps.flatMap { map in
                let rows = map.rows.map { row in [map.map] + row.fields.map { "\($0.key) \($0.value.text)" } }
                return Table(rows: rows).rendered(bold: false).split(separator: "\n").map { [String($0)] }
            })
    }
}
