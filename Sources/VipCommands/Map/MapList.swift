// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import BPFLoader
import Host
import Network
import Policy
import PolicyMaps
import Sessions
import SystemPackage

struct MapList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "List the maps, what each is for, and how full it is.",
        discussion: """
            EXAMPLES
              vip-bpfctl map list
            """
    )

    @OptionGroup var options: InstanceOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
        let pins = options.instance.pins
        try pins.requireLoaded()
        var maps: [MapListPayload.Row] = []
        for view in MapView.all {
            let (rows, limit) = try view.count(pins)
            maps.append(
                .init(
                    map: view.name, rows: rows, maxRows: limit, about: view.about,
                    pin: "\(pins.maps.appending(view.name))"))
        }
        try output.print(MapListPayload(maps: maps))
    }
}

struct MapListPayload: Payload {
    struct Row: Encodable {
        var map: String
        var rows, maxRows: Int
        var about, pin: String
    }

    var maps: [Row]

    var table: Table {
        Table(
            headings: ["MAP", "ROWS", "MAX", "ABOUT"],
            rows: maps.map { [$0.map, "\($0.rows)", "\($0.maxRows)", $0.about] })
    }
}
