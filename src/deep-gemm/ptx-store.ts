/**
 * @file How a warpgroup's 64 rows leave: registers, shared memory, then one copy that is left to run
 * while the next tile is computed. And what the kernels of this room share besides.
 */
import {
  type Accumulator,
  type Builder,
  commitStores,
  type SharedTile,
  type Swizzle,
  type TensorMap,
  type TensorView,
  type TileShape,
  type U32,
  type U32Like,
  waitStores,
} from "../codegen/index.ts";

/** What the output is made of. */
export type OutputType = "bf16" | "f32";

/** A warpgroup's part of the output, with the widest swizzle whose span divides a row. */
export function outputTile(type: OutputType, blockN: number): TileShape {
  const rowBytes = blockN * (type === "bf16" ? 2 : 4);
  const swizzle: Swizzle = rowBytes % 128 === 0 ? 128 : rowBytes % 64 === 0 ? 64 : 32;
  return { type, rows: 64, columns: blockN, swizzle };
}

/** Runs `body` in one thread of each warpgroup, always the same. */
function inOneThread(k: Builder, body: () => void): void {
  k.if(k.warp.and(3).eq(0), () => k.elected(body));
}

/** Where a tile goes. */
export interface OutputPlace {
  readonly map: TensorMap;
  /** First column, row and matrix. */
  readonly at: readonly U32Like[];
  /** Add to what is there. */
  readonly accumulate?: boolean;
}

/** Writes `sum` through `room`, the memory of this warpgroup; `group` is its number. */
export function writeTile(
  sum: Accumulator,
  room: SharedTile,
  group: U32,
  { map, at, accumulate = false }: OutputPlace,
): void {
  const { k } = sum;
  const barrier = k.namedBarrier(group.add(1), 128);
  // The tile before must have been read out of `room`.
  inOneThread(k, () => waitStores(k, "read"));
  barrier.sync();
  sum.storeTo(room);
  k.fenceAsync();
  barrier.sync();
  inOneThread(k, () => {
    map.store(room, at, accumulate);
    commitStores(k);
  });
}

/** A block may not end while its last tile is being read. */
export function waitForTiles(k: Builder): void {
  inOneThread(k, () => waitStores(k, "read"));
}

/** How a role with one thread that loads begins. */
export function loadingThread(k: Builder, firstWarp: number, body: () => void): void {
  k.if(k.warp.eq(firstWarp), () => k.elected(body));
}

/** What all blocks of a cluster get, its first block loads for them. */
export function loadForCluster(
  k: Builder,
  shared: boolean,
  load: (options?: { multicast: number }) => void,
): void {
  if (shared) k.if(k.clusterRank.eq(0), () => load({ multicast: 3 }));
  else load();
}

/** Matrices one behind the other, of extents `[columns, rows, count]` and rows `pitch` bytes apart. */
export function matrixView(
  address: number,
  dims: readonly [columns: number, rows: number, count: number],
  pitch: number,
): TensorView {
  return { address, dims, strideBytes: [pitch, pitch * dims[1]] };
}
