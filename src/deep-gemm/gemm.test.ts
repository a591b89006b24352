import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import { f8e4m3ToF32, rowsOf, type Tensor, zeros } from "../tensor/index.ts";
import { benchGemm } from "./deep-gemm.bench.ts";
import { type Activations, gemm, packWeights, prepareGemm } from "./index.ts";
import {
  bf16One,
  calcDiff,
  combinations,
  everyCode,
  largestError,
  openAll,
  type Product,
  poisoned,
  productOf,
  randomActivations,
  randomWeights,
} from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const devices = openAll(console.log);
console.log(`seed ${seed}; ${devices.map(({ description }) => description).join("; ")}`);
after(() => {
  for (const device of devices) device.close();
});

/**
 * Operands are exact (FP8 values rounded once, for the oracle), so what is left is the rounding of
 * float32 sums. As a share of the sum of magnitudes, the largest seen is 2e-7.
 */
const errorMax = 5e-7;
/** Rows of the tallest product: more than one task, and a last tile that is not full. */
const rowsMax = 136;
/** As calcDiff, in which cancellation to a small result counts. */
const differenceMax = 1e-5;

/** Row `i` of `d` as its bits. */
function bitsOfRow(d: Tensor<"f32">, i: number): string {
  const row = d.data.slice(i * d.stride, i * d.stride + d.shape[1]);
  return Buffer.from(row.buffer, row.byteOffset, row.byteLength).toString("latin1");
}

function firstRows(a: Activations, m: number): Activations {
  const values = rowsOf(a.values as Tensor, 0, m);
  const scales = a.type === "f8e4m3" ? { scales: rowsOf(a.scales, 0, m) } : {};
  return { ...a, values, ...scales } as Activations;
}

for (const { activation, weights } of combinations) {
  test(`${activation} x ${weights} equals the float64 product for every edge shape`, () => {
    const random = new Random(seed);
    const [reference] = devices;
    for (const n of [1, 63, 64, 65, 192, 200]) {
      for (const k of [1, 2, 64, 127, 128, 129, 385]) {
        const a = randomActivations(reference, random, activation, rowsMax, k);
        const b = randomWeights(random, weights, n, k);
        const wanted = productOf(a.values, b.values);
        for (const device of devices) {
          const packed = packWeights(device, [b.operand], activation);
          for (const m of [0, 1, 2, 5, 6, 7, 13, 40, rowsMax]) {
            if (device === reference && m > 7) continue;
            const d = poisoned(device, m + 1, n, n + 5);
            gemm(device, [{ a: firstRows(a.operand, m), m, b: packed, d }]);
            const name = `${device.description}: ${m} x ${n} x ${k}`;
            const error = largestError(d, m, wanted);
            assert.ok(error < errorMax, `${name}: ${error}`);
            // Over few outputs, all of them may cancel to next to nothing.
            const difference = m * n < 64 ? 0 : differenceOf(d, m, wanted);
            assert.ok(difference < differenceMax, `${name}: ${difference}`);
            const touched = d.data.reduce((count, x) => count + (Number.isNaN(x) ? 0 : 1), 0);
            assert.equal(touched, m * n, `${name}: elements written`);
          }
        }
      }
    }
  });
}

for (const device of devices) {
  for (const { activation, weights } of combinations) {
    const name = `${device.isa ?? "reference"}: ${activation} x ${weights}`;
    test(`${name} gives a row the same bits alone, in any batch, and in groups`, () => {
      const random = new Random(seed + 1);
      const [rows, n, k] = device.isa === undefined ? [8, 70, 261] : [130, 328, 645];
      const a = randomActivations(device, random, activation, rows, k).operand;
      const [b, other] = [0, 1].map(() =>
        packWeights(device, [randomWeights(random, weights, n, k).operand], activation),
      );
      const alone: string[] = [];
      for (let i = 0; i < rows; i++) {
        const d = poisoned(device, 1, n, n);
        const row = { ...a, values: rowsOf(a.values as Tensor, i, i + 1) } as Activations;
        const scales = a.type === "f8e4m3" ? { scales: rowsOf(a.scales, i, i + 1) } : {};
        gemm(device, [{ a: { ...row, ...scales } as Activations, m: 1, b, d }]);
        alone.push(bitsOfRow(d, 0));
      }
      for (let m = 2; m <= Math.min(rows, 40); m++) checkRows(m, [{ b }]);
      checkRows(rows, [{ b }]);
      checkRows(rows, [{ b: other }, { b }, { b: other }]);
      checkRows(5, [{ b: other }, { b: other }, { b }]);

      function checkRows(m: number, weightsOfGroups: { b: typeof b }[]): void {
        const groups = weightsOfGroups.map((group, i) => {
          const count = group.b === b ? m : Math.min(rows, 3 * i + 1);
          const d = poisoned(device, count, n, n + i);
          return { a: firstRows(a, count), m: count, d, ...group };
        });
        gemm(device, groups);
        const { d } = groups.find((group) => group.b === b)!;
        for (let i = 0; i < m; i++) {
          assert.equal(bitsOfRow(d, i), alone[i], `row ${i} of ${m}`);
        }
      }
    });
  }

  test(`${device.isa ?? "reference"}: accumulating adds to D, parts start at panels`, () => {
    const random = new Random(seed + 2);
    const [m, k] = [3, 70];
    const a = randomActivations(device, random, "f32", m, k);
    const parts = [70, 1, 128].map((n) => randomWeights(random, "f32", n, k));
    const matrices = parts.map(({ operand }) => operand);
    const b = packWeights(device, matrices, "f32");
    assert.deepEqual([b.parts, b.columns, b.width], [[70, 1, 128], [0, 128, 192], 320]);
    const d = poisoned(device, m, b.width, b.width);
    for (let i = 0; i < m; i++) d.data.fill(1, i * d.stride, i * d.stride + b.width);
    const before = d.data.slice();
    gemm(device, [{ a: a.operand, m, b, d, accumulate: true }]);
    parts.forEach(({ values }, part) => {
      const wanted = productOf(a.values, values);
      for (let i = 0; i < m; i++) {
        for (let j = 0; j < values.shape[0]; j++) {
          const place = i * d.stride + b.columns[part] + j;
          const error = Math.abs(d.data[place] - 1 - wanted.values[i * values.shape[0] + j]);
          assert.ok(error < 1e-4, `part ${part}, ${i}, ${j}: ${error}`);
          before[place] = d.data[place];
        }
      }
    });
    assert.deepEqual(d.data, before, "columns between parts are kept");
  });

  test(`${device.isa ?? "reference"}: every e4m3 code is decoded exactly, NaN to NaN`, () => {
    const { codes, scales } = everyCode();
    const n = codes.shape[0];
    const ones = zeros("bf16", [7, 1], (bytes) => device.allocate(bytes));
    ones.data.fill(bf16One);
    const aScales = zeros("f32", [7, 1], (bytes) => device.allocate(bytes));
    aScales.data.fill(1);
    const b = packWeights(device, [{ weight: codes, scales }], "f8e4m3");
    for (const m of [1, 7]) {
      const d = poisoned(device, m, n, n);
      gemm(device, [{ a: { type: "f8e4m3", values: ones, scales: aScales }, m, b, d }]);
      for (let i = 0; i < m * n; i++) assert.equal(d.data[i], f8e4m3ToF32(codes.data[i % n]) + 0);
    }
    codes.data.fill(0x7f, 3, 4).fill(0xff, 100, 101);
    const withNan = packWeights(device, [{ weight: codes, scales }], "f8e4m3");
    const d = zeros("f32", [1, n], (bytes) => device.allocate(bytes));
    gemm(device, [{ a: { type: "f8e4m3", values: ones, scales: aScales }, m: 1, b: withNan, d }]);
    d.data.forEach((x, j) => {
      assert.equal(Number.isNaN(x), j === 3 || j === 100, `column ${j}`);
    });
  });
}

for (const device of devices) {
  test(`${device.isa ?? "reference"}: a prepared product gives what the operands hold now`, () => {
    const random = new Random(seed + 3);
    const [m, n, k] = [9, 130, 140];
    const a = randomActivations(device, random, "f32", m, k);
    const b = randomWeights(random, "f32", n, k);
    const packed = packWeights(device, [b.operand], "f32");
    const [d, wanted] = [poisoned(device, m, n, n), poisoned(device, m, n, n)];
    const prepared = prepareGemm(device, [{ a: a.operand, m, b: packed, d }]);
    for (let round = 0; round < 2; round++) {
      prepared.run();
      gemm(device, [{ a: a.operand, m, b: packed, d: wanted }]);
      assert.deepEqual(d.data, wanted.data);
      a.operand.values.data.fill(3);
    }
    assert.throws(
      () => prepareGemm(device, [{ a: a.operand, m: m + 1, b: packed, d }]),
      /a\.values/,
    );
    prepareGemm(device, []).run();
  });
}

test("the benchmark runs", () => {
  const lines: string[] = [];
  benchGemm(false, (line) => lines.push(line));
  assert.ok(lines.length >= 1, "lines printed");
});

/** calcDiff of the first `m` rows. */
function differenceOf(d: Tensor<"f32">, m: number, wanted: Product): number {
  const n = d.shape[1];
  const got = Array.from(
    { length: m * n },
    (_, i) => d.data[Math.floor(i / n) * d.stride + (i % n)],
  );
  return Math.abs(calcDiff(got, wanted.values.subarray(0, m * n)));
}
