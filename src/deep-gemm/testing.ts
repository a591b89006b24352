/**
 * @file Operands for this room's tests and benchmark: random, strided, poisoned, with the answer.
 */
import type { Random } from "../base/index.ts";
import { type Device, type Isa, openDevice } from "../device/index.ts";
import {
  type BlockScaled,
  bytesPerElement,
  type DType,
  dequantise,
  f8e4m3ToF32,
  f32ToBf16,
  fromF32,
  quantiseBlocks,
  type Tensor,
  tensorOf,
  toF32,
  zeros,
} from "../tensor/index.ts";
import type { Activations, ActivationType, WeightMatrix } from "./types.ts";

/** The reference device and one for each instruction set that this processor has. */
export function openAll(print: (line: string) => void): Device[] {
  const devices: Device[] = [openDevice({ rung: "reference" })];
  for (const isa of ["avx512-bf16", "avx512", "avx2"] as const satisfies readonly Isa[]) {
    try {
      devices.push(openDevice({ rung: "x86", isa, threads: 2 }));
    } catch (error) {
      print(`${isa} is not tested: ${(error as Error).message}`);
    }
  }
  return devices;
}

/** A matrix transposed, element by element. */
export function transposed<D extends DType>(matrix: Tensor<D>): Tensor<D> {
  const [rows, columns] = matrix.shape;
  const result = zeros(matrix.dtype, [columns, rows]);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      result.data[j * rows + i] = matrix.data[i * matrix.stride + j];
    }
  }
  return result;
}

/** An activation type with a weight dtype that it multiplies. */
export interface Combination {
  readonly activation: ActivationType;
  readonly weights: "f32" | "bf16" | "f8e4m3";
}

/** All that `packWeights` takes. */
export const combinations: readonly Combination[] = [
  { activation: "f32", weights: "f32" },
  { activation: "f32", weights: "bf16" },
  { activation: "f32", weights: "f8e4m3" },
  { activation: "bf16", weights: "bf16" },
  { activation: "f8e4m3", weights: "f8e4m3" },
];

/**
 * An operand with the float32 matrix that it stands for exactly (FP8: to the rounding of a
 * product).
 */
export interface Operand<T> {
  readonly operand: T;
  readonly values: Tensor<"f32">;
}

/** Standard normal values. */
export function randomMatrix(random: Random, rows: number, columns: number): Tensor<"f32"> {
  const matrix = zeros("f32", [rows, columns]);
  for (let i = 0; i < matrix.data.length; i++) matrix.data[i] = random.normal();
  return matrix;
}

/** A copy of `matrix` on `device` whose rows are `stride` apart, NaN between, not aligned. */
export function strided<D extends "f32" | "bf16">(
  device: Device,
  matrix: Tensor<D>,
  stride: number,
): Tensor<D> {
  const [rows, columns] = matrix.shape;
  const { dtype } = matrix;
  const whole = zeros<DType>(dtype, [rows * stride + 1], (bytes) => device.allocate(bytes));
  whole.data.fill(dtype === "f32" ? Number.NaN : 0x7fc0);
  const data = whole.data.subarray(1);
  for (let i = 0; i < rows; i++) {
    data.set(matrix.data.subarray(i * matrix.stride, i * matrix.stride + columns), i * stride);
  }
  const address = whole.address && whole.address + bytesPerElement[dtype];
  return { ...matrix, stride, data: data as Tensor<D>["data"], address };
}

/** Random activations, strided by three elements more than a row, NaN between. */
export function randomActivations(
  device: Device,
  random: Random,
  type: ActivationType,
  m: number,
  k: number,
): Operand<Activations> {
  const values = randomMatrix(random, m, k);
  const place = <D extends "f32" | "bf16">(matrix: Tensor<D>) => strided(device, matrix, k + 3);
  if (type === "f32") return { operand: { type, values: place(values) }, values };
  if (type === "bf16") {
    const rounded = fromF32(values, type);
    return { operand: { type, values: place(rounded) }, values: toF32(rounded) };
  }
  const { codes, scales } = quantiseBlocks(values, { blockRows: 1 });
  const held = fromF32(toF32(codes), "bf16");
  const operand: Activations = {
    type,
    values: place(held),
    scales: strided(device, scales, scales.shape[1] + 2),
  };
  return { operand, values: dequantise(codes, scales, { blockRows: 1 }) };
}

/** A random weight matrix; FP8 with a scale that differs from block to block. */
export function randomWeights(
  random: Random,
  dtype: Combination["weights"],
  n: number,
  k: number,
): Operand<WeightMatrix> {
  const values = randomMatrix(random, n, k);
  if (dtype === "f32") return { operand: { weight: values }, values };
  if (dtype === "bf16") {
    const weight = fromF32(values, dtype);
    return { operand: { weight }, values: toF32(weight) };
  }
  const { codes, scales } = quantiseBlocks(values);
  return { operand: { weight: codes, scales }, values: dequantise(codes, scales) };
}

/** What a product should be: a b^T in float64, and the same of the magnitudes, both `[m, n]`. */
export interface Product {
  readonly values: Float64Array;
  readonly magnitudes: Float64Array;
}

/** a b^T in float64. */
export function productOf(a: Tensor<"f32">, b: Tensor<"f32">): Product {
  const [m, k] = a.shape;
  const n = b.shape[0];
  const [values, magnitudes] = [new Float64Array(m * n), new Float64Array(m * n)];
  for (let i = 0; i < m; i++) {
    const x = a.data.subarray(i * a.stride, i * a.stride + k);
    for (let j = 0; j < n; j++) {
      const y = b.data.subarray(j * b.stride, j * b.stride + k);
      let [sum, magnitude] = [0, 0];
      for (let at = 0; at < k; at++) {
        const term = x[at] * y[at];
        sum += term;
        magnitude += Math.abs(term);
      }
      values[i * n + j] = sum;
      magnitudes[i * n + j] = magnitude;
    }
  }
  return { values, magnitudes };
}

/** The largest error of the first `m` rows of `d`, each as a share of its sum of magnitudes. */
export function largestError(d: Tensor<"f32">, m: number, wanted: Product): number {
  const n = d.shape[1];
  let largest = 0;
  for (let i = 0; i < m * n; i++) {
    const got = d.data[Math.floor(i / n) * d.stride + (i % n)];
    const error = Math.abs(got - wanted.values[i]) / wanted.magnitudes[i];
    // Written so that NaN is the largest.
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

/**
 * 1 - 2 sum(xy) / sum(x^2 + y^2): 0 where equal, NaN where either has one. Source: DeepGEMM's
 * tests.
 */
export function calcDiff(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let [both, squares] = [0, 0];
  for (let i = 0; i < x.length; i++) {
    both += x[i] * y[i];
    squares += x[i] * x[i] + y[i] * y[i];
  }
  return squares === 0 ? 0 : 1 - (2 * both) / squares;
}

/**
 * A float32 matrix of NaN, rows `stride` apart: what a kernel must overwrite, and leave between.
 */
export function poisoned(
  device: Device,
  rows: number,
  columns: number,
  stride: number,
): Tensor<"f32"> {
  const poison = new Float32Array(rows * columns).fill(Number.NaN);
  return strided(device, tensorOf("f32", [rows, columns], poison), stride);
}

/** Every e4m3 code but the NaNs, as a `[254, 1]` matrix: products with it are exact. */
export function everyCode(): BlockScaled {
  const codes = Uint8Array.from({ length: 256 }, (_, code) => code);
  const finite = codes.filter((code) => !Number.isNaN(f8e4m3ToF32(code)));
  const scales = new Float32Array(Math.ceil(finite.length / 128)).fill(1);
  return {
    codes: tensorOf("f8e4m3", [finite.length, 1], finite),
    scales: tensorOf("f32", [scales.length, 1], scales),
  };
}

/** The bf16 code of 1. */
export const bf16One: number = f32ToBf16(1);
