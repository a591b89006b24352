/**
 * @file Transposes matrices of 8-bit or 16-bit elements, in squares of 8 x 8: eight rows in eight
 * registers of eight words; interleaving the first half of the registers with the second rotates
 * the bits of (register, word) by one, so three times swaps them. Bytes are widened to words for
 * the while. A task takes 64 rows, so that it writes whole cache lines. 128-bit registers suffice:
 * the cost is that of memory.
 */
import {
  Assembler,
  type Gpr,
  mem,
  r8,
  r9,
  r10,
  r11,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  rsi,
  type Vec,
  xmm,
} from "../codegen/index.ts";

/** Rows and columns of a square. */
export const squareSize: 8 = 8;
/** Squares of a task, one above the other. */
export const squaresPerTask: 8 = 8;

/** Places of the arguments, in 64-bit words; strides in bytes. */
export const transposeWords = {
  source: 0,
  sourceStride: 1,
  to: 2,
  toStride: 3,
  /** Whole squares in a column of the source, and in a row; at least 1. */
  squaresDown: 4,
  squaresAcross: 5,
} as const;

/** Emits the kernel; task i takes the squares from `i * squaresPerTask` on, see `Device.launch`. */
export function emitTranspose(elementBytes: 1 | 2): Uint8Array {
  const asm = new Assembler();
  const word = (name: keyof typeof transposeWords) => mem(rdi, { disp: transposeWords[name] * 8 });
  const [source, sourceStride, to, toStride]: Gpr[] = [r8, r9, r10, r11];
  const [down, across, left, from, into]: Gpr[] = [rbx, rdx, rcx, rbp, rax];
  asm.push(rbx);
  asm.push(rbp);
  asm.mov(sourceStride, word("sourceStride"));
  asm.mov(toStride, word("toStride"));
  asm.shl(rsi, Math.log2(squaresPerTask));
  asm.mov(down, word("squaresDown"));
  asm.sub(down, rsi);
  asm.mov(left.d, squaresPerTask);
  asm.cmp(down, left);
  asm.cmova(down, left);
  asm.mov(source, rsi);
  asm.imul(source, sourceStride);
  asm.shl(source, Math.log2(squareSize));
  asm.add(source, word("source"));
  asm.imul(to, rsi, squareSize * elementBytes);
  asm.add(to, word("to"));
  asm.mov(across, word("squaresAcross"));
  const nextColumns = asm.here("columns");
  asm.mov(from, source);
  asm.mov(rsi, to);
  asm.mov(left, down);
  const nextSquare = asm.here("square");
  emitSquare(asm, elementBytes, { from, sourceStride, into, to: rsi, toStride });
  asm.add(rsi, squareSize * elementBytes);
  asm.dec(left);
  asm.jne(nextSquare);
  asm.add(source, squareSize * elementBytes);
  asm.imul(into, toStride, squareSize);
  asm.add(to, into);
  asm.dec(across);
  asm.jne(nextColumns);
  asm.pop(rbp);
  asm.pop(rbx);
  asm.ret();
  return asm.finish();
}

interface Square {
  /** The first row; left behind the last. */
  readonly from: Gpr;
  readonly sourceStride: Gpr;
  /** Clobbered. */
  readonly into: Gpr;
  readonly to: Gpr;
  readonly toStride: Gpr;
}

function emitSquare(asm: Assembler, elementBytes: 1 | 2, square: Square): void {
  const { from, sourceStride, into, to, toStride } = square;
  let rows: Vec[] = Array.from({ length: squareSize }, (_, i) => xmm(i));
  for (const row of rows) {
    if (elementBytes === 1) asm.vpmovzxbw(row, mem(from));
    else asm.vmovups(row, mem(from));
    asm.add(from, sourceStride);
  }
  let spare = xmm(squareSize);
  for (let level = 1; level < squareSize; level *= 2) {
    const next: Vec[] = [];
    for (let i = 0; i < squareSize / 2; i++) {
      const [x, y] = [rows[i], rows[i + squareSize / 2]];
      asm.vpunpcklwd(spare, x, y);
      asm.vpunpckhwd(x, x, y);
      next.push(spare, x);
      spare = y;
    }
    rows = next;
  }
  asm.mov(into, to);
  for (const column of rows) {
    if (elementBytes === 1) {
      asm.vpackuswb(column, column, column);
      asm.vmovq(mem(into), column);
    } else {
      asm.vmovups(mem(into), column);
    }
    asm.add(into, toStride);
  }
}
