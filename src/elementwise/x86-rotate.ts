/** @file The kernels that are not row by row alone: the rotary embedding, and copies of rows. */
import {
  Assembler,
  bf16FromPs,
  type Gpr,
  type Isa,
  type Mem,
  mem,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  storeWords,
  type Tail,
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";

/** Byte offsets of the arguments, 64 bits each; strides in bytes. */
export const rotateArguments = {
  tokens: 0,
  tokensPerTask: 8,
  from: 16,
  fromStride: 24,
  fromHeadStride: 32,
  to: 40,
  toStride: 48,
  toHeadStride: 56,
  heads: 64,
  cosSin: 72,
  cosSinStride: 80,
  positions: 88,
  toRows: 96,
  bytes: 104,
} as const;

/** What is compiled into a rotation. */
export interface RotateSpec {
  readonly dim: number;
  readonly to: "f32" | "bf16";
  readonly scattered: boolean;
}

/** Emits the loop over a task's rows: `row` from index * perTask, at most `total`. */
function emitRange(asm: Assembler, args: Gpr, row: Gpr, end: Gpr, body: () => void): void {
  const [next, done] = [asm.label("next"), asm.label("done")];
  asm.mov(row, rsi);
  asm.imul(row, mem(args, { disp: 8 }));
  asm.mov(end, row);
  asm.add(end, mem(args, { disp: 8 }));
  asm.mov(rcx, mem(args));
  asm.cmp(end, rcx);
  asm.cmovg(end, rcx);
  asm.cmp(row, end);
  asm.jge(done);
  asm.bind(next);
  body();
  asm.inc(row);
  asm.cmp(row, end);
  asm.jl(next);
  asm.bind(done);
}

/** Bytes of scratch memory that a rotation of `dim` needs, on the widest vectors. */
export function rotateScratchBytes(dim: number): number {
  return 2 * 64 * Math.ceil(dim / 16);
}

/** Emits a rotation: angles of a token spread to pairs in scratch, then its heads one by one. */
export function emitRotate(spec: RotateSpec, isa: Isa): Uint8Array {
  const asm = new Assembler();
  const v = new VectorBuilder(asm, isa);
  const [args, token, end, scratch, from, to, heads] = [rbx, r12, r13, r14, r8, r9, rbp];
  const argument = (name: keyof typeof rotateArguments): Mem =>
    mem(args, { disp: rotateArguments[name] });
  const addressOf = (
    dst: Gpr,
    base: keyof typeof rotateArguments,
    stride: keyof typeof rotateArguments,
    index: Gpr,
  ): void => {
    asm.mov(dst, argument(stride));
    asm.imul(dst, index);
    asm.add(dst, argument(base));
  };
  v.kernel([rbx, rbp, r12, r13, r14], () => {
    asm.mov(args, rdi);
    asm.mov(scratch, rdx);
    emitRange(asm, args, token, end, () => {
      asm.mov(rcx, argument("positions"));
      asm.movsxd(rcx, mem(rcx, { index: token, scale: 4 }).d);
      addressOf(rax, "cosSin", "cosSinStride", rcx);
      emitAngles(v, spec.dim, rax, scratch);
      addressOf(from, "from", "fromStride", token);
      if (spec.scattered) {
        asm.mov(rcx, argument("toRows"));
        asm.movsxd(rcx, mem(rcx, { index: token, scale: 4 }).d);
      }
      addressOf(to, "to", "toStride", spec.scattered ? rcx : token);
      asm.mov(r10, argument("fromHeadStride"));
      asm.mov(r11, argument("toHeadStride"));
      asm.mov(heads, argument("heads"));
      v.loop(heads, () => {
        emitHead(v, spec, from, to, scratch);
        asm.add(from, r10);
        asm.add(to, r11);
      });
    });
  });
  return asm.finish();
}

/** Offsets in scratch of the cosines and the signed sines, each twice: `dim` of either. */
function angleOffsets(v: VectorBuilder, dim: number): [cos: number, sin: number] {
  return [0, Math.ceil(dim / v.lanes) * v.vectorBytes];
}

/** Writes to scratch c0 c0 c1 c1 ... and -s0 s0 -s1 s1 ... of the angles at `angles`. */
function emitAngles(v: VectorBuilder, dim: number, angles: Gpr, scratch: Gpr): void {
  const { asm } = v;
  const signs = Uint32Array.from({ length: v.lanes }, (_, i) => (i % 2 ? 0 : 0x80000000));
  v.scope(() => {
    const pair = v.take("angles");
    angleOffsets(v, dim).forEach((offset, isSine) => {
      for (let element = 0; element < dim; element += v.lanes) {
        const place = mem(angles, { disp: 2 * element + isSine * 2 * dim });
        const count = Math.min(v.lanes, dim - element) / 2;
        v.scope(() => {
          if (count === v.lanes / 2) {
            asm.vpmovzxdq(pair, place);
          } else {
            // Only the part of the half vector that exists may be read.
            v.loadTail(pair, place, v.tail(count));
            asm.vpmovzxdq(pair, v.half(pair));
          }
        });
        asm.vmovsldup(pair, pair);
        if (isSine) v.xor(pair, pair, mem(asm.constant(signs)));
        v.store(mem(scratch, { disp: offset + 4 * element }), pair);
      }
    });
  });
}

/** One head: (x0, x1) c + (x1, x0) (-s, s), each product and the sum rounded. */
function emitHead(v: VectorBuilder, spec: RotateSpec, from: Gpr, to: Gpr, scratch: Gpr): void {
  const { asm } = v;
  const [cos, sin] = angleOffsets(v, spec.dim);
  v.eachVector(spec.dim, (element, tail) => {
    v.scope(() => {
      const [x, swapped] = v.take("rotate", 2);
      const at = (base: Gpr, offset: number) => mem(base, { disp: offset + 4 * element });
      v.load(x, at(from, 0), tail);
      asm.vpermilps(swapped, x, 0b10_11_00_01);
      asm.vmulps(x, x, at(scratch, cos));
      asm.vmulps(swapped, swapped, at(scratch, sin));
      asm.vaddps(x, x, swapped);
      storeResult(v, spec, to, element, x, tail);
    });
  });
}

function storeResult(
  v: VectorBuilder,
  spec: RotateSpec,
  to: Gpr,
  element: number,
  result: Vec,
  tail?: Tail,
): void {
  if (spec.to === "bf16") {
    bf16FromPs(v, v.half(result), result);
    storeWords(v, mem(to, { disp: 2 * element }), v.half(result), tail);
    return;
  }
  v.store(mem(to, { disp: 4 * element }), result, tail);
}

/** Byte offsets of the arguments of `emitGather`, 64 bits each; strides in bytes. */
export const gatherArguments = {
  rows: 0,
  rowsPerTask: 8,
  from: 16,
  fromStride: 24,
  to: 32,
  toStride: 40,
  index: 48,
  rowBytes: 56,
  bytes: 64,
} as const;

/** Emits a gather: row i of `to` becomes the bytes of row index[i] of `from`. */
export function emitGather(isa: Isa): Uint8Array {
  const asm = new Assembler();
  const v = new VectorBuilder(asm, isa);
  const [args, row, end] = [rbx, r12, r13];
  const argument = (name: keyof typeof gatherArguments): Mem =>
    mem(args, { disp: gatherArguments[name] });
  v.kernel([rbx, r12, r13], () => {
    asm.mov(args, rdi);
    emitRange(asm, args, row, end, () => {
      asm.mov(rcx, argument("index"));
      asm.movsxd(rsi, mem(rcx, { index: row, scale: 4 }).d);
      asm.imul(rsi, argument("fromStride"));
      asm.add(rsi, argument("from"));
      asm.mov(rdi, argument("toStride"));
      asm.imul(rdi, row);
      asm.add(rdi, argument("to"));
      asm.mov(rcx, argument("rowBytes"));
      asm.rep().movsb();
    });
  });
  return asm.finish();
}
