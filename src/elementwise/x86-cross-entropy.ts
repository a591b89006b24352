/**
 * @file The cross-entropy of a row: its maximum, then the exponentials and their sum (16 lanes of
 * float64, in one order on every instruction set), then, for a gradient, their quotients.
 */
import {
  expPs,
  mem,
  reduceMaxPs,
  type Tail,
  type Vec,
  type VectorBuilder,
} from "../codegen/index.ts";
import { clearBeyond, foldDoubles, type RowKernel, type RowOperation } from "./x86-rows.ts";

/** Bytes of a row's results: the sum as a float64, the maximum as a float32. */
export const lossBytes = 16;

const sumLanes = 16;

/** The operation; the sink is the gradient, or none. */
export class CrossEntropyRow implements RowOperation {
  readonly sources = 1;
  private readonly gradient: boolean;
  private max: Vec | undefined;
  private factor: Vec | undefined;

  constructor(gradient: boolean) {
    this.gradient = gradient;
  }

  start({ v }: RowKernel): void {
    [this.max, this.factor] = v.take("row", 2);
  }

  startRow(kernel: RowKernel): void {
    const { asm, v } = kernel;
    const [max, factor] = [this.max!, this.factor!];
    v.fill(max, Number.NEGATIVE_INFINITY);
    kernel.eachRun(4 * v.lanes, (columns) => {
      v.eachVector(columns, (disp, tail) => {
        v.scope(() => {
          const x = v.take("x");
          v.load(x, kernel.source(0, disp), tail);
          if (tail) infiniteBeyond(v, x, tail);
          // The maximum of a NaN and a number is the second operand; the sum will show the NaN.
          asm.vmaxps(max, x, max);
        });
      });
    });
    reduceMaxPs(v, max, max);
    asm.vbroadcastss(max, max.x);
    v.scope(() => {
      const sums = v.take("sums", sumLanes / (v.lanes / 2));
      const spare = v.take("spare");
      for (const sum of sums) v.zero(sum);
      kernel.eachRun(sumLanes, (columns) => {
        v.eachVector(columns, (disp, tail) => {
          const first = disp === 0 ? 0 : sums.length / 2;
          this.addExponentials(kernel, disp, v.avx512 ? sums : sums.slice(first, first + 2), tail);
        });
      });
      foldDoubles(v, sums, spare);
      kernel.addressOfResults(lossBytes);
      asm.vmovsd(kernel.result(0), sums[0].x);
      asm.vmovss(kernel.result(8), max.x);
      asm.vxorps(spare.x, spare.x, spare.x);
      asm.vcvtss2sd(spare.x, spare.x, kernel.argument("scale"));
      asm.vdivsd(spare.x, spare.x, sums[0].x);
      asm.vcvtsd2ss(spare.x, spare.x, spare.x);
      asm.vbroadcastss(factor, spare.x);
    });
  }

  /** Adds e^(x - max) of one vector to two registers of doubles; a gradient keeps it. */
  private addExponentials(
    kernel: RowKernel,
    disp: number,
    sums: readonly Vec[],
    tail?: Tail,
  ): void {
    const { asm, v } = kernel;
    v.scope(() => {
      const [e, doubles] = v.take("exponentials", 2);
      v.load(e, kernel.source(0, disp), tail);
      asm.vsubps(e, e, this.max!);
      expPs(v, e, e);
      if (tail) clearBeyond(v, e, tail);
      if (this.gradient) v.store(kernel.sinkPlace(disp), e, tail);
      asm.vcvtps2pd(doubles, v.half(e));
      asm.vaddpd(sums[0], sums[0], doubles);
      if (v.avx512) asm.vextractf64x4(e.y, e, 1);
      else asm.vextractf128(e.x, e, 1);
      asm.vcvtps2pd(doubles, v.half(e));
      asm.vaddpd(sums[1], sums[1], doubles);
    });
  }

  vector(kernel: RowKernel, dst: Vec, disp: number, tail?: Tail): void {
    kernel.v.load(dst, kernel.sinkPlace(disp), tail);
    kernel.asm.vmulps(dst, dst, this.factor!);
  }
}

/** Lanes of `vec` beyond the tail become minus infinity. */
function infiniteBeyond(v: VectorBuilder, vec: Vec, tail: Tail): void {
  const { asm } = v;
  v.scope(() => {
    const infinite = v.take("infinite");
    asm.vbroadcastss(infinite, mem(asm.constant(Float32Array.of(Number.NEGATIVE_INFINITY))));
    if (tail.mask) {
      asm.vmovaps(infinite, vec, { mask: tail.mask });
      v.load(vec, infinite);
    } else asm.vblendvps(vec, infinite, vec, tail.lanes!);
  });
}
