import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../base/index.ts";
import { columnsOf, dequantise, quantiseBlocks, type Tensor, tensorOf, zeros } from "./index.ts";

const sizes = [1, 2, 127, 128, 129, 300];

function randomMatrix(random: Random, n: number, k: number): Tensor<"f32"> {
  const scale = 10 ** (random.below(9) - 4);
  return tensorOf(
    "f32",
    [n, k],
    Float32Array.from({ length: n * k }, () => random.normal() * scale),
  );
}

/** The largest magnitude in a block, found element by element from the definition. */
function blockAmax(values: Tensor<"f32">, blockRows: number, i: number, j: number): number {
  const [n, k] = values.shape;
  let amax = Math.fround(1e-4);
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < k; column++) {
      if (Math.floor(row / blockRows) !== i || Math.floor(column / 128) !== j) continue;
      amax = Math.max(amax, Math.abs(values.data[row * values.stride + column]));
    }
  }
  return amax;
}

for (const blockRows of [1, 128] as const) {
  test(`blocks of ${blockRows} x 128 scale by amax / 448, ragged edges included`, () => {
    const random = new Random(blockRows);
    for (const n of sizes.filter((size) => size <= 129)) {
      for (const k of sizes) {
        const values = randomMatrix(random, n, k);
        const { codes, scales } = quantiseBlocks(values, { blockRows });
        assert.deepEqual(codes.shape, [n, k]);
        assert.deepEqual(scales.shape, [Math.ceil(n / blockRows), Math.ceil(k / 128)]);
        const [i, j] = scales.shape.map((size) => random.below(size));
        const scale = scales.data[i * scales.shape[1] + j];
        assert.equal(scale, Math.fround(blockAmax(values, blockRows, i, j) / 448));
        const back = dequantise(codes, scales, { blockRows });
        for (let e = 0; e < n * k; e++) {
          const [row, column] = [Math.floor(e / k), e % k];
          const s =
            scales.data[Math.floor(row / blockRows) * scales.stride + Math.floor(column / 128)];
          // Half a step: 2^-4 of the value, and no less than half of the least code.
          const bound = Math.max(Math.abs(values.data[e]) / 16, s * 2 ** -10) * 1.0001;
          assert.ok(Math.abs(back.data[e] - values.data[e]) <= bound, `[${n}, ${k}] at ${e}`);
        }
      }
    }
  });
}

test("power-of-two scales are powers of two, at least amax / 448, and less than twice it", () => {
  const random = new Random(3);
  const values = randomMatrix(random, 40, 300);
  const exact = quantiseBlocks(values, { blockRows: 1 });
  const rounded = quantiseBlocks(values, { blockRows: 1, powerOfTwoScales: true });
  rounded.scales.data.forEach((scale, i) => {
    assert.ok(Number.isInteger(Math.log2(scale)));
    assert.ok(scale >= exact.scales.data[i] && scale < 2 * exact.scales.data[i]);
  });
});

test("the codes are e4m3 of x / scale: known values", () => {
  const values = tensorOf("f32", [2, 3], Float32Array.of(448, -224, 1, 0, 896, 3));
  const rows = quantiseBlocks(values, { blockRows: 1 });
  assert.deepEqual([...rows.scales.data], [1, 2]);
  assert.deepEqual([...rows.codes.data], [0x7e, 0xf6, 0x38, 0, 0x7e, 0x3c]);
  const whole = quantiseBlocks(values);
  assert.deepEqual([...whole.scales.data], [2]);
  assert.deepEqual([...whole.codes.data], [0x76, 0xee, 0x30, 0, 0x7e, 0x3c]);
});

test("a block of zeros stays zero, and a NaN stays in its place", () => {
  const zero = quantiseBlocks(zeros("f32", [3, 200]));
  assert.ok(zero.codes.data.every((code) => code === 0));
  assert.ok(zero.scales.data.every((scale) => scale > 0));
  const values = tensorOf("f32", [1, 3], Float32Array.of(1, Number.NaN, 2));
  const { codes, scales } = quantiseBlocks(values);
  assert.equal(scales.data[0], Math.fround(2 / 448));
  assert.deepEqual(
    [...codes.data].map((code) => (code & 0x7f) === 0x7f),
    [false, true, false],
  );
});

test("strided operands are read by their stride, and a misshapen scale is refused", () => {
  const random = new Random(5);
  const wide = randomMatrix(random, 5, 400);
  const view = columnsOf(wide, 100, 300);
  const packed = tensorOf(
    "f32",
    [5, 200],
    Float32Array.from(
      { length: 1000 },
      (_, e) => wide.data[Math.floor(e / 200) * 400 + 100 + (e % 200)],
    ),
  );
  const got = quantiseBlocks(view, { blockRows: 1 });
  assert.deepEqual(got.codes.data, quantiseBlocks(packed, { blockRows: 1 }).codes.data);
  assert.throws(() => dequantise(got.codes, got.scales), /got shape \[5,2\], wanted \[1,2\]/);
});
