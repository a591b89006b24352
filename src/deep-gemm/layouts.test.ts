import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import {
  dequantise,
  fromF32,
  quantiseBlocks,
  type Tensor,
  tensorOf,
  toF32,
  zeros,
} from "../tensor/index.ts";
import { transpose, widen } from "./convert.ts";
import * as deepGemm from "./index.ts";
import {
  largestError,
  openAll,
  poisoned,
  productOf,
  randomMatrix,
  strided,
  transposed,
} from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const devices = openAll(console.log);
console.log(`seed ${seed}`);
after(() => {
  for (const device of devices) device.close();
});
const errorMax = 5e-7;

for (const device of devices) {
  const name = device.isa ?? "reference";
  const random = new Random(seed);

  test(`${name}: transposing and widening keep every element, for every edge shape`, () => {
    for (const rows of [1, 7, 8, 9, 64, 65, 130]) {
      for (const columns of [1, 7, 8, 16, 17, 72, 127]) {
        const words = zeros("bf16", [rows, columns]);
        const codes = zeros("f8e4m3", [rows, columns]);
        for (let i = 0; i < words.data.length; i++) {
          words.data[i] = random.below(2 ** 16);
          codes.data[i] = random.below(256);
        }
        const apart = strided(device, words, columns + 5);
        assert.deepEqual(transpose(device, apart).data, transposed(words).data);
        assert.deepEqual(transpose(device, codes).data, transposed(codes).data);
        assert.deepEqual([...toF32(widen(device, codes)).data], [...toF32(codes).data]);
      }
    }
  });

  test(`${name}: bf16 products take either operand transposed`, () => {
    for (const [m, n, k] of [
      [1, 1, 1],
      [5, 63, 129],
      [9, 200, 70],
      [64, 128, 256],
    ]) {
      const a = fromF32(randomMatrix(random, m, k), "bf16");
      const b = fromF32(randomMatrix(random, n, k), "bf16");
      const wanted = productOf(toF32(a), toF32(b));
      const [aT, bT] = [transposed(a), transposed(b)];
      const run = (product: typeof deepGemm.bf16GemmNt, x: Tensor<"bf16">, y: Tensor<"bf16">) => {
        const d = poisoned(device, m, n, n + 3);
        product(device, strided(device, x, x.shape[1] + 2), strided(device, y, y.shape[1] + 1), d);
        assert.ok(largestError(d, m, wanted) < errorMax, `${product.name} ${m} x ${n} x ${k}`);
        return d.data;
      };
      const nt = run(deepGemm.bf16GemmNt, a, b);
      assert.deepEqual(run(deepGemm.bf16GemmNn, a, bT), nt);
      assert.deepEqual(run(deepGemm.bf16GemmTn, aT, bT), nt);
      assert.deepEqual(run(deepGemm.bf16GemmTt, aT, b), nt);
    }
  });

  test(`${name}: FP8 weights with a scale for each column and 128 of k`, () => {
    for (const [m, n, k] of [
      [1, 3, 5],
      [7, 130, 128],
      [14, 200, 300],
    ]) {
      const a = quantiseBlocks(randomMatrix(random, m, k), { blockRows: 1 });
      const b = quantiseBlocks(randomMatrix(random, n, k), { blockRows: 1 });
      const left = dequantise(a.codes, a.scales, { blockRows: 1 });
      const right = dequantise(b.codes, b.scales, { blockRows: 1 });
      const d = poisoned(device, m, n, n);
      deepGemm.fp8GemmNt(device, a, b, d);
      assert.ok(largestError(d, m, productOf(left, right)) < errorMax, `${m} x ${n} x ${k}`);
      const matrix = { weight: b.codes, scales: b.scales };
      const packed = deepGemm.packWeights(device, [matrix], "f32");
      const again = poisoned(device, m, n, n);
      deepGemm.f32GemmNt(device, left, packed, again);
      assert.ok(largestError(again, m, productOf(left, right)) < errorMax, "f32 activations");
      // A part with scales of blocks beside one with scales of columns.
      const blocks = quantiseBlocks(randomMatrix(random, n, k));
      const parts = [matrix, { weight: blocks.codes, scales: blocks.scales }];
      const both = deepGemm.packWeights(device, parts, "f32");
      const wide = poisoned(device, m, both.width, both.width);
      deepGemm.gemm(device, [{ a: { type: "f32", values: left }, m, b: both, d: wide }]);
      const second = { ...wide, shape: [m, n], data: wide.data.subarray(both.columns[1]) };
      const wanted = productOf(left, dequantise(blocks.codes, blocks.scales));
      assert.ok(largestError(second, m, wanted) < errorMax, "scales of blocks among columns");
    }
  });

  test(`${name}: contiguous groups by prefix sums, padding kept or cleared`, () => {
    const before = deepGemm.getMkAlignmentForContiguousLayout();
    assert.equal(before, 128);
    deepGemm.setMkAlignmentForContiguousLayout(4);
    try {
      const [m, n, k] = [15, 70, 140];
      const b = [0, 1, 2].map(() => fromF32(randomMatrix(random, n, k), "bf16"));
      const stacked = zeros("bf16", [3, n, k]);
      b.forEach((matrix, i) => {
        stacked.data.set(matrix.data, i * n * k);
      });
      const a = fromF32(randomMatrix(random, m, k), "bf16");
      // Group 1 is empty: it ends where it begins.
      const ends = tensorOf("i32", [3], Int32Array.of(3, 4, 10));
      const groupOf = (i: number) => (i < 3 ? 0 : i >= 4 && i < 10 ? 2 : -1);
      const products = b.map((matrix) => productOf(toF32(a), toF32(matrix)));
      for (const ensureZeroPadding of [false, true]) {
        const d = poisoned(device, m, n, n);
        const options = { usePsumLayout: true, ensureZeroPadding };
        deepGemm.mGroupedBf16GemmNtContiguous(device, a, stacked, d, ends, options);
        for (let i = 0; i < m * n; i++) {
          const group = groupOf(Math.floor(i / n));
          if (group < 0) assert.ok(ensureZeroPadding ? d.data[i] === 0 : Number.isNaN(d.data[i]));
          else {
            const error = Math.abs(d.data[i] - products[group].values[i]);
            assert.ok(error / products[group].magnitudes[i] < errorMax);
          }
        }
      }
      const swapped = zeros("bf16", [3, k, n]);
      b.forEach((matrix, i) => {
        swapped.data.set(transposed(matrix).data, i * n * k);
      });
      const [nt, nn] = [poisoned(device, m, n, n), poisoned(device, m, n, n)];
      const sums = { usePsumLayout: true };
      deepGemm.mGroupedBf16GemmNtContiguous(device, a, stacked, nt, ends, sums);
      deepGemm.mGroupedBf16GemmNnContiguous(device, a, swapped, nn, ends, sums);
      assert.deepEqual(nn.data, nt.data, "weights transposed");
      const fp8 = [0, 1, 2].map(() => quantiseBlocks(randomMatrix(random, n, k)));
      const packed = fp8.map(({ codes, scales }) =>
        deepGemm.packWeights(device, [{ weight: codes, scales }], "f8e4m3"),
      );
      const rows = quantiseBlocks(randomMatrix(random, m, k), { blockRows: 1 });
      const [bySums, byRows] = [poisoned(device, m, n, n), poisoned(device, m, n, n)];
      deepGemm.mGroupedFp8GemmNtContiguous(device, rows, packed, bySums, ends, sums);
      const indices = tensorOf(
        "i32",
        [m],
        Int32Array.from({ length: m }, (_, i) => groupOf(i)),
      );
      deepGemm.mGroupedFp8GemmNtContiguous(device, rows, packed, byRows, indices);
      assert.deepEqual(bySums.data, byRows.data, "FP8: prefix sums and indices agree");
      const wrong = tensorOf("i32", [3], Int32Array.of(3, 2, 10));
      assert.throws(
        () => deepGemm.mGroupedBf16GemmNtContiguous(device, a, stacked, nt, wrong, sums),
        /groupedLayout\[1\]: got 2, wanted 4\.\.15/,
      );
    } finally {
      deepGemm.setMkAlignmentForContiguousLayout(before);
    }
  });

  test(`${name}: the einsums equal their sums`, () => {
    const [batch, heads, depth, width] = [5, 3, 70, 33];
    const bf16 = (shape: number[]) => {
      const size = shape.reduce((product, x) => product * x, 1);
      return { ...fromF32(randomMatrix(random, 1, size), "bf16"), shape, stride: shape.at(-1)! };
    };
    const value = (tensor: Tensor<"bf16">, index: number[]) => {
      const place = index.reduce((at, i, dimension) => at * tensor.shape[dimension] + i, 0);
      return toF32(tensorOf("bf16", [1], tensor.data.slice(place, place + 1))).data[0];
    };
    const a = bf16([batch, heads, depth]);
    const check = (
      expression: deepGemm.EinsumExpression,
      b: Tensor<"bf16">,
      term: (i: number, h: number, j: number, at: number) => number,
    ) => {
      const d = zeros("f32", [batch, heads, width], (bytes) => device.allocate(bytes));
      d.data.fill(Number.NaN);
      deepGemm.einsum(device, expression, a, b, d);
      for (let i = 0; i < d.data.length; i++) {
        const [x, h, j] = [Math.floor(i / width / heads), Math.floor(i / width) % heads, i % width];
        let [sum, magnitude] = [0, 0];
        for (let at = 0; at < depth; at++) {
          const product = value(a, [x, h, at]) * term(x, h, j, at);
          sum += product;
          magnitude += Math.abs(product);
        }
        assert.ok(
          Math.abs(d.data[i] - sum) <= errorMax * magnitude,
          `${expression} ${x} ${h} ${j}`,
        );
      }
    };
    const rows = bf16([heads, width, depth]);
    check("bhr,hdr->bhd", rows, (_, h, j, at) => value(rows, [h, j, at]));
    const columns = bf16([heads, depth, width]);
    check("bhd,hdr->bhr", columns, (_, h, j, at) => value(columns, [h, at, j]));
    const b = bf16([batch, width, depth]);
    const d = poisoned(device, heads, width, width);
    deepGemm.einsum(device, "bmk,bnk->mn", a, b, d);
    const c = zeros("f32", [heads, width]);
    c.data.fill(2);
    const withC = poisoned(device, heads, width, width);
    deepGemm.einsum(device, "bmk,bnk->mn", a, b, withC, c);
    for (let i = 0; i < heads * width; i++) {
      const [h, j] = [Math.floor(i / width), i % width];
      let [sum, magnitude] = [0, 2];
      for (let x = 0; x < batch; x++) {
        for (let at = 0; at < depth; at++) {
          const product = value(a, [x, h, at]) * value(b, [x, j, at]);
          sum += product;
          magnitude += Math.abs(product);
        }
      }
      assert.ok(Math.abs(d.data[i] - sum) <= errorMax * magnitude);
      assert.ok(Math.abs(withC.data[i] - 2 - sum) <= errorMax * magnitude);
    }
  });
}
