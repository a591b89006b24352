/**
 * @file How a group is cut into tasks. Pure. Nothing here changes a bit of the result: it only says
 * which thread computes what.
 */
import { ceilDiv } from "../base/index.ts";
import { tileRows } from "./x86-tile.ts";

/**
 * Tasks wanted for each thread, so that the last ones to finish are short; one thread needs none.
 */
const tasksPerThread = 6;
/**
 * The least work of a task, in bytes of weights read or their like in arithmetic: a task costs
 * about 0.1 us to claim and set up, and starts a new stream of memory.
 */
const taskWorkMin = 64 * 1024;
/**
 * A launch of less work than this is done by the calling thread alone: some 12 us, of which handing
 * half to another thread, which costs 3 to 9, would save next to nothing.
 */
export const serialWorkMax: number = 384 * 1024;
/** Rows that cost as much as reading a panel once. */
const rowsPerRead = 8;
/**
 * The most rows of a task: their share of A (at 4096 bf16 columns, 8 KiB a row) should stay in the
 * second-level cache, while B is read again for each task's rows.
 */
export const rowsMax: number = 22 * tileRows;

/** The shape of a group's tasks. */
export interface TaskShape {
  rowsPerTask: number;
  panelsPerTask: number;
}

/**
 * Writes to `shape` how to cut `m` rows and `panels` panels of `panelBytes` bytes, when `threads`
 * threads share a launch whose panels, times row chunks, number `allPanels`.
 */
export function shapeTasks(
  shape: TaskShape,
  m: number,
  panels: number,
  panelBytes: number,
  allPanels: number,
  threads: number,
): void {
  const rowChunks = chunksOfRows(m);
  // As equal as whole tiles allow.
  shape.rowsPerTask = ceilDiv(ceilDiv(m, rowChunks), tileRows) * tileRows;
  if (threads === 1) {
    shape.panelsPerTask = panels;
    return;
  }
  const balanced = Math.floor(allPanels / (threads * tasksPerThread));
  const least = ceilDiv(taskWorkMin, workOf(Math.min(m, rowsMax), 1, panelBytes));
  shape.panelsPerTask = Math.max(1, Math.min(panels, Math.max(balanced, least)));
}

/** Work of `m` rows times some panels, in bytes of weights read or their like in arithmetic. */
export function workOf(m: number, panels: number, panelBytes: number): number {
  return m === 0 ? 0 : panels * panelBytes * (1 + m / rowsPerRead);
}

/** Chunks that `m` rows are cut into. */
export function chunksOfRows(m: number): number {
  return ceilDiv(m, rowsMax);
}

/** Bytes of scratch memory that the totals of a task need at most. */
export const totalsBytesMax: number = rowsMax * 256;
