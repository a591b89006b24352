/**
 * @file Whether a concurrent history can be explained by some sequential one that agrees with real
 * time (Herlihy and Wing 1990), by depth-first search with memory (Wing and Gong 1993, Lowe 2017).
 */

/** One finished or lost call of a history, and what it must have meant. Times on any one scale. */
export interface ObservedOperation<State> {
  /** When it was called. */
  readonly startedAt: number;
  /** When it returned; Infinity where its outcome is unknown: it may act later, or never. */
  readonly endedAt: number;
  /** The state after it acted on `state`, or undefined where it can't have given its answer there. */
  step(state: State): State | undefined;
}

/**
 * Whether the operations, acting one by one at moments between their start and end, give the answers
 * that were seen. `keyOf` names a state; states of one name are the same. Time grows exponentially in
 * the number of operations under way together, and hardly with the length of the history.
 */
export function isLinearizable<State>(
  initial: State,
  operations: readonly ObservedOperation<State>[],
  keyOf: (state: State) => string,
): boolean {
  const ordered = operations.toSorted((x, y) => x.startedAt - y.startedAt);
  const seen = new Set<string>();
  // Each entry: which operations acted, and the state they left. Depth first.
  const stack: { done: bigint; state: State }[] = [{ done: 0n, state: initial }];
  for (let node = stack.pop(); node; node = stack.pop()) {
    const { done, state } = node;
    const open = ordered.filter((_, i) => !((done >> BigInt(i)) & 1n));
    const deadline = Math.min(Infinity, ...open.map(({ endedAt }) => endedAt));
    if (deadline === Infinity) return true;
    for (let i = 0; i < ordered.length && ordered[i].startedAt <= deadline; i++) {
      if ((done >> BigInt(i)) & 1n) continue;
      const next = ordered[i].step(state);
      if (next === undefined) continue;
      const after = done | (1n << BigInt(i));
      const key = `${after.toString(36)} ${keyOf(next)}`;
      if (seen.has(key)) continue;
      seen.add(key);
      stack.push({ done: after, state: next });
    }
  }
  return false;
}
