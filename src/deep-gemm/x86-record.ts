/**
 * @file The record of a group, which tasks read, and the kernel that is launched, which finds a task's
 * record: tasks of all groups are numbered through, and a group may have any program.
 */
import { Assembler, mem, r8, rax, rcx, rdi, rsi } from "../codegen/index.ts";

/** Places of a group's record, in 64-bit words; strides are bytes, addresses absolute. */
export const recordWords = {
  program: 0,
  a: 1,
  aStride: 2,
  aScales: 3,
  aScaleStride: 4,
  b: 5,
  panelBytes: 6,
  bScales: 7,
  bScaleStride: 8,
  /** int32 `[panels]`: columns that exist. */
  widths: 9,
  d: 10,
  dStride: 11,
  m: 12,
  rowsPerTask: 13,
  panels: 14,
  panelsPerTask: 15,
  /** m / rowsPerTask, rounded up: a group's tasks are numbered row chunk by row chunk of a panel. */
  rowTasks: 16,
  k: 17,
  /** 1 to add to D, 0 to overwrite it. */
  accumulate: 18,
} as const;

/** 64-bit words of a record. */
export const recordLength: 20 = 20;

/** Machine code and the offset at which it is entered. */
export interface Program {
  readonly code: Uint8Array;
  readonly entry: number;
}

/**
 * The kernel that is launched: finds a task's group and jumps to the group's program.
 * Arguments: `[address of int32 ends of each group's tasks, address of the first record]`.
 */
export function emitDispatcher(): Program {
  const asm = new Assembler();
  const [ends, start] = [rax, rcx];
  asm.mov(ends, mem(rdi));
  asm.mov(rdi, mem(rdi, { disp: 8 }));
  asm.xor(start.d, start.d);
  const [next, found] = [asm.here("next"), asm.label("found")];
  asm.mov(r8.d, mem(ends));
  asm.cmp(rsi.d, r8.d);
  asm.jb(found);
  asm.mov(start.d, r8.d);
  asm.add(ends, 4);
  asm.add(rdi, recordLength * 8);
  asm.jmp(next);
  asm.bind(found);
  asm.sub(rsi.d, start.d);
  asm.jmp(mem(rdi, { disp: recordWords.program * 8 }));
  return { code: asm.finish(), entry: 0 };
}
