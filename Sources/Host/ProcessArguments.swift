// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc

/// The arguments of this process, also without /proc.
public enum ProcessArguments {
    /// All, with the program's name first.
    public static var all: [String] {
        (0..<Int(vip_argument_count())).compactMap { number in
            vip_arguments()[number].map { String(cString: $0) }
        }
    }

    /// The last ones, NULL-terminated, as they were given, which need not be UTF-8.
    public static func last(_ count: Int) -> UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> {
        vip_arguments() + Int(vip_argument_count()) - count
    }
}

/// The standard streams.
public enum StandardStreams {
    /// Opens those that are closed, so that no file of this process gets their numbers. Reading input and writing
    /// output then fail with EBADF, as before; errors go nowhere.
    public static func openClosed() {
        for (number, flags) in [(STDIN_FILENO, O_WRONLY), (STDOUT_FILENO, O_RDONLY), (STDERR_FILENO, O_WRONLY)]
        where fcntl(number, F_GETFD) < 0 {
            _ = open("/dev/null", flags)
        }
    }
}
