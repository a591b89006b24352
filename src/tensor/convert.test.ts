import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../base/index.ts";
import {
  bf16ArrayToF32,
  bf16ToF32,
  columnsOf,
  type FloatDType,
  f8e4m3ArrayToF32,
  f8e4m3ToF32,
  f8e5m2ArrayToF32,
  f8e5m2ToF32,
  f16ToF32,
  f32ArrayToBf16,
  f32ArrayToF8e4m3,
  f32ArrayToF8e5m2,
  f32ArrayToUe8m0,
  f32ToBf16,
  f32ToF8e4m3,
  f32ToF8e5m2,
  f32ToUe8m0,
  fromF32,
  tensorOf,
  toF32,
  ue8m0ArrayToF32,
  ue8m0ToF32,
} from "./index.ts";

/**
 * The finite non-negative values of a format in order, which is the order of their codes: equal
 * steps from zero through the first two binades, then steps twice as wide each binade.
 */
function ladder(mantissaBits: number, leastStep: number, count: number): number[] {
  const values = [0];
  let step = leastStep;
  for (let i = 1; i < count; i++) {
    values.push(values[i - 1] + step);
    if (i > 2 ** mantissaBits && i % 2 ** mantissaBits === 0) step *= 2;
  }
  return values;
}

const e4m3 = ladder(3, 2 ** -9, 127);
const e5m2 = ladder(2, 2 ** -16, 124);

/** The code of the nearest value, found by looking at all; of two equally near, the even one. */
function nearest(values: readonly number[], value: number): number {
  const magnitude = Math.abs(value);
  let best = 0;
  for (let code = 1; code < values.length; code++) {
    const [gain, loss] = [Math.abs(values[code] - magnitude), Math.abs(values[best] - magnitude)];
    if (gain < loss || (gain === loss && code % 2 === 0)) best = code;
  }
  return best | (value < 0 || Object.is(value, -0) ? 0x80 : 0);
}

const cell = new DataView(new ArrayBuffer(4));

/** The float32 `steps` representable values above `value`. */
function next(value: number, steps: number): number {
  cell.setFloat32(0, value);
  cell.setInt32(0, cell.getInt32(0) + steps);
  return cell.getFloat32(0);
}

function f32OfBits(bits: number): number {
  cell.setUint32(0, bits);
  return cell.getFloat32(0);
}

test("the ladders that the tests stand on end where the formats do", () => {
  assert.equal(e4m3.at(-1), 448);
  assert.equal(e4m3[8], 2 ** -6);
  assert.equal(e5m2.at(-1), 57344);
  assert.equal(e5m2[4], 2 ** -14);
});

test("all 256 e4m3 codes decode to the format's values, and encode back", () => {
  for (let code = 0; code < 256; code++) {
    const value = f8e4m3ToF32(code);
    if ((code & 0x7f) === 0x7f) assert.ok(Number.isNaN(value));
    else assert.ok(Object.is(value, (code & 0x80 ? -1 : 1) * e4m3[code & 0x7f]), `code ${code}`);
    if (code !== 0xff) assert.equal(f32ToF8e4m3(value), code);
  }
});

test("all 256 e5m2 codes decode to the format's values, and encode back", () => {
  for (let code = 0; code < 256; code++) {
    const value = f8e5m2ToF32(code);
    const sign = code & 0x80 ? -1 : 1;
    if ((code & 0x7f) < 0x7c) {
      assert.ok(Object.is(value, sign * e5m2[code & 0x7f]), `code ${code}`);
    } else if ((code & 0x7f) === 0x7c) assert.equal(value, sign * Infinity);
    else assert.ok(Number.isNaN(value));
    if ((code & 0x7f) <= 0x7c) assert.equal(f32ToF8e5m2(value, false), code);
  }
});

test("8-bit floats take the nearest code, ties to even, from any float32", () => {
  const random = new Random(4);
  const inputs: number[] = [];
  // Every float32 whose lower half is zeros or ones: all exponents, values and near values.
  for (let upper = 0; upper < 65536; upper++) {
    for (const lower of [0, 0xffff]) inputs.push(f32OfBits(upper * 65536 + lower));
  }
  for (const values of [e4m3, e5m2]) {
    for (let code = 1; code < values.length; code++) {
      const tie = (values[code - 1] + values[code]) / 2;
      for (const steps of [-1, 0, 1]) inputs.push(next(tie, steps), -next(tie, steps));
    }
  }
  for (let i = 0; i < 50_000; i++) inputs.push(f32OfBits(random.uint32()));
  for (const input of inputs) {
    if (Number.isNaN(input)) continue;
    assert.equal(
      f32ToF8e4m3(input),
      nearest(e4m3, Math.max(-448, Math.min(448, input))),
      `${input}`,
    );
    assert.equal(
      f32ToF8e5m2(input),
      nearest(e5m2, Math.max(-57344, Math.min(57344, input))),
      `${input}`,
    );
  }
});

test("8-bit floats saturate when asked, else overflow to NaN (e4m3) or infinity (e5m2)", () => {
  for (const [value, saturated, overflown] of [
    [448, 0x7e, 0x7e],
    [464, 0x7e, 0x7e],
    [next(464, 1), 0x7e, 0x7f],
    [1e30, 0x7e, 0x7f],
    [Infinity, 0x7e, 0x7f],
  ]) {
    assert.equal(f32ToF8e4m3(value), saturated);
    assert.equal(f32ToF8e4m3(-value), saturated | 0x80);
    assert.equal(f32ToF8e4m3(value, false), overflown);
    assert.equal(f32ToF8e4m3(-value, false), overflown | 0x80);
  }
  for (const [value, saturated, overflown] of [
    [57344, 0x7b, 0x7b],
    [next(61440, -1), 0x7b, 0x7b],
    [61440, 0x7b, 0x7c],
    [Infinity, 0x7b, 0x7c],
  ]) {
    assert.equal(f32ToF8e5m2(value), saturated);
    assert.equal(f32ToF8e5m2(-value, false), overflown | 0x80);
    assert.equal(f32ToF8e5m2(value, false), overflown);
  }
  for (const encode of [f32ToF8e4m3, f32ToF8e5m2]) {
    assert.equal(encode(Number.NaN) & 0x7f, 0x7f);
    assert.equal(encode(Number.NaN, false) & 0x7f, 0x7f);
  }
});

test("all 65,536 bf16 codes decode by the formula, and encode back", () => {
  const codes = Uint16Array.from({ length: 65536 }, (_, code) => code);
  const values = bf16ArrayToF32(codes);
  for (let code = 0; code < 65536; code++) {
    const [exponent, mantissa] = [(code >> 7) & 0xff, code & 0x7f];
    const sign = code >> 15 ? -1 : 1;
    let expected = sign * 2 ** (exponent - 127) * (1 + mantissa / 128);
    if (exponent === 0) expected = sign * 2 ** -126 * (mantissa / 128);
    if (exponent === 255) expected = mantissa ? Number.NaN : sign * Infinity;
    assert.ok(Object.is(values[code], expected), `code ${code}`);
    assert.ok(Object.is(bf16ToF32(code), expected), `code ${code}`);
  }
  const back = f32ArrayToBf16(values);
  for (let code = 0; code < 65536; code++) {
    // A signalling NaN comes back quiet: bit 6 set, the rest as it was.
    assert.equal(back[code], Number.isNaN(values[code]) ? code | 0x40 : code);
  }
});

test("bf16 rounds every midpoint to the even code and its neighbours to the nearer one", () => {
  for (let code = 0; code < 0x7f80; code++) {
    // Adding half a step in float32 bits; after the largest finite value comes infinity.
    const middle = f32OfBits(code * 65536 + 0x8000);
    const even = code % 2 === 0 ? code : code + 1;
    assert.equal(f32ToBf16(middle), even);
    assert.equal(f32ToBf16(next(middle, -1)), code);
    assert.equal(f32ToBf16(next(middle, 1)), code + 1);
    assert.equal(f32ToBf16(-middle), even | 0x8000);
  }
  assert.equal(f32ToBf16(Infinity), 0x7f80);
  assert.equal(f32ToBf16(f32OfBits(0x7f800001)) & 0x7fc0, 0x7fc0);
});

test("ue8m0 is a power of two, rounded up", () => {
  for (let code = 0; code < 255; code++) {
    const power = 2 ** (code - 127);
    assert.equal(ue8m0ToF32(code), power);
    assert.equal(f32ToUe8m0(power), code);
    assert.equal(f32ToUe8m0(next(power, 1)), Math.min(254, code + 1));
    assert.equal(f32ToUe8m0(power * 1.5), Math.min(254, code + 1));
    assert.equal(f32ToUe8m0(next(power, -1)), code);
  }
  assert.ok(Number.isNaN(ue8m0ToF32(255)));
  for (const value of [0, -0, 2 ** -149, 2 ** -127]) assert.equal(f32ToUe8m0(value), 0);
  assert.equal(f32ToUe8m0(Infinity), 254);
  for (const value of [Number.NaN, -1, -Infinity, -(2 ** -149)]) {
    assert.equal(f32ToUe8m0(value), 255);
  }
});

test("all 65,536 f16 codes decode to the format's values", () => {
  const values = ladder(10, 2 ** -24, 0x7c00);
  assert.equal(values.at(-1), 65504);
  for (let code = 0; code < 65536; code++) {
    const [sign, magnitude] = [code >> 15 ? -1 : 1, code & 0x7fff];
    const expected = magnitude < 0x7c00 ? values[magnitude] : Infinity;
    if (magnitude > 0x7c00) assert.ok(Number.isNaN(f16ToF32(code)));
    else assert.ok(Object.is(f16ToF32(code), sign * expected), `code ${code}`);
  }
});

test("the array forms agree with the scalar ones", () => {
  const random = new Random(9);
  const values = Float32Array.from({ length: 20_000 }, () => f32OfBits(random.uint32()));
  const codes = Uint8Array.from({ length: 256 }, (_, code) => code);
  assert.deepEqual(f32ArrayToBf16(values), Uint16Array.from(values, f32ToBf16));
  assert.deepEqual(
    f32ArrayToF8e4m3(values),
    Uint8Array.from(values, (v) => f32ToF8e4m3(v)),
  );
  assert.deepEqual(
    f32ArrayToF8e5m2(values),
    Uint8Array.from(values, (v) => f32ToF8e5m2(v)),
  );
  assert.deepEqual(f32ArrayToUe8m0(values), Uint8Array.from(values, f32ToUe8m0));
  assert.deepEqual(f8e4m3ArrayToF32(codes), Float32Array.from(codes, f8e4m3ToF32));
  assert.deepEqual(f8e5m2ArrayToF32(codes), Float32Array.from(codes, f8e5m2ToF32));
  assert.deepEqual(ue8m0ArrayToF32(codes), Float32Array.from(codes, ue8m0ToF32));
});

test("whole tensors convert, strided ones too, and only their own elements", () => {
  const data = Float32Array.from({ length: 3 * 8 }, (_, i) => i - 9);
  const middle = columnsOf(tensorOf("f32", [3, 8], data), 2, 5);
  const expected = Float32Array.from([-7, -6, -5, 1, 2, 3, 9, 10, 11]);
  for (const dtype of ["f32", "bf16", "f8e4m3"] as const satisfies FloatDType[]) {
    const narrow = fromF32(middle, dtype);
    assert.deepEqual(narrow.shape, [3, 3]);
    assert.deepEqual(toF32(narrow).data, expected);
  }
  // e5m2 has two mantissa bits: 9 and 11 lie between 8, 10 and 12, ties to even.
  assert.deepEqual(
    toF32(fromF32(middle, "f8e5m2")).data,
    Float32Array.from([-7, -6, -5, 1, 2, 3, 8, 10, 12]),
  );
  assert.deepEqual(
    toF32(fromF32(tensorOf("f32", [0, 4], new Float32Array(0)), "bf16")).shape,
    [0, 4],
  );
});
