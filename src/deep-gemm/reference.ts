/**
 * @file The reference rung: the product as its formula reads, in float64, rounded to float32 once.
 * Needs no native memory. Batch-invariant because no output looks at another row.
 */
import { bf16ArrayToF32, blockSize } from "../tensor/index.ts";
import { panelColumns } from "./layout.ts";
import { type PackedMatrix, unpackPanel } from "./pack.ts";
import type { Activations, GemmGroup } from "./types.ts";
import type { PanelGroup } from "./x86.ts";

/** Computes one group; its operands have passed the door's checks. */
export function gemmReference(group: GemmGroup, b: PackedMatrix): void {
  const { a, m, d, accumulate = false } = group;
  const { k } = b;
  const rows = Array.from({ length: m }, (_, i) => rowValues(a, i, k));
  const weights = new Float32Array(panelColumns * k);
  for (let panel = 0; panel < b.panels; panel++) {
    unpackPanel(b, panel, weights);
    for (let i = 0; i < m; i++) {
      let scales = blockScales(a, i, b, panel, 0);
      for (let column = 0; column < b.widths.data[panel]; column++) {
        if (b.columnScales) scales = blockScales(a, i, b, panel, column);
        const sum = dot(rows[i], weights.subarray(column * k, (column + 1) * k), scales);
        const place = i * d.stride + panel * panelColumns + column;
        d.data[place] = accumulate ? d.data[place] + sum : sum;
      }
    }
  }
}

/**
 * Writes to the row `d` the sum over the rows of max(0, product) times the row's weight, in the
 * columns of the group's panels.
 */
export function sumRowsReference(group: PanelGroup, b: PackedMatrix): void {
  const { a, m, d, firstPanel = 0, panels = b.panels, rowWeights } = group;
  const rows = Array.from({ length: m }, (_, i) => rowValues(a, i, b.k));
  const weights = new Float32Array(panelColumns * b.k);
  for (let panel = firstPanel; panel < firstPanel + panels; panel++) {
    unpackPanel(b, panel, weights);
    for (let column = 0; column < b.widths.data[panel]; column++) {
      const key = weights.subarray(column * b.k, (column + 1) * b.k);
      let sum = 0;
      for (let i = 0; i < m; i++) {
        const score = dot(rows[i], key, blockScales(a, i, b, panel, column));
        sum += Math.max(score, 0) * rowWeights!.data[i];
      }
      d.data[(panel - firstPanel) * panelColumns + column] = sum;
    }
  }
}

/** Row `i` of the activations as float32, scales not applied. */
function rowValues(a: Activations, i: number, k: number): Float32Array {
  const { stride } = a.values;
  if (a.type === "f32") return a.values.data.subarray(i * stride, i * stride + k);
  return bf16ArrayToF32(a.values.data.subarray(i * stride, i * stride + k));
}

/** The factor of each 128 of k for one row and column of a panel; 1 where nothing is scaled. */
function blockScales(
  a: Activations,
  i: number,
  b: PackedMatrix,
  panel: number,
  column: number,
): number[] {
  const { scales, columnScales } = b;
  return Array.from({ length: Math.ceil(b.k / blockSize) }, (_, block) => {
    const left = a.type === "f8e4m3" ? a.scales.data[i * a.scales.stride + block] : 1;
    const place = columnScales ? block * panelColumns + column : block;
    return left * (scales ? scales.data[panel * scales.stride + place] : 1);
  });
}

function dot(x: Float32Array, w: Float32Array, scales: readonly number[]): number {
  let total = 0;
  for (let block = 0; block < scales.length; block++) {
    const end = Math.min(x.length, (block + 1) * blockSize);
    let sum = 0;
    for (let k = block * blockSize; k < end; k++) sum += x[k] * w[k];
    total += sum * scales[block];
  }
  return total;
}
