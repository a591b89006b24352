/** @file Locks by key, first come, first served. */

/** A lock for each key that anybody holds or waits for. */
export class KeyedLock {
  private readonly last = new Map<string, Promise<void>>();

  /** Keys that are held. */
  get size(): number {
    return this.last.size;
  }

  /** Whether somebody holds the key. */
  isHeld(key: string): boolean {
    return this.last.has(key);
  }

  /** Runs `work` alone among those with the same key. */
  async with<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.last.get(key);
    let release = (): void => {};
    const mine = new Promise<void>((resolve) => {
      release = resolve;
    });
    this.last.set(key, mine);
    try {
      await before;
      return await work();
    } finally {
      if (this.last.get(key) === mine) this.last.delete(key);
      release();
    }
  }
}
