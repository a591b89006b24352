/** @file A first-in, first-out queue with a limit, as a ring that grows up to it. */
import { assert } from "./assert.ts";

/** A queue of at most `capacity` items; `push` refuses, rather than grows, beyond it. */
export class BoundedQueue<T> {
  /** The most items the queue takes. */
  readonly capacity: number;
  private ring: (T | undefined)[] = new Array(16);
  private head = 0;
  private count = 0;

  constructor(capacity: number) {
    assert(capacity > 0, () => `capacity of a queue: got ${capacity}, wanted at least 1`);
    this.capacity = capacity;
  }

  /** How many items wait. */
  get size(): number {
    return this.count;
  }

  /** Appends `item` and returns true, or returns false when the queue is full. O(1) amortised. */
  push(item: T): boolean {
    if (this.count === this.capacity) return false;
    if (this.count === this.ring.length) this.grow();
    this.ring[(this.head + this.count++) % this.ring.length] = item;
    return true;
  }

  /** Removes and returns the oldest item, or undefined when there is none. O(1). */
  shift(): T | undefined {
    if (this.count === 0) return undefined;
    const item = this.ring[this.head];
    this.ring[this.head] = undefined;
    this.head = (this.head + 1) % this.ring.length;
    this.count--;
    return item;
  }

  private grow(): void {
    const items = Array.from({ length: this.count }, (_, i) => this.at(i));
    this.ring = [...items, ...new Array<undefined>(items.length)];
    this.head = 0;
  }

  private at(index: number): T | undefined {
    return this.ring[(this.head + index) % this.ring.length];
  }
}
