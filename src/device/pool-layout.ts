/**
 * @file The pool's control block: what launcher and helpers share, and how they agree.
 *
 * One launching thread, any number of helpers. A job is (kernel, arguments, tasks); its state is
 * two counters, each on a cache line of its own:
 *   unclaimed  tasks that nobody has taken. A thread takes one by `lock xadd -1`; it owns a task if
 *              and only if the value before was positive, and its index is tasks minus that value.
 *   pending    tasks not yet reported as done. A thread counts the tasks it ran and subtracts them
 *              when it finds no more; whoever brings it to zero wakes the launcher, if that sleeps.
 *
 * Why a helper that comes late can do no harm. Launches do not overlap: the launcher writes the
 * job, then `pending`, then exchanges `unclaimed` from at most zero to `tasks`, and returns only
 * once `pending` is zero. A helper holds nothing of a job that it remembers: it takes a task from
 * whatever job is there *at the instant of its xadd*, and reads the job only after it owns one of
 * its tasks.
 *   - The xadd comes before the exchange: the value was not positive, nothing is owned, and the
 *     exchange overwrites the excess decrement.
 *   - It comes after: the job that was written before the exchange is visible (a locked instruction
 *     orders all that went before), and it stays as it is, since `pending` cannot reach zero before
 *     the owner reports, and only then may the launcher write the next job.
 * So no task runs twice, none is lost, none runs with another job's arguments, and a thread touches
 * a job's memory only between its xadd and its report. After its report that brings `pending` to
 * zero a helper still reads `sleeping` and may wake the launcher: at worst a wake-up that a later
 * launch did not need, and every sleep here re-checks its reason. `close` joins the helpers before
 * it frees the block, so that this last look is safe as well.
 *
 * Why no wake-up is lost. The launcher publishes the job, then increments `epoch` (locked), then
 * reads `sleepers`. A helper increments `sleepers` (locked), then reads `epoch`, then `stop` and
 * `unclaimed`, and asks the kernel to wait while `epoch` still has the value that it read.
 *   - It read the new epoch: then it sees the job, which was published before.
 *   - It read the old one: either `epoch` changes before the kernel looks, which then refuses to
 *     wait; or the helper sleeps before `epoch` changes, and the launcher, who looks later still,
 *     sees it among the sleepers and wakes it.
 * With the launcher's own sleep it is simpler, as one word decides: it exchanges `sleeping` to 1,
 * then reads `pending` and waits while that has the value read; the last reporter brings `pending`
 * to zero (locked), then reads `sleeping`.
 *
 * Which processor a helper is on. The system wakes a thread where it slept, or near its waker, and
 * some (virtual machines that do not show their caches) look no further: on the launcher's
 * processor a helper would wait for the launcher's time slice to end, milliseconds at each launch.
 * So helpers keep off the processor that the launcher was last seen on, where there is one for
 * every thread.
 *
 * Helpers are bare threads of machine code, so a process may end while they sleep. Once a second
 * each asks whether the thread that opened the device still lives (a worker may be terminated
 * without a chance to close it), and ends if it does not.
 */

/**
 * Offsets of the control block's fields, in bytes. 32-bit words unless stated. What different
 * threads write lies 128 bytes apart: twice the cache line, since processors fetch lines in pairs.
 */
export const layout = {
  /** 64 bits each. */
  kernel: 0,
  arguments: 8,
  tasks: 16,
  ownerProcess: 20,
  ownerThread: 24,
  /** How long to spin before sleeping, in time-stamp ticks; 64 bits each. */
  helperSpinTicks: 32,
  launcherSpinTicks: 40,
  /** Scratch of the launching thread, 64 bits. */
  launcherScratch: 48,
  /** How long a helper sleeps before it looks for its owner: a struct timespec. */
  checkInterval: 56,
  unclaimed: 128,
  /** Beside `unclaimed`, as idle helpers watch both. */
  stop: 132,
  pending: 256,
  sleeping: 260,
  epoch: 384,
  /** The processor that the launcher was on when it last woke helpers. */
  launcherProcessor: 388,
  /** Whether helpers keep off that processor; fixed when the pool opens. */
  helpersMoveAway: 392,
  sleepers: 512,
  /** One slot per helper: the address of the block and that of its scratch, 64 bits each. */
  slots: 640,
} as const;

/** Bytes of a helper's slot. */
export const slotBytes = 16;
