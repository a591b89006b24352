/**
 * @file The softmax so far of `flash-x86` (Milakov and Gimelshein, "Online normalizer calculation
 * for softmax", 2018), in base 2, lanes being rows: scores of a span become weights, and each row's
 * largest score, sum of weights and factor for what was summed before are brought up to date.
 */
import {
  expPs,
  type Gpr,
  type Label,
  mem,
  r9,
  r15,
  rax,
  rbx,
  rcx,
  rdi,
  rsi,
  type Vec,
  type VectorBuilder,
} from "../codegen/index.ts";
import { argumentLayout, type FlashShape } from "./x86-flash-layout.ts";

/** The largest score of a row that has seen none: finite, so that no difference is undefined. */
export const noScore = -1e38;

/**
 * 2^r = 1 + r (c0 + c1 r + ...) for |r| <= 1/2: a least-squares fit at 4000 Chebyshev nodes, 1.1e-7
 * of the value at most.
 */
const exp2Coefficients = [
  0.6931468844413757, 0.24022237956523895, 0.05550893023610115, 0.009671698324382305,
  0.0013218672247603536,
];
/** Where 2^x is 0 or infinite in float32 for certain. */
const exp2Limit = 200;

/** Constants of `emitExp2` in registers, on AVX-512; AVX2 has too few. */
export interface Exp2Constants {
  readonly least: Vec;
  readonly coefficients: readonly Vec[];
}

/** Takes 7 registers on AVX-512 and fills them. */
export function loadExp2(v: VectorBuilder): Exp2Constants | undefined {
  if (!v.avx512) return undefined;
  const coefficients = [1, ...exp2Coefficients].map((value) => {
    const register = v.take("exp2");
    v.fill(register, value);
    return register;
  });
  const least = v.take("exp2 least");
  v.fill(least, -exp2Limit);
  return { least, coefficients };
}

/** x = 2^x for x <= 200, to 2e-7; 0 for -infinity, NaN kept. Takes up to 3 registers meanwhile. */
export function emitExp2(v: VectorBuilder, x: Vec, constants: Exp2Constants | undefined): void {
  const { asm } = v;
  if (constants === undefined) {
    asm.vmulps(x, x, v.f32(Math.LN2));
    expPs(v, x, x);
    return;
  }
  const { least, coefficients } = constants;
  v.scope(() => {
    const [n, p] = v.take("exp2", 2);
    // The operand last is the one that comes out where it is NaN.
    asm.vmaxps(x, least, x);
    asm.vrndscaleps(n, x, 8);
    asm.vsubps(x, x, n);
    const [last, ...others] = coefficients.toReversed();
    asm.vmovaps(p, last);
    for (const coefficient of others) asm.vfmadd213ps(p, x, coefficient);
    asm.vscalefps(x, p, n);
  });
}

/** Registers that `emitSoftmax` and `emitMask` take; rax and rcx are clobbered. */
export const softmaxArguments: Readonly<
  Record<"scores" | "weights" | "vector" | "count" | "done", Gpr>
> = {
  /** Addresses of the vector's scores and weights; clobbered. */
  scores: rsi,
  weights: rdi,
  /** Scratch memory plus the bytes of the vectors of rows before this. */
  vector: r9,
  /** Keys; clobbered. The scores reach to a multiple of 4, those beyond being -infinity. */
  count: rcx,
  /** For the mask: keys of the task before the span. */
  done: rax,
};

/**
 * Replaces by -infinity the scores of the first `count` keys that a row does not see; `visibleAt` is
 * where scratch memory says how many it sees.
 */
export function emitMask(v: VectorBuilder, visibleAt: number): void {
  const { asm } = v;
  const { scores, vector, count, done } = softmaxArguments;
  v.scope(() => {
    const [visible, index, one, hidden, score] = v.take("mask", 5);
    asm.vmovd(index.x, done.d);
    asm.vpbroadcastd(index, index.x);
    v.load(visible, mem(vector, { disp: visibleAt }));
    asm.vpsubd(visible, visible, index);
    v.zero(index);
    asm.vpbroadcastd(one, mem(asm.constant(Int32Array.of(1))));
    v.fill(hidden, Number.NEGATIVE_INFINITY);
    const seen = v.avx512 ? v.takeMask("seen") : undefined;
    const next = asm.here("key");
    if (seen) {
      asm.vpcmpgtd(seen, visible, index);
      asm.vblendmps(score, hidden, mem(scores), { mask: seen });
    } else {
      asm.vpcmpgtd(score, visible, index);
      asm.vblendvps(score, hidden, mem(scores), score);
    }
    v.store(mem(scores), score);
    asm.vpaddd(index, index, one);
    asm.add(scores, v.vectorBytes);
    asm.dec(count.d);
    asm.jne(next);
  });
}

/** Keys of a turn of the loops. */
const turnKeys = 4;

/** The step of a span for one vector of rows. */
export function emitSoftmax(v: VectorBuilder, shape: FlashShape): void {
  const { asm } = v;
  const { scores, vector, count } = softmaxArguments;
  const { max, sum, rounded, factor } = shape.offsets;
  asm.add(count.d, turnKeys - 1);
  asm.shr(count.d, Math.log2(turnKeys));
  v.scope(() => {
    const constants = loadExp2(v);
    const [scale, minusMax, total] = v.take("softmax", 3);
    const totalRounded = shape.isDot ? v.take("rounded") : undefined;
    v.scope(() => {
      emitLargest(v, minusMax);
      const past = v.take("past");
      v.broadcast(scale, mem(r15, { disp: argumentLayout.scale }));
      asm.vmulps(minusMax, minusMax, scale);
      v.load(past, mem(vector, { disp: max }));
      asm.vmaxps(minusMax, minusMax, past);
      v.store(mem(vector, { disp: max }), minusMax);
      asm.vsubps(past, past, minusMax);
      emitExp2(v, past, constants);
      v.store(mem(vector, { disp: factor }), past);
      asm.vmulps(total, past, mem(vector, { disp: sum }));
      if (totalRounded) asm.vmulps(totalRounded, past, mem(vector, { disp: rounded }));
      v.zero(past);
      asm.vsubps(minusMax, past, minusMax);
    });
    const registers = { scale, minusMax, total, totalRounded, constants, count, scores };
    emitWeights(v, shape, registers);
    v.store(mem(vector, { disp: sum }), total);
    if (totalRounded) v.store(mem(vector, { disp: rounded }), totalRounded);
  });
}

/** largest = the largest scores; leaves `scores` and `count`. */
function emitLargest(v: VectorBuilder, largest: Vec): void {
  const { asm } = v;
  const { scores, count } = softmaxArguments;
  v.scope(() => {
    const chains = v.take("largest", turnKeys);
    for (const chain of chains) v.fill(chain, Number.NEGATIVE_INFINITY);
    asm.mov(rax, scores);
    v.scope(() => {
      const turns = count;
      asm.push(turns);
      const next = asm.here("largest");
      chains.forEach((chain, i) => {
        asm.vmaxps(chain, chain, mem(rax, { disp: i * v.vectorBytes }));
      });
      asm.add(rax, turnKeys * v.vectorBytes);
      asm.dec(turns.d);
      asm.jne(next);
      asm.pop(turns);
    });
    asm.vmaxps(chains[0], chains[0], chains[1]);
    asm.vmaxps(chains[2], chains[2], chains[3]);
    asm.vmaxps(largest, chains[0], chains[2]);
  });
}

interface WeightRegisters {
  readonly scale: Vec;
  readonly minusMax: Vec;
  readonly total: Vec;
  /** The sum of rounded weights: what results are divided by, so that a common error cancels. */
  readonly totalRounded: Vec | undefined;
  readonly constants: Exp2Constants | undefined;
  readonly count: Gpr;
  readonly scores: Gpr;
}

/** Writes the weights, adding them to `total`. */
function emitWeights(v: VectorBuilder, shape: FlashShape, registers: WeightRegisters): void {
  const { asm } = v;
  const { weights } = softmaxArguments;
  const { scale, minusMax, total, totalRounded, constants, count, scores } = registers;
  v.scope(() => {
    // AVX-512 works on the keys of a turn together, AVX2 on one after the other.
    const together = v.avx512 ? turnKeys : 1;
    const values = v.take("weights", together);
    const totals = [total, ...v.take("totals", together - 1)];
    for (const extra of totals.slice(1)) v.zero(extra);
    const order = shape.isDot ? loadPairOrder(v) : undefined;
    const next: Label = asm.here("weights");
    for (let first = 0; first < turnKeys; first += together) {
      values.forEach((value, i) => {
        v.load(value, mem(scores, { disp: (first + i) * v.vectorBytes }));
        asm.vfmadd213ps(value, scale, minusMax);
      });
      values.forEach((value, i) => {
        emitExp2(v, value, constants);
        asm.vaddps(totals[i], totals[i], value);
      });
      if (order === undefined) {
        values.forEach((value, i) => {
          v.store(mem(weights, { disp: (first + i) * v.vectorBytes }), value);
        });
      } else {
        for (let i = 0; i < together; i += 2) {
          asm.vcvtne2ps2bf16(values[i], values[i + 1], values[i]);
          asm.vpermw(values[i], order, values[i]);
          asm.vdpbf16ps(totalRounded!, values[i], v.u32(0x3f803f80));
          v.store(mem(weights, { disp: (i / 2) * v.vectorBytes }), values[i]);
        }
      }
    }
    asm.add(scores, turnKeys * v.vectorBytes);
    asm.add(weights, (shape.isDot ? turnKeys / 2 : turnKeys) * v.vectorBytes);
    asm.dec(count.d);
    asm.jne(next);
    for (const extra of totals.slice(1)) asm.vaddps(total, total, extra);
  });
}

/** Takes a register with the order that brings two vectors of 16 bf16 to pairs. */
export function loadPairOrder(v: VectorBuilder): Vec {
  const order = v.take("pair order");
  const words = Uint16Array.from({ length: 32 }, (_, i) => (i >> 1) + 16 * (i & 1));
  v.load(order, mem(v.asm.constant(words)));
  return order;
}

/** Where scratch memory's base is throughout. */
export const scratch: Gpr = rbx;
