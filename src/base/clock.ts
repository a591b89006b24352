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
  readonly dueMs: number;
  readonly order: number;
  callback: (() => void) | undefined;
}

function isEarlier(one: Timer, other: Timer): boolean {
  return one.dueMs < other.dueMs || (one.dueMs === other.dueMs && one.order < other.order);
}

/** A clock that moves only when told to; timers that fall due together run in the order they were set. */
export class VirtualClock implements Clock {
  private nowMs = 0;
  private nextOrder = 0;
  /** A binary heap, the earliest first; cancelled timers stay until they surface. */
  private readonly heap: Timer[] = [];

  /** The virtual time in milliseconds. */
  now(): number {
    return this.nowMs;
  }

  /** Sets a timer, see `Clock.after`. */
  after(delayMs: number, callback: () => void): () => void {
    const dueMs = this.nowMs + Math.max(0, delayMs);
    const timer: Timer = { dueMs, order: this.nextOrder++, callback };
    this.push(timer);
    return () => {
      timer.callback = undefined;
    };
  }

  /** Moves time forward by `ms`, running every timer that falls due on the way. */
  advance(ms: number): void {
    const untilMs = this.nowMs + ms;
    while (this.runNext(untilMs));
    this.nowMs = untilMs;
  }

  /** Moves time to the next timer, if it falls due by `untilMs`, and runs it; false where none does. */
  runNext(untilMs: number = Number.POSITIVE_INFINITY): boolean {
    while (this.heap.length > 0 && this.heap[0].callback === undefined) this.pop();
    const first = this.heap[0];
    if (first === undefined || first.dueMs > untilMs) return false;
    this.pop();
    this.nowMs = first.dueMs;
    first.callback!();
    return true;
  }

  private push(timer: Timer): void {
    const { heap } = this;
    let at = heap.push(timer) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isEarlier(timer, heap[parent])) break;
      heap[at] = heap[parent];
      at = parent;
    }
    heap[at] = timer;
  }

  private pop(): void {
    const { heap } = this;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isEarlier(heap[child + 1], heap[child])) child++;
      if (!isEarlier(heap[child], last)) break;
      heap[at] = heap[child];
      at = child;
    }
    heap[at] = last;
  }
}
