// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import SystemPackage

/// A pseudo-terminal for a command, and the copying between it and the terminal of this process.
///
/// While this process is in the foreground, its terminal is in raw mode, so that ^C, ^D and the like take effect on the
/// command's terminal. ``close()`` restores its modes, at the latest when this object is released.
final class PseudoTerminal {
    /// The command's end. It stays open, so that output can be read after all other copies were closed.
    let slave: CInt
    private let master: CInt
    private let keyboard: CInt
    private let screen: CInt
    private var toCommand = Chunk()
    private var toScreen = Chunk()
    private var isOpen = true
    /// Whether the terminal is in raw mode, so that keys are passed on.
    private(set) var isInForeground = false
    private var drained = 0

    /// More than the kernel buffers for a pseudo-terminal. Programs that the command leaves behind may write without
    /// end.
    private static let mostHeldByKernel = 1 << 16

    /// - Parameters:
    ///   - owner: the user that owns the command's end.
    ///   - hint: what to do if no pseudo-terminal can be made.
    /// - Throws: ``Failure`` if no pseudo-terminal can be made, or the terminal cannot be opened.
    init(owner: uid_t, hint: String) throws(Failure) {
        let what = "make a pseudo-terminal for the command"
        var slave: CInt = -1
        func opened(_ raw: CInt) throws(Failure) -> CInt {
            guard raw >= 0 else { throw Failure(what, errno: Errno(rawValue: -raw), hint: hint) }
            return raw
        }
        keyboard = try opened(vip_terminal_reopen(STDIN_FILENO, O_RDONLY))
        do throws(Failure) {
            screen = try opened(vip_terminal_reopen(STDOUT_FILENO, O_WRONLY))
        } catch {
            Glibc.close(keyboard)
            throw error
        }
        do throws(Failure) {
            master = try opened(vip_pty_open(keyboard, owner, &slave))
        } catch {
            Glibc.close(keyboard)
            Glibc.close(screen)
            throw error
        }
        self.slave = slave
    }

    deinit {
        close()
        Glibc.close(keyboard)
        Glibc.close(screen)
    }

    /// Restores the terminal and hangs up the pseudo-terminal: the session that it controls gets SIGHUP.
    func close() {
        guard isOpen else { return }
        isOpen = false
        giveBack()
        Glibc.close(master)
        Glibc.close(slave)
    }

    // MARK: Copying

    /// The descriptors to wait for before ``copy(_:)``.
    func polled() -> [pollfd] {
        guard isOpen else { return [] }
        takeIfInForeground()
        func entry(_ descriptor: CInt, _ events: CInt) -> pollfd {
            pollfd(fd: descriptor, events: Int16(events), revents: 0)
        }
        return [
            entry(keyboard, isInForeground && toCommand.isEmpty ? POLLIN : 0),
            entry(screen, toScreen.isEmpty ? 0 : POLLOUT),
            entry(master, (toScreen.isEmpty ? POLLIN : 0) | (toCommand.isEmpty ? 0 : POLLOUT)),
        ]
    }

    /// How long to wait, in milliseconds. A shell's `fg` sends no signal to a program that is not stopped, so poll for
    /// it.
    var patience: CInt { isOpen && !isInForeground ? 1000 : -1 }

    /// Copies what can be copied without blocking.
    func copy(_ ready: ArraySlice<pollfd>) {
        guard isOpen, ready.count == 3 else { return }
        let (keyboardEvents, screenEvents) = (ready[ready.startIndex].revents, ready[ready.startIndex + 1].revents)
        let masterEvents = ready[ready.startIndex + 2].revents
        let gone = Int16(POLLHUP | POLLERR | POLLNVAL)
        guard (keyboardEvents | screenEvents) & gone == 0 else { return close() }
        if keyboardEvents & Int16(POLLIN) != 0, !toCommand.read(from: keyboard), vip_terminal_is_ours(keyboard) != 0 {
            return close()
        }
        if masterEvents & Int16(POLLIN) != 0 { _ = toScreen.read(from: master) }
        _ = toCommand.write(to: master)
        if !toScreen.write(to: screen) { close() }
    }

    /// Whether output of a command that has ended is left. It reads the output unless earlier output still waits.
    var hasOutput: Bool {
        guard isOpen else { return false }
        if toScreen.isEmpty, drained < Self.mostHeldByKernel {
            _ = toScreen.read(from: master)
            drained += toScreen.count
        }
        return !toScreen.isEmpty
    }

    /// Bytes that were read and not written yet.
    private struct Chunk {
        private var bytes = [UInt8](repeating: 0, count: 4096)
        private var rest = 0..<0
        var isEmpty: Bool { rest.isEmpty }
        var count: Int { rest.count }

        /// Fills an empty chunk. Returns `false` at the end of the file and on an error.
        mutating func read(from descriptor: CInt) -> Bool {
            guard isEmpty else { return true }
            let got = Glibc.read(descriptor, &bytes, bytes.count)
            guard got > 0 else { return got < 0 && (errno == EAGAIN || errno == EINTR) }
            rest = 0..<got
            return true
        }

        /// Writes as much as is accepted. Returns `false` on an error.
        mutating func write(to descriptor: CInt) -> Bool {
            while !rest.isEmpty {
                let written = bytes[rest].withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
                guard written >= 0 else { return errno == EAGAIN || errno == EINTR }
                rest = rest.lowerBound + written..<rest.upperBound
            }
            return true
        }
    }

    // MARK: The terminal of this process

    private func takeIfInForeground() {
        let isOurs = vip_terminal_is_ours(keyboard) != 0
        if isOurs, !isInForeground {
            // If this fails, keys are still passed on, line by line.
            _ = vip_terminal_raw(keyboard)
            resize()
        } else if !isOurs, isInForeground {
            vip_terminal_unguard()
        }
        isInForeground = isOurs
    }

    /// Restores the terminal's modes, until ``polled()``.
    func giveBack() {
        if isInForeground { vip_terminal_restore() }
        isInForeground = false
    }

    /// Call this after the process was stopped: the shell has changed the modes.
    func takeAgain() { isInForeground = false }

    /// Copies the size of the terminal.
    func resize() {
        if isOpen { vip_terminal_copy_size(keyboard, master) }
    }
}
