/**
 * @file Whether a history of reads and writes of one register could have happened one after the other
 * (linearisability). Search with memory, after Wing and Gong (1993) and Lowe (2017).
 */

/** A write of, or a read that saw, `value`. Times are on one clock. */
export interface RegisterOperation {
  readonly kind: "write" | "read";
  readonly value: number;
  readonly startMs: number;
  /** Infinity for a write of which nobody knows whether it happened. */
  readonly endMs: number;
}

/** Whether the operations have an order that respects time and in which each read sees the last write. */
export function isLinearisable(operations: readonly RegisterOperation[], initial: number): boolean {
  const all = operations.toSorted((x, y) => x.startMs - y.startMs);
  const mustHappen = all.filter(({ endMs }) => endMs !== Number.POSITIVE_INFINITY).length;
  const seen = new Set<string>();
  const taken = new Uint8Array(all.length);

  const search = (value: number, happened: number, first: number): boolean => {
    if (happened === mustHappen) return true;
    while (first < all.length && taken[first]) first++;
    let tail = first;
    for (let i = all.length - 1; i > tail; i--) if (taken[i]) tail = i;
    const key = `${value} ${first} ${Buffer.from(taken.subarray(first, tail + 1)).toString("latin1")}`;
    if (seen.has(key)) return false;
    seen.add(key);
    // What started after some other operation had ended can't come before that one.
    let limitMs = Number.POSITIVE_INFINITY;
    for (let i = first; i < all.length && all[i].startMs <= limitMs; i++) {
      if (!taken[i]) limitMs = Math.min(limitMs, all[i].endMs);
    }
    for (let i = first; i < all.length && all[i].startMs <= limitMs; i++) {
      const one = all[i];
      if (taken[i] || (one.kind === "read" && one.value !== value)) continue;
      taken[i] = 1;
      const more = one.endMs === Number.POSITIVE_INFINITY ? 0 : 1;
      if (search(one.kind === "write" ? one.value : value, happened + more, first)) return true;
      taken[i] = 0;
    }
    return false;
  };
  return search(initial, 0, 0);
}
