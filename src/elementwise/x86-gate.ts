/**
 * @file The gate in machine code, with the reference's bits. Scores are computed in float64 to a
 * proven error; where both ends of that error round to one float32, so does the reference's value,
 * and where they do not (or a number is not finite) the token is marked, for the reference to
 * compute. Everything after the scores is comparison, or the same roundings in the same order.
 */
import { alignUp } from "../base/index.ts";
import {
  Assembler,
  bcst,
  broadcastLane0,
  type Gpr,
  type Isa,
  type Mem,
  mem,
  predicate,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  rax,
  rbx,
  rcx,
  rdi,
  rdx,
  reduceMaxPs,
  rsi,
  type Tail,
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";
import type { GateConfig } from "./gate.ts";
import { foldDoubles } from "./x86-rows.ts";

/** Byte offsets of the arguments, 64 bits each; strides in bytes. */
export const gateArguments = {
  rows: 0,
  rowsPerTask: 8,
  logits: 16,
  logitsStride: 24,
  bias: 32,
  ids: 40,
  idsStride: 48,
  weights: 56,
  weightsStride: 64,
  /** int32 per token: 1 where the reference must decide. */
  marks: 72,
} as const;

/** Whether there is machine code for a gate of this size. */
export function gateFits({ numExperts, numGroups }: GateConfig): boolean {
  return numExperts <= 1024 && numGroups <= 64;
}

/** Bytes of scratch memory that the code uses. */
export function gateScratchBytes({ numExperts, numGroups }: GateConfig): number {
  return 16 * alignUp(numExperts, 16) + 8 * alignUp(numGroups, 16);
}

const [args, row, rowEnd, scratch]: Gpr[] = [rbx, r12, r13, r14];
const [logits, bias, ids, weights]: Gpr[] = [r8, r9, r10, r11];

/**
 * Relative error that is allowed for: of e^x and a quotient a few 2^-52, of a sum of up to 1024
 * exponentials, in whatever order, 2^-43.
 */
const allowance = { sigmoid: 2 ** -46, softmax: 2 ** -42 };

/** Beyond it, e^-x is so small or large that a score is 0 or 1 in float32. */
const exponentLimit = 700;

/** Stands for logits that are not there; finite, and its exponential vanishes. */
const nowhere = -1e38;

/** The code of a gate; where its bias lies is an argument. */
export function emitGate(config: GateConfig, isa: Isa): Uint8Array {
  return new GateKernel(config, isa).emit();
}

class GateKernel {
  private readonly asm: Assembler = new Assembler();
  private readonly v: VectorBuilder;
  private readonly config: GateConfig;
  private readonly padded: number;
  private readonly paddedGroups: number;

  constructor(config: GateConfig, isa: Isa) {
    this.v = new VectorBuilder(this.asm, isa);
    this.config = config;
    this.padded = alignUp(config.numExperts, 16);
    this.paddedGroups = alignUp(config.numGroups, 16);
  }

  private score(index: number): Mem {
    return mem(scratch, { disp: 4 * index });
  }

  private biased(index: number): Mem {
    return mem(scratch, { disp: 4 * (this.padded + index) });
  }

  /** e^(logit - max) of the softmax, as doubles. */
  private exponential(index: number): Mem {
    return mem(scratch, { disp: 8 * (this.padded + index) });
  }

  private group(index: number): Mem {
    return mem(scratch, { disp: 16 * this.padded + 4 * index });
  }

  private kept(index: number): Mem {
    return mem(scratch, { disp: 16 * this.padded + 4 * (this.paddedGroups + index) });
  }

  emit(): Uint8Array {
    const { asm, v } = this;
    const argument = (name: keyof typeof gateArguments): Mem =>
      mem(args, { disp: gateArguments[name] });
    v.kernel([rbx, r12, r13, r14], () => {
      const [next, marked, end] = [asm.label("row"), asm.label("marked"), asm.label("end")];
      asm.mov(args, rdi);
      asm.mov(scratch, rdx);
      asm.mov(row, rsi);
      asm.imul(row, argument("rowsPerTask"));
      asm.mov(rowEnd, row);
      asm.add(rowEnd, argument("rowsPerTask"));
      asm.mov(rcx, argument("rows"));
      asm.cmp(rowEnd, rcx);
      asm.cmovg(rowEnd, rcx);
      asm.cmp(row, rowEnd);
      asm.jge(end);
      asm.bind(next);
      for (const [register, name] of [
        [logits, "logits"],
        [ids, "ids"],
        [weights, "weights"],
      ] as const) {
        asm.mov(register, argument(`${name}Stride`));
        asm.imul(register, row);
        asm.add(register, argument(name));
      }
      if (this.config.correctionBias) asm.mov(bias, argument("bias"));
      this.emitScores();
      // The mark of this token lies in ecx.
      asm.mov(rdx, argument("marks"));
      asm.mov(mem(rdx, { index: row, scale: 4 }).d, rcx.d);
      asm.test(rcx.d, rcx.d);
      asm.jnz(marked);
      this.emitGroupLimit();
      this.emitChoice();
      asm.bind(marked);
      asm.inc(row);
      asm.cmp(row, rowEnd);
      asm.jl(next);
      asm.bind(end);
    });
    return asm.finish();
  }

  /** A double in every lane, as a last operand. */
  private double(value: number): Mem {
    const { asm, v } = this;
    if (v.avx512) return bcst(mem(asm.constant(Float64Array.of(value))));
    return mem(asm.constant(new Float64Array(4).fill(value)));
  }

  private fillDouble(dst: Vec, value: number): void {
    this.asm.vbroadcastsd(dst, mem(this.asm.constant(Float64Array.of(value))));
  }

  /** x = e^x for doubles, to 2^-50; see `expPs`, of which this is the long form. */
  private expDoubles(x: Vec): void {
    const { asm, v } = this;
    v.scope(() => {
      const [n, bits, p] = v.take("expDoubles", 3);
      asm.vminpd(x, x, this.double(exponentLimit));
      asm.vmaxpd(x, x, this.double(-exponentLimit));
      // Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits.
      this.fillDouble(p, 1.5 * 2 ** 52);
      v.load(n, x);
      asm.vfmadd132pd(n, p, this.double(Math.LOG2E));
      asm.vpsllq(bits, n, 52);
      asm.vsubpd(n, n, p);
      // ln 2 in two parts, the first of 33 bits.
      asm.vfnmadd231pd(x, n, this.double(0.6931471803691238));
      asm.vfnmadd231pd(x, n, this.double(1.9082149292705877e-10));
      const terms = [1];
      for (let k = 1; k <= 13; k++) terms.push(terms[k - 1] / k);
      this.fillDouble(p, terms[13]);
      for (const term of terms.slice(0, 13).toReversed()) {
        asm.vfmadd213pd(p, x, this.double(term));
      }
      asm.vpaddq(x, p, bits);
    });
  }

  /** Each vector of experts: `body(first, tail)`. Straight-line code. */
  private eachVector(body: (first: number, tail?: Tail) => void): void {
    this.v.eachVector(this.config.numExperts, body);
  }

  /** dst = the logits from `first` on, `nowhere` where there are none. Not finite: marks `bad`. */
  private loadLogits(dst: Vec, first: number, tail: Tail | undefined, bad?: Vec): void {
    const { v } = this;
    v.load(dst, mem(logits, { disp: 4 * first }), tail);
    if (bad) this.markInfinite(dst, bad);
    if (tail) this.fillBeyond(dst, tail, nowhere);
  }

  /** A number less itself is 0, or NaN where it is not finite. */
  private markInfinite(vec: Vec, bad: Vec): void {
    const { asm, v } = this;
    v.scope(() => {
      const nothing = v.take("nothing");
      asm.vsubps(nothing, vec, vec);
      v.or(bad, bad, nothing);
    });
  }

  /** Lanes of `vec` beyond the tail become `value`. */
  private fillBeyond(vec: Vec, tail: Tail, value: number): void {
    const { asm, v } = this;
    v.scope(() => {
      const filled = v.take("filled");
      v.fill(filled, value);
      if (tail.mask) {
        asm.vmovaps(filled, vec, { mask: tail.mask });
        v.load(vec, filled);
      } else asm.vblendvps(vec, filled, vec, tail.lanes!);
    });
  }

  /** Scores and biased scores to scratch; ecx = whether the reference must decide. */
  private emitScores(): void {
    const { asm, v, config } = this;
    v.scope(() => {
      const bad = v.take("bad");
      v.zero(bad);
      if (config.scoring === "softmax") this.emitSoftmax(bad);
      else this.emitSigmoid(bad);
      this.eachVector((first, tail) => {
        v.scope(() => {
          const score = v.take("biased");
          v.load(score, this.score(first));
          if (config.correctionBias) {
            const more = v.take("bias");
            v.load(more, mem(bias, { disp: 4 * first }), tail);
            this.markInfinite(more, bad);
            asm.vaddps(score, score, more);
          }
          if (tail) this.fillBeyond(score, tail, Number.NEGATIVE_INFINITY);
          v.store(this.biased(first), score);
        });
      });
      for (let e = alignUp(config.numExperts, v.lanes); e < this.padded; e += v.lanes) {
        this.storeNothing(this.biased(e));
      }
      if (v.avx512) {
        v.scope(() => {
          const high = v.take("high");
          asm.vextracti64x4(high.y, bad, 1);
          asm.vpor(bad.y, bad.y, high.y);
        });
      }
      asm.xor(rcx.d, rcx.d);
      asm.vptest(bad.y, bad.y);
      asm.setne(rcx.b);
    });
  }

  /** A vector of minus infinity at `place`. */
  private storeNothing(place: Mem): void {
    const { v } = this;
    v.scope(() => {
      const nothing = v.take("nothing");
      v.fill(nothing, Number.NEGATIVE_INFINITY);
      v.store(place, nothing);
    });
  }

  private emitSigmoid(bad: Vec): void {
    const { asm, v } = this;
    this.eachVector((first, tail) => {
      v.scope(() => {
        const [x, d] = v.take("sigmoid", 2);
        this.loadLogits(x, first, tail, bad);
        for (const half of [0, 1]) {
          this.takeHalf(d, x, half);
          v.scope(() => {
            const one = v.take("one");
            v.zero(one);
            asm.vsubpd(d, one, d);
            this.expDoubles(d);
            this.fillDouble(one, 1);
            asm.vaddpd(d, d, one);
            asm.vdivpd(d, one, d);
          });
          this.storeRounded(first + (half * v.lanes) / 2, d, bad, allowance.sigmoid);
        }
      });
    });
  }

  private emitSoftmax(bad: Vec): void {
    const { asm, v } = this;
    v.scope(() => {
      const [max, sum, x, d] = v.take("softmax", 4);
      v.fill(max, Number.NEGATIVE_INFINITY);
      this.eachVector((first, tail) => {
        this.loadLogits(x, first, tail, bad);
        asm.vmaxps(max, max, x);
      });
      reduceMaxPs(v, max, max);
      asm.vcvtss2sd(max.x, max.x, max.x);
      asm.vbroadcastsd(max, max.x);
      v.zero(sum);
      this.eachVector((first, tail) => {
        this.loadLogits(x, first, tail);
        for (const half of [0, 1]) {
          this.takeHalf(d, x, half);
          asm.vsubpd(d, d, max);
          this.expDoubles(d);
          asm.vaddpd(sum, sum, d);
          v.store(this.exponential(first + (half * v.lanes) / 2), d);
        }
      });
      foldDoubles(v, [sum], x);
      asm.vbroadcastsd(sum, sum.x);
      this.eachVector((first) => {
        for (const half of [0, 1]) {
          const at = first + (half * v.lanes) / 2;
          v.load(d, this.exponential(at));
          asm.vdivpd(d, d, sum);
          this.storeRounded(at, d, bad, allowance.softmax);
        }
      });
    });
  }

  /** dst = doubles of the lower or upper half of `src`. */
  private takeHalf(dst: Vec, src: Vec, half: number): void {
    const { asm, v } = this;
    if (half === 0) asm.vcvtps2pd(dst, v.half(src));
    else {
      if (v.avx512) asm.vextractf64x4(dst.y, src, 1);
      else asm.vextractf128(dst.x, src, 1);
      asm.vcvtps2pd(dst, v.half(dst));
    }
  }

  /** Stores half a vector of scores; marks `bad` where the error could change one. Clobbers `d`. */
  private storeRounded(first: number, d: Vec, bad: Vec, error: number): void {
    const { asm, v } = this;
    v.scope(() => {
      const other = v.take("other");
      asm.vmulpd(other, d, this.double(1 + error));
      asm.vmulpd(d, d, this.double(1 - error));
      asm.vcvtpd2ps(v.half(other), other);
      asm.vcvtpd2ps(v.half(d), d);
      asm.vmovups(this.score(first), v.half(d));
      // The upper halves are zero after the conversions.
      v.xor(other, other, d);
      v.or(bad, bad, other);
    });
  }

  /** Biased scores of all groups but the best become minus infinity. */
  private emitGroupLimit(): void {
    const { asm, v, config } = this;
    const { numGroups, topkGroups, numExperts } = config;
    if (numGroups <= 1 || topkGroups >= numGroups) return;
    const size = numExperts / numGroups;
    for (let g = 0; g < this.paddedGroups; g += v.lanes) {
      this.storeNothing(this.group(g));
      v.scope(() => {
        const none = v.take("none");
        v.zero(none);
        v.store(this.kept(g), none);
      });
    }
    for (let g = 0; g < numGroups; g++) this.emitGroupScore(g, size);
    for (let n = 0; n < topkGroups; n++) {
      this.emitArgMax((index) => this.group(index), this.paddedGroups);
      asm.mov(mem(scratch, { index: rdx, scale: 4, disp: 16 * this.padded }).d, 0xff800000 | 0);
      const { disp } = this.kept(0);
      asm.mov(mem(scratch, { index: rdx, scale: 4, disp }).d, 1);
    }
    v.scope(() => {
      const nothing = v.take("nothing");
      v.fill(nothing, Number.NEGATIVE_INFINITY);
      for (let g = 0; g < numGroups; g++) {
        const skip = asm.label("kept");
        asm.cmp(this.kept(g).d, 0);
        asm.jne(skip);
        v.eachVector(size, (first, tail) => {
          v.store(this.biased(g * size + first), nothing, tail);
        });
        asm.bind(skip);
      }
    });
  }

  /** The best score of a group, or the sum of its two best. */
  private emitGroupScore(group: number, size: number): void {
    const { asm, v, config } = this;
    v.scope(() => {
      const [best, second, x] = v.take("best", 3);
      v.fill(best, Number.NEGATIVE_INFINITY);
      v.load(second, best);
      v.eachVector(size, (first, tail) => {
        v.load(x, this.biased(group * size + first), tail);
        if (tail) this.fillBeyond(x, tail, Number.NEGATIVE_INFINITY);
        this.mergeBest(best, second, x, undefined);
      });
      const [highBest, highSecond] = v.take("high", 2);
      if (v.avx512) {
        asm.vextractf64x4(highBest.y, best, 1);
        asm.vextractf64x4(highSecond.y, second, 1);
        this.mergeBest(best.y, second.y, highBest.y, highSecond.y);
      }
      asm.vextractf128(highBest.x, best.y, 1);
      asm.vextractf128(highSecond.x, second.y, 1);
      this.mergeBest(best.x, second.x, highBest.x, highSecond.x);
      asm.vmovhlps(highBest.x, best.x, best.x);
      asm.vmovhlps(highSecond.x, second.x, second.x);
      this.mergeBest(best.x, second.x, highBest.x, highSecond.x);
      asm.vmovshdup(highBest.x, best.x);
      asm.vmovshdup(highSecond.x, second.x);
      this.mergeBest(best.x, second.x, highBest.x, highSecond.x);
      if (config.groupScore === "top2-sum" && size > 1) asm.vaddss(best.x, best.x, second.x);
      asm.vmovss(this.group(group), best.x);
    });
  }

  /** (best, second) = the two best of them, of `x`, and of `y` <= x where given. Clobbers x. */
  private mergeBest(best: Vec, second: Vec, x: Vec, y: Vec | undefined): void {
    const { asm, v } = this;
    v.scope(() => {
      const whole = v.take("lower");
      const lower = best.bits === 512 ? whole : best.bits === 256 ? whole.y : whole.x;
      asm.vminps(lower, best, x);
      asm.vmaxps(best, best, x);
      asm.vmaxps(second, second, lower);
      if (y) asm.vmaxps(second, second, y);
    });
  }

  /** rdx = the index of the greatest of `count` floats (a multiple of 16), the lowest of equals. */
  private emitArgMax(place: (index: number) => Mem, count: number): void {
    const { asm, v } = this;
    v.scope(() => {
      const max = v.take("max");
      v.load(max, place(0));
      for (let i = v.lanes; i < count; i += v.lanes) asm.vmaxps(max, max, place(i));
      reduceMaxPs(v, max, max);
      broadcastLane0(v, max, max);
      const found = asm.label("found");
      for (let i = 0; i < count; i += v.lanes) {
        v.scope(() => {
          if (v.avx512) {
            const equal = v.takeMask("equal");
            asm.vcmpps(equal, max, place(i), predicate.eq);
            asm.kmovw(rcx.d, equal);
          } else {
            const equal = v.take("equal");
            asm.vcmpps(equal, max, place(i), predicate.eq);
            asm.vmovmskps(rcx.d, equal);
          }
        });
        asm.mov(rdx.d, i);
        asm.test(rcx.d, rcx.d);
        asm.jnz(found);
      }
      asm.bind(found);
      asm.tzcnt(rcx.d, rcx.d);
      asm.add(rdx.d, rcx.d);
    });
  }

  /** The best experts in turn, their weights, and the factor of those. */
  private emitChoice(): void {
    const { asm, v, config } = this;
    const next = asm.label("choice");
    v.scope(() => {
      const [sum, one] = v.take("choice", 2).map((vec) => vec.x);
      asm.vxorps(sum, sum, sum);
      asm.xor(rax.d, rax.d);
      asm.bind(next);
      this.emitArgMax((index) => this.biased(index), this.padded);
      const { disp } = this.biased(0);
      asm.mov(mem(scratch, { index: rdx, scale: 4, disp }).d, 0xff800000 | 0);
      asm.mov(mem(ids, { index: rax, scale: 4 }).d, rdx.d);
      asm.vmovss(one, mem(scratch, { index: rdx, scale: 4 }));
      asm.vmovss(mem(weights, { index: rax, scale: 4 }), one);
      asm.vcvtss2sd(one, one, one);
      asm.vaddsd(sum, sum, one);
      asm.inc(rax.d);
      asm.cmp(rax.d, config.topK);
      asm.jb(next);
      asm.vmovsd(one, mem(asm.constant(Float64Array.of(config.scale))));
      if (config.normalise) {
        asm.vaddsd(sum, sum, mem(asm.constant(Float64Array.of(1e-20))));
        asm.vdivsd(one, one, sum);
      }
      for (let j = 0; j < config.topK; j++) {
        asm.vcvtss2sd(sum, sum, mem(weights, { disp: 4 * j }));
        asm.vmulsd(sum, sum, one);
        asm.vcvtsd2ss(sum, sum, sum);
        asm.vmovss(mem(weights, { disp: 4 * j }), sum);
      }
    });
  }
}
