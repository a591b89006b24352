/**
 * @file What a litmus test is: a tiny kernel around one primitive of Hopper whose outcome is written
 * down here, so that the emulator's idea of the primitive can be compared with the hardware's.
 * HARDWARE.md lists them with a column for what a card did.
 */
import type { Launch, TensorView } from "../emulator/machine.ts";
import type { GlobalBuffer, GlobalMemory } from "../emulator/memory.ts";
import type { Kernel } from "../ir.ts";

/** A prepared launch: the arguments, where the results go, and what they must be. */
export interface LitmusRun {
  readonly args: Launch["args"];
  readonly output: GlobalBuffer;
  /** The words of the output, in order. */
  readonly expected: ArrayLike<number>;
}

/** One test. */
export interface Litmus {
  readonly name: string;
  /** The sentence that HARDWARE.md shows. */
  readonly prediction: string;
  readonly kernel: Kernel;
  readonly blocks: number;
  readonly prepare: (memory: GlobalMemory) => LitmusRun;
}

/** A dense matrix in a buffer, as a tensor map sees it. */
export function matrixView(
  buffer: GlobalBuffer,
  columns: number,
  rows: number,
  bytes: number,
): TensorView {
  return { address: buffer.address, dims: [columns, rows], strideBytes: [columns * bytes] };
}

/** 0, 1, 2 ... `count` - 1. */
export function counting(count: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => i);
}
