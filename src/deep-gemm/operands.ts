/** @file Operands as DeepGEMM's functions take them, brought into the form that `gemm` takes. */
import { assert, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import {
  type BlockScaled,
  blockSize,
  bytesPerElement,
  type DType,
  type Tensor,
} from "../tensor/index.ts";
import { checkTensor } from "./checks.ts";
import { widen } from "./convert.ts";
import { PackedMatrix, packForCall } from "./pack.ts";
import type { Activations, ActivationType, PackedWeights, WeightMatrix } from "./types.ts";

/** One weight matrix `[n, k]`: packed for the function's activation type, or raw. */
export type Weights<Raw> = PackedWeights | Raw;
/** The matrices of all groups: packed, one each, or raw as one tensor `[groups, n, k]`. */
export type GroupedWeights<Raw> = readonly PackedWeights[] | Raw;

/** A weight matrix that has no scales, or one that has. */
export type RawWeights = Tensor<"f32"> | Tensor<"bf16"> | BlockScaled;

/** Rows A `[..., k]` of float32 or bf16, checked; `dimensions` counts those of A. */
export function plainRows<T extends "f32" | "bf16">(
  type: T,
  a: Tensor<T>,
  dimensions: number,
): Activations {
  checkTensor("a", a, type, anyShape(dimensions, "k"));
  return { type, values: a } as Activations;
}

/** Rows A of FP8, codes `[..., k]` and scales `[..., ceil(k / 128)]`, checked and widened. */
export function scaledRows(device: Device, a: BlockScaled, dimensions: number): Activations {
  const shape = checkTensor("a.codes", a?.codes, "f8e4m3", anyShape(dimensions, "k"));
  const blocks = ceilDiv(shape.at(-1)!, blockSize);
  checkTensor("a.scales", a.scales, "f32", [...shape.slice(0, -1), blocks]);
  return { type: "f8e4m3", values: widen(device, a.codes), scales: a.scales };
}

function anyShape(dimensions: number, last: string): string[] {
  return [...["groups", "m"].slice(3 - dimensions), last];
}

/** `b` packed for `activation`, for the call at hand; `transposed` where it is raw and `[k, n]`. */
export function packOne(
  device: Device,
  b: Weights<RawWeights>,
  activation: ActivationType,
  transposed: boolean = false,
): PackedWeights {
  if (b instanceof PackedMatrix) return b;
  return packForCall(device, matrixOf(b as RawWeights, transposed), activation);
}

function matrixOf(b: RawWeights, transposed: boolean): WeightMatrix {
  const matrix =
    typeof b === "object" && b !== null && "codes" in b
      ? { weight: b.codes, scales: b.scales, transposed }
      : { weight: b, transposed };
  return matrix as WeightMatrix;
}

/** The matrices of all groups, packed for `activation`, for the call at hand. */
export function packAll(
  device: Device,
  b: GroupedWeights<RawWeights>,
  activation: ActivationType,
  transposed: boolean = false,
): readonly PackedWeights[] {
  if (Array.isArray(b)) {
    assert(b.length > 0, "b: got no matrices, wanted one for each group");
    b.forEach((one, i) => {
      const isPacked = one instanceof PackedMatrix;
      assert(isPacked, () => `b[${i}]: got other than packWeights returns`);
      const { k, width } = b[0];
      assert(
        one.k === k && one.width === width,
        () => `b[${i}]: got [${one.width},${one.k}], wanted [${width},${k}] as b[0]`,
      );
    });
    return b;
  }
  const { weight, ...rest } = matrixOf(b as RawWeights, transposed);
  const shape = checkTensor("b", weight, weight?.dtype, ["groups", "n", "k"]);
  assert(shape[0] > 0, () => `groups of b: got ${shape[0]}, wanted at least one`);
  if ("scales" in rest) checkTensor("b.scales", rest.scales, "f32", [shape[0], "blocks", "blocks"]);
  return Array.from({ length: shape[0] }, (_, group) => {
    const scales = "scales" in rest ? { scales: matrixAt(rest.scales, group) } : {};
    const matrix = { ...rest, ...scales, weight: matrixAt<DType>(weight, group) };
    return packForCall(device, matrix as WeightMatrix, activation);
  });
}

/** Matrix `index` of a tensor `[groups, rows, columns]`. */
export function matrixAt<D extends DType>(tensor: Tensor<D>, index: number): Tensor<D> {
  return rowsAt(tensor, index * tensor.shape[1], tensor.shape[1]);
}

/** `count` rows from row `from` on, leading dimensions taken together, as a matrix. */
export function rowsAt<D extends DType>(tensor: Tensor<D>, from: number, count: number): Tensor<D> {
  return viewAt(tensor, from * tensor.stride, [count, tensor.shape.at(-1)!], tensor.stride);
}

/** The tensor's memory from element `start` on, seen with another shape and stride. */
export function viewAt<D extends DType>(
  tensor: Tensor<D>,
  start: number,
  shape: readonly number[],
  stride: number,
): Tensor<D> {
  const data = tensor.data.subarray(start) as Tensor<D>["data"];
  const isEmpty = data.length === 0;
  const address = isEmpty
    ? 0
    : tensor.address && tensor.address + start * bytesPerElement[tensor.dtype];
  return { dtype: tensor.dtype, shape, stride, data, address };
}

/** Rows of activations, as `rowsAt`. */
export function activationsAt(a: Activations, from: number, count: number): Activations {
  const values = rowsAt(a.values as Tensor, from, count);
  if (a.type !== "f8e4m3") return { type: a.type, values } as Activations;
  return { ...a, values: values as Tensor<"bf16">, scales: rowsAt(a.scales, from, count) };
}

/** D, float32, has A's leading dimensions and B's rows as its last. */
export function checkOutput(a: Activations, b: PackedWeights, d: Tensor<"f32">): void {
  checkTensor("d", d, "f32", [...a.values.shape.slice(0, -1), b.width]);
}

/** Copies C into D before a product that adds to it; returns whether there is a C. */
export function placeC(c: Tensor<"f32"> | undefined, d: Tensor<"f32">): boolean {
  if (c === undefined) return false;
  checkTensor("c", c, "f32", d.shape);
  if (c === d || (c.address !== 0 && c.address === d.address && c.stride === d.stride)) return true;
  const width = d.shape.at(-1)!;
  const rows = d.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  for (let i = 0; i < rows && width > 0; i++) {
    d.data.set(c.data.subarray(i * c.stride, i * c.stride + width), i * d.stride);
  }
  return true;
}
