/**
 * @file Admission control: so many choices run at a time, so many more may wait in order of
 * arrival, and the rest are told when to come back.
 */
import { ApiError } from "./errors.ts";

interface Waiter {
  readonly units: number;
  readonly admit: () => void;
}

/** A first-come, first-served gate counted in choices (one request may need several). */
export class Admission {
  private readonly maxConcurrent: number;
  private readonly maxQueue: number;
  private readonly waiters = new Set<Waiter>();
  private runningUnits = 0;
  private waitingUnits = 0;
  /** Running mean of how long an admitted request holds its place. */
  private holdMs = 1000;

  constructor(maxConcurrent: number, maxQueue: number) {
    this.maxConcurrent = maxConcurrent;
    this.maxQueue = maxQueue;
  }

  /** Choices in the engine. */
  get running(): number {
    return this.runningUnits;
  }

  /** Choices that wait to go in. */
  get waiting(): number {
    return this.waitingUnits;
  }

  /**
   * Resolves, when `units` choices may run, to the function that gives their places back. Throws a
   * 429 when the queue is full, and `signal`'s reason when it aborts first. A request larger than
   * the whole gate goes in alone.
   */
  async enter(units: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    if (this.waiters.size > 0 || !this.fits(units)) {
      if (this.waitingUnits + units > this.maxQueue) throw this.tooMany();
      await this.wait(units, signal);
    } else {
      this.runningUnits += units;
    }
    const since = performance.now();
    let held = true;
    return () => {
      if (!held) return;
      held = false;
      this.holdMs += 0.1 * (performance.now() - since - this.holdMs);
      this.runningUnits -= units;
      this.admitNext();
    };
  }

  private fits(units: number): boolean {
    return this.runningUnits === 0 || this.runningUnits + units <= this.maxConcurrent;
  }

  private async wait(units: number, signal: AbortSignal): Promise<void> {
    this.waitingUnits += units;
    await new Promise<void>((resolve, reject) => {
      const leave = (): void => {
        this.waiters.delete(waiter);
        this.waitingUnits -= units;
        signal.removeEventListener("abort", onAbort);
      };
      const onAbort = (): void => {
        leave();
        this.admitNext();
        reject(signal.reason);
      };
      const waiter: Waiter = {
        units,
        admit: () => {
          leave();
          this.runningUnits += units;
          resolve();
        },
      };
      this.waiters.add(waiter);
      signal.addEventListener("abort", onAbort);
    });
  }

  private admitNext(): void {
    for (const waiter of this.waiters) {
      if (!this.fits(waiter.units)) return;
      waiter.admit();
    }
  }

  private tooMany(): ApiError {
    const rounds = (this.waitingUnits + this.maxConcurrent) / this.maxConcurrent;
    const seconds = Math.min(60, Math.max(1, Math.ceil((rounds * this.holdMs) / 1000)));
    return new ApiError(
      429,
      "queue_full",
      `The server is busy: ${this.runningUnits} answers run and ${this.waitingUnits} wait. ` +
        `Send the request again in ${seconds} s.`,
      { headers: { "retry-after": String(seconds) } },
    );
  }
}
