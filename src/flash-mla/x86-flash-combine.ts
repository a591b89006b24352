/**
 * @file Combines the partial results of requests whose keys were split over several tasks: each part
 * counts e^(its lse), the sink e^(sink) in the denominator alone.
 */
import {
  Assembler,
  expPs,
  type Gpr,
  mem,
  predicate,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";
import { argumentLayout, type FlashShape, taskLayout } from "./x86-flash-layout.ts";
import { emitBf16Slab } from "./x86-flash-results.ts";
import { noScore } from "./x86-flash-softmax.ts";
import { lnPs } from "./x86-log.ts";

/**
 * Fields of a task record as this program reads them: `q` and `keys` are the addresses of the first
 * part's results and lse of the first row, `keyCount` the number of parts, `values` and `visible`
 * the bytes from part to part of results and of lse; the others are as in `taskLayout`.
 */
export const combineFields: Readonly<
  Record<"partialOut" | "partialLse" | "parts" | "outPartBytes" | "lsePartBytes", number>
> = {
  partialOut: taskLayout.q,
  partialLse: taskLayout.keys,
  parts: taskLayout.keyCount,
  outPartBytes: taskLayout.values,
  lsePartBytes: taskLayout.visible,
};

/** Emits it: kernel(arguments, task, scratch), a row after the other. */
export function emitCombine(shape: FlashShape): Uint8Array {
  const asm = new Assembler();
  const v = new VectorBuilder(asm, shape.isa);
  const [task, partialOut, partialLse, out, lse, head] = [rbp, r8, r9, r10, r11, r12];
  const rows = r13;
  const field = (disp: number) => mem(task, { disp });
  v.kernel([rbx, rbp, r12, r13, r14, r15], () => {
    asm.mov(r15, rdi);
    asm.mov(rbx, rdx);
    asm.shl(rsi, Math.log2(taskLayout.bytes));
    asm.add(rsi, mem(r15, { disp: argumentLayout.tasks }));
    asm.mov(task, rsi);
    asm.mov(partialOut, field(combineFields.partialOut));
    asm.mov(partialLse, field(combineFields.partialLse));
    asm.mov(out, field(taskLayout.out));
    asm.mov(lse, field(taskLayout.lse));
    asm.mov(head, field(taskLayout.head));
    asm.mov(rows, field(taskLayout.rows));
    const [next, sameToken] = [asm.here("row"), asm.label("sameToken")];
    emitPartWeights(v, shape, { task, partialLse, lse, head });
    emitCombinedRow(v, shape, { task, partialOut, out });
    asm.add(partialOut, shape.slabs * shape.slabBytes);
    asm.add(partialLse, 4);
    asm.add(out, field(taskLayout.outStride));
    asm.add(lse, field(taskLayout.lseStride));
    asm.inc(head);
    asm.cmp(head, mem(r15, { disp: argumentLayout.group }));
    asm.jne(sameToken);
    asm.xor(head.d, head.d);
    asm.add(out, field(taskLayout.outJump));
    asm.add(lse, field(taskLayout.lseJump));
    asm.bind(sameToken);
    asm.dec(rows);
    asm.jne(next);
  });
  return asm.finish();
}

type Registers<Names extends string> = Readonly<Record<Names, Gpr>>;

/** Scratch: the row's results, then a weight for each part. */
function weightsAt(shape: FlashShape): number {
  return shape.slabs * shape.slabBytes;
}

/** Writes the weights of the row's parts to scratch memory and its lse to where it belongs. */
function emitPartWeights(
  v: VectorBuilder,
  shape: FlashShape,
  { task, partialLse, lse, head }: Registers<"task" | "partialLse" | "lse" | "head">,
): void {
  const { asm } = v;
  const [walker, target, left] = [rsi, rdi, rcx];
  const eachPart = (body: () => void): void => {
    asm.mov(walker, partialLse);
    asm.lea(target, mem(rbx, { disp: weightsAt(shape) }));
    asm.mov(left, mem(task, { disp: combineFields.parts }));
    const next = asm.here("part");
    body();
    asm.add(walker, mem(task, { disp: combineFields.lsePartBytes }));
    asm.add(target, 4);
    asm.dec(left);
    asm.jne(next);
  };
  v.scope(() => {
    const [max, sum, value, other] = v.take("parts", 4);
    const loadPart = (): void => {
      // A part in which the row saw no key says +infinity: it counts nothing.
      v.broadcast(value, mem(walker));
      v.fill(other, Number.POSITIVE_INFINITY);
      replaceEqual(v, value, other, Number.NEGATIVE_INFINITY);
    };
    v.fill(max, noScore);
    eachPart(() => {
      loadPart();
      asm.vmaxps(max, max, value);
    });
    v.zero(sum);
    eachPart(() => {
      loadPart();
      asm.vsubps(value, value, max);
      expPs(v, value, value);
      asm.vaddps(sum, sum, value);
      asm.vmovss(mem(target), value.x);
    });
    emitSinkFactor(v, { task, head }, { max, sum, factor: other });
    eachPart(() => {
      asm.vmulss(value.x, other.x, mem(target));
      asm.vmovss(mem(target), value.x);
    });
    v.load(value, sum);
    lnPs(v, value, value);
    asm.vaddps(value, value, max);
    v.zero(other);
    v.scope(() => {
      const infinite = v.take("infinite");
      v.fill(infinite, Number.POSITIVE_INFINITY);
      blendWhereEqual(v, value, infinite, sum, other);
    });
    asm.vmovss(mem(lse), value.x);
  });
}

/** factor = 1 / (sum + e^(sink - max)), 0 where the sum is 0. */
function emitSinkFactor(
  v: VectorBuilder,
  { task, head }: Registers<"task" | "head">,
  { max, sum, factor }: Readonly<Record<"max" | "sum" | "factor", Vec>>,
): void {
  const { asm } = v;
  v.scope(() => {
    const [total, zero] = v.take("sink", 2);
    const noSink = asm.label("noSink");
    v.zero(total);
    asm.mov(rax, mem(task, { disp: taskLayout.sinks }));
    asm.test(rax, rax);
    asm.je(noSink);
    v.broadcast(total, mem(rax, { index: head, scale: 4 }));
    asm.vsubps(total, total, max);
    expPs(v, total, total);
    asm.bind(noSink);
    asm.vaddps(total, total, sum);
    v.fill(factor, 1);
    asm.vdivps(factor, factor, total);
    v.zero(zero);
    blendWhereEqual(v, factor, zero, sum, zero);
  });
}

/** Lanes of `value` equal to `equal` become `instead`. */
function replaceEqual(v: VectorBuilder, value: Vec, equal: Vec, instead: number): void {
  v.scope(() => {
    const other = v.take("instead");
    v.fill(other, instead);
    blendWhereEqual(v, value, other, value, equal);
  });
}

/** Lanes of `value` become `other` where `a` equals `b`. */
function blendWhereEqual(v: VectorBuilder, value: Vec, other: Vec, a: Vec, b: Vec): void {
  const { asm } = v;
  v.scope(() => {
    if (v.avx512) {
      const mask = v.takeMask("equal");
      asm.vcmpps(mask, a, b, predicate.eq);
      asm.vblendmps(value, value, other, { mask });
    } else {
      const mask = v.take("equal");
      asm.vcmpps(mask, a, b, predicate.eq);
      asm.vblendvps(value, value, other, mask);
    }
  });
}

/** The row: the weighted sum of its parts, as bf16. */
function emitCombinedRow(
  v: VectorBuilder,
  shape: FlashShape,
  { task, partialOut, out }: Registers<"task" | "partialOut" | "out">,
): void {
  const { asm } = v;
  const { slabs, slabBytes, slabDims, headDimV } = shape;
  const [walker, weight, left, slab] = [rsi, rdi, rcx, rdx];
  v.scope(() => {
    const sums = v.take("sums", slabBytes / v.vectorBytes);
    const factor = v.take("weight");
    asm.xor(slab.d, slab.d);
    const nextSlab = asm.here("slab");
    for (const sum of sums) v.zero(sum);
    asm.lea(walker, mem(partialOut, { index: slab }));
    asm.lea(weight, mem(rbx, { disp: weightsAt(shape) }));
    asm.mov(left, mem(task, { disp: combineFields.parts }));
    const nextPart = asm.here("part");
    const skip = asm.label("skip");
    // A part that counts nothing may hold anything.
    asm.cmp(mem(weight).d, 0);
    asm.je(skip);
    v.broadcast(factor, mem(weight));
    sums.forEach((sum, i) => {
      v.fma(sum, factor, mem(walker, { disp: i * v.vectorBytes }));
    });
    asm.bind(skip);
    asm.add(walker, mem(task, { disp: combineFields.outPartBytes }));
    asm.add(weight, 4);
    asm.dec(left);
    asm.jne(nextPart);
    sums.forEach((sum, i) => {
      v.store(mem(rbx, { index: slab, disp: i * v.vectorBytes }), sum);
    });
    asm.add(slab, slabBytes);
    asm.cmp(slab, slabs * slabBytes);
    asm.jb(nextSlab);
  });
  asm.mov(rsi, rbx);
  asm.mov(rdi, out);
  for (let first = 0; first < headDimV; first += slabDims) {
    const dims = Math.min(slabDims, headDimV - first);
    const places = { source: rsi, target: rdi };
    emitBf16Slab(v, shape, places, dims, (to, place) => v.load(to, place));
    asm.add(rsi, slabBytes);
    asm.add(rdi, 2 * slabDims);
  }
}
