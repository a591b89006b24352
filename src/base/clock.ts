/** @file Time as a parameter: the same code runs on the wall clock and, in simulations, on a virtual one. */

/** A source of time and of timers. Times are milliseconds, with fractions, from an arbitrary origin. */
export interface Clock {
  /** Milliseconds since the clock's origin; never decreases. */
  now(): number;
  /** Calls `callback` once, `delayMs` from now; the returned function cancels it. */
  after(delayMs: number, callback: () => void): () => void;
}

/** The process's monotonic clock. */
export const realClock: Clock = {
  now: () => performance.now(),
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

interface Timer {
  dueMs: number;
  order: number;
  callback: () => void;
}

/** A clock that moves only when told to; timers that fall due together run in the order they were set. */
export class VirtualClock implements Clock {
  private nowMs = 0;
  private nextOrder = 0;
  private readonly timers = new Set<Timer>();

  /** The virtual time in milliseconds. */
  now(): number {
    return this.nowMs;
  }

  /** Sets a timer, see `Clock.after`. */
  after(delayMs: number, callback: () => void): () => void {
    const timer = { dueMs: this.nowMs + Math.max(0, delayMs), order: this.nextOrder++, callback };
    this.timers.add(timer);
    return () => this.timers.delete(timer);
  }

  /** Moves time forward by `ms`, running every timer that falls due on the way. */
  advance(ms: number): void {
    const untilMs = this.nowMs + ms;
    for (let timer = this.next(); timer && timer.dueMs <= untilMs; timer = this.next()) {
      this.timers.delete(timer);
      this.nowMs = timer.dueMs;
      timer.callback();
    }
    this.nowMs = untilMs;
  }

  private next(): Timer | undefined {
    let first: Timer | undefined;
    for (const timer of this.timers) {
      const earlier =
        !first ||
        timer.dueMs < first.dueMs ||
        (timer.dueMs === first.dueMs && timer.order < first.order);
      if (earlier) first = timer;
    }
    return first;
  }
}
