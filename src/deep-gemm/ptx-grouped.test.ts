import assert from "node:assert/strict";
import { test } from "node:test";
import { alignUp, ceilDiv, Random } from "../base/index.ts";
import { assembleKernel, GlobalMemory, testSchedules, whyNoPtxas } from "../codegen/index.ts";
import { kernelRunner } from "../device/index.ts";
import {
  bf16ToF32,
  dequantise,
  fromF32,
  quantiseBlocks,
  type Tensor,
  tensorOf,
  toF32,
} from "../tensor/index.ts";
import { type Bf16Config, bf16Arguments, bf16GemmKernel } from "./ptx-bf16.ts";
import { fp8Arguments, fp8GemmKernel } from "./ptx-fp8.ts";
import type { Grouping, TileGrid } from "./ptx-tiles.ts";
import { getMnMajorTmaAlignedTensor } from "./scale-layouts.ts";
import { randomMatrix } from "./testing.ts";

const seed = Number(process.env.SEED ?? 20261124);
const runner = kernelRunner();
const poison = 0xffff;

/** Experts' rows: some, none, more than a block, exactly one. */
const rowsOfGroups = [40, 0, 70, 64];
const groups = rowsOfGroups.length;
const blockM = 64;
const [n, k] = [40, 272];

/** Rows in memory: for each its group, or -1. */
function rowsOf(grouping: Grouping): number[] {
  const rows: number[] = [];
  rowsOfGroups.forEach((count, group) => {
    // Contiguous groups are padded to whole blocks, and one more block is all padding.
    const room = grouping === "masked" ? 80 : alignUp(count, blockM) + (group === 0 ? blockM : 0);
    for (let i = 0; i < room; i++) rows.push(i < count ? group : -1);
  });
  return rows;
}

/** d[i, j] = a[i] . b[group of i, j], in float64. */
function productOf(
  rows: readonly number[],
  a: Tensor<"f32">,
  b: readonly Tensor<"f32">[],
): Float64Array {
  const values = new Float64Array(rows.length * n);
  rows.forEach((group, i) => {
    if (group < 0) return;
    for (let j = 0; j < n; j++) {
      for (let x = 0; x < k; x++) values[i * n + j] += a.data[i * k + x] * b[group].data[j * k + x];
    }
  });
  return values;
}

function check(
  rows: readonly number[],
  got: Uint16Array,
  wanted: Float64Array,
  where: string,
): void {
  let [both, squares] = [0, 0];
  rows.forEach((group, i) => {
    if (group < 0) return;
    for (let at = i * n; at < i * n + n; at++) {
      assert.notEqual(got[at], poison, `row ${i} is not written; ${where}`);
      const value = bf16ToF32(got[at]);
      both += 2 * value * wanted[at];
      squares += value ** 2 + wanted[at] ** 2;
    }
  });
  const off = 1 - both / squares;
  assert.ok(off < (runner.onGpu ? 1e-3 : 1e-5), `difference ${off}; ${where}`);
}

function concatenated(parts: readonly Uint8Array[] | readonly Float32Array[]): Uint8Array {
  return new Uint8Array(
    Buffer.concat(parts.map((x) => Buffer.from(x.buffer, x.byteOffset, x.byteLength))),
  );
}

/** Runs an FP8 kernel over random groups. */
function runFp8(grid: TileGrid): void {
  const { grouping } = grid;
  const kernel = fp8GemmKernel({ ...grid, blockM, stages: 3 });
  const random = new Random(seed);
  const rows = rowsOf(grouping);
  const matrices = grouping === "masked" ? groups : 1;
  const m = rows.length / matrices;
  const left = quantiseBlocks(randomMatrix(random, rows.length, k), { blockRows: 1 });
  const right = rowsOfGroups.map(() => quantiseBlocks(randomMatrix(random, n, k)));
  const blocks = ceilDiv(k, 128);
  const scales = tensorOf("f32", [matrices, m, blocks], left.scales.data);
  const dense = dequantise(left.codes, left.scales, { blockRows: 1 });
  const wanted = productOf(
    rows,
    dense,
    right.map(({ codes, scales }) => dequantise(codes, scales)),
  );
  for (const schedule of testSchedules(1, seed)) {
    const memory = new GlobalMemory();
    const d = memory.output("d", rows.length * n * 2);
    const layout = grouping === "masked" ? rowsOfGroups : rows;
    const at = {
      a: memory.input("a", left.codes.data).address,
      b: memory.input("b", concatenated(right.map(({ codes }) => codes.data))).address,
      scaleA: memory.input("scaleA", getMnMajorTmaAlignedTensor(scales).data).address,
      scaleB: memory.input("scaleB", concatenated(right.map(({ scales }) => scales.data))).address,
      d: d.address,
      layout: memory.input("layout", Int32Array.from(layout)).address,
    };
    const args = fp8Arguments(at, { m, n, k, groups }, grouping);
    runner.run(kernel, { grid: [2, 1, 1], memory, args, schedule, stepsMax: 1e6 });
    check(rows, d.u16, wanted, `seed ${seed}, ${JSON.stringify(schedule)}`);
    if (grouping === "contiguous") {
      const skipped = d.u16.subarray(blockM * n, 2 * blockM * n);
      assert.ok(
        skipped.every((code) => code === poison),
        "a block of padding was written",
      );
    }
  }
}

/** The same in bf16. */
function runBf16(grid: TileGrid): void {
  const { grouping } = grid;
  const config = {
    aTransposed: false,
    bTransposed: true,
    output: "bf16",
    accumulate: false,
  } as const;
  const kernel = bf16GemmKernel({ ...grid, ...config, blockM, stages: 3 });
  const random = new Random(seed + 1);
  const rows = rowsOf(grouping);
  const matrices = grouping === "masked" ? groups : 1;
  const a = fromF32(randomMatrix(random, rows.length, k), "bf16");
  const b = fromF32(randomMatrix(random, groups * k, n), "bf16");
  const values = toF32(b);
  const turned = rowsOfGroups.map((_, group) => {
    const data = Float32Array.from({ length: n * k }, (_, i) => {
      return values.data[(group * k + (i % k)) * n + Math.floor(i / k)];
    });
    return tensorOf("f32", [n, k], data);
  });
  const wanted = productOf(rows, toF32(a), turned);
  for (const schedule of testSchedules(0, seed)) {
    const memory = new GlobalMemory();
    const d = memory.output("d", rows.length * n * 2);
    const layout = grouping === "masked" ? rowsOfGroups : rows;
    const at = {
      a: memory.input("a", a.data).address,
      b: memory.input("b", b.data).address,
      d: d.address,
      layout: memory.input("layout", Int32Array.from(layout)).address,
    };
    const sizes = { m: rows.length / matrices, n, k, groups };
    const args = bf16Arguments(at, sizes, { ...config, grouping });
    runner.run(kernel, { grid: [2, 1, 1], memory, args, schedule, stepsMax: 1e6 });
    check(rows, d.u16, wanted, `seed ${seed}, ${JSON.stringify(schedule)}`);
  }
}

for (const grouping of ["contiguous", "masked"] as const) {
  for (const multicast of ["none", "a"] as const) {
    const grid = { blockM, blockN: 32, rasterGroup: 8, multicast, grouping };
    test(`FP8, rows grouped ${grouping}, multicast ${multicast}, equals float64`, () =>
      runFp8(grid));
    test(`bf16, rows grouped ${grouping}, multicast ${multicast}, equals float64`, () =>
      runBf16(grid));
  }
}

test("bf16, groups by k, adds weight gradients of every group", () => {
  const ks = [128, 0, 64, 192];
  const [m, width, total] = [72, 40, 384];
  for (const multicast of ["none", "a"] as const) {
    const config: Bf16Config = {
      blockM: 64,
      blockN: 32,
      stages: 2,
      rasterGroup: 8,
      multicast,
      grouping: "byK",
      aTransposed: true,
      bTransposed: true,
      output: "f32",
      accumulate: true,
    };
    const kernel = bf16GemmKernel(config);
    const random = new Random(seed + 2);
    const a = fromF32(randomMatrix(random, total, m), "bf16");
    const b = fromF32(randomMatrix(random, total, width), "bf16");
    const [x, y] = [toF32(a).data, toF32(b).data];
    const wanted = new Float64Array(ks.length * m * width).fill(1);
    let start = 0;
    ks.forEach((count, group) => {
      for (let at = start; at < start + count; at++) {
        for (let i = 0; i < m; i++) {
          for (let j = 0; j < width; j++) {
            wanted[(group * m + i) * width + j] += x[at * m + i] * y[at * width + j];
          }
        }
      }
      start += count;
    });
    for (const schedule of testSchedules(0, seed)) {
      const memory = new GlobalMemory();
      const d = memory.inout("d", new Float32Array(wanted.length).fill(1));
      const at = {
        a: memory.input("a", a.data).address,
        b: memory.input("b", b.data).address,
        d: d.address,
        layout: memory.input("layout", Int32Array.from(ks)).address,
      };
      const sizes = { m, n: width, k: total, groups: ks.length };
      runner.run(kernel, {
        grid: [2, 1, 1],
        memory,
        args: bf16Arguments(at, sizes, config),
        schedule,
      });
      wanted.forEach((value, i) => {
        const off = Math.abs(d.f32[i] - value);
        assert.ok(off < 1e-4 * (1 + Math.abs(value)), `d[${i}] = ${d.f32[i]}, wanted ${value}`);
      });
    }
  }
});

test("ptxas takes grouped kernels: no spills, no warnings", { skip: whyNoPtxas() }, () => {
  for (const grouping of ["contiguous", "masked"] as const) {
    const shape = { blockM: 128, blockN: 128, stages: 4, rasterGroup: 8, multicast: "a" } as const;
    const layout = {
      aTransposed: false,
      bTransposed: false,
      output: "bf16",
      accumulate: false,
    } as const;
    const fp8 = fp8GemmKernel({ ...shape, grouping });
    for (const kernel of [fp8, bf16GemmKernel({ ...shape, ...layout, grouping })]) {
      const { spillBytes, warnings } = assembleKernel(kernel);
      assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] }, kernel.name);
    }
  }
});
