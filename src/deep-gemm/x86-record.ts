/**
 * @file The record of a group, which tasks read, and the kernels that are launched, which find a
 * task's record: tasks of all groups are numbered through, and a group may have any program.
 */
import { Assembler, mem, r8, r12, rax, rbp, rbx, rcx, rdi, rdx, rsi } from "../codegen/index.ts";

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
  /**
   * m / rowsPerTask, rounded up: a group's tasks are numbered row chunk by row chunk of a panel.
   */
  rowTasks: 16,
  k: 17,
  /** 1 to add to D, 0 to overwrite it. */
  accumulate: 18,
  /** float32 `[m]`: the weight of each row, where rows are summed up. */
  rowWeights: 19,
} as const;

/** 64-bit words of a record. */
export const recordLength: 20 = 20;

/** Machine code and the offset at which it is entered. */
export interface Program {
  readonly code: Uint8Array;
  readonly entry: number;
}

/** The kernels that are launched. Arguments in 64-bit words, as `dispatchWords` says. */
export interface Dispatcher {
  readonly code: Uint8Array;
  /** Runs one task: finds its group and jumps to the group's program. */
  readonly entry: number;
  /** Runs all tasks, one after the other: a launch of one task stays on the calling thread. */
  readonly serialEntry: number;
}

/** Places of the dispatcher's arguments. */
export const dispatchWords = {
  /** Address of the int32 ends of each group's tasks. */
  ends: 0,
  /** Address of the first record. */
  records: 1,
  tasks: 2,
} as const;

/** Emits both kernels. */
export function emitDispatcher(): Dispatcher {
  const asm = new Assembler();
  const word = (name: keyof typeof dispatchWords) => mem(rdi, { disp: dispatchWords[name] * 8 });
  const dispatch = asm.here("dispatch");
  const [ends, start] = [rax, rcx];
  asm.mov(ends, word("ends"));
  asm.mov(rdi, word("records"));
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
  asm.align(64);
  const serialEntry = asm.offset;
  const [args, task, scratch] = [rbx, rbp, r12];
  for (const register of [args, task, scratch]) asm.push(register);
  asm.mov(args, rdi);
  asm.mov(scratch, rdx);
  asm.xor(task.d, task.d);
  const again = asm.here("again");
  asm.mov(rdi, args);
  asm.mov(rsi, task);
  asm.mov(rdx, scratch);
  asm.call(dispatch);
  asm.inc(task);
  asm.cmp(task, mem(args, { disp: dispatchWords.tasks * 8 }));
  asm.jb(again);
  for (const register of [scratch, task, args]) asm.pop(register);
  asm.ret();
  return { code: asm.finish(), entry: 0, serialEntry };
}
