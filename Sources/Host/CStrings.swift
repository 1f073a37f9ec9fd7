// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A NULL-terminated array of C strings for execve(2).
package final class CStrings {
    private var pointers: [UnsafeMutablePointer<CChar>?] = [nil]

    package init() {}

    package init(_ strings: [String]) { pointers = strings.map { strdup($0) } + [nil] }

    /// Copies an array that ends with NULL.
    package init(copying strings: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) {
        var next = strings
        while let string = next.pointee {
            pointers.insert(strdup(string), at: pointers.count - 1)
            next += 1
        }
    }

    /// Sets an environment variable, and replaces its value if it has one.
    package func set(_ name: String, to value: String) {
        let entry = strdup("\(name)=\(value)")
        let old = pointers.firstIndex { pointer in
            pointer.map { strncmp($0, "\(name)=", name.utf8.count + 1) == 0 } ?? false
        }
        if let old {
            free(pointers[old])
            pointers[old] = entry
        } else {
            pointers.insert(entry, at: pointers.count - 1)
        }
    }

    /// The array. It is valid until the next ``set(_:to:)``, as long as this object exists.
    package var array: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> {
        pointers.withUnsafeMutableBufferPointer { buffer in
            // The buffer is never empty, because it contains the NULL.
            buffer.baseAddress.unsafelyUnwrapped
        }
    }

    deinit {
        for pointer in pointers { free(pointer) }
    }
}
