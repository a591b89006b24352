/**
 * @file Sets of time as sorted, disjoint, non-empty intervals: start, end, start, end, ... in one
 * `Float64Array`. All functions take one pass.
 */

/** Starts and ends, alternating. */
export type Intervals = Float64Array;

/**
 * The union of [starts[i], ends[i]) over `indices`, which must be sorted by start. Empty ones leave
 * no trace; those that touch become one.
 */
export function unionOf(
  starts: Float64Array,
  ends: Float64Array,
  indices: Iterable<number>,
): Intervals {
  const out: number[] = [];
  let [from, to] = [Number.NaN, Number.NEGATIVE_INFINITY];
  for (const i of indices) {
    const [start, end] = [starts[i], ends[i]];
    if (end <= start) continue;
    if (start > to) {
      if (to > from) out.push(from, to);
      [from, to] = [start, end];
    } else if (end > to) to = end;
  }
  if (to > from) out.push(from, to);
  return Float64Array.from(out);
}

/** How much time a set holds. */
export function lengthOf(intervals: Intervals): number {
  let length = 0;
  for (let i = 0; i < intervals.length; i += 2) length += intervals[i + 1] - intervals[i];
  return length;
}

/** What two sets share. */
export function intersection(a: Intervals, b: Intervals): Intervals {
  const out: number[] = [];
  for (let [i, j] = [0, 0]; i < a.length && j < b.length; ) {
    const from = Math.max(a[i], b[j]);
    const to = Math.min(a[i + 1], b[j + 1]);
    if (to > from) out.push(from, to);
    if (a[i + 1] < b[j + 1]) i += 2;
    else j += 2;
  }
  return Float64Array.from(out);
}

/** What `a` holds and `b` does not. */
export function difference(a: Intervals, b: Intervals): Intervals {
  const out: number[] = [];
  let j = 0;
  for (let i = 0; i < a.length; i += 2) {
    let from = a[i];
    const to = a[i + 1];
    while (j < b.length && b[j + 1] <= from) j += 2;
    for (let k = j; k < b.length && b[k] < to; k += 2) {
      if (b[k] > from) out.push(from, b[k]);
      from = b[k + 1];
    }
    if (to > from) out.push(from, to);
  }
  return Float64Array.from(out);
}
