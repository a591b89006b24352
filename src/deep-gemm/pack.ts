/**
 * @file Packing: row-major matrices to one linear stream, see layout.ts; and back, for the
 * reference. Whole panels are packed by machine code where it runs, edges and everything else by
 * plain loops.
 */
import { assert, assertEqual, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bf16ToF32, blockSize, f8e4m3ToF32, type Tensor } from "../tensor/index.ts";
import { allocateLasting } from "./arena.ts";
import { type PackedType, panelColumns, panelElements, panelIndex } from "./layout.ts";
import type { ActivationType, PackedWeights, WeightMatrix } from "./types.ts";
import { packPanels } from "./x86-pack.ts";

/** Which weights each activation type multiplies. */
const weightTypes: Readonly<Record<ActivationType, readonly PackedType[]>> = {
  f32: ["f32", "bf16", "f8e4m3"],
  bf16: ["bf16"],
  f8e4m3: ["f8e4m3"],
};

/** Packed weights as this room knows them: the contract plus the memory. */
export class PackedMatrix implements PackedWeights {
  readonly activation: ActivationType;
  readonly dtype: PackedType;
  readonly k: number;
  readonly parts: readonly number[];
  readonly columns: readonly number[];
  readonly width: number;
  readonly bytes: number;
  /** Which kernel multiplies it. */
  readonly programName: string;
  /** Panels in the stream, and bytes of each. */
  readonly panels: number;
  readonly panelBytes: number;
  /** `[panels, panelElements]`. */
  readonly stream: Tensor<PackedType>;
  /** float32 `[panels, ceil(k / 128)]`, the scale of each panel and 128 of k; FP8 only. */
  readonly scales: Tensor<"f32"> | undefined;
  /** int32 `[panels]`: the columns of each panel that exist; the rest is padding. */
  readonly widths: Tensor<"i32">;

  constructor(
    device: Device,
    matrices: readonly WeightMatrix[],
    activation: ActivationType,
    dtype: PackedType,
  ) {
    this.activation = activation;
    this.dtype = dtype;
    this.k = matrices[0].weight.shape[1];
    this.parts = matrices.map(({ weight }) => weight.shape[0]);
    const firstPanels = [0];
    for (const n of this.parts) firstPanels.push(firstPanels.at(-1)! + ceilDiv(n, panelColumns));
    const panels = firstPanels.pop()!;
    this.panels = panels;
    this.programName = `${activation} x ${dtype}`;
    this.columns = firstPanels.map((panel) => panel * panelColumns);
    this.width = this.columns.at(-1)! + this.parts.at(-1)!;
    this.stream = allocateLasting(device, dtype, [panels, panelElements(dtype, this.k)]);
    const blocks = ceilDiv(this.k, blockSize);
    this.scales = dtype === "f8e4m3" ? allocateLasting(device, "f32", [panels, blocks]) : undefined;
    this.widths = allocateLasting(device, "i32", [panels]);
    this.panelBytes = this.stream.data.byteLength / panels;
    this.bytes = this.stream.data.byteLength + (this.scales?.data.byteLength ?? 0);
    matrices.forEach((matrix, part) => {
      packPart(device, this, matrix, firstPanels[part]);
    });
  }
}

/**
 * Packs `matrices` (each `[n, k]`, one k and dtype) into one stream for activations of one type;
 * the sources may be freed afterwards. FP8 matrices need scales `[ceil(n / 128), ceil(k / 128)]`.
 * Combinations: f32 activations with f32, bf16 or f8e4m3 weights, else both of one type.
 */
export function packWeights(
  device: Device,
  matrices: readonly WeightMatrix[],
  activation: ActivationType,
): PackedWeights {
  assert(matrices.length > 0, "matrices: got none, wanted at least one");
  const { dtype, shape } = matrices[0].weight;
  const wanted = weightTypes[activation];
  assert(wanted, () => `activation: got ${activation}, wanted ${Object.keys(weightTypes)}`);
  assert(
    wanted.includes(dtype),
    () => `dtype of weights under ${activation} activations: got ${dtype}, wanted ${wanted}`,
  );
  matrices.forEach((matrix, i) => {
    checkMatrix(matrix, `matrices[${i}]`, dtype, shape[1]);
  });
  return new PackedMatrix(device, matrices, activation, dtype);
}

function checkMatrix(matrix: WeightMatrix, name: string, dtype: PackedType, k: number): void {
  const { weight } = matrix;
  assertEqual(weight.dtype, dtype, `dtype of ${name}`);
  assert(
    weight.shape.length === 2 && weight.shape[0] > 0 && weight.shape[1] > 0,
    () => `shape of ${name}: got [${weight.shape}], wanted [n, k], neither of them 0`,
  );
  const [n, columns] = weight.shape;
  assertEqual(columns, k, `k of ${name}`);
  checkReach(name, weight, n, k);
  if (dtype !== "f8e4m3") return;
  const scales = "scales" in matrix ? matrix.scales : undefined;
  const wanted = [ceilDiv(n, blockSize), ceilDiv(k, blockSize)];
  assert(
    scales?.dtype === "f32" &&
      scales.shape.length === 2 &&
      scales.shape.every((size, i) => size === wanted[i]),
    () => `scales of ${name}: got ${scales?.dtype} [${scales?.shape}], wanted f32 [${wanted}]`,
  );
  checkReach(`scales of ${name}`, scales, wanted[0], wanted[1]);
}

/** The memory of `tensor` holds `rows` rows of `width` elements. */
export function checkReach(what: string, tensor: Tensor, rows: number, width: number): void {
  const { stride, data } = tensor;
  const needed = rows === 0 ? 0 : (rows - 1) * stride + width;
  assert(
    Number.isSafeInteger(stride) && stride >= width && data.length >= needed,
    () => `${what}: got ${data.length} elements in rows of ${stride}, wanted ${needed}`,
  );
}

function packPart(
  device: Device,
  packed: PackedMatrix,
  matrix: WeightMatrix,
  firstPanel: number,
): void {
  const { weight } = matrix;
  const { dtype, k, scales, panelBytes } = packed;
  const n = weight.shape[0];
  const wholePanels = Math.floor(n / panelColumns);
  const to = packed.stream.address + firstPanel * panelBytes;
  const done = packPanels(device, weight, wholePanels, to, panelBytes);
  const panelSize = panelElements(dtype, k);
  for (let row = 0; row < n; row += panelColumns) {
    const panel = firstPanel + row / panelColumns;
    const width = Math.min(panelColumns, n - row);
    packed.widths.data[panel] = width;
    const into = packed.stream.data.subarray(panel * panelSize, (panel + 1) * panelSize);
    for (let column = 0; column < width; column++) {
      const start = (row + column) * weight.stride;
      const from = weight.data.subarray(start, start + k);
      packColumn(dtype, from, into, column, width === panelColumns ? done : 0);
    }
    if (scales && "scales" in matrix) {
      const blocks = scales.stride;
      const start = Math.floor(row / blockSize) * matrix.scales.stride;
      scales.data.set(matrix.scales.data.subarray(start, start + blocks), panel * blocks);
    }
  }
}

/** Packs one row of the matrix, from k = `first`, an even number, on. */
function packColumn(
  dtype: PackedType,
  from: Tensor["data"],
  to: Tensor["data"],
  column: number,
  first: number,
): void {
  for (const start of [first, first + 1]) {
    let at = panelIndex(dtype, start, column);
    for (let k = start; k < from.length; k += 2, at += 2 * panelColumns) to[at] = from[k];
  }
}

/**
 * Writes the values of one panel to `out`, `[64, k]`, codes without their scales; the inverse of
 * packing, which the reference rung computes with.
 */
export function unpackPanel(packed: PackedMatrix, panel: number, out: Float32Array): void {
  const { dtype, k, stream } = packed;
  const size = panelElements(dtype, k);
  const data = stream.data.subarray(panel * size, (panel + 1) * size);
  const decode = { f32: (x: number) => x, bf16: bf16ToF32, f8e4m3: f8e4m3ToF32 }[dtype];
  for (let column = 0; column < panelColumns; column++) {
    for (let i = 0; i < k; i++) out[column * k + i] = decode(data[panelIndex(dtype, i, column)]);
  }
}
