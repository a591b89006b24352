/** @file Litmus tests of tensor cores: operand layouts, fragments in registers, how sums are kept. */
import { f32ToBf16, f32ToF8e4m3 } from "../../../tensor/index.ts";
import { stageKernel } from "../dsl/builder.ts";
import { Barriers, initBarriers } from "../dsl/pipeline.ts";
import { SharedTile, TensorMap, type TileShape } from "../dsl/tile.ts";
import { F32Variable } from "../dsl/values.ts";
import {
  Accumulator,
  firstRow,
  multiplyWarp,
  startProduct,
  waitProducts,
} from "../dsl/warpgroup.ts";
import { type Litmus, matrixView } from "./litmus.ts";

const n = 16;

/** Small integers, so that every sum is exact. */
const valueA = (row: number, k: number): number => ((row * 3 + k * 5) % 7) - 3;
const valueB = (column: number, k: number): number => ((column * 2 + k * 3) % 5) - 2;

function productBits(k: number, a: typeof valueA = valueA, b: typeof valueB = valueB): Uint32Array {
  const sums = new Float32Array(64 * n);
  for (let i = 0; i < 64; i++) {
    for (let j = 0; j < n; j++) {
      for (let x = 0; x < k; x++) sums[i * n + j] += a(i, x) * b(j, x);
    }
  }
  return new Uint32Array(sums.buffer);
}

interface Wgmma {
  readonly name: string;
  readonly prediction: string;
  readonly type: "bf16" | "e4m3";
  readonly k: number;
  /** B lies as k rows of n columns. */
  readonly transposed?: boolean;
  /** A goes through registers. */
  readonly registers?: boolean;
  readonly a?: typeof valueA;
  readonly b?: typeof valueB;
  readonly expected?: (bits: Uint32Array) => Uint32Array;
}

function wgmmaKernel(test: Wgmma) {
  const { type, k: depth, transposed = false, registers = false } = test;
  const a: TileShape = { type, rows: 64, columns: depth, swizzle: 128 };
  const b: TileShape = transposed
    ? { type, rows: depth, columns: n, swizzle: 32 }
    : { type, rows: n, columns: depth, swizzle: 128 };
  return stageKernel(test.name, { threads: 128 }, (k) => {
    const [mapA, mapB] = [TensorMap.ofTile(k, "a", a), TensorMap.ofTile(k, "b", b)];
    const out = k.paramPointer("out");
    const [tileA, tileB] = [new SharedTile(k, a), new SharedTile(k, b)];
    const full = new Barriers(k, 1, 1);
    initBarriers(k, [full]);
    k.firstThread(() => {
      const bytes = type === "e4m3" ? 1 : 2;
      full.arriveExpecting(0, (64 + n) * depth * bytes);
      mapA.load(tileA, full.at(0), [0, 0]);
      mapB.load(tileB, full.at(0), [0, 0]);
    });
    full.wait(0, 0);
    const acc = new Accumulator(k, n);
    const left = registers ? loadFragments(tileA, depth) : tileA.alongRows();
    startProduct(acc, left, transposed ? tileB.downColumns() : tileB.alongRows());
    waitProducts(k);
    const row = firstRow(k);
    acc.each((value, { half, column }) => {
      const at = row.add(8 * half).mad(n, k.lane.and(3).mul(2).add(column));
      k.store("global", out.at(at, 4), [value]);
    });
  });
}

/** Reads a bf16 tile as fragments of A with ldmatrix. */
function loadFragments(tile: SharedTile, depth: number) {
  const { k } = tile;
  const row = tile.row(k.warp.and(3).mad(16, k.lane.and(15)));
  const right = k.lane.shr(4);
  return Array.from({ length: depth / 16 }, (_, step) =>
    k.loadMatrix(row.chunk(step * 16, right), 4),
  );
}

function wgmma(test: Wgmma): Litmus {
  const { type, k, transposed = false, a = valueA, b = valueB } = test;
  return {
    name: test.name,
    prediction: test.prediction,
    kernel: wgmmaKernel(test),
    blocks: 1,
    prepare(memory) {
      const codes = (count: number, value: (i: number) => number) =>
        type === "e4m3"
          ? Uint8Array.from({ length: count }, (_, i) => f32ToF8e4m3(value(i)))
          : Uint16Array.from({ length: count }, (_, i) => f32ToBf16(value(i)));
      const bytes = type === "e4m3" ? 1 : 2;
      const left = memory.input(
        "a",
        codes(64 * k, (i) => a(Math.floor(i / k), i % k)),
      );
      const right = memory.input(
        "b",
        codes(n * k, (i) =>
          transposed ? b(i % n, Math.floor(i / n)) : b(Math.floor(i / k), i % k),
        ),
      );
      const output = memory.output("out", 64 * n * 4);
      const viewB = transposed ? matrixView(right, n, k, bytes) : matrixView(right, k, n, bytes);
      const bits = productBits(k, a, b);
      return {
        args: [matrixView(left, k, 64, bytes), viewB, output.address],
        output,
        expected: test.expected?.(bits) ?? bits,
      };
    },
  };
}

function portable(): Litmus {
  const kernel = stageKernel("mma_sync_bf16", { threads: 32 }, (k) => {
    const out = k.paramPointer("out");
    const c = Array.from({ length: 4 }, () => new F32Variable(k, k.register("f32"))).map((v) => {
      v.set(0);
      return v;
    });
    // A is lane / 4 + 8 half in every k, B is 1: each row sums to 16 times its number.
    const rows = [0, 8].map((more) => {
      const value = k.lane.shr(2).add(more).toF32();
      return k.packBf16(value, value);
    });
    const one = k.packBf16(k.f32(1), k.f32(1));
    multiplyWarp(c, [rows[0], rows[1], rows[0], rows[1]], [one, one]);
    c.forEach((value, i) => {
      k.store("global", out.at(k.lane.mad(4, i), 4), [value]);
    });
  });
  return {
    name: kernel.name,
    prediction: "mma.sync m16n8k16 holds rows lane / 4 and 8 more, two columns each",
    kernel,
    blocks: 1,
    prepare(memory) {
      const output = memory.output("out", 512);
      const sums = Float32Array.from(
        { length: 128 },
        (_, i) => 16 * ((i >> 4) + 8 * ((i >> 1) & 1)),
      );
      return { args: [output.address], output, expected: new Uint32Array(sums.buffer) };
    },
  };
}

/** All tests of tensor cores. */
export const tensorTests = (): Litmus[] => [
  wgmma({
    name: "wgmma_bf16",
    prediction: "bf16, both operands with k contiguous",
    type: "bf16",
    k: 64,
  }),
  wgmma({
    name: "wgmma_bf16_transposed",
    prediction: "bf16, B stored with k as the slow dimension, swizzle 32",
    type: "bf16",
    k: 64,
    transposed: true,
  }),
  wgmma({
    name: "wgmma_bf16_registers",
    prediction: "bf16, A in registers as ldmatrix delivers it",
    type: "bf16",
    k: 64,
    registers: true,
  }),
  wgmma({ name: "wgmma_e4m3", prediction: "e4m3, k = 128 in four steps", type: "e4m3", k: 128 }),
  wgmma({
    name: "wgmma_e4m3_small_addends",
    prediction:
      "32 k: 256 x 64 and 31 of 2^-1 x 2^-1; exact float32 gives 16391.75, 14 bits give 16384 (which one a card gives is the question)",
    type: "e4m3",
    k: 128,
    a: (_, k) => (k === 0 ? 256 : k < 32 ? 0.5 : 0),
    b: (_, k) => (k === 0 ? 64 : k < 32 ? 0.5 : 0),
  }),
  portable(),
];
