/** @file The natural logarithm of a softmax's total. */
import type { Vec, VectorBuilder } from "../codegen/index.ts";

/** The bits of sqrt(1/2), from which mantissas are counted. */
const rootHalfBits = 0x3f3504f3;

/**
 * dst = ln src for src >= 1, to about 2 ulp; NaN and infinity give NaN. dst may be src. Takes 4
 * registers meanwhile.
 * Method: src = 2^e m with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh s with s = (m - 1) / (m + 1),
 * whose series is cut behind s^9, as |s| < 0.1716 makes the next term 2e-9 of the first.
 */
export function lnPs(v: VectorBuilder, dst: Vec, src: Vec): void {
  const { asm } = v;
  v.scope(() => {
    const [e, m, s, p] = v.take("lnPs", 4);
    asm.vsubps(p, src, src); // zero, or NaN where src is no number
    asm.vpsubd(m, src, v.u32(rootHalfBits));
    asm.vpsrad(e, m, 23);
    asm.vcvtdq2ps(e, e);
    v.and(m, m, v.u32(0x7fffff));
    asm.vpaddd(m, m, v.u32(rootHalfBits));
    asm.vaddps(dst, p, m);
    asm.vaddps(s, dst, v.f32(1));
    asm.vsubps(dst, dst, v.f32(1));
    asm.vdivps(s, dst, s);
    asm.vmulps(m, s, s);
    v.fill(p, 2 / 9);
    for (const term of [7, 5, 3, 1]) asm.vfmadd213ps(p, m, v.f32(2 / term));
    asm.vmulps(p, p, s);
    v.fill(dst, Math.LN2);
    asm.vfmadd231ps(p, e, dst);
    v.load(dst, p);
  });
}
