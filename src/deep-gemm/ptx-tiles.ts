/**
 * @file Which block of the output a persistent block of threads computes next, for one product or
 * many. Blocks of the grid stride over the tiles; within a product tiles are numbered in bands of
 * `rasterGroup` rows of tiles, so that those in flight at one time share their operands in the
 * second-level cache.
 *
 *     dense        a [m, k], b [n, k]
 *     contiguous   a [m, k] whose rows belong to groups, b [groups, n, k]; `layout` int32 [m] names
 *                  each row's group, -1 where a row is padding; groups start at whole blocks of rows
 *     masked       a [groups, m, k], b [groups, n, k]; `layout` int32 [groups] counts the rows
 *     byK          a [all k, m], b [all k, n], d [groups, m, n] (weight gradients); `layout` int32
 *                  [groups] counts the k of each group, multiples of 64; a group of none is skipped
 */
import { assert } from "../base/index.ts";
import type { Builder, U32, U64 } from "../codegen/index.ts";

/** How products share a launch. */
export type Grouping = "dense" | "contiguous" | "masked" | "byK";

/** How the output is cut. */
export interface TileGrid {
  readonly blockM: number;
  readonly blockN: number;
  /** Rows of tiles in one band. */
  readonly rasterGroup: number;
  /** In a cluster of two: which operand the blocks share, hence along which axis they differ. */
  readonly multicast: "none" | "a" | "b";
  readonly grouping: Grouping;
}

/** Parameters that every product kernel has, at its end. */
export interface TileParams {
  readonly m: U32;
  readonly n: U32;
  readonly k: U32;
  /** Where rows are grouped. */
  readonly layout?: U64;
  readonly groups?: U32;
}

/** Declares them. */
export function declareTileParams(k: Builder, grouping: Grouping): TileParams {
  const [m, n, depth] = [k.paramU32("m"), k.paramU32("n"), k.paramU32("k")];
  if (grouping === "dense") return { m, n, k: depth };
  return { m, n, k: depth, layout: k.paramPointer("layout"), groups: k.paramU32("groups") };
}

/** One block of one output. */
export interface Tile {
  /** Its first row and column. */
  readonly row: U32;
  readonly column: U32;
  /** The matrices of a, of b, and of d. */
  readonly left: U32;
  readonly right: U32;
  readonly out: U32;
  /** The first k, and how many. */
  readonly firstK: U32;
  readonly depth: U32;
}

/** Calls `body` once (it is a loop at run time) for the tiles of this block. */
export function forEachTile(
  k: Builder,
  grid: TileGrid,
  params: TileParams,
  body: (tile: Tile) => void,
): void {
  const { grouping, multicast } = grid;
  assert(grouping === "dense" || multicast !== "b", "blocks of a cluster must be of one group");
  const { m, layout, groups } = params;
  const word = (index: U32) => k.load("global", layout!.at(index, 4), 1, { readOnly: true })[0];
  const zero = k.u32(0);
  const stride = k.gridX.div(k.clusterSize);
  const first = k.blockX.div(k.clusterSize);
  if (grouping === "masked" || grouping === "byK") {
    const byK = grouping === "byK";
    // The tiles of all groups in one row; `next` is this block's next one, `before` a group's first.
    const [next, before, firstK] = [k.variable(first), k.variable(0), k.variable(0)];
    k.loop(groups!, (group) => {
      const count = word(group);
      const raster = rasterOf(k, grid, params, byK ? m : count);
      const end = before.add(count.eq(0).select(zero, raster.units));
      const matrix = byK ? zero : group;
      const depth = byK ? count : params.k;
      k.while(
        () => next.lt(end),
        () => {
          const place = raster.at(next.sub(before));
          body({ ...place, left: matrix, right: matrix, out: group, firstK, depth });
          next.set(next.add(stride));
        },
      );
      before.set(end);
      if (byK) firstK.set(firstK.add(count));
    });
    return;
  }
  const whole = { left: zero, out: zero, firstK: zero, depth: params.k };
  const raster = rasterOf(k, grid, params, m);
  k.loop(
    raster.units,
    (unit) => {
      const place = raster.at(unit);
      if (grouping === "dense") return body({ ...place, ...whole, right: zero });
      const right = word(place.row);
      k.if(right.isNegative().not(), () => body({ ...place, ...whole, right }));
    },
    first,
    stride,
  );
}

/** The tiles of one output with `rows` rows, in units of a cluster, numbered by bands. */
function rasterOf(k: Builder, grid: TileGrid, params: TileParams, rows: U32) {
  const { blockM, blockN, rasterGroup, multicast } = grid;
  // Two tiles that lie side by side along the axis that isn't shared.
  const unitM = multicast === "b" ? 2 : 1;
  const unitN = multicast === "a" ? 2 : 1;
  const unitsM = rows.ceilDiv(blockM * unitM);
  const unitsN = params.n.ceilDiv(blockN * unitN);
  const perBand = unitsN.mul(rasterGroup);
  const rank = k.clusterRank;
  const at = (unit: U32) => {
    const band = unit.div(perBand);
    const top = band.mul(rasterGroup);
    const height = unitsM.sub(top).min(rasterGroup);
    const inside = unit.sub(band.mul(perBand));
    const across = inside.div(height);
    const down = top.add(inside.sub(across.mul(height)));
    return {
      row: down
        .mul(unitM)
        .add(multicast === "b" ? rank : 0)
        .mul(blockM),
      column: across
        .mul(unitN)
        .add(multicast === "a" ? rank : 0)
        .mul(blockN),
    };
  };
  return { units: unitsM.mul(unitsN), at };
}
