/**
 * @file Conversions between f32 and the narrow types, one value or one array at a time.
 * Every narrowing rounds to nearest, ties to even, unless its docstring says otherwise.
 * Sources: "FP8 Formats for Deep Learning" (arXiv 2209.05433) for e4m3 (the finite variant: no
 * infinities, one NaN code a sign, largest value 448) and e5m2; OCP Microscaling 1.0 for ue8m0.
 */
import { assert, assertEqual } from "../base/index.ts";
import { type Allocate, type DType, type Tensor, zeros } from "./tensor.ts";

/** The dtypes that hold real numbers, hence convert to and from f32. */
export type FloatDType = Exclude<DType, "i32">;

/** The largest finite e4m3 value. */
export const f8e4m3Max: 448 = 448;
/** The largest finite e5m2 value. */
export const f8e5m2Max: 57344 = 57344;

const floatCell = new Float32Array(1);
const bitCell = new Uint32Array(floatCell.buffer);

function bitsOf(value: number): number {
  floatCell[0] = value;
  return bitCell[0];
}

function floatOf(bits: number): number {
  bitCell[0] = bits;
  return floatCell[0];
}

/** An 8-bit float with `mantissaBits` of mantissa, decoded by the textbook formula. */
function decodeF8(code: number, mantissaBits: number, bias: number): number {
  const sign = code & 0x80 ? -1 : 1;
  const exponent = (code & 0x7f) >> mantissaBits;
  const mantissa = (code & ((1 << mantissaBits) - 1)) / (1 << mantissaBits);
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias);
  return sign * (1 + mantissa) * 2 ** (exponent - bias);
}

/** The value of each e4m3 code; 0x7f and 0xff are NaN. */
const f8e4m3Values = Float32Array.from({ length: 256 }, (_, code) =>
  (code & 0x7f) === 0x7f ? Number.NaN : decodeF8(code, 3, 7),
);
/** The value of each e5m2 code; exponent 31 is infinity (mantissa 0) or NaN. */
const f8e5m2Values = Float32Array.from({ length: 256 }, (_, code) => {
  if ((code & 0x7c) !== 0x7c) return decodeF8(code, 2, 15);
  return code & 3 ? Number.NaN : code & 0x80 ? -Infinity : Infinity;
});
/** The value of each ue8m0 code, 2^(code - 127); 0xff is NaN. */
const ue8m0Values = Float32Array.from({ length: 256 }, (_, code) =>
  code === 0xff ? Number.NaN : 2 ** (code - 127),
);

/** The value of a bf16 code (the upper half of a float32). Exact. */
export function bf16ToF32(code: number): number {
  return floatOf((code << 16) >>> 0);
}

/** The bf16 code nearest to `value`, ties to even; NaN stays a (quiet) NaN of the same sign. */
export function f32ToBf16(value: number): number {
  return bf16OfBits(bitsOf(value));
}

/** The value of an e4m3 code. Exact. */
export function f8e4m3ToF32(code: number): number {
  return f8e4m3Values[code & 0xff];
}

/**
 * The e4m3 code nearest to `value`, ties to even; NaN becomes 0x7f or 0xff by its sign.
 * Values beyond 448, infinities too, become 448 where `saturate`, as quantisation does; otherwise
 * they become NaN once they round beyond 448, that is above 464.
 */
export function f32ToF8e4m3(value: number, saturate: boolean = true): number {
  floatCell[0] = value;
  return f8e4m3OfBits(bitCell[0], saturate);
}

/** The value of an e5m2 code. Exact. */
export function f8e5m2ToF32(code: number): number {
  return f8e5m2Values[code & 0xff];
}

/**
 * The e5m2 code nearest to `value`, ties to even; NaN becomes 0x7f or 0xff by its sign.
 * Values beyond 57344, infinities too, become 57344 where `saturate`; otherwise they become
 * infinity from 61440 on, the tie that rounds up.
 */
export function f32ToF8e5m2(value: number, saturate: boolean = true): number {
  floatCell[0] = value;
  return f8e5m2OfBits(bitCell[0], saturate);
}

/** The value of a ue8m0 code, 2^(code - 127); NaN for 0xff. Exact. */
export function ue8m0ToF32(code: number): number {
  return ue8m0Values[code & 0xff];
}

/**
 * The code of the least power of two that is not below `value`: rounded **up**, so that a scale
 * never makes its block overflow. Zero and all below 2^-127 become 2^-127, all above 2^127 becomes
 * 2^127; NaN and negative values, which no scale is, become 0xff.
 */
export function f32ToUe8m0(value: number): number {
  return ue8m0OfBits(bitsOf(value));
}

/** The value of an IEEE binary16 code. Exact. */
export function f16ToF32(code: number): number {
  const sign = code & 0x8000 ? -1 : 1;
  const exponent = (code >> 10) & 31;
  const mantissa = code & 0x3ff;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Infinity;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

function bf16OfBits(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function f8e4m3OfBits(bits: number, saturate: boolean): number {
  const sign = (bits >>> 24) & 0x80;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7f;
  // 0x43e80000 is 464, half-way from 448 to the 480 that the format lacks; the tie goes to 448.
  if (magnitude > 0x43e80000) return sign | (saturate ? 0x7e : 0x7f);
  // Below 2^-6 codes are multiples of 2^-9: the float32 unit at 2^14 does the rounding.
  if (magnitude < 0x3c800000) return sign | (bitsOf(floatOf(magnitude) + 16384) - 0x46800000);
  return sign | ((magnitude + 0x7ffff + ((magnitude >>> 20) & 1) - 0x3c000000) >>> 20);
}

function f8e5m2OfBits(bits: number, saturate: boolean): number {
  const sign = (bits >>> 24) & 0x80;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7f;
  // 0x47700000 is 61440, half-way from 57344 to 65536; the tie goes up, to infinity.
  if (magnitude >= 0x47700000) return sign | (saturate ? 0x7b : 0x7c);
  // Below 2^-14 codes are multiples of 2^-16: the float32 unit at 2^7 does the rounding.
  if (magnitude < 0x38800000) return sign | (bitsOf(floatOf(magnitude) + 128) - 0x43000000);
  return sign | ((magnitude + 0xfffff + ((magnitude >>> 21) & 1) - 0x38000000) >>> 21);
}

function ue8m0OfBits(bits: number): number {
  if (bits > 0x7f800000) return bits === 0x80000000 ? 0 : 0xff;
  // Adding all ones below the exponent carries into it unless the value is a power of two already.
  // 2^-127 itself is a float32 subnormal: half of the exponent-1 range, hence the comparison.
  if (bits <= 0x400000) return 0;
  return Math.min(0xfe, (bits + 0x7fffff) >>> 23);
}

/** Writes the f32 value of each of `codes` to `out`. */
export function bf16ArrayToF32(
  codes: Uint16Array,
  out: Float32Array = new Float32Array(codes.length),
): Float32Array {
  assertEqual(out.length, codes.length, "length of the output");
  // As integers: a NaN's payload survives, which through a JS number it might not.
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < codes.length; i++) bits[i] = codes[i] << 16;
  return out;
}

/** Writes the nearest bf16 code of each of `values` to `out`; see `f32ToBf16`. */
export function f32ArrayToBf16(
  values: Float32Array,
  out: Uint16Array = new Uint16Array(values.length),
): Uint16Array {
  assertEqual(out.length, values.length, "length of the output");
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) out[i] = bf16OfBits(bits[i]);
  return out;
}

/** Writes the f32 value of each e4m3 code to `out`. */
export function f8e4m3ArrayToF32(codes: Uint8Array, out?: Float32Array): Float32Array {
  return lookUp(f8e4m3Values, codes, out);
}

/** Writes the nearest e4m3 code of each of `values` to `out`, saturating; see `f32ToF8e4m3`. */
export function f32ArrayToF8e4m3(
  values: Float32Array,
  out: Uint8Array = new Uint8Array(values.length),
): Uint8Array {
  assertEqual(out.length, values.length, "length of the output");
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) out[i] = f8e4m3OfBits(bits[i], true);
  return out;
}

/** Writes the f32 value of each e5m2 code to `out`. */
export function f8e5m2ArrayToF32(codes: Uint8Array, out?: Float32Array): Float32Array {
  return lookUp(f8e5m2Values, codes, out);
}

/** Writes the nearest e5m2 code of each of `values` to `out`, saturating; see `f32ToF8e5m2`. */
export function f32ArrayToF8e5m2(
  values: Float32Array,
  out: Uint8Array = new Uint8Array(values.length),
): Uint8Array {
  assertEqual(out.length, values.length, "length of the output");
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) out[i] = f8e5m2OfBits(bits[i], true);
  return out;
}

/** Writes the f32 value of each ue8m0 code to `out`. */
export function ue8m0ArrayToF32(codes: Uint8Array, out?: Float32Array): Float32Array {
  return lookUp(ue8m0Values, codes, out);
}

/** Writes the code of each of `values`, rounded up to a power of two; see `f32ToUe8m0`. */
export function f32ArrayToUe8m0(
  values: Float32Array,
  out: Uint8Array = new Uint8Array(values.length),
): Uint8Array {
  assertEqual(out.length, values.length, "length of the output");
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) out[i] = ue8m0OfBits(bits[i]);
  return out;
}

function lookUp(
  table: Float32Array,
  codes: Uint8Array,
  out: Float32Array = new Float32Array(codes.length),
): Float32Array {
  assertEqual(out.length, codes.length, "length of the output");
  for (let i = 0; i < codes.length; i++) out[i] = table[codes[i]];
  return out;
}

const decoders: {
  readonly [D in FloatDType]: (codes: Tensor<D>["data"], out: Float32Array) => unknown;
} = {
  f32: (values, out) => out.set(values),
  bf16: bf16ArrayToF32,
  f8e4m3: f8e4m3ArrayToF32,
  f8e5m2: f8e5m2ArrayToF32,
  ue8m0: ue8m0ArrayToF32,
};

const encoders: {
  readonly [D in FloatDType]: (values: Float32Array, out: Tensor<D>["data"]) => unknown;
} = {
  f32: (values, out) => out.set(values),
  bf16: f32ArrayToBf16,
  f8e4m3: f32ArrayToF8e4m3,
  f8e5m2: f32ArrayToF8e5m2,
  ue8m0: f32ArrayToUe8m0,
};

/** A new contiguous f32 tensor with the values of `tensor`, row strides taken out. Exact. */
export function toF32(tensor: Tensor<FloatDType>, allocate?: Allocate): Tensor<"f32"> {
  return convertRows(tensor, "f32", decoders[tensor.dtype], allocate);
}

/**
 * A new contiguous tensor of `dtype` with the values of `tensor`, rounded to nearest, ties to even;
 * the 8-bit floats saturate, ue8m0 rounds up.
 */
export function fromF32<D extends FloatDType>(
  tensor: Tensor<"f32">,
  dtype: D,
  allocate?: Allocate,
): Tensor<D> {
  return convertRows(tensor, dtype, encoders[dtype], allocate);
}

function convertRows<D extends FloatDType>(
  from: Tensor<FloatDType>,
  dtype: D,
  convert: (from: never, to: never) => unknown,
  allocate: Allocate | undefined,
): Tensor<D> {
  const to = zeros(dtype, from.shape, allocate);
  const count = to.data.length;
  const width = from.shape.at(-1) ?? 1;
  const step = from.stride === width ? count : width;
  assert(step > 0 || count === 0, "a row of no elements");
  for (let row = 0, done = 0; done < count; row++, done += step) {
    const start = row * from.stride;
    convert(
      from.data.subarray(start, start + step) as never,
      to.data.subarray(done, done + step) as never,
    );
  }
  return to;
}
