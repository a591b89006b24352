/**
 * @file The `ptx` rung's bf16 product for NVIDIA GPUs that are no Hopper (Ampere and later): slower,
 * but an answer. All four layouts, bf16 or float32 out; d = a b^T as in `ptx-bf16.ts`.
 *
 * A block of four warps computes 64 x 64; each warp 32 x 32 by `mma.sync`, 16 k at a time. Operands
 * come through registers, so that what hangs over an edge is zero, into padded rows of shared memory:
 * eight successive rows then lie in different banks. The loads of the next 32 k are under way while
 * the current ones are multiplied.
 */
import {
  type Builder,
  type F32Variable,
  type Kernel,
  multiplyWarp,
  stageKernel,
  type U32,
  type U64,
} from "../codegen/index.ts";
import type { OutputType } from "./ptx-store.ts";

/** What a portable kernel is specialised for. */
export interface PortableConfig {
  readonly aTransposed: boolean;
  readonly bTransposed: boolean;
  readonly output: OutputType;
  /** Add to d, which is float32 then. */
  readonly accumulate: boolean;
}

/** Rows and columns of a block; grid: ceil(n / 64), ceil(m / 64). */
export const portableBlock = 64;
const blockK = 32;
const threads = 128;
/** Elements behind each row of shared memory. */
const padding = 8;
/** Elements of a load: 16 bytes. */
const chunk = 8;

/**
 * Stages the kernel; parameters: pointers a, b, d, then m, n, k. Rows of all operands are whole 16
 * bytes.
 */
export function portableGemmKernel(config: PortableConfig): Kernel {
  const { aTransposed, bTransposed, output, accumulate } = config;
  const layout = `${aTransposed ? "t" : "n"}${bTransposed ? "n" : "t"}`;
  return stageKernel(`portable_gemm_${layout}`, { threads }, (k) => {
    const [a, b, d] = [k.paramPointer("a"), k.paramPointer("b"), k.paramPointer("d")];
    const [m, n, depth] = [k.paramU32("m"), k.paramU32("n"), k.paramU32("k")];
    const [row, column] = [k.blockY.mul(portableBlock), k.blockX.mul(portableBlock)];
    const left = new Operand(k, {
      pointer: a,
      first: row,
      extent: m,
      depth,
      transposed: aTransposed,
    });
    const right = new Operand(k, {
      pointer: b,
      first: column,
      extent: n,
      depth,
      transposed: bTransposed,
    });
    const [warpRow, warpColumn] = [k.warp.shr(1).mul(32), k.warp.and(1).mul(32)];
    // Two tiles of 16 rows times four of 8 columns, four values each.
    const sums = Array.from({ length: 8 }, () =>
      Array.from({ length: 4 }, () => k.floatVariable(0)),
    );

    left.fetch(k.u32(0));
    right.fetch(k.u32(0));
    k.loop(depth.ceilDiv(blockK), (block) => {
      k.syncThreads();
      left.put();
      right.put();
      k.syncThreads();
      const next = block.add(1).mul(blockK);
      left.fetch(next);
      right.fetch(next);
      for (let step = 0; step < blockK; step += 16) {
        const rows = [0, 16].map((more) => left.fragments(warpRow.add(more), step, "a"));
        const columns = [0, 16].map((more) => right.fragments(warpColumn.add(more), step, "b"));
        rows.forEach((fragment, i) => {
          for (let j = 0; j < 4; j++) {
            const pair = columns[j >> 1].slice((j & 1) * 2, (j & 1) * 2 + 2);
            multiplyWarp(sums[4 * i + j], fragment, pair);
          }
        });
      }
    });

    sums.forEach((values, tile) => {
      const place = {
        row: row
          .add(warpRow)
          .add((tile >> 2) * 16)
          .add(k.lane.shr(2)),
        column: column
          .add(warpColumn)
          .add((tile & 3) * 8)
          .add(k.lane.and(3).mul(2)),
      };
      for (const half of [0, 1]) {
        const at = place.row.add(8 * half);
        const pair = values.slice(2 * half, 2 * half + 2);
        // Columns come in pairs, and n is even.
        k.if(at.lt(m).and(place.column.lt(n)), () => {
          storePair(k, d, at.mad(n, place.column), pair, output, accumulate);
        });
      }
    });
  });
}

function storePair(
  k: Builder,
  d: U64,
  index: U32,
  pair: readonly F32Variable[],
  output: OutputType,
  accumulate: boolean,
): void {
  if (output === "bf16") {
    k.store("global", d.at(index, 2), [k.packBf16(pair[0], pair[1])]);
    return;
  }
  const address = d.at(index, 4);
  const before = accumulate ? k.load("global", address, 2) : [];
  const values = pair.map((value, i) => (accumulate ? value.add(before[i].asF32()) : value));
  k.store("global", address, values);
}

/** One operand of a block: 64 of its rows (`extent`) times 32 k, in memory either way round. */
class Operand {
  private readonly k: Builder;
  private readonly pointer: U64;
  private readonly first: U32;
  private readonly extent: U32;
  private readonly depth: U32;
  private readonly transposed: boolean;
  private readonly shared: U32;
  /** Elements from one row of shared memory to the next. */
  private readonly pitch: number;
  /** What is on its way: two loads of a thread, four words each. */
  private readonly held: readonly (readonly ReturnType<Builder["variable"]>[])[];

  constructor(
    k: Builder,
    options: { pointer: U64; first: U32; extent: U32; depth: U32; transposed: boolean },
  ) {
    this.k = k;
    this.pointer = options.pointer;
    this.first = options.first;
    this.extent = options.extent;
    this.depth = options.depth;
    this.transposed = options.transposed;
    const width = this.transposed ? portableBlock : blockK;
    this.pitch = width + padding;
    this.shared = k.shared((this.transposed ? blockK : portableBlock) * this.pitch * 2, 16);
    this.held = [0, 1].map(() => Array.from({ length: 4 }, () => k.variable(0)));
  }

  /** Row and column, in memory's order, of this thread's load number `i`. */
  private place(i: number): { slow: U32; fast: U32 } {
    const perRow = (this.transposed ? portableBlock : blockK) / chunk;
    const index = this.k.threadId.add(i * threads);
    return { slow: index.div(perRow), fast: index.rem(perRow).mul(chunk) };
  }

  /** Starts to load the part that begins at `start` of k. */
  fetch(start: U32): void {
    const { k, pointer, first, extent, depth, transposed } = this;
    this.held.forEach((words, i) => {
      const { slow, fast } = this.place(i);
      const [row, at] = transposed ? [fast, slow] : [slow, fast];
      const [across, along] = [first.add(row), start.add(at)];
      const index = transposed ? along.mad(extent, across) : across.mad(depth, along);
      for (const word of words) word.set(0);
      k.if(across.lt(extent).and(along.lt(depth)), () => {
        const loaded = k.load("global", pointer.at(index, 2), 4, { readOnly: true });
        words.forEach((word, j) => {
          word.set(loaded[j]);
        });
      });
    });
  }

  /** Writes what was loaded to shared memory. */
  put(): void {
    this.held.forEach((words, i) => {
      const { slow, fast } = this.place(i);
      const address = slow.mad(this.pitch * 2, this.shared.add(fast.mul(2)));
      this.k.store("shared", address, words);
    });
  }

  /**
   * 16 rows times 16 k as `mma.sync` takes them: of A four registers, of B two for each 8 rows. Four
   * matrices of 8 x 8; lanes 8 i to 8 i + 7 give the rows of matrix i.
   */
  fragments(row: U32, step: number, role: "a" | "b"): U32[] {
    const { k, transposed, pitch, shared } = this;
    const [matrix, line] = [k.lane.shr(3), k.lane.and(7)];
    // A goes down its rows first, B along k first.
    const [down, along] =
      role === "a" ? [matrix.and(1), matrix.shr(1)] : [matrix.shr(1), matrix.and(1)];
    const [slow, fast] = transposed
      ? [along.mad(8, line).add(step), row.add(down.mul(8))]
      : [row.add(down.mul(8)).add(line), along.mul(8).add(step)];
    const address = slow.mad(pitch * 2, shared.add(fast.mul(2)));
    return k.loadMatrix(address, 4, transposed);
  }
}
