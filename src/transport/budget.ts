/** @file A budget of bytes or slots that is shared, first come, first served. */
import { assert } from "../base/index.ts";

interface Waiter {
  readonly amount: number;
  readonly grant: () => void;
}

/** An amount that is taken and given back; who comes when too little is left waits in line. */
export class Budget {
  private left: number;
  private readonly total: number;
  private readonly line: Waiter[] = [];

  constructor(total: number) {
    assert(total > 0, () => `a budget: got ${total}, wanted more than 0`);
    this.total = total;
    this.left = total;
  }

  /** How much nobody holds. */
  get free(): number {
    return this.left;
  }

  /** How many wait. */
  get waiting(): number {
    return this.line.length;
  }

  /** Takes `amount` at once and returns true, or returns false. */
  tryTake(amount: number): boolean {
    const asked = Math.min(amount, this.total);
    if (this.line.length > 0 || asked > this.left) return false;
    this.left -= asked;
    return true;
  }

  /**
   * Calls `granted` once `amount` is taken (more than there is in all counts as all); the function
   * that it returns leaves the line, where it still stands there.
   */
  take(amount: number, granted: () => void): () => void {
    if (this.tryTake(amount)) {
      granted();
      return () => {};
    }
    const waiter = { amount: Math.min(amount, this.total), grant: granted };
    this.line.push(waiter);
    return () => {
      const at = this.line.indexOf(waiter);
      if (at >= 0) this.line.splice(at, 1);
      // Whoever stood behind a large request may now fit.
      this.serve();
    };
  }

  /** Gives back what was taken. */
  give(amount: number): void {
    this.left += Math.min(amount, this.total);
    assert(this.left <= this.total, "a budget was given back more than was taken");
    this.serve();
  }

  private serve(): void {
    while (this.line.length > 0 && this.line[0].amount <= this.left) {
      const { amount, grant } = this.line.shift()!;
      this.left -= amount;
      grant();
    }
  }
}
