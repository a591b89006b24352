/**
 * @file bf16 and e4m3 (1-4-3, the variant without infinities) in vector registers: exact widening,
 * narrowing to nearest with ties to even, on every instruction set alike.
 *
 * The processor's own vcvtneps2bf16 flushes subnormals, and so agrees with no other rung: rounding
 * is done on integers instead. Source of e4m3: Micikevicius et al., FP8 Formats for Deep Learning.
 */
import { assert } from "../../base/index.ts";
import { type Mem, mem, type Vec } from "./registers.ts";
import type { Tail, VectorBuilder } from "./vector.ts";
import { replaceNan } from "./vector-math.ts";

/**
 * dst = the bf16 numbers in `src`, memory or a half-width register, as float32. With `tail`, of a
 * count known when the code is made, only its lanes of memory are read, and the others are zero.
 */
export function psFromBf16(v: VectorBuilder, dst: Vec, src: Mem | Vec, tail?: Tail): void {
  const { asm } = v;
  if (tail === undefined) {
    asm.vpmovzxwd(dst, src);
  } else if (tail.mask) {
    asm.vpmovzxwd(dst, src, { mask: tail.mask, zero: true });
  } else {
    // AVX2 has no load of a part of a vector of 16-bit numbers: one by one.
    v.zero(dst);
    eachWord(v, tail, (i) => asm.vpinsrw(dst.x, dst.x, (src as Mem).plus(2 * i).d, i));
    asm.vpmovzxwd(dst, dst.x);
  }
  asm.vpslld(dst, dst, 16);
}

/**
 * Stores the 16-bit numbers of `src` (half width), or the lanes of `tail`, of a count known when the
 * code is made; memory outside is not touched.
 */
export function storeWords(v: VectorBuilder, place: Mem, src: Vec, tail?: Tail): void {
  const { asm } = v;
  if (tail === undefined) asm.vmovups(place, src);
  else if (tail.mask) asm.vmovdqu16(place, src, { mask: tail.mask });
  else eachWord(v, tail, (i) => asm.vpextrw(place.plus(2 * i).d, src.x, i));
}

function eachWord(v: VectorBuilder, tail: Tail, body: (index: number) => void): void {
  const { count } = tail;
  assert(count !== undefined, "tail of 16-bit numbers on avx2: wanted a count known in advance");
  for (let i = 0; i < Math.min(count, v.lanes); i++) body(i);
}

/**
 * The low 16 bits of each lane of dst = src rounded to bf16, ties to even, subnormals kept, NaN
 * quiet with its sign; the upper bits are 0. dst must not be src. Takes 1 register meanwhile.
 */
export function roundToBf16(v: VectorBuilder, dst: Vec, src: Vec): void {
  const { asm } = v;
  v.scope(() => {
    const nan = v.take("roundToBf16");
    asm.vpsrld(dst, src, 16);
    v.or(nan, dst, v.u32(0x40));
    v.and(dst, dst, v.u32(1));
    asm.vpaddd(dst, dst, src);
    asm.vpaddd(dst, dst, v.u32(0x7fff));
    asm.vpsrld(dst, dst, 16);
    replaceNan(v, dst, src, nan);
  });
}

/** dst (half width) = the low 16 bits of each lane of src, in order; none above 0xffff. */
export function packWords(v: VectorBuilder, dst: Vec, src: Vec): void {
  const { asm } = v;
  if (v.avx512) {
    asm.vpmovdw(dst.y, src);
    return;
  }
  asm.vpackusdw(dst.y, src, src);
  // Packing works within 128-bit halves: bring quarters 0 and 2 together.
  asm.vpermq(dst.y, dst.y, 0b1000);
}

/** dst (half width) = src in bf16, see `roundToBf16`. Takes 2 registers meanwhile. dst may be src. */
export function bf16FromPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  v.scope(() => {
    const wide = v.take("bf16FromPs");
    roundToBf16(v, wide, src);
    packWords(v, dst, wide);
  });
}

/** dst (half width) = src in bf16, whose lanes are bf16 numbers already: no rounding. */
export function bf16FromExactPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  v.scope(() => {
    const wide = v.take("bf16FromExactPs");
    v.asm.vpsrld(wide, src, 16);
    packWords(v, dst, wide);
  });
}

/** The value of an e4m3 code (0 to 127) in float32. */
function e4m3Value(code: number): number {
  const exponent = code >> 3;
  const mantissa = code & 7;
  if (code === 0x7f) return Number.NaN;
  return exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10);
}

/** Registers that decode e4m3 to bf16 by table lookup; needs `avx512-bf16` (VBMI). */
export interface E4m3Table {
  /** Low bytes of the 128 bf16 values. */
  readonly low: readonly [Vec, Vec];
  /** High bytes. */
  readonly high: readonly [Vec, Vec];
}

/** Takes 4 registers and loads the table of `bf16FromE4m3` into them. */
export function loadE4m3Table(v: VectorBuilder): E4m3Table {
  const values = Float32Array.from({ length: 128 }, (_, code) => e4m3Value(code));
  const words = [...new Uint32Array(values.buffer)].map((bits) => bits >>> 16);
  const bytesOf = (shift: number) => Uint8Array.from(words, (word) => (word >> shift) & 0xff);
  const load = (name: string, bytes: Uint8Array): [Vec, Vec] => {
    const [first, second] = v.take(name, 2);
    v.load(first, mem(v.asm.constant(bytes.subarray(0, 64))));
    v.load(second, mem(v.asm.constant(bytes.subarray(64))));
    return [first, second];
  };
  return { low: load("e4m3 low", bytesOf(0)), high: load("e4m3 high", bytesOf(8)) };
}

/**
 * Decodes the 64 e4m3 codes in `codes` (a zmm, left as it is) to bf16, exactly, NaN included.
 * The codes come out by eights: `even` holds codes 0-7, 16-23, 32-39, 48-55 and `odd` the others.
 * In a dot product whose sides are both decoded so, that does not matter; else use
 * `orderForE4m3` on the codes first. Seven instructions; takes no other register.
 */
export function bf16FromE4m3(
  v: VectorBuilder,
  even: Vec,
  odd: Vec,
  codes: Vec,
  table: E4m3Table,
): void {
  const { asm } = v;
  // The permutes index with 7 bits, so the sign needs no clearing. Each starts from a copy.
  asm.vmovdqa64(even, codes);
  asm.vmovdqa64(odd, codes);
  asm.vpermi2b(even, table.low[0], table.low[1]);
  asm.vpermi2b(odd, table.high[0], table.high[1]);
  // odd | (codes & 0x80 in each byte)
  asm.vpternlogd(odd, codes, v.u32(0x80808080), 0xf8);
  v.scope(() => {
    const low = v.take("bf16FromE4m3");
    asm.vmovdqa64(low, even);
    asm.vpunpcklbw(even, low, odd);
    asm.vpunpckhbw(odd, low, odd);
  });
}

/** dst = the 64 codes at `src` so ordered that `bf16FromE4m3` yields 0-31 in even, 32-63 in odd. */
export function orderForE4m3(v: VectorBuilder, dst: Vec, src: Mem | Vec): void {
  const order = mem(v.asm.constant(BigInt64Array.of(0n, 4n, 1n, 5n, 2n, 6n, 3n, 7n)));
  v.load(dst, order);
  v.asm.vpermq(dst, dst, src);
}

/** What `psFromE4m3` leaves to be multiplied when `scaled` is false. */
export const e4m3HalfScale = 256;

/**
 * dst (one or two vectors, in order) = the e4m3 codes at `src`, exactly, NaN included; on any
 * instruction set, subnormals at full speed. `scaled: false` leaves the values 256 times too small
 * (a power of two that a later scale can take up). Two vectors cost less than twice one. Takes 1
 * register meanwhile.
 * Method: shifted by 7 bits, a code is a half-precision number of 2^-8 times its value.
 */
export function psFromE4m3(
  v: VectorBuilder,
  dst: readonly [Vec] | readonly [Vec, Vec],
  src: Mem | Vec,
  { scaled = true }: { scaled?: boolean } = {},
): void {
  const { asm } = v;
  const two = dst.length === 2;
  v.scope(() => {
    const words = v.take("psFromE4m3");
    // One vector of floats needs half a vector of 16-bit words; two need a whole one.
    const cut = (vec: Vec) => (two ? vec : v.half(vec));
    const [w, t] = [cut(words), cut(dst[0])];
    asm.vpmovzxbw(w, src);
    asm.vpsllw(w, w, 8);
    asm.vpsraw(w, w, 1);
    v.and(w, w, v.u32(0xbf80bf80));
    // A NaN code has all of its seven bits set; all bits of its half are then set, too.
    v.or(t, w, v.u32(0xc07fc07f));
    if (v.avx512) {
      const mask = v.takeMask("nan");
      asm.vpcmpeqw(mask, t, v.u16(0xffff));
      asm.vpblendmw(w, w, t, { mask });
    } else {
      asm.vpcmpeqw(t, t, v.u16(0xffff));
      asm.vpand(t, t, v.u16(0x7fff));
      asm.vpor(w, w, t);
    }
    asm.vcvtph2ps(dst[0], v.half(words));
    if (two) {
      if (v.avx512) asm.vextracti64x4(w.y, w, 1);
      else asm.vextracti128(w.x, w, 1);
      asm.vcvtph2ps(dst[1], v.half(words));
    }
    if (scaled) for (const vec of dst) asm.vmulps(vec, vec, v.f32(e4m3HalfScale));
  });
}

/**
 * dst = src rounded to the nearest e4m3 number, ties to even, as a float32 (and so exact in bf16,
 * see `bf16FromExactPs`): beyond +-448 saturated, infinities too, NaN kept. dst may be src.
 * Takes 2 registers meanwhile.
 * Method: for |x| in [2^e, 2^(e+1)), e >= -6, adding 2^(e+20) and taking it away rounds at 2^(e-3).
 */
export function roundToE4m3(v: VectorBuilder, dst: Vec, src: Vec): void {
  const { asm } = v;
  v.scope(() => {
    const [magnitude, magic] = v.take("roundToE4m3", 2);
    v.and(magnitude, src, v.u32(0x7fffffff));
    v.fill(magic, 448);
    // The magnitude last: it is what comes out where it is NaN.
    asm.vminps(magnitude, magic, magnitude);
    v.and(magic, magnitude, v.u32(0x7f800000));
    asm.vpmaxsd(magic, magic, v.u32((127 - 6) << 23));
    asm.vpaddd(magic, magic, v.u32(20 << 23));
    asm.vaddps(magnitude, magnitude, magic);
    asm.vsubps(magnitude, magnitude, magic);
    v.and(dst, src, v.u32(0x80000000));
    v.or(dst, dst, magnitude);
  });
}

/**
 * dst (a quarter of a vector: 16 or 8 bytes of an xmm) = the e4m3 codes of src, whose lanes are e4m3
 * numbers already (`roundToE4m3`); NaN becomes 0x7f or 0xff. dst may be src. Takes 1 register
 * meanwhile.
 */
export function e4m3FromExactPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  const { asm } = v;
  v.scope(() => {
    const wide = v.take("e4m3FromExactPs");
    const [w, t] = [v.half(wide), v.half(dst)];
    // 2^-8 of the value in half precision has the code's bits in 13..7, and bit 14 set if NaN.
    asm.vmulps(wide, src, v.f32(1 / e4m3HalfScale));
    asm.vcvtps2ph(w, wide, 0);
    asm.vpsrlw(t, w, 8);
    asm.vpsllw(w, w, 1);
    asm.vpsrlw(w, w, 8);
    asm.vpminuw(w, w, v.u16(0x7f));
    v.and(t, t, v.u32(0x00800080));
    v.or(w, w, t);
    if (v.avx512) asm.vpmovwb(dst.x, w);
    else asm.vpackuswb(dst.x, w, w);
  });
}

/** dst (16 or 8 bytes of an xmm) = src as e4m3 codes: `roundToE4m3`, then `e4m3FromExactPs`. */
export function e4m3FromPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  v.scope(() => {
    const rounded = v.take("e4m3FromPs");
    roundToE4m3(v, rounded, src);
    e4m3FromExactPs(v, dst, rounded);
  });
}
