/**
 * @file Door of `elementwise`: norms, rotary embedding, activations, quantisation, combination.
 * Each function checks its operands, picks the rung and returns when the result is written. Rows
 * are independent: the bits of one never depend on the others, nor on the number of threads.
 */
import { assert, assertEqual } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import type { Tensor } from "../tensor/index.ts";
import {
  checkCombination,
  checkIndex,
  checkRotation,
  checkRows,
  checkScatter,
  checkSink,
  checkVector,
} from "./checks.ts";
import { checkCrossEntropy } from "./cross-entropy.ts";
import { checkRouting, type Routing } from "./gate.ts";
import * as reference from "./reference.ts";
import type { AdamStep, Combination, CrossEntropy, Rotation, Sink } from "./types.ts";
import * as x86 from "./x86.ts";

export type { GateConfig, Routing } from "./gate.ts";
export type { AdamStep, Combination, CrossEntropy, Rotation, Sink } from "./types.ts";

/**
 * Writes the first `rows` rows of `x` `[rows, k]` to `sink`: a copy, a rounding or a quantisation.
 */
export function castRows(device: Device, x: Tensor<"f32">, rows: number, sink: Sink): void {
  assertEqual(x.dtype, "f32", "dtype of x");
  const columns = x.shape.at(-1) ?? 0;
  checkRows("x", x, rows, columns);
  checkSink(sink, rows, columns);
  if (device.rung === "reference") reference.castRows(x, rows, sink);
  else x86.castRows(device, x, rows, sink);
}

/**
 * Writes y = x * (mean(x^2) + eps)^(-1/2) * weight for the first `rows` rows of `x` `[rows, k]`;
 * row i goes to row `toRows[i]` of the sink where that is given, else to row i. `weight` is `[k]`.
 * The squares are summed in float64 in one fixed order; every step after that rounds to float32.
 */
export function rmsNorm(
  device: Device,
  x: Tensor<"f32">,
  weight: Tensor<"f32">,
  eps: number,
  rows: number,
  sink: Sink,
  toRows?: Tensor<"i32">,
): void {
  assertEqual(x.dtype, "f32", "dtype of x");
  assertEqual(weight.dtype, "f32", "dtype of weight");
  assert(eps >= 0, () => `eps: got ${eps}, wanted a number that is not negative`);
  const columns = x.shape.at(-1) ?? 0;
  checkVector("weight", weight, columns);
  assertEqual(weight.shape[0], columns, "length of weight");
  checkRows("x", x, rows, columns);
  checkSink(sink, checkScatter(toRows, rows, sink.values.shape[0]), columns);
  if (device.rung === "reference") reference.rmsNorm(x, weight, eps, rows, sink, toRows);
  else x86.rmsNorm(device, x, weight, eps, rows, sink, toRows);
}

/** Writes silu(gate) * up = gate / (1 + exp(-gate)) * up, both `[rows, width]`, to `sink`. */
export function swiglu(
  device: Device,
  gate: Tensor<"f32">,
  up: Tensor<"f32">,
  rows: number,
  sink: Sink,
): void {
  assertEqual(gate.dtype, "f32", "dtype of gate");
  assertEqual(up.dtype, "f32", "dtype of up");
  const columns = gate.shape.at(-1) ?? 0;
  assertEqual(up.shape.at(-1), columns, "columns of up");
  checkRows("gate", gate, rows, columns);
  checkRows("up", up, rows, columns);
  checkSink(sink, rows, columns);
  if (device.rung === "reference") reference.swiglu(gate, up, rows, sink);
  else x86.swiglu(device, gate, up, rows, sink);
}

/**
 * Rotates the interleaved pairs (2i, 2i + 1) of every head of every token by the token's position:
 * (x0, x1) becomes (x0 c - x1 s, x1 c + x0 s), written interleaved too. In place where `to` is
 * `from`.
 */
export function rotate(device: Device, call: Rotation): void {
  checkRotation(call);
  if (device.rung === "reference") reference.rotate(call);
  else x86.rotate(device, call);
}

/**
 * Copies row `index[i]` of `from` to row i of `to` for i < rows; both have one dtype, f32 or bf16,
 * or bf16 rows become f32. The embedding lookup, and the permutation of tokens to experts.
 */
export function gatherRows(
  device: Device,
  from: Tensor<"f32"> | Tensor<"bf16">,
  index: Tensor<"i32">,
  rows: number,
  to: Tensor<"f32"> | Tensor<"bf16">,
): void {
  const columns = from.shape.at(-1) ?? 0;
  assert(
    (from.dtype === "f32" || from.dtype === "bf16") &&
      (to.dtype === from.dtype || to.dtype === "f32"),
    () => `dtypes: got ${from.dtype} to ${to.dtype}, wanted f32 or bf16 to the same or to f32`,
  );
  assertEqual(from.shape.length, 2, "dimensions of from");
  checkRows("from", from, checkIndex("index", index, rows, from.shape[0]), columns);
  checkRows("to", to, rows, columns);
  if (device.rung === "reference") reference.gatherRows(from, index, rows, to);
  else x86.gatherRows(device, from, index, rows, to);
}

/**
 * Adds to each token's row of `to` its expert outputs: to[t] += shared[t] + sum over j, in order,
 * of weights[t, j] * y[slotOf[t, j]]. The sum is taken first and added once.
 */
export function combineExperts(device: Device, call: Combination): void {
  checkCombination(call);
  if (device.rung === "reference") reference.combineExperts(call);
  else x86.combineExperts(device, call);
}

/** Adds the first `rows` rows of `x` `[rows, k]` to those of `to`. */
export function addRows(device: Device, x: Tensor<"f32">, rows: number, to: Tensor<"f32">): void {
  assertEqual(x.dtype, "f32", "dtype of x");
  assertEqual(to.dtype, "f32", "dtype of to");
  const columns = x.shape.at(-1) ?? 0;
  checkRows("x", x, rows, columns);
  checkRows("to", to, rows, columns);
  if (device.rung === "reference") reference.addRows(x, rows, to);
  else x86.addRows(device, x, rows, to);
}

/**
 * One step of AdamW (or Adam), in place: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, then
 * p = p (1 - lr wd) - lr / (1 - b1^t) * m / (v^(1/2) / (1 - b2^t)^(1/2) + eps), with g the scaled
 * gradients (`l2`: plus wd p, and p does not shrink). Every product and sum rounds to float32; all
 * rungs give the same bits. Source: Kingma and Ba 2014; Loshchilov and Hutter 2017.
 */
export function adamStep(device: Device, call: AdamStep): void {
  if (device.rung === "reference") reference.adamStep(call);
  else x86.adamStep(device, call);
}

/**
 * Writes each row's loss -log softmax(logits)[target], and where wanted its gradient
 * scale (softmax(logits) - 1 at the target). Sums are float64; on machine code, a logit less the
 * row's maximum is rounded to float32 and its exponential is within 1 ulp, the same on every
 * instruction set. A NaN or positive infinity in a row makes its loss and gradient NaN. Rows whose
 * target is `ignoreTarget` get zeros. Not for recordings: it reads what its kernel wrote.
 */
export function softmaxCrossEntropy(device: Device, call: CrossEntropy): void {
  checkCrossEntropy(call);
  if (device.rung === "reference") reference.softmaxCrossEntropy(call);
  else x86.softmaxCrossEntropy(device, call);
}

/**
 * Chooses each token's experts: scores of the logits, groups ranked and dropped, the best `topK` of
 * the biased scores (best first, ties to the lower id), weights from the unbiased ones. All rungs give
 * the same bits: tokens of which machine code can't be sure are computed as the reference does. Not
 * for recordings: it reads what its kernel wrote.
 */
export function routeTokens(device: Device, call: Routing): void {
  checkRouting(call);
  if (device.rung === "reference") reference.routeTokens(call);
  else x86.routeTokens(device, call);
}
