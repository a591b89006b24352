/**
 * @file The reference of upstream's functions: one query row against a list of key rows, in float64.
 */

/** What a row attends to: keys `count` rows of `dimQk`, values as many of `headDimV`. */
export interface PlainKeys {
  readonly keys: readonly Float32Array[];
  /** May be the keys themselves, whose first elements are then the values. */
  readonly values: readonly Float32Array[];
}

/** A row's results. */
export interface PlainResult {
  readonly out: Float64Array;
  /** ln of the sum of e^score; +infinity where no key is seen. */
  readonly lse: number;
  /** The largest score; -infinity where no key is seen. */
  readonly maxLogit: number;
}

/**
 * out = sum e^(s_t) v_t / (sum e^(s_t) + e^sink) over the first `visible` keys, s_t = scale (q k_t).
 */
export function attendPlainly(
  query: Float32Array,
  { keys, values }: PlainKeys,
  visible: number,
  headDimV: number,
  scale: number,
  sink: number = Number.NEGATIVE_INFINITY,
): PlainResult {
  const out = new Float64Array(headDimV);
  const count = Math.max(0, Math.min(visible, keys.length));
  if (count === 0) {
    return { out, lse: Number.POSITIVE_INFINITY, maxLogit: Number.NEGATIVE_INFINITY };
  }
  const scores = new Float64Array(count);
  let largest = Number.NEGATIVE_INFINITY;
  for (let t = 0; t < count; t++) {
    let dot = 0;
    const key = keys[t];
    for (let i = 0; i < query.length; i++) dot += query[i] * key[i];
    scores[t] = dot * scale;
    largest = Math.max(largest, scores[t]);
  }
  let total = 0;
  for (let t = 0; t < count; t++) {
    const weight = Math.exp(scores[t] - largest);
    const value = values[t];
    total += weight;
    for (let i = 0; i < headDimV; i++) out[i] += weight * value[i];
  }
  const divisor = total + Math.exp(sink - largest);
  for (let i = 0; i < headDimV; i++) out[i] /= divisor;
  return { out, lse: largest + Math.log(total), maxLogit: largest };
}
