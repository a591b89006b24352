/** @file What all layers of one forward pass share: where each token sits, in which sequence. */
import type { Device } from "../device/index.ts";
import { type MlaSequence, pageTokens } from "../flash-mla/index.ts";
import type { Tensor } from "../tensor/index.ts";
import type { RopeTable } from "./rope.ts";
import type { Workspace } from "./workspace.ts";

/** One forward pass over the tokens of some sequences, concatenated. */
export interface Pass {
  readonly device: Device;
  readonly workspace: Workspace;
  /** Tokens in all. */
  readonly tokens: number;
  /** int32 `[tokens]`: each token's position in its sequence. */
  readonly positions: Tensor<"i32">;
  /** int32 `[tokens]`: each token's row in a layer's cache slab seen as `[pages * 64, dim]`. */
  readonly cacheRows: Tensor<"i32">;
  readonly sequences: readonly MlaSequence[];
  /** Cosines and sines for every position of the pass. */
  readonly cosSin: Tensor<"f32">;
}

/** A sequence's new rows: how many, from which position on, over which pages. */
export interface PassSequence {
  readonly count: number;
  readonly position: number;
  readonly blockTable: Int32Array;
}

/** Lays out a pass: sequence after sequence, tokens in order. */
export function layOutPass(
  device: Device,
  workspace: Workspace,
  rope: RopeTable,
  parts: readonly PassSequence[],
): Pass {
  const tokens = parts.reduce((sum, { count }) => sum + count, 0);
  const positions = column(workspace, "positions", tokens);
  const cacheRows = column(workspace, "cacheRows", tokens);
  const sequences: MlaSequence[] = [];
  let [row, contextMax] = [0, 0];
  for (const { count, position, blockTable } of parts) {
    sequences.push({
      queryStart: row,
      queryCount: count,
      contextLength: position + count,
      blockTable,
    });
    for (let p = position; p < position + count; p++) {
      positions.data[row] = p;
      cacheRows.data[row++] =
        blockTable[Math.floor(p / pageTokens)] * pageTokens + (p % pageTokens);
    }
    contextMax = Math.max(contextMax, position + count);
  }
  const cosSin = rope.upTo(contextMax);
  return { device, workspace, tokens, positions, cacheRows, sequences, cosSin };
}

/** An int32 column of `rows` entries, as a one-dimensional tensor. */
export function column(workspace: Workspace, name: string, rows: number): Tensor<"i32"> {
  return { ...workspace.tensor(name, "i32", rows, 1), shape: [rows] };
}
