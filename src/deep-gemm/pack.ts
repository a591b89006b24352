/**
 * @file Packing: row-major matrices to one linear stream, see layout.ts; and back, for the
 * reference. Whole panels are packed by machine code where it runs, edges and everything else by
 * plain loops.
 */
import { assert, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bf16ToF32, blockSize, f8e4m3ToF32, type Tensor } from "../tensor/index.ts";
import { allocateLasting } from "./arena.ts";
import { checkTensor } from "./checks.ts";
import { transpose } from "./convert.ts";
import { type PackedType, panelColumns, panelElements, panelIndex } from "./layout.ts";
import type { ActivationType, PackedWeights, WeightMatrix } from "./types.ts";
import { duringCall, temporary } from "./workspace.ts";
import { packPanels } from "./x86-pack.ts";

/** Which weights each activation type multiplies. */
const weightTypes: Readonly<Record<ActivationType, readonly PackedType[]>> = {
  f32: ["f32", "bf16", "f8e4m3"],
  bf16: ["bf16"],
  f8e4m3: ["f8e4m3"],
};

/** What a packed matrix is to hold. */
export interface PackedShape {
  readonly activation: ActivationType;
  readonly dtype: PackedType;
  readonly k: number;
  /** Rows of each part. */
  readonly parts: readonly number[];
  /** FP8: whether each column of D has scales of its own, rather than each 128 of them. */
  readonly columnScales: boolean;
}

/** Where packed weights lie: memory whose contents may be anything. */
export type AllocateTensor = <D extends PackedType | "i32">(
  device: Device,
  dtype: D,
  shape: readonly number[],
) => Tensor<D>;

/** Packed weights as this room knows them: the contract plus the memory, to be filled. */
export class PackedMatrix implements PackedWeights {
  readonly activation: ActivationType;
  readonly dtype: PackedType;
  readonly k: number;
  readonly parts: readonly number[];
  readonly columns: readonly number[];
  readonly width: number;
  readonly bytes: number;
  readonly columnScales: boolean;
  /** Which kernel multiplies it, and which one sums up the rows, see `emitReluSum`. */
  readonly programName: string;
  readonly sumProgramName: string;
  /** Panels in the stream, and bytes of each. */
  readonly panels: number;
  readonly panelBytes: number;
  /** `[panels, panelElements]`. */
  readonly stream: Tensor<PackedType>;
  /**
   * FP8 only: float32 `[panels, ceil(k / 128)]`, the scale of each panel and 128 of k; with
   * `columnScales`, 64 of them instead of one.
   */
  readonly scales: Tensor<"f32"> | undefined;
  /** int32 `[panels]`: the columns of each panel that exist; the rest is padding. */
  readonly widths: Tensor<"i32">;

  constructor(
    device: Device,
    { activation, dtype, k, parts, columnScales }: PackedShape,
    allocate: AllocateTensor = allocateLasting,
  ) {
    this.activation = activation;
    this.dtype = dtype;
    this.k = k;
    this.parts = parts;
    this.columnScales = columnScales;
    const firstPanels = [0];
    for (const n of parts) firstPanels.push(firstPanels.at(-1)! + ceilDiv(n, panelColumns));
    const panels = firstPanels.pop()!;
    this.panels = panels;
    this.programName = `${activation} x ${dtype}${columnScales ? " by columns" : ""}`;
    this.sumProgramName = `${this.programName}, summed`;
    this.columns = firstPanels.map((panel) => panel * panelColumns);
    this.width = this.columns.at(-1)! + parts.at(-1)!;
    this.stream = allocate(device, dtype, [panels, panelElements(dtype, k)]);
    const scaleCount = ceilDiv(k, blockSize) * (columnScales ? panelColumns : 1);
    this.scales = dtype === "f8e4m3" ? allocate(device, "f32", [panels, scaleCount]) : undefined;
    this.widths = allocate(device, "i32", [panels]);
    this.widths.data.fill(panelColumns);
    parts.forEach((n, part) => {
      if (n % panelColumns === 0) return;
      this.widths.data[firstPanels[part] + Math.floor(n / panelColumns)] = n % panelColumns;
    });
    // The partner of a last odd k: it is multiplied by zero, and must not be NaN.
    const elements = panelElements(dtype, k);
    for (let end = elements; dtype !== "f32" && k % 2 === 1 && end <= panels * elements; ) {
      this.stream.data.fill(0, end - 2 * panelColumns, end);
      end += elements;
    }
    this.panelBytes = this.stream.data.byteLength / panels;
    this.bytes = this.stream.data.byteLength + (this.scales?.data.byteLength ?? 0);
  }
}

/**
 * Packs `matrices` (each `[n, k]`, one k and dtype) into one stream for activations of one type;
 * the sources may be freed afterwards. FP8 matrices need scales, see `WeightMatrix`. Combinations:
 * f32 activations with f32, bf16 or f8e4m3 weights, else both of one type.
 */
export function packWeights(
  device: Device,
  matrices: readonly WeightMatrix[],
  activation: ActivationType,
): PackedWeights {
  return pack(device, matrices, activation, allocateLasting);
}

/** As `packWeights`, into `temporary` memory: for the call at hand only. */
export function packForCall(
  device: Device,
  matrix: WeightMatrix,
  activation: ActivationType,
): PackedWeights {
  return pack(device, [matrix], activation, temporary);
}

function pack(
  device: Device,
  matrices: readonly WeightMatrix[],
  activation: ActivationType,
  allocate: AllocateTensor,
): PackedWeights {
  assert(Array.isArray(matrices) && matrices.length > 0, "matrices: got none, wanted at least one");
  const isKnown = Object.hasOwn(weightTypes, activation);
  assert(isKnown, () => `activation: got ${activation}, wanted ${Object.keys(weightTypes)}`);
  const wanted = weightTypes[activation];
  const dtype = matrices[0]?.weight?.dtype;
  assert(
    wanted.includes(dtype),
    () => `dtype of weights under ${activation} activations: got ${dtype}, wanted ${wanted}`,
  );
  const k = matrices[0].weight.shape?.[matrices[0].transposed ? 0 : 1];
  const parts = matrices.map((matrix, i) => checkMatrix(matrix, `matrices[${i}]`, dtype, k));
  const columnScales = matrices.some(hasColumnScales);
  const shape = { activation, dtype, k, parts, columnScales };
  const packed = new PackedMatrix(device, shape, allocate);
  matrices.forEach((matrix, part) => {
    duringCall(device, () => {
      packPart(device, packed, matrix, packed.columns[part] / panelColumns);
    });
  });
  return packed;
}

/** Columns of D that `matrix` writes, n. */
function sizeOf({ weight, transposed = false }: WeightMatrix): number {
  return weight.shape[transposed ? 1 : 0];
}

function hasColumnScales(matrix: WeightMatrix): boolean {
  return "scales" in matrix && matrix.scales.shape[0] !== ceilDiv(sizeOf(matrix), blockSize);
}

/** Returns the rows of the matrix. */
function checkMatrix(matrix: WeightMatrix, name: string, dtype: PackedType, k: number): number {
  checkTensor(name, matrix?.weight, dtype, matrix?.transposed ? ["k", "n"] : ["n", "k"]);
  const { shape } = matrix.weight;
  const n = sizeOf(matrix);
  const gotK = shape[matrix.transposed ? 0 : 1];
  assert(gotK === k, () => `k of ${name}: got ${gotK}, wanted ${k}`);
  assert(
    n > 0 && k > 0,
    () => `shape of ${name}: got [${shape}], wanted [n, k], neither of them 0`,
  );
  if (dtype !== "f8e4m3") return n;
  const scales = "scales" in matrix ? matrix.scales : undefined;
  const blocks = ceilDiv(k, blockSize);
  assert(
    scales?.shape?.length === 2 && (scales.shape[0] === n || scales.shape[0] === ceilDiv(n, 128)),
    () =>
      `scales of ${name}: got ${scales?.dtype} [${scales?.shape}], ` +
      `wanted f32 [${ceilDiv(n, blockSize)},${blocks}] or [${n},${blocks}]`,
  );
  checkTensor(`scales of ${name}`, scales, "f32", [scales.shape[0], blocks]);
  return n;
}

function packPart(
  device: Device,
  packed: PackedMatrix,
  matrix: WeightMatrix,
  firstPanel: number,
): void {
  const weight: Tensor<PackedType> = matrix.transposed
    ? transpose<PackedType>(device, matrix.weight)
    : matrix.weight;
  const { dtype, k, scales, panelBytes } = packed;
  const n = weight.shape[0];
  const wholePanels = Math.floor(n / panelColumns);
  const done = packPanels(device, weight, wholePanels, {
    address: packed.stream.address + firstPanel * panelBytes,
    panelBytes,
  });
  for (let row = 0; row < n; row += panelColumns) {
    const panel = firstPanel + row / panelColumns;
    const width = Math.min(panelColumns, n - row);
    const first = width === panelColumns ? done : 0;
    const into = panelOf(packed, panel);
    for (let column = 0; column < width && first < k; column++) {
      const start = (row + column) * weight.stride;
      packColumn(dtype, weight.data.subarray(start, start + k), into, column, first);
    }
    if (scales && "scales" in matrix) {
      packScales(packed, scales, matrix.scales, panel, row, hasColumnScales(matrix));
    }
  }
}

/** Copies the scales of the panel whose first column is row `row` of the matrix. */
function packScales(
  packed: PackedMatrix,
  to: Tensor<"f32">,
  from: Tensor<"f32">,
  panel: number,
  row: number,
  byColumns: boolean,
): void {
  const blocks = ceilDiv(packed.k, blockSize);
  const start = panel * to.stride;
  const blockRow = Math.floor(row / blockSize) * from.stride;
  if (!packed.columnScales) {
    to.data.set(from.data.subarray(blockRow, blockRow + blocks), start);
    return;
  }
  for (let column = 0; column < packed.widths.data[panel]; column++) {
    const source = byColumns ? (row + column) * from.stride : blockRow;
    for (let block = 0; block < blocks; block++) {
      to.data[start + block * panelColumns + column] = from.data[source + block];
    }
  }
}

/** The elements of panel `panel`. */
export function panelOf(packed: PackedMatrix, panel: number): Tensor["data"] {
  const size = panelElements(packed.dtype, packed.k);
  return packed.stream.data.subarray(panel * size, (panel + 1) * size);
}

/** Packs one row of the matrix, from k = `first`, an even number, on. */
export function packColumn(
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
  const { dtype, k } = packed;
  const data = panelOf(packed, panel);
  const decode = { f32: (x: number) => x, bf16: bf16ToF32, f8e4m3: f8e4m3ToF32 }[dtype];
  for (let column = 0; column < panelColumns; column++) {
    for (let i = 0; i < k; i++) out[column * k + i] = decode(data[panelIndex(dtype, i, column)]);
  }
}
