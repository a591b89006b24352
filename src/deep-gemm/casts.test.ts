import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import {
  type BlockScaled,
  bf16ToF32,
  columnsOf,
  f8e4m3ToF32,
  fromF32,
  type Tensor,
  tensorOf,
  zeros,
} from "../tensor/index.ts";
import * as deepGemm from "./index.ts";
import { openAll, strided } from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const devices = openAll(console.log);
console.log(`seed ${seed}`);
after(() => {
  for (const device of devices) device.close();
});

/** Finite e4m3 values of codes 0 to 126, ascending. */
const values = Array.from({ length: 127 }, (_, code) => f8e4m3ToF32(code));

/** The nearest code by search: an oracle that shares nothing with the conversions of the house. */
function nearestCode(x: number): number {
  if (!Number.isFinite(x)) return 0x7f;
  const size = Math.abs(x);
  let best = 0;
  for (let code = 1; code < 127; code++) {
    const [now, then] = [Math.abs(values[code] - size), Math.abs(values[best] - size)];
    if (now < then || (now === then && code % 2 === 0)) best = code;
  }
  return best | (x < 0 || Object.is(x, -0) ? 0x80 : 0);
}

/** The published formulas, step by step. */
function castOf(x: readonly number[], useUe8m0: boolean): { scale: number; codes: number[] } {
  const amax = x.reduce((most, value) => Math.max(most, Math.abs(value)), Math.fround(1e-4));
  let scale = Math.fround(amax / 448);
  if (useUe8m0) {
    const exact = Number.isFinite(scale) ? Math.log2(scale) : 127;
    scale = 2 ** Math.ceil(exact);
  }
  const inverse = Math.fround(1 / scale);
  return { scale, codes: x.map((value) => nearestCode(Math.fround(value * inverse))) };
}

function hardMatrix(random: Random, m: number, k: number, special: boolean): Tensor<"f32"> {
  const matrix = zeros("f32", [m, k]);
  for (let i = 0; i < matrix.data.length; i++) {
    const size = 2 ** (random.below(30) - 20);
    matrix.data[i] = random.below(9) === 0 ? 0 : random.normal() * size;
  }
  if (special) {
    const pick = () => random.below(matrix.data.length);
    matrix.data[pick()] = Number.NaN;
    matrix.data[pick()] = Number.POSITIVE_INFINITY;
    matrix.data[pick()] = Number.NEGATIVE_INFINITY;
    matrix.data[pick()] = -3.4e38;
    matrix.data[pick()] = 1e-42;
  }
  return matrix;
}

const casts = {
  token: { cast: deepGemm.perTokenCastToFp8, rows: 1, columns: 128 },
  channel: { cast: deepGemm.perChannelCastToFp8, rows: 128, columns: 1 },
  block: { cast: deepGemm.perBlockCastToFp8, rows: 128, columns: 128 },
};

for (const device of devices) {
  test(`${device.isa ?? "reference"}: casts are bit for bit the published formulas`, () => {
    const random = new Random(seed);
    for (const [shape, { cast, rows, columns }] of Object.entries(casts)) {
      for (const [m, k] of [
        [1, 1],
        [3, 128],
        [130, 300],
      ]) {
        for (const dtype of ["f32", "bf16"] as const) {
          for (const useUe8m0 of [false, true]) {
            const exact = hardMatrix(random, m, k, m > 100);
            const matrix = dtype === "bf16" ? fromF32(exact, "bf16") : exact;
            const x = strided<"f32" | "bf16">(device, matrix, k + 3) as Tensor<"f32">;
            const { codes, scales } = cast(device, x, useUe8m0);
            checkOut(device, cast, x, useUe8m0, { codes, scales });
            const value = (i: number, j: number) =>
              dtype === "bf16" ? bf16ToF32(matrix.data[i * k + j]) : matrix.data[i * k + j];
            assert.deepEqual(scales.shape, [Math.ceil(m / rows), Math.ceil(k / columns)]);
            for (let top = 0; top < m; top += rows) {
              for (let left = 0; left < k; left += columns) {
                const places: [number, number][] = [];
                for (let i = top; i < Math.min(m, top + rows); i++) {
                  for (let j = left; j < Math.min(k, left + columns); j++) places.push([i, j]);
                }
                const wanted = castOf(
                  places.map(([i, j]) => value(i, j)),
                  useUe8m0,
                );
                const name = `${shape} ${dtype} ${useUe8m0} [${m}, ${k}] at ${top}, ${left}`;
                const got: number = scales.data[(top / rows) * scales.shape[1] + left / columns];
                assert.equal(got, wanted.scale, name);
                const gotCodes = places.map(([i, j]) => codes.data[i * k + j]);
                assert.deepEqual(gotCodes, wanted.codes, name);
              }
            }
          }
        }
      }
    }
  });
}

/** The same into memory that is given, with rows apart. */
function checkOut(
  device: Device,
  cast: typeof deepGemm.perTokenCastToFp8,
  x: Tensor<"f32">,
  useUe8m0: boolean,
  wanted: BlockScaled,
): void {
  const apart = <D extends "f32" | "f8e4m3">({ dtype, shape }: Tensor<D>): Tensor<D> => {
    const whole = zeros(dtype, [shape[0], shape[1] + 3], (bytes) => device.allocate(bytes));
    whole.data.fill(1);
    return columnsOf(whole, 0, shape[1]);
  };
  const out = { codes: apart(wanted.codes), scales: apart(wanted.scales) };
  assert.equal(cast(device, x, useUe8m0, out).codes, out.codes);
  for (const name of ["codes", "scales"] as const) {
    const [got, exact] = [out[name], wanted[name]];
    const [rows, columns] = exact.shape;
    for (let i = 0; i < rows; i++) {
      const row = got.data.subarray(i * got.stride, i * got.stride + columns);
      assert.deepEqual(row, exact.data.subarray(i * columns, (i + 1) * columns));
      const behind = got.data.subarray(i * got.stride + columns, (i + 1) * got.stride);
      assert.ok(behind.every((value) => value === 1));
    }
  }
}

test("ceilToUe8m0 is the least power of two that is not below, within the exponent's range", () => {
  for (const x of [1, 1.0000001, 0.75, 3, 448, 2 ** -126, 2 ** -149, 0, 3e38]) {
    const wanted =
      x <= 2 ** -126 ? 2 ** -126 : Math.min(2 ** 127, 2 ** Math.ceil(Math.log2(Math.fround(x))));
    assert.equal(deepGemm.ceilToUe8m0(x), wanted, `${x}`);
  }
});

test("scales are transposed, aligned and packed as Hopper's and Blackwell's kernels want them", () => {
  assert.equal(deepGemm.getTmaAlignedSize(5, 4), 8);
  assert.equal(deepGemm.getTmaAlignedSize(5, 1), 16);
  assert.equal(deepGemm.getTmaAlignedSize(8, 2), 8);
  const random = new Random(seed + 1);
  for (const [groups, mn, k] of [
    [1, 5, 3],
    [2, 8, 4],
    [3, 1, 9],
  ]) {
    const sf = zeros("f32", [groups, mn, k]);
    for (let i = 0; i < sf.data.length; i++) sf.data[i] = 2 ** (random.below(60) - 30);
    const turned = deepGemm.getMnMajorTmaAlignedTensor(sf);
    const packed = deepGemm.getMnMajorTmaAlignedPackedUe8m0Tensor(sf);
    assert.deepEqual(turned.shape, [groups, k, mn]);
    assert.deepEqual(packed.shape, [groups, Math.ceil(k / 4), mn]);
    assert.equal(turned.stride, Math.ceil(mn / 4) * 4);
    const bytes = new Uint8Array(packed.data.buffer, packed.data.byteOffset);
    for (let i = 0; i < groups * mn; i++) {
      const [group, row] = [Math.floor(i / mn), i % mn];
      for (let j = 0; j < k; j++) {
        const value = sf.data[i * k + j];
        assert.equal(turned.data[(group * k + j) * turned.stride + row], value);
        const word: number = (group * packed.shape[1] + (j >> 2)) * packed.stride + row;
        assert.equal(2 ** (bytes[4 * word + (j & 3)] - 127), value);
      }
    }
    assert.deepEqual(deepGemm.unpackMnMajorUe8m0Tensor(packed, k).data, sf.data);
  }
  const rows = zeros("f32", [1, 8]);
  rows.data.set([1, 2, 4, 8, 0.5, 1, 1, 1]);
  assert.deepEqual([...deepGemm.packUe8m0ToInt(rows).data], [0x8281807f | 0, 0x7f7f7f7e]);
  rows.data[3] = 3;
  assert.throws(() => deepGemm.packUe8m0ToInt(rows), /scales\[0\]\[3\]: got 3, wanted a power/);
});

test("k-grouped scales are packed group by group", () => {
  const ks = [128, 0, 700];
  const sf = zeros("f32", [7, 4]);
  for (let i = 0; i < sf.data.length; i++) sf.data[i] = 2 ** (i - 14);
  const layout = tensorOf("i32", [3], Int32Array.from(ks));
  const packed = deepGemm.getKGroupedMnMajorTmaAlignedPackedUe8m0Tensor(sf, layout, ks);
  assert.deepEqual(packed.shape, [3, 4]);
  const bytes = new Uint8Array(packed.data.buffer);
  const exponents = (row: number, column: number) => [
    ...bytes.subarray(4 * (4 * row + column)).subarray(0, 4),
  ];
  const exponent = (row: number, column: number) => 4 * row + column - 14 + 127;
  for (let column = 0; column < 4; column++) {
    const row = (index: number) => exponent(index, column);
    assert.deepEqual(exponents(0, column), [row(0), 0, 0, 0]);
    assert.deepEqual(exponents(1, column), [row(1), row(2), row(3), row(4)]);
    assert.deepEqual(exponents(2, column), [row(5), row(6), 0, 0]);
  }
});
