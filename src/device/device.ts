/** @file What a device offers to the kernel rooms, whatever processor it is. */

import type { Isa } from "../codegen/index.ts";

export type { Isa } from "../codegen/index.ts";

/** Which implementation of each kernel serves. */
export type Rung = "reference" | "x86";

/** Launches that were written down. */
export interface LaunchList {
  /** How many; 0 on the reference rung, which runs the calls themselves again. */
  readonly launches: number;
  /** Does what the recorded calls would do now, on the memory that they named. */
  run(): void;
}

/**
 * A processor with its memory and its fork-join pool. One thread opens a device and launches on it;
 * memory allocated from it may be shared with other threads.
 */
export interface Device {
  /** `x86` when machine code runs here, else `reference`. */
  readonly rung: Rung;
  /** The instruction set that kernels are emitted for; undefined on the reference rung. */
  readonly isa: Isa | undefined;
  /** Threads that take part in a launch, the calling one included; at least 1. */
  readonly threads: number;
  /** One line for people: what serves, or why machine code does not. */
  readonly description: string;
  /**
   * Zeroed memory of at most 4 GiB, 64-byte aligned (huge pages where large); freed in a later turn
   * of the event loop than the one in which its last reference went. An address does not count as a
   * reference. Needs no `this`.
   */
  allocate(bytes: number): ArrayBufferLike;
  /** Makes `code` executable and returns its address. Reference rung: throws. */
  load(code: Uint8Array, name: string): number;
  /**
   * Runs `kernel(argumentBlock, taskIndex, scratch)` (System V: rdi, rsi, rdx) for every task index
   * in [0, tasks) on the pool, each once, and returns when all are done. Tasks are claimed
   * dynamically, so a result must not depend on which thread runs it. `scratch` is `scratchBytes`
   * of memory private to the thread, 64-byte aligned, contents undefined. One task, or a device of
   * one thread, costs a plain call; more cost a few microseconds. A kernel may use 64 KiB of stack,
   * keeps rbx, rbp and r12 to r15, and need not clear the vector registers.
   */
  launch(kernelAddress: number, argumentBlockAddress: number, tasks: number): void;
  /**
   * Runs `body` with its launches written down instead of run: calls of the kernel rooms whose
   * arguments will be the same each time. The list then runs them in machine code, one after the
   * other, entered once. What `body` reads must not come from a launch inside it, and the memory
   * that it names must be kept by the caller: the list knows addresses only. Recordings do not
   * nest.
   */
  record(body: () => void): LaunchList;
  /** Bytes of per-thread scratch memory. */
  readonly scratchBytes: number;
  /** Stops the helper threads and frees executable memory; launching then throws. */
  close(): void;
}
