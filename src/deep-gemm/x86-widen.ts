/** @file Widens e4m3 codes to bf16, exactly; NaN codes become NaN. A task takes some rows. */
import {
  Assembler,
  bf16FromExactPs,
  type Gpr,
  type Isa,
  mem,
  psFromE4m3,
  r8,
  r9,
  r10,
  r11,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  VectorBuilder,
} from "../codegen/index.ts";

/** Places of the arguments, in 64-bit words; strides in bytes. */
export const widenWords = {
  source: 0,
  sourceStride: 1,
  to: 2,
  toStride: 3,
  rows: 4,
  rowsPerTask: 5,
  /** Whole vectors of a row; at least 1. */
  vectors: 6,
} as const;

/** Codes that one vector of float32 holds. */
export function widenLanes(isa: Isa): number {
  return isa === "avx2" ? 8 : 16;
}

/** Emits the kernel; task i takes rows from `i * rowsPerTask` on, see `Device.launch`. */
export function emitWiden(isa: Isa): Uint8Array {
  const v = new VectorBuilder(new Assembler(), isa);
  const { asm } = v;
  const word = (name: keyof typeof widenWords) => mem(rdi, { disp: widenWords[name] * 8 });
  const [source, to, rows, from, into, left]: Gpr[] = [r8, r9, r10, r11, rdx, rcx];
  v.kernel([], () => {
    asm.imul(rsi, word("rowsPerTask"));
    asm.mov(rows, word("rows"));
    asm.sub(rows, rsi);
    asm.cmp(rows, word("rowsPerTask"));
    asm.cmova(rows, word("rowsPerTask"));
    asm.mov(source, rsi);
    asm.imul(source, word("sourceStride"));
    asm.add(source, word("source"));
    asm.mov(to, rsi);
    asm.imul(to, word("toStride"));
    asm.add(to, word("to"));
    v.loop(rows, () => {
      asm.mov(from, source);
      asm.mov(into, to);
      asm.mov(left, word("vectors"));
      v.loop(left, () => {
        v.scope(() => {
          const values = v.take("values");
          psFromE4m3(v, [values], mem(from));
          bf16FromExactPs(v, v.half(values), values);
          asm.vmovups(mem(into), v.half(values));
        });
        asm.add(from, v.lanes);
        asm.add(into, 2 * v.lanes);
      });
      asm.mov(rax, word("sourceStride"));
      asm.add(source, rax);
      asm.mov(rax, word("toStride"));
      asm.add(to, rax);
    });
  });
  return asm.finish();
}
