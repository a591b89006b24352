/**
 * @file The reference rung: plain loops that say what the kernels compute, to the bit. Everything
 * is rounded to float32 after each operation, except where a comment says otherwise. Machine code
 * gives the same bits on every instruction set, save for `swiglu`, whose exponential differs.
 */
import { alignUp, ceilDiv } from "../base/index.ts";
import {
  bf16ToF32,
  f8e4m3Max,
  f8e4m3ToF32,
  f32ToBf16,
  f32ToF8e4m3,
  f32ToUe8m0,
  type Tensor,
  ue8m0ToF32,
} from "../tensor/index.ts";
import { adamFactors } from "./adam.ts";
import { firstStep, groupColumns } from "./checks.ts";
import { finishRow, targetLogits } from "./cross-entropy.ts";
import { Gate, type Routing } from "./gate.ts";
import type { AdamStep, Combination, CrossEntropy, Rotation, Sink } from "./types.ts";

const { fround } = Math;

/** The scale of one group: see `Sink`. NaN takes no part. */
function scaleOf(values: Float32Array, powerOfTwo: boolean): number {
  let amax = fround(1e-4);
  for (const value of values) {
    if (Math.abs(value) > amax) amax = Math.abs(value);
  }
  const scale = fround(amax / f8e4m3Max);
  return powerOfTwo ? ue8m0ToF32(f32ToUe8m0(scale)) : scale;
}

/** Writes one row of results to row `row` of `sink`. */
function storeRow(sink: Sink, row: number, values: Float32Array): void {
  const start = row * sink.values.stride;
  const { data } = sink.values;
  if (sink.type === "f32") {
    data.set(values, start);
  } else if (sink.type === "bf16") {
    for (let i = 0; i < values.length; i++) data[start + i] = f32ToBf16(values[i]);
  } else {
    data.fill(0, start, start + alignUp(values.length, groupColumns));
    for (let g = 0; g < ceilDiv(values.length, groupColumns); g++) {
      const group = values.subarray(g * groupColumns, (g + 1) * groupColumns);
      const scale = scaleOf(group, sink.powerOfTwoScales === true);
      sink.scales.data[row * sink.scales.stride + g] = scale;
      group.forEach((value, i) => {
        data[start + g * groupColumns + i] = f32ToBf16(f8e4m3ToF32(f32ToF8e4m3(value / scale)));
      });
    }
  }
}

/** Row `row` of a tensor, its first `columns` columns. */
function rowOf<T extends Tensor>(tensor: T, row: number, columns: number): T["data"] {
  return tensor.data.subarray(row * tensor.stride, row * tensor.stride + columns);
}

/** See `castRows` of the door. */
export function castRows(x: Tensor<"f32">, rows: number, sink: Sink): void {
  const columns = x.shape.at(-1) ?? 0;
  for (let r = 0; r < rows; r++) storeRow(sink, r, rowOf(x, r, columns).slice());
}

/** See `rmsNorm` of the door. */
export function rmsNorm(
  x: Tensor<"f32">,
  weight: Tensor<"f32">,
  eps: number,
  rows: number,
  sink: Sink,
  toRows?: Tensor<"i32">,
): void {
  const columns = weight.shape[0];
  const result = new Float32Array(columns);
  for (let r = 0; r < rows; r++) {
    const values = rowOf(x, r, columns);
    // Squares are exact in float64, and so is the order of the sum: 16 lanes, folded by halves.
    const lanes = new Float64Array(16);
    for (let i = 0; i < columns; i++) lanes[i % 16] += values[i] * values[i];
    for (let half = 8; half > 0; half >>= 1) {
      for (let i = 0; i < half; i++) lanes[i] += lanes[i + half];
    }
    // Rounded at each step, as PyTorch's rms_norm is: normed values are often exact ties of the
    // quantisation that follows (x / amax has few bits where x and amax do), and go its way then.
    const mean = fround(lanes[0] / columns);
    const factor = fround(1 / fround(Math.sqrt(fround(mean + fround(eps)))));
    for (let i = 0; i < columns; i++) result[i] = fround(values[i] * factor) * weight.data[i];
    storeRow(sink, toRows?.data[r] ?? r, result);
  }
}

/** See `swiglu` of the door. */
export function swiglu(gate: Tensor<"f32">, up: Tensor<"f32">, rows: number, sink: Sink): void {
  const columns = gate.shape.at(-1) ?? 0;
  const result = new Float32Array(columns);
  for (let r = 0; r < rows; r++) {
    const [gates, ups] = [rowOf(gate, r, columns), rowOf(up, r, columns)];
    for (let i = 0; i < columns; i++) {
      result[i] = fround(gates[i] / (1 + Math.exp(-gates[i]))) * ups[i];
    }
    storeRow(sink, r, result);
  }
}

/** See `rotate` of the door. */
export function rotate(call: Rotation): void {
  const { from, to, dim, cosSin, positions, tokens, toRows } = call;
  const half = dim / 2;
  for (let t = 0; t < tokens; t++) {
    const angles = rowOf(cosSin, positions.data[t], dim);
    for (let h = 0; h < call.heads; h++) {
      const source = t * firstStep(from) + h * call.fromHeadStride;
      const target = (toRows?.data[t] ?? t) * firstStep(to) + h * call.toHeadStride;
      for (let i = 0; i < half; i++) {
        const [x0, x1] = [from.data[source + 2 * i], from.data[source + 2 * i + 1]];
        const [c, s] = [angles[i], angles[half + i]];
        const y0 = fround(fround(x0 * c) - fround(x1 * s));
        const y1 = fround(fround(x1 * c) + fround(x0 * s));
        to.data[target + 2 * i] = to.dtype === "f32" ? y0 : f32ToBf16(y0);
        to.data[target + 2 * i + 1] = to.dtype === "f32" ? y1 : f32ToBf16(y1);
      }
    }
  }
}

/** See `gatherRows` of the door. */
export function gatherRows(
  from: Tensor<"f32"> | Tensor<"bf16">,
  index: Tensor<"i32">,
  rows: number,
  to: Tensor<"f32"> | Tensor<"bf16">,
): void {
  const columns = from.shape.at(-1) ?? 0;
  for (let r = 0; r < rows; r++) {
    const row = rowOf<Tensor<"f32"> | Tensor<"bf16">>(from, index.data[r], columns);
    const start = r * to.stride;
    if (from.dtype === to.dtype) to.data.set(row, start);
    else for (let i = 0; i < columns; i++) to.data[start + i] = bf16ToF32(row[i]);
  }
}

/** See `combineExperts` of the door. */
export function combineExperts(call: Combination): void {
  const { y, slotOf, weights, shared, tokens, to } = call;
  const columns = y.shape.at(-1) ?? 0;
  for (let t = 0; t < tokens; t++) {
    for (let i = 0; i < columns; i++) {
      let sum = shared === undefined ? 0 : shared.data[t * shared.stride + i];
      for (let j = 0; j < slotOf.shape[1]; j++) {
        const weight = weights.data[t * weights.stride + j];
        const slot = slotOf.data[t * slotOf.stride + j];
        sum = fround(sum + fround(weight * y.data[slot * y.stride + i]));
      }
      to.data[t * to.stride + i] += sum;
    }
  }
}

/** See `addRows` of the door. */
export function addRows(x: Tensor<"f32">, rows: number, to: Tensor<"f32">): void {
  const columns = x.shape.at(-1) ?? 0;
  for (let r = 0; r < rows; r++) {
    for (let i = 0; i < columns; i++) to.data[r * to.stride + i] += x.data[r * x.stride + i];
  }
}

/** See `adamStep` of the door. */
export function adamStep(call: AdamStep): void {
  const { count, factors } = adamFactors(call);
  const [p, m, s] = [call.parameters.data, call.firstMoment.data, call.secondMoment.data];
  const { beta1, rest1, beta2, rest2, correction2, eps, stepSize, decay } = factors;
  for (let i = 0; i < count; i++) {
    let g = fround(call.gradients.data[i] * factors.gradientScale);
    let kept = p[i];
    if (call.decay === "l2") g = fround(g + fround(kept * decay));
    else kept = fround(kept * decay);
    m[i] = fround(m[i] * beta1) + fround(g * rest1);
    s[i] = fround(s[i] * beta2) + fround(fround(g * g) * rest2);
    const divisor = fround(fround(fround(Math.sqrt(s[i])) * correction2) + eps);
    p[i] = kept - fround(fround(m[i] / divisor) * stepSize);
  }
}

/** See `softmaxCrossEntropy` of the door. Exponentials, sums and quotients are float64. */
export function softmaxCrossEntropy(call: CrossEntropy): void {
  const { logits, rows, gradient, scale = 1 } = call;
  const columns = logits.shape.at(-1) ?? 0;
  const atTargets = targetLogits(call);
  for (let r = 0; r < rows; r++) {
    const values = rowOf(logits, r, columns);
    let max = Number.NEGATIVE_INFINITY;
    for (const value of values) if (value > max) max = value;
    let sum = 0;
    for (const value of values) sum += Math.exp(value - max);
    if (gradient !== undefined) {
      const start = r * gradient.stride;
      for (let i = 0; i < columns; i++) {
        gradient.data[start + i] = Math.exp(values[i] - max) * (scale / sum);
      }
    }
    finishRow(call, r, atTargets[r], max, sum);
  }
}

/** See `routeTokens` of the door. */
export function routeTokens(call: Routing): void {
  const gate = new Gate(call.config);
  for (let t = 0; t < call.tokens; t++) gate.route(call, t);
}
