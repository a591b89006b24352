/**
 * @file Which block of the output a persistent block of threads computes next. Blocks of the grid
 * stride over the tiles; tiles are numbered in bands of `rasterGroup` rows of tiles, so that those
 * in flight at one time share their operands in the second-level cache.
 */
import type { Builder, U32 } from "../codegen/index.ts";

/** How the output is cut. */
export interface TileGrid {
  readonly blockM: number;
  readonly blockN: number;
  /** Rows of tiles in one band. */
  readonly rasterGroup: number;
  /** In a cluster of two: which operand the blocks share, hence along which axis they differ. */
  readonly multicast: "none" | "a" | "b";
}

/** Calls `body` once (it is a loop at run time) for the tiles of this block. */
export function forEachTile(
  k: Builder,
  grid: TileGrid,
  shape: { m: U32; n: U32 },
  body: (tile: { m: U32; n: U32 }) => void,
): void {
  const { blockM, blockN, rasterGroup, multicast } = grid;
  // In units of a cluster: two tiles that lie side by side along the axis that isn't shared.
  const unitM = multicast === "b" ? 2 : 1;
  const unitN = multicast === "a" ? 2 : 1;
  const unitsM = shape.m.ceilDiv(blockM * unitM);
  const unitsN = shape.n.ceilDiv(blockN * unitN);
  const rank = k.clusterRank;
  const perBand = unitsN.mul(rasterGroup);
  const visit = (unit: U32): void => {
    const band = unit.div(perBand);
    const first = band.mul(rasterGroup);
    const height = unitsM.sub(first).min(rasterGroup);
    const inside = unit.sub(band.mul(perBand));
    const column = inside.div(height);
    const row = first.add(inside.sub(column.mul(height)));
    body({
      m: row.mul(unitM).add(multicast === "b" ? rank : 0),
      n: column.mul(unitN).add(multicast === "a" ? rank : 0),
    });
  };
  const start = k.blockX.div(k.clusterSize);
  k.loop(unitsM.mul(unitsN), visit, start, k.gridX.div(k.clusterSize));
}
