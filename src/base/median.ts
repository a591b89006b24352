/** @file The one statistic that benchmarks on noisy machines should quote. */

/** The median of `values` (mean of the middle two for an even count); NaN when there are none. */
export function medianOf(values: readonly number[]): number {
  const sorted = values.toSorted((x, y) => x - y);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
