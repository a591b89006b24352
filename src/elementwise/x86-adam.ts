/** @file The Adam step in machine code: one pass over four arrays, each product and sum rounded. */
import {
  Assembler,
  type Gpr,
  type Isa,
  type Mem,
  mem,
  r8,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  type Tail,
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";
import type { AdamFactors } from "./adam.ts";

/** Byte offsets of the arguments: counts and addresses of 64 bits, then factors of 32. */
export const adamArguments = {
  elements: 0,
  elementsPerTask: 8,
  parameters: 16,
  gradients: 24,
  firstMoment: 32,
  secondMoment: 40,
  factors: 48,
} as const;

/** The factors in the order in which they lie in the arguments. */
export const adamFactorNames: readonly (keyof AdamFactors)[] = [
  "gradientScale",
  "beta1",
  "rest1",
  "beta2",
  "rest2",
  "correction2",
  "eps",
  "stepSize",
  "decay",
];

const [args, at, end]: Gpr[] = [rdi, rsi, rax];
const [parameters, gradients, first, second]: Gpr[] = [r8, r9, r10, r11];

/** The code for one kind of weight decay. */
export function emitAdam(decay: "decoupled" | "l2", isa: Isa): Uint8Array {
  const asm = new Assembler();
  const v = new VectorBuilder(asm, isa);
  const argument = (offset: number): Mem => mem(args, { disp: offset });
  v.kernel([], () => {
    const [loop, rest, done] = [asm.label("loop"), asm.label("rest"), asm.label("done")];
    asm.imul(at, argument(adamArguments.elementsPerTask));
    asm.mov(end, at);
    asm.add(end, argument(adamArguments.elementsPerTask));
    asm.mov(rcx, argument(adamArguments.elements));
    asm.cmp(end, rcx);
    asm.cmovg(end, rcx);
    asm.mov(parameters, argument(adamArguments.parameters));
    asm.mov(gradients, argument(adamArguments.gradients));
    asm.mov(first, argument(adamArguments.firstMoment));
    asm.mov(second, argument(adamArguments.secondMoment));
    const factors = v.take("factors", adamFactorNames.length);
    factors.forEach((factor, i) => {
      v.broadcast(factor, argument(adamArguments.factors + 4 * i));
    });
    asm.align(32);
    asm.bind(loop);
    asm.lea(rdx, mem(at, { disp: v.lanes }));
    asm.cmp(rdx, end);
    asm.jg(rest);
    emitVector(v, decay, factors);
    asm.mov(at, rdx);
    asm.jmp(loop);
    asm.bind(rest);
    asm.mov(rdx, end);
    asm.sub(rdx, at);
    asm.cmp(rdx, 0);
    asm.jle(done);
    v.scope(() => emitVector(v, decay, factors, v.tail(rdx)));
    asm.bind(done);
  });
  return asm.finish();
}

function emitVector(
  v: VectorBuilder,
  decay: "decoupled" | "l2",
  factors: readonly Vec[],
  tail?: Tail,
): void {
  const { asm } = v;
  const [gradientScale, beta1, rest1, beta2, rest2, correction2, eps, stepSize, decayFactor] =
    factors;
  const place = (base: Gpr): Mem => mem(base, { index: at, scale: 4 });
  v.scope(() => {
    const [p, g, m, s, product] = v.take("adam", 5);
    v.load(p, place(parameters), tail);
    v.load(g, place(gradients), tail);
    asm.vmulps(g, g, gradientScale);
    if (decay === "l2") {
      asm.vmulps(product, p, decayFactor);
      asm.vaddps(g, g, product);
    } else asm.vmulps(p, p, decayFactor);
    v.load(m, place(first), tail);
    asm.vmulps(m, m, beta1);
    asm.vmulps(product, g, rest1);
    asm.vaddps(m, m, product);
    v.store(place(first), m, tail);
    v.load(s, place(second), tail);
    asm.vmulps(s, s, beta2);
    asm.vmulps(product, g, g);
    asm.vmulps(product, product, rest2);
    asm.vaddps(s, s, product);
    v.store(place(second), s, tail);
    asm.vsqrtps(s, s);
    asm.vmulps(s, s, correction2);
    asm.vaddps(s, s, eps);
    asm.vdivps(m, m, s);
    asm.vmulps(m, m, stepSize);
    asm.vsubps(p, p, m);
    v.store(place(parameters), p, tail);
  });
}
