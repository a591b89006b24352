/**
 * @file Products by a warpgroup. An accumulator is an array of registers of TypeScript: an index
 * that is known only at run time can't be written down, so nothing ever goes to local memory.
 *
 * Of a 64 x n accumulator a thread holds, for every 8 columns, four values:
 *
 *     row    16 (warp mod 4) + lane / 4, and 8 more     column  8 j + 2 (lane mod 4), and 1 more
 *     index  4 j + 2 half + odd
 */
import { assert } from "../../../base/index.ts";
import { elementBytes, type Register } from "../ir.ts";
import type { Builder } from "./builder.ts";
import type { SharedTile, TileOperand } from "./tile.ts";
import { type F32Like, F32Variable, type Pred, type U32 } from "./values.ts";

/** A cell of an accumulator: which of the thread's two rows, and which column of the first lane. */
export interface Cell {
  readonly index: number;
  readonly half: 0 | 1;
  /** The column is this plus 2 (lane mod 4). */
  readonly column: number;
}

/** 64 x n float32 in the registers of a warpgroup. */
export class Accumulator {
  readonly k: Builder;
  readonly n: number;
  readonly values: readonly F32Variable[];

  constructor(k: Builder, n: number) {
    this.k = k;
    this.n = n;
    this.values = Array.from({ length: n / 2 }, () => new F32Variable(k, k.register("f32")));
  }

  /** Sets all values. */
  fill(value: F32Like): void {
    for (const each of this.values) each.set(value);
  }

  /** Calls `visit` for every cell of this thread. */
  each(visit: (value: F32Variable, cell: Cell) => void): void {
    this.values.forEach((value, index) => {
      const half = ((index >> 1) & 1) as 0 | 1;
      visit(value, { index, half, column: (index >> 2) * 8 + (index & 1) });
    });
  }

  /** As the left operand of a product, in bf16: registers of 16 columns each. */
  toFragments(): U32[][] {
    const { k, values } = this;
    return Array.from({ length: this.n / 16 }, (_, step) =>
      [0, 2, 4, 6].map((at) => k.packBf16(values[step * 8 + at], values[step * 8 + at + 1])),
    );
  }

  /** Writes the values into a tile of 64 rows, bf16 or float32, each warp its 16. */
  storeTo(tile: SharedTile): void {
    const { type, columns } = tile.shape;
    assert(columns >= this.n, `a tile of ${columns} columns for ${this.n}`);
    if (type === "f32") this.storeFloats(tile);
    else this.storeHalves(tile);
  }

  private storeHalves(tile: SharedTile): void {
    const { k, n, values } = this;
    assert(tile.shape.type === "bf16", `a tile of ${tile.shape.type}`);
    const { lane } = k;
    const pointer = tile.row(k.warp.and(3).mad(16, lane.and(15)));
    const right = lane.shr(4);
    for (let column = 0; column < n; column += 16) {
      const at = column / 2;
      const fragments = [0, 2, 4, 6].map((i) => k.packBf16(values[at + i], values[at + i + 1]));
      k.storeMatrix(pointer.chunk(column, right), fragments);
    }
  }

  private storeFloats(tile: SharedTile): void {
    const { k, n, values } = this;
    const { lane } = k;
    const chunk = lane.shr(1).and(1);
    const inside = lane.and(1).mul(8);
    for (const half of [0, 1]) {
      const pointer = tile.row(firstRow(k).add(8 * half));
      for (let column = 0; column < n; column += 8) {
        const at = column / 2 + 2 * half;
        const address = pointer.chunk(column, chunk).add(inside);
        k.store("shared", address, [values[at], values[at + 1]]);
      }
    }
  }
}

/** The rows of an accumulator that this thread holds: its first; the second is 8 further. */
export function firstRow(k: Builder): U32 {
  return k.warp.and(3).mad(16, k.lane.shr(2));
}

function register(value: F32Variable): Register {
  return value.operand as Register;
}

/**
 * Starts acc = A B (+ acc where `keep`), over all of k, as one group. A is a tile or fragments in
 * registers. Until `waitProducts` covers the group neither operands nor accumulator may be touched.
 * `commit: false` leaves the group open for the next product.
 */
export function startProduct(
  acc: Accumulator,
  a: TileOperand | readonly (readonly U32[])[],
  b: TileOperand,
  options: { keep?: boolean | Pred; commit?: boolean } = {},
): void {
  const { keep = false, commit = true } = options;
  const { k, n } = acc;
  const fragments = "steps" in a ? undefined : a;
  const steps = "steps" in a ? a.steps : a.length;
  const { type } = b.shape;
  assert(type === "bf16" || type === "e4m3", `operands of ${type}`);
  assert(steps === b.steps, `A has ${steps} steps of ${32 / elementBytes[type]} k, B ${b.steps}`);
  const columns = b.transposed ? b.shape.columns : b.shape.rows;
  assert(columns === n, `B has ${columns} columns, the accumulator ${n}`);
  k.node("WgFence", {});
  for (let step = 0; step < steps; step++) {
    const left = fragments ? fragments[step] : [(a as TileOperand).descriptor(step)];
    const first = typeof keep === "boolean" ? k.always(keep) : keep.operand;
    const attr = {
      n,
      type,
      aInRegisters: fragments !== undefined,
      aTransposed: !fragments && (a as TileOperand).transposed,
      bTransposed: b.transposed,
    } as const;
    k.node("WgMma", attr, acc.values.map(register), [
      ...left.map(({ operand }) => operand),
      b.descriptor(step).operand,
      step > 0 ? k.always(true) : first,
    ]);
  }
  if (commit) k.node("WgCommit", {});
}

/** Waits until at most `pending` groups are in flight. */
export function waitProducts(k: Builder, pending: number = 0): void {
  k.node("WgWait", { pending });
}

/** One warp's 16 x 8 product of 16 k on any NVIDIA GPU since Ampere: c += A B. */
export function multiplyWarp(
  c: readonly F32Variable[],
  a: readonly U32[],
  b: readonly U32[],
): void {
  const { k } = c[0];
  const src = [...a, ...b, ...c].map(({ operand }) => operand);
  k.node("MmaSync", { type: "bf16" }, c.map(register), src);
}
