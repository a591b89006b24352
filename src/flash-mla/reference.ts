/**
 * @file The reference rung: softmax(q K^T * scale) V as it is written, in float64, one query and
 * one head at a time, results rounded to float32 once.
 */
import type { MlaShape } from "./checks.ts";
import { type MlaCall, type MlaSequence, pageTokens } from "./types.ts";

/** The keys of a sequence's context, `[contextLength, dimQk]`, gathered from its pages. */
function gatherKeys(call: MlaCall, sequence: MlaSequence, dimQk: number): Float32Array {
  const { kvCache } = call;
  const keys = new Float32Array(sequence.contextLength * dimQk);
  const bits = new Uint32Array(keys.buffer);
  for (let t = 0; t < sequence.contextLength; t++) {
    const page = sequence.blockTable[Math.floor(t / pageTokens)];
    const start = (page * pageTokens + (t % pageTokens)) * kvCache.stride;
    const row = kvCache.data.subarray(start, start + dimQk);
    if (kvCache.dtype === "f32") keys.set(row, t * dimQk);
    else for (let i = 0; i < dimQk; i++) bits[t * dimQk + i] = row[i] << 16;
  }
  return keys;
}

/** Scaled scores of one query against the first `count` keys, and the largest of them. */
function scoresOf(
  query: Float32Array,
  keys: Float32Array,
  scale: number,
  scores: Float64Array,
): number {
  let largest = Number.NEGATIVE_INFINITY;
  for (let t = 0; t < scores.length; t++) {
    let dot = 0;
    for (let i = 0; i < query.length; i++) dot += query[i] * keys[t * query.length + i];
    scores[t] = dot * scale;
    largest = Math.max(largest, scores[t]);
  }
  return largest;
}

/** See `mlaAttention` of the door. */
export function mlaAttention(call: MlaCall, shape: MlaShape): void {
  const { q, out, lse, softmaxScale } = call;
  const { heads, dimQk, headDimV } = shape;
  const sums = new Float64Array(headDimV);
  for (const sequence of call.sequences) {
    const { queryStart, queryCount, contextLength } = sequence;
    const keys = gatherKeys(call, sequence, dimQk);
    const probabilities = new Float64Array(contextLength);
    for (let row = 0; row < queryCount * heads; row++) {
      const token = queryStart + Math.floor(row / heads);
      const head = row % heads;
      const visible = Math.max(0, contextLength - queryCount + Math.floor(row / heads) + 1);
      const start = (token * heads + head) * q.stride;
      const weights = probabilities.subarray(0, visible);
      const largest = scoresOf(q.data.subarray(start, start + dimQk), keys, softmaxScale, weights);
      let total = 0;
      sums.fill(0);
      for (let t = 0; t < visible; t++) {
        const weight = Math.exp(weights[t] - largest);
        total += weight;
        for (let i = 0; i < headDimV; i++) sums[i] += weight * keys[t * dimQk + i];
      }
      const target = (token * heads + head) * out.stride;
      for (let i = 0; i < headDimV; i++) out.data[target + i] = visible ? sums[i] / total : 0;
      if (lse !== undefined) {
        lse.data[token * lse.stride + head] = visible
          ? largest + Math.log(total)
          : Number.POSITIVE_INFINITY;
      }
    }
  }
}
