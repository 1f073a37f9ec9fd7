// SPDX-License-Identifier: Apache-2.0

public import BPFLoader
import Dispatch
import FlyingFox
import FlyingSocks
import Foundation
import Glibc
import Synchronization
public import SystemPackage

/// Serves a page of metrics by HTTP, to this host alone: `GET /metrics`.
public final class MetricsServer: Sendable {
    /// Where it is asked.
    public enum Address: Sendable, Hashable, CustomStringConvertible {
        /// On 127.0.0.1. Every user of the host can ask.
        case port(UInt16)
        /// A Unix socket, which is made anew. Who can get to it can ask.
        case unix(FilePath)

        /// - Parameter text: a port from 1 to 65535, or `unix:` and an absolute path.
        public init?(_ text: String) {
            if text.hasPrefix("unix:") {
                let path = FilePath(String(text.dropFirst("unix:".count)))
                // Of sockaddr_un, unix(7): 108 bytes with the NUL.
                guard path.isAbsolute, path.string.utf8.count < 108 else { return nil }
                self = .unix(path)
            } else {
                guard let port = UInt16(text), port > 0 else { return nil }
                self = .port(port)
            }
        }

        public var description: String {
            switch self {
            case .port(let port): "127.0.0.1:\(port)"
            case .unix(let path): "unix:\(path)"
            }
        }
    }

    private let task: Task<Void, Never>

    /// How long it may take to begin to listen, in seconds; it takes milliseconds.
    private static let patience: TimeInterval = 5

    /// Begins to listen.
    ///
    /// - Parameter page: asked for each request, one at a time; what it throws is the answer's text, with status 500.
    /// - Throws: ``Failure`` where it cannot listen there.
    public init(_ address: Address, page: @escaping @Sendable () throws(Failure) -> MetricsPage) throws(Failure) {
        let what = "serve metrics on \(address)"
        let server: HTTPServer
        switch address {
        case .port(let port):
            guard let loopback = try? sockaddr_in.inet(ip4: "127.0.0.1", port: port) else {
                throw Failure(.failed, what, "that is no address")
            }
            server = HTTPServer(address: loopback, logger: .disabled)
        case .unix(let path):
            try Self.removeLeftOver(path, what)
            server = HTTPServer(address: .unix(path: path.string), logger: .disabled)
        }
        // Never on a thread of the cooperative pool: a page reads files, which can take its time.
        let queue = DispatchQueue(label: "metrics")
        let beginning = Beginning()
        task = Task.detached {
            await server.appendRoute("GET /metrics") { _ in
                await withCheckedContinuation { continuation in
                    queue.async { continuation.resume(returning: Self.response(page)) }
                }
            }
            // It ends where no connection can be accepted, for want of descriptors say, and is there again a second later.
            while !Task.isCancelled {
                do {
                    try await server.run()
                } catch {
                    beginning.settle(.failure(error))
                }
                try? await Task.sleep(for: .seconds(1))
            }
        }
        Task.detached {
            do {
                try await server.waitUntilListening(timeout: Self.patience)
                beginning.settle(.success(()))
            } catch {
                beginning.settle(.failure(error))
            }
        }
        if case .failure(let error) = beginning.wait() {
            task.cancel()
            throw Failure(.failed, what, error.localizedDescription, try: "see what is there already: ss -ltnxp")
        }
        // It tells no secret; its directory says who gets that far.
        if case .unix(let path) = address { _ = path.withPlatformString { chmod($0, 0o666) } }
    }

    deinit {
        task.cancel()
    }

    private static func response(_ page: () throws(Failure) -> MetricsPage) -> HTTPResponse {
        do throws(Failure) {
            let text = try page().text
            return HTTPResponse(
                statusCode: .ok, headers: [.contentType: MetricsPage.contentType], body: Data(text.utf8))
        } catch {
            return HTTPResponse(
                statusCode: .internalServerError, headers: [.contentType: "text/plain; charset=utf-8"],
                body: Data("\(error)\n".utf8))
        }
    }

    /// Takes the socket of one that ended away; nothing else, and not one that answers.
    private static func removeLeftOver(_ path: FilePath, _ what: String) throws(Failure) {
        var status = stat()
        guard path.withPlatformString({ lstat($0, &status) }) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else {
            throw Failure(.failed, what, "there is a file that is no socket", try: "name another path")
        }
        if let other = try? Socket(domain: AF_UNIX), (try? other.connect(to: .unix(path: path.string))) != nil {
            try? other.close()
            throw Failure(.failed, what, "somebody listens there already", try: "name another path")
        }
        guard path.withPlatformString({ unlink($0) }) == 0 else { throw .kernel(.current, what) }
    }

    /// What came first: that it listens, or that it cannot.
    private final class Beginning: Sendable {
        private let outcome = Mutex<Result<Void, any Error>?>(nil)
        private let came = DispatchSemaphore(value: 0)

        func settle(_ result: Result<Void, any Error>) {
            outcome.withLock { if $0 == nil { $0 = result } }
            came.signal()
        }

        func wait() -> Result<Void, any Error> {
            came.wait()
            return outcome.withLock { $0 } ?? .success(())
        }
    }
}
