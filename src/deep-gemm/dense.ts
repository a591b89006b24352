/**
 * @file DeepGEMM's dense products by their names, in camelCase, arguments in its order after the
 * device. Each is a thin door over `gemm`. The first letter says how A lies, the second B: "n" as
 * A `[m, k]` and B `[k, n]`, "t" transposed. D = A B (+ C) in float32. Weights that are used more
 * than once should come packed; raw ones are packed at every call. Source:
 * github.com/deepseek-ai/DeepGEMM, whose README states the shapes.
 */
import type { Device } from "../device/index.ts";
import type { BlockScaled, Tensor } from "../tensor/index.ts";
import { checkTensor } from "./checks.ts";
import { transpose } from "./convert.ts";
import { gemm } from "./gemm.ts";
import { checkOutput, packOne, placeC, plainRows, scaledRows, type Weights } from "./operands.ts";
import type { Activations, PackedWeights } from "./types.ts";
import { duringCall } from "./workspace.ts";

/**
 * D = A B^T (+ C) for float32 A `[m, k]` and float32 or bf16 B `[n, k]`; D and C are float32
 * `[m, n]`, C may be D itself.
 */
export function f32GemmNt(
  device: Device,
  a: Tensor<"f32">,
  b: Weights<Tensor<"f32"> | Tensor<"bf16">>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  duringCall(device, () =>
    multiply(device, plainRows("f32", a, 2), packOne(device, b, "f32"), d, c),
  );
}

/** D = A B^T (+ C) for bf16 A `[m, k]` and B `[n, k]`; D and C are float32 `[m, n]`, C may be D. */
export function bf16GemmNt(
  device: Device,
  a: Tensor<"bf16">,
  b: Weights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  duringCall(device, () =>
    multiply(device, plainRows("bf16", a, 2), packOne(device, b, "bf16"), d, c),
  );
}

/** D = A B (+ C): as `bf16GemmNt`, for B `[k, n]`. */
export function bf16GemmNn(
  device: Device,
  a: Tensor<"bf16">,
  b: Weights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  duringCall(device, () =>
    multiply(device, plainRows("bf16", a, 2), packOne(device, b, "bf16", true), d, c),
  );
}

/** D = A^T B (+ C): as `bf16GemmNt`, for A `[k, m]` and B `[k, n]`. */
export function bf16GemmTn(
  device: Device,
  a: Tensor<"bf16">,
  b: Weights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  duringCall(device, () =>
    multiply(device, columnsAsRows(device, a), packOne(device, b, "bf16", true), d, c),
  );
}

/** D = A^T B^T (+ C): as `bf16GemmNt`, for A `[k, m]`. */
export function bf16GemmTt(
  device: Device,
  a: Tensor<"bf16">,
  b: Weights<Tensor<"bf16">>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  duringCall(device, () =>
    multiply(device, columnsAsRows(device, a), packOne(device, b, "bf16"), d, c),
  );
}

/**
 * D = A B^T (+ C) for FP8 operands: A codes `[m, k]` with scales `[m, ceil(k / 128)]`, B codes
 * `[n, k]` with scales `[ceil(n / 128), ceil(k / 128)]` or `[n, ceil(k / 128)]`; D and C are
 * float32 `[m, n]`, C may be D.
 */
export function fp8GemmNt(
  device: Device,
  a: BlockScaled,
  b: Weights<BlockScaled>,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  duringCall(device, () =>
    multiply(device, scaledRows(device, a, 2), packOne(device, b, "f8e4m3"), d, c),
  );
}

function columnsAsRows(device: Device, a: Tensor<"bf16">): Activations {
  checkTensor("a", a, "bf16", ["k", "m"]);
  return { type: "bf16", values: transpose(device, a) };
}

function multiply(
  device: Device,
  a: Activations,
  b: PackedWeights,
  d: Tensor<"f32">,
  c: Tensor<"f32"> | undefined,
): void {
  checkOutput(a, b, d);
  const m = a.values.shape[0];
  gemm(device, [{ a, m, b, d, accumulate: placeC(c, d) }]);
}
