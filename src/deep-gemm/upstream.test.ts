import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import { openDevice } from "../device/index.ts";
import {
  type BlockScaled,
  dequantise,
  fromF32,
  quantiseBlocks,
  type Tensor,
  tensorOf,
  toF32,
  zeros,
} from "../tensor/index.ts";
import * as deepGemm from "./index.ts";
import { largestError, poisoned, productOf, randomMatrix } from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const random = new Random(seed);
const devices = [openDevice({ rung: "reference" }), openDevice({ threads: 2 })];
console.log(`seed ${seed}; ${devices.map(({ description }) => description).join("; ")}`);
after(() => {
  for (const device of devices) device.close();
});

const [groups, m, n, k] = [3, 9, 200, 300];
const errorMax = 5e-7;

/** `[groups, rows, columns]` from the matrices of all groups. */
function stack<D extends "f32" | "bf16" | "f8e4m3">(matrices: readonly Tensor<D>[]): Tensor<D> {
  const [rows, columns] = matrices[0].shape;
  const all = zeros<D>(matrices[0].dtype, [matrices.length, rows, columns]);
  matrices.forEach(({ data }, i) => {
    all.data.set(data, i * rows * columns);
  });
  return all;
}

function stackScaled(matrices: readonly BlockScaled[]): BlockScaled {
  return {
    codes: stack(matrices.map(({ codes }) => codes)),
    scales: stack(matrices.map(({ scales }) => scales)),
  };
}

const a = Array.from({ length: groups }, () => randomMatrix(random, m, k));
const b = Array.from({ length: groups }, () => randomMatrix(random, n, k));
const aBf16 = a.map((matrix) => fromF32(matrix, "bf16"));
const bBf16 = b.map((matrix) => fromF32(matrix, "bf16"));
const aFp8 = a.map((matrix) => quantiseBlocks(matrix, { blockRows: 1 }));
const bFp8 = b.map((matrix) => quantiseBlocks(matrix));
const product = {
  f32: a.map((x, g) => productOf(x, b[g])),
  bf16: aBf16.map((x, g) => productOf(toF32(x), toF32(bBf16[g]))),
  fp8: aFp8.map((x, g) =>
    productOf(
      dequantise(x.codes, x.scales, { blockRows: 1 }),
      dequantise(bFp8[g].codes, bFp8[g].scales),
    ),
  ),
};

for (const device of devices) {
  const rung = device.rung;
  const allocate = (bytes: number) => device.allocate(bytes);
  const output = () => poisoned(device, m, n, n);

  test(`${rung}: the dense functions multiply raw and packed weights, and add C`, () => {
    const d = output();
    deepGemm.f32GemmNt(device, a[0], b[0], d);
    assert.ok(largestError(d, m, product.f32[0]) < errorMax);
    deepGemm.bf16GemmNt(device, aBf16[0], bBf16[0], d);
    assert.ok(largestError(d, m, product.bf16[0]) < errorMax);
    deepGemm.fp8GemmNt(device, aFp8[0], bFp8[0], d);
    assert.ok(largestError(d, m, product.fp8[0]) < errorMax);
    const packed = deepGemm.packWeights(device, [{ weight: bBf16[0] }], "bf16");
    const again = output();
    deepGemm.bf16GemmNt(device, aBf16[0], packed, again, d);
    deepGemm.bf16GemmNt(device, aBf16[0], packed, d, d);
    assert.deepEqual(again.data, d.data, "C apart from D, and C that is D");
    for (let i = 0; i < m * n; i++) {
      const wanted = product.fp8[0].values[i] + product.bf16[0].values[i];
      assert.ok(Math.abs(d.data[i] - wanted) < 1e-3);
    }
  });

  test(`${rung}: contiguous groups follow mIndices, and -1 leaves D as it is`, () => {
    const indices = Int32Array.of(1, 1, -1, 0, 2, 2, 2, -1, 1);
    const mIndices = tensorOf("i32", [m], indices);
    const check = (d: Tensor<"f32">, products: typeof product.f32) => {
      indices.forEach((group, i) => {
        for (let j = 0; j < n; j++) {
          const got = d.data[i * d.stride + j];
          if (group < 0) assert.ok(Number.isNaN(got), `row ${i} is padding`);
          else {
            const { values, magnitudes } = products[group];
            // Row i is row i of group 0's A.
            const error = Math.abs(got - values[i * n + j]) / magnitudes[i * n + j];
            assert.ok(error < errorMax, `row ${i}, column ${j}: ${error}`);
          }
        }
      });
    };
    const same = {
      f32: b.map((x) => productOf(a[0], x)),
      bf16: bBf16.map((x) => productOf(toF32(aBf16[0]), toF32(x))),
      fp8: bFp8.map((x) => {
        const { codes, scales } = aFp8[0];
        const left = dequantise(codes, scales, { blockRows: 1 });
        return productOf(left, dequantise(x.codes, x.scales));
      }),
    };
    const outputs = [output(), output(), output()];
    deepGemm.mGroupedF32GemmNtContiguous(device, a[0], stack(b), outputs[0], mIndices);
    deepGemm.mGroupedBf16GemmNtContiguous(device, aBf16[0], stack(bBf16), outputs[1], mIndices);
    deepGemm.mGroupedFp8GemmNtContiguous(device, aFp8[0], stackScaled(bFp8), outputs[2], mIndices);
    check(outputs[0], same.f32);
    check(outputs[1], same.bf16);
    check(outputs[2], same.fp8);
    const packed = bFp8.map(({ codes, scales }) =>
      deepGemm.packWeights(device, [{ weight: codes, scales }], "f8e4m3"),
    );
    const again = output();
    deepGemm.mGroupedFp8GemmNtContiguous(device, aFp8[0], packed, again, mIndices);
    assert.deepEqual(again.data, outputs[2].data);
  });

  test(`${rung}: masked groups compute their first rows and leave the others`, () => {
    const counts = Int32Array.of(4, 0, m);
    const maskedM = tensorOf("i32", [groups], counts);
    const check = (d: Tensor<"f32">, products: typeof product.f32) => {
      counts.forEach((count, group) => {
        const rows = d.data.subarray(group * m * n, (group + 1) * m * n);
        const matrix = tensorOf("f32", [m, n], rows);
        assert.ok(largestError(matrix, count, products[group]) < errorMax, `group ${group}`);
        assert.ok(rows.subarray(count * n).every(Number.isNaN), `rest of group ${group}`);
      });
    };
    const outputs = [0, 1, 2].map(() => {
      const d = zeros("f32", [groups, m, n], allocate);
      d.data.fill(Number.NaN);
      return d;
    });
    deepGemm.mGroupedF32GemmNtMasked(device, stack(a), stack(b), outputs[0], maskedM);
    deepGemm.mGroupedBf16GemmNtMasked(device, stack(aBf16), stack(bBf16), outputs[1], maskedM, 4);
    const [left, right] = [stackScaled(aFp8), stackScaled(bFp8)];
    deepGemm.mGroupedFp8GemmNtMasked(device, left, right, outputs[2], maskedM, 4);
    check(outputs[0], product.f32);
    check(outputs[1], product.bf16);
    check(outputs[2], product.fp8);
  });
}

test("operands that do not fit are refused, with the operand, what it is and should be", () => {
  const device = devices[1];
  const wide = zeros("f32", [m, k + 1]);
  const d = output1();
  const packed = deepGemm.packWeights(device, [{ weight: b[0] }], "f32");
  const values = a[0];
  const call = (change: object) =>
    deepGemm.gemm(device, [{ a: { type: "f32", values }, m, b: packed, d, ...change }]);
  const short = { ...d, data: d.data.subarray(0, m * n - 1) };
  call({});
  const wrong: [() => void, RegExp][] = [
    [() => call({ m: m + 1 }), /groups\[0\]\.a\.values: got \[9,300\], wanted \[10 or more, 300\]/],
    [() => call({ m: -1 }), /groups\[0\]\.m: got -1, wanted a count/],
    [() => call({ m: 1.5 }), /groups\[0\]\.m: got 1.5/],
    [() => call({ a: { type: "f32", values: wide } }), /a\.values: got \[9,301\]/],
    [
      () => call({ a: { type: "f32", values: aBf16[0] } }),
      /a\.values\.dtype: got bf16, wanted f32/,
    ],
    [() => call({ a: { type: "bf16", values: aBf16[0] } }), /a\.type: got bf16, wanted f32/],
    [() => call({ d: short }), /d: got 1799 elements in rows of 200, wanted 1800/],
    [() => call({ d: { ...d, stride: n - 1 } }), /d: got 1800 elements in rows of 199/],
    [() => call({ d: { ...d, stride: Number.NaN } }), /rows of NaN/],
    [() => call({ d: { ...d, shape: [m, n - 1] } }), /d: got \[9,199\], wanted \[9 or more, 200/],
    [() => call({ b: { ...packed } }), /groups\[0\]\.b: got other than packWeights returns/],
    [() => pack([], "f32"), /matrices: got none/],
    [
      () => pack([{ weight: b[0] }], "bf16"),
      /weights under bf16 activations: got f32, wanted bf16/,
    ],
    [() => pack([{ weight: b[0] }, { weight: wide }], "f32"), /k of matrices\[1\]: got 301/],
    [() => pack([{ weight: bFp8[0].codes }], "f32"), /scales of matrices\[0\]: got undefined/],
    [
      () => pack([{ weight: bFp8[0].codes, scales: zeros("f32", [2, 2]) }], "f32"),
      /scales of matrices\[0\]: got f32 \[2,2\], wanted f32 \[2,3\]/,
    ],
    [
      () => deepGemm.f32GemmNt(device, values, packed, zeros("f32", [m, n + 64])),
      /d: got f32 \[9,264\], wanted f32 \[9,200\]/,
    ],
    [
      () =>
        deepGemm.mGroupedF32GemmNtContiguous(
          device,
          values,
          [packed],
          d,
          tensorOf("i32", [m], new Int32Array(m).fill(1)),
        ),
      /groupedLayout\[0\]: got 1, wanted -1\.\.0/,
    ],
  ];
  for (const [attempt, message] of wrong) assert.throws(attempt, message);

  function output1(): Tensor<"f32"> {
    return zeros("f32", [m, n]);
  }
  function pack(matrices: object[], activation: "f32" | "bf16"): void {
    deepGemm.packWeights(device, matrices as deepGemm.WeightMatrix[], activation);
  }
});
