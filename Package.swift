// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

/// The upcoming language features with which every module of this project is compiled.
let features: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

let package = Package(
    name: "vip-bpf",
    products: [
        .executable(name: "vip-bpfctl", targets: ["vip-bpfctl"])
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    ],
    targets: [
        // C libraries of the host, and this project's own C code.
        .systemLibrary(name: "CLibBPF", pkgConfig: "libbpf", providers: [.apt(["libbpf-dev", "libelf-dev"])]),
        .systemLibrary(name: "CNcurses", providers: [.apt(["libncurses-dev"])]),
        .systemLibrary(name: "CNetlink", pkgConfig: "libnl-route-3.0", providers: [.apt(["libnl-route-3-dev"])]),
        .systemLibrary(name: "CSQLite", pkgConfig: "sqlite3", providers: [.apt(["libsqlite3-dev"])]),
        .systemLibrary(name: "CSystemd", pkgConfig: "libsystemd", providers: [.apt(["libsystemd-dev"])]),
        .systemLibrary(name: "CYAML", pkgConfig: "yaml-0.1", providers: [.apt(["libyaml-dev"])]),
        .target(name: "CVipABI"),
        .target(name: "CVipHooks", dependencies: ["CVipABI"]),
        .target(name: "CVipObject"),
        .target(name: "CHost"),

        // The layers. A module imports only what it depends on here: scripts/check-layers.
        .target(
            name: "Host",
            dependencies: [
                "CHost", "CSystemd",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Network",
            dependencies: [
                "Host", "CHost", "CNetlink",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "BPFLoader",
            dependencies: [
                "Host", "CLibBPF",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Policy",
            dependencies: [
                "Network", "Host", "CVipABI", "CYAML",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "PolicyMaps",
            dependencies: [
                "Policy", "BPFLoader", "Network", "Host", "CVipABI", "CVipObject",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Sessions",
            dependencies: [
                "PolicyMaps", "Policy", "BPFLoader", "Network", "Host", "CSQLite", "CSystemd", "CVipABI",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Leases",
            dependencies: [
                "Network", "Host", "CHost",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Metrics",
            dependencies: [
                "Sessions", "PolicyMaps", "Policy", "BPFLoader", "Network", "Host", "CVipABI",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Discovery",
            dependencies: [
                "Sessions", "PolicyMaps", "Policy", "BPFLoader", "Network", "Host", "CVipABI", "CVipObject",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Explain",
            dependencies: [
                "PolicyMaps", "Policy", "BPFLoader", "Network", "Host", "CVipABI", "CVipHooks",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Daemon",
            dependencies: [
                "Leases", "Metrics", "Sessions", "PolicyMaps", "Policy", "Network", "Host", "CSystemd",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Checks",
            dependencies: [
                "Daemon", "Leases", "Sessions", "PolicyMaps", "Policy", "BPFLoader", "Network", "Host", "CVipABI",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "Activity",
            dependencies: [
                "Sessions", "PolicyMaps", "Policy", "Network", "Host", "CVipABI",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "SelfTest",
            dependencies: [
                "Checks", "Explain", "Sessions", "PolicyMaps", "Policy", "Network", "Host", "CVipABI",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .target(
            name: "VipCommands",
            dependencies: [
                "SelfTest", "Activity", "Checks", "Daemon", "Explain", "Discovery", "Metrics", "Sessions", "PolicyMaps",
                "Policy",
                "BPFLoader", "Network", "Host", "CHost", "CNcurses", "CVipABI",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            swiftSettings: features
        ),
        .executableTarget(name: "vip-bpfctl", dependencies: ["VipCommands"], swiftSettings: features),

        // Programs that tests start. This one makes socket calls, and links no module of this project.
        .executableTarget(
            name: "vip-probe", path: "Tests/Tools/probe", linkerSettings: [.linkedLibrary("uring")]
        ),
        // A mock of logind, which follows commands.
        .executableTarget(name: "vip-mock-logind", dependencies: ["CSystemd"], path: "Tests/Tools/mock-logind"),
        // A holder of leases, for tests to kill.
        .executableTarget(
            name: "vip-lease-holder",
            dependencies: ["Leases", .product(name: "SystemPackage", package: "swift-system")],
            path: "Tests/Tools/lease-holder", swiftSettings: features
        ),

        // What the test targets share: privileges, child programs, temporary directories.
        .target(
            name: "TestSupport",
            dependencies: ["Host", .product(name: "SystemPackage", package: "swift-system")],
            path: "Tests/Support", exclude: ["janitor.sh"], swiftSettings: features
        ),

        // These tests need no root: make test-unit.
        .testTarget(
            name: "TranslateTests", dependencies: ["CVipABI", "CVipHooks"], path: "Tests/Unit/TranslateTests",
            swiftSettings: features),
        .testTarget(
            name: "HostTests",
            dependencies: ["Host", "TestSupport", .product(name: "SystemPackage", package: "swift-system")],
            path: "Tests/Unit/HostTests", swiftSettings: features
        ),
        .testTarget(
            name: "NetworkTests", dependencies: ["Network", "Host"], path: "Tests/Unit/NetworkTests",
            swiftSettings: features
        ),
        .testTarget(
            name: "PolicyTests",
            dependencies: ["Policy", "Network", "Host", .product(name: "SystemPackage", package: "swift-system")],
            path: "Tests/Unit/PolicyTests", swiftSettings: features
        ),
        .testTarget(
            name: "BPFLoaderTests", dependencies: ["BPFLoader"], path: "Tests/Unit/BPFLoaderTests",
            swiftSettings: features
        ),
        .testTarget(
            name: "PolicyMapsTests",
            dependencies: [
                "PolicyMaps", "Policy", "BPFLoader", "Network", "Host", "CVipABI",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/Unit/PolicyMapsTests", swiftSettings: features
        ),
        .testTarget(
            name: "SessionsTests",
            dependencies: [
                "Sessions", "PolicyMaps", "Policy", "BPFLoader", "Network", "Host", "CVipABI", "TestSupport",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/Unit/SessionsTests", exclude: ["registry-4.sql"], swiftSettings: features
        ),
        .testTarget(
            name: "LeasesTests", dependencies: ["Leases", "Network"], path: "Tests/Unit/LeasesTests",
            swiftSettings: features
        ),
        .testTarget(
            name: "DiscoveryTests",
            dependencies: [
                "Discovery", "Policy", "Network", .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/Unit/DiscoveryTests", swiftSettings: features
        ),
        .testTarget(
            name: "ChecksTests", dependencies: ["Checks", "Policy"], path: "Tests/Unit/ChecksTests",
            swiftSettings: features
        ),
        .testTarget(
            name: "CommandTests",
            dependencies: [
                "VipCommands", "Activity", "Discovery", "Sessions", "PolicyMaps", "Policy", "BPFLoader", "Network",
                "Host",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/Unit/CommandTests", swiftSettings: features
        ),
        // These tests run on this kernel, as root.
        .testTarget(
            name: "KernelTests",
            dependencies: [
                "PolicyMaps", "BPFLoader", "Host", "Network", "Policy", "Sessions", "TestSupport", "VipCommands",
                "vip-bpfctl",
                "vip-mock-logind", "vip-probe", .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/Kernel", swiftSettings: features
        ),
        // These tests run as root, with DHCP servers.
        .testTarget(
            name: "DHCPTests",
            dependencies: [
                "Leases", "Network", "Host", "TestSupport", "vip-lease-holder",
                .product(name: "SystemPackage", package: "swift-system"),
            ],
            path: "Tests/System/dhcp", exclude: ["hostile.py", "link.sh"], swiftSettings: features
        ),
    ],
    swiftLanguageModes: [.v6]
)
