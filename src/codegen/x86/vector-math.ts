/**
 * @file Float32 functions as runs of vector instructions. All instruction sets execute the same
 * roundings in the same order, so that their results agree to the bit.
 */
import { predicate, type Vec } from "./registers.ts";
import type { VectorBuilder } from "./vector.ts";

/** 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits. */
const roundingMagic = 12582912;
const roundingMagicBits = 0x4b400000;

/** ln 2 in two parts; the first has 15 bits, so that its product with a small integer is exact. */
const ln2High = 0.693145751953125;
const ln2Low = 1.4286068203094173e-6;

/**
 * e^r = 1 + r + r^2 (c0 + c1 r + ...) for |r| <= ln(2) / 2: minimax in relative error (3.2e-9), found
 * by the Remez exchange, each coefficient rounded to float32 before the next ones were fitted.
 */
const expCoefficients = [
  0.4999999403953552, 0.16666516661643982, 0.04166810214519501, 0.008369192481040955,
  0.001383890281431377,
];

/** Arguments beyond which e^x is 0 or infinite in float32 anyway. */
const expMin = -104;
const expMax = 89;

/**
 * dst = e^src, to 1 ulp (measured; 2 promised) where the result is normal, and with subnormal
 * results; 0 for -inf, inf beyond 88.72, NaN for NaN. dst may be src. Takes 3 registers meanwhile.
 * Method: e^x = 2^n e^r with n = round(x / ln 2), r = x - n ln 2 in two steps (Cody and Waite,
 * Software Manual for the Elementary Functions, 1980), and a polynomial for e^r, as in Cephes.
 */
export function expPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  const { asm } = v;
  v.scope(() => {
    const [x, n, p] = v.take("expPs", 3);
    // The clamps have the constant first: min and max return their last operand when one is NaN.
    v.fill(p, expMin);
    asm.vmaxps(x, p, src);
    v.fill(p, expMax);
    asm.vminps(x, p, x);
    v.fill(p, roundingMagic);
    v.load(n, x);
    asm.vfmadd132ps(n, p, v.f32(Math.LOG2E));
    if (!v.avx512) v.load(dst, n);
    asm.vsubps(n, n, p);
    asm.vfnmadd231ps(x, n, v.f32(ln2High));
    asm.vfnmadd231ps(x, n, v.f32(ln2Low));
    const [last, ...others] = expCoefficients.toReversed();
    v.fill(p, last);
    for (const coefficient of [...others, 1, 1]) asm.vfmadd213ps(p, x, v.f32(coefficient));
    if (v.avx512) asm.vscalefps(dst, p, n);
    else scaleByPowerOfTwo(v, dst, p, n);
  });
}

/**
 * dst = p * 2^n, rounded once, where dst holds n + `roundingMagic` and |n| <= 252; overwrites `other`.
 * In two steps, since 2^n alone may be outside float32; the first is exact.
 */
function scaleByPowerOfTwo(v: VectorBuilder, dst: Vec, p: Vec, other: Vec): void {
  const { asm } = v;
  asm.vpsubd(dst, dst, v.u32(roundingMagicBits));
  asm.vpsrad(other, dst, 1);
  asm.vpsubd(dst, dst, other);
  for (const part of [other, dst]) {
    asm.vpslld(part, part, 23);
    asm.vpaddd(part, part, v.u32(0x3f800000));
    asm.vmulps(p, p, part);
  }
  v.load(dst, p);
}

/**
 * dst = 1 / (1 + e^-src), to 3 ulp where src >= -87; below -88.72 it is 0. NaN for NaN. dst may be
 * src. Takes 4 registers meanwhile.
 */
export function sigmoidPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  const { asm } = v;
  v.scope(() => {
    const one = v.take("sigmoidPs");
    v.xor(dst, src, v.u32(0x80000000));
    expPs(v, dst, dst);
    v.fill(one, 1);
    asm.vaddps(dst, dst, one);
    asm.vdivps(dst, one, dst);
  });
}

/** dst = |src|. */
export function absPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  v.and(dst, src, v.u32(0x7fffffff));
}

/**
 * Lane 0 of dst = the sum of src's lanes, in a fixed order: halves are added to each other, 16 lanes
 * to 8, 4, 2, 1 (lane i to lane i + half). Other lanes of dst are undefined. dst may be src.
 */
export function reduceAddPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  reduce(v, dst, src, (to, a, b) => v.asm.vaddps(to, a, b));
}

/** Lane 0 of dst = the greatest of src's lanes, none of them NaN. Otherwise as `reduceAddPs`. */
export function reduceMaxPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  reduce(v, dst, src, (to, a, b) => v.asm.vmaxps(to, a, b));
}

function reduce(
  v: VectorBuilder,
  dst: Vec,
  src: Vec,
  combine: (to: Vec, a: Vec, b: Vec) => void,
): void {
  const { asm } = v;
  v.scope(() => {
    const high = v.take("reduce");
    let low = src;
    if (v.avx512) {
      asm.vextractf64x4(high.y, src, 1);
      combine(dst.y, src.y, high.y);
      low = dst;
      asm.vextractf32x4(high.x, low.y, 1);
    } else {
      asm.vextractf128(high.x, low, 1);
    }
    combine(dst.x, low.x, high.x);
    asm.vmovhlps(high.x, dst.x, dst.x);
    combine(dst.x, dst.x, high.x);
    asm.vmovshdup(high.x, dst.x);
    combine(dst.x, dst.x, high.x);
  });
}

/** Every lane of dst = lane 0 of src (which may be dst). */
export function broadcastLane0(v: VectorBuilder, dst: Vec, src: Vec): void {
  v.asm.vbroadcastss(dst, src.x);
}

/** Lanes of dst where src is NaN become `value` (float32 bits); the others stay. */
export function replaceNan(v: VectorBuilder, dst: Vec, src: Vec, value: Vec): void {
  const { asm } = v;
  v.scope(() => {
    if (v.avx512) {
      const mask = v.takeMask("nan");
      asm.vcmpps(mask, src, src, predicate.unord);
      asm.vmovaps(dst, value, { mask });
    } else {
      const isNan = v.take("nan");
      asm.vcmpps(isNan, src, src, predicate.unord);
      asm.vblendvps(dst, dst, value, isNan);
    }
  });
}
