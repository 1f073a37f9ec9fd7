// SPDX-License-Identifier: Apache-2.0

import CHost
import Glibc
import Host
import SystemPackage

/// A pseudo-terminal for a command, and what is copied between it and the terminal of this process.
///
/// The terminal of this process is in raw mode while the process is in its foreground, so that ^C, ^D and the like have
/// their effect on the command's side. It gets its modes back by ``close()`` and at the latest when this object goes.
final class PseudoTerminal {
    /// The command's end. Kept open, so that output can be read also after all others have closed it.
    let slave: CInt
    private let master: CInt
    private let keyboard: CInt
    private let screen: CInt
    private var toCommand = Chunk()
    private var toScreen = Chunk()
    private var isOpen = true
    /// Whether the terminal is in raw mode, which means that keys are passed on.
    private(set) var isInForeground = false
    private var drained = 0

    /// More than the kernel holds for a pseudo-terminal. Programs that the command leaves may go on writing without end.
    private static let mostHeldByKernel = 1 << 16

    /// - Parameter owner: the user that the command's end belongs to.
    /// - Throws: ``Failure`` where no pseudo-terminal can be made, and where the terminal cannot be opened.
    init(owner: uid_t) throws(Failure) {
        let what = "make a pseudo-terminal for the command"
        var slave: CInt = -1
        func opened(_ raw: CInt) throws(Failure) -> CInt {
            guard raw >= 0 else { throw Failure(what, errno: Errno(rawValue: -raw), hint: "use --no-pty") }
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

    /// Gives the terminal back and hangs the pseudo-terminal up: the session that it controls gets SIGHUP.
    func close() {
        guard isOpen else { return }
        isOpen = false
        giveBack()
        Glibc.close(master)
        Glibc.close(slave)
    }

    // MARK: Copying

    /// What to wait for before ``copy(_:)``.
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

    /// How long to wait for it, in milliseconds: a shell's `fg` tells a program that is not stopped nothing.
    var patience: CInt { isOpen && !isInForeground ? 1000 : -1 }

    /// Copies what can be copied without waiting.
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

    /// Whether anything is left of what an ended command wrote. Reads it where nothing else waits.
    var hasOutput: Bool {
        guard isOpen else { return false }
        if toScreen.isEmpty, drained < Self.mostHeldByKernel {
            _ = toScreen.read(from: master)
            drained += toScreen.count
        }
        return !toScreen.isEmpty
    }

    /// Bytes on their way.
    private struct Chunk {
        private var bytes = [UInt8](repeating: 0, count: 4096)
        private var rest = 0..<0
        var isEmpty: Bool { rest.isEmpty }
        var count: Int { rest.count }

        /// Fills an empty chunk. `false` at the end of the file, and where reading fails.
        mutating func read(from descriptor: CInt) -> Bool {
            guard isEmpty else { return true }
            let got = Glibc.read(descriptor, &bytes, bytes.count)
            guard got > 0 else { return got < 0 && (errno == EAGAIN || errno == EINTR) }
            rest = 0..<got
            return true
        }

        /// Writes as much as is taken. `false` where writing fails.
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
            // Where it fails, keys are passed on all the same, line by line.
            _ = vip_terminal_raw(keyboard)
            resize()
        } else if !isOurs, isInForeground {
            vip_terminal_unguard()
        }
        isInForeground = isOurs
    }

    /// Gives the terminal its modes back, until ``polled()``.
    func giveBack() {
        if isInForeground { vip_terminal_restore() }
        isInForeground = false
    }

    /// After this process was stopped, the modes are the shell's.
    func takeAgain() { isInForeground = false }

    /// Takes over the size of the terminal.
    func resize() {
        if isOpen { vip_terminal_copy_size(keyboard, master) }
    }
}
