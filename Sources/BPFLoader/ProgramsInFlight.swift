// SPDX-License-Identifier: Apache-2.0

internal import CLibBPF

/// The programs that are running at this moment, on any CPU.
public enum ProgramsInFlight {
    /// Waits until every program that was running when this was called has returned.
    ///
    /// They run within RCU read-side sections, and `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu()`
    /// (kernel/sched/membarrier.c). A kernel without it (CONFIG_MEMBARRIER off) returns at once. Then only the time
    /// that a caller takes until its next write separates the two.
    public static func wait() {
        _ = vip_membarrier_global()
    }
}
