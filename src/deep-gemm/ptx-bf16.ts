/**
 * @file The `ptx` rung's bf16 product on Hopper, for all four layouts: d = a b^T, where either operand
 * may be stored with k as its slow dimension. The output is bf16 or float32; float32 may be added to
 * what is there.
 *
 *     a [m, k] or [k, m]      b [n, k] or [k, n]      d [m, n]
 *
 * The structure is that of the FP8 kernel without its scales. So sums stay in the tensor core for all
 * of k, and a warpgroup keeps one product in flight: it releases a stage when the product after it
 * has been started.
 */
import { assert } from "../base/index.ts";
import {
  Accumulator,
  initBarriers,
  type Kernel,
  Pipeline,
  SharedTile,
  stageKernel,
  startProduct,
  TensorMap,
  type TensorView,
  type TileShape,
  type U32,
  waitProducts,
} from "../codegen/index.ts";
import type { GroupedSizes } from "./ptx-fp8.ts";
import {
  loadForCluster,
  loadingThread,
  matrixView,
  type OutputType,
  outputTile,
  waitForTiles,
  writeTile,
} from "./ptx-store.ts";
import { declareTileParams, forEachTile, type Grouping, type TileGrid } from "./ptx-tiles.ts";

/** What a bf16 kernel is specialised for. */
export interface Bf16Config extends TileGrid {
  /** 64 for each math warpgroup. */
  readonly blockM: 64 | 128;
  /** A multiple of 16, at most 256. */
  readonly blockN: number;
  readonly stages: number;
  /** Whether an operand has k as its slow dimension. */
  readonly aTransposed: boolean;
  readonly bTransposed: boolean;
  readonly output: OutputType;
  /** Add to d, which is float32 then. */
  readonly accumulate: boolean;
}

/** k of one stage: 128 bytes, the span of the swizzle. */
const blockK = 64;

/** An operand's part of a stage: `extent` rows of 64 k, or 64 k of `extent`. */
function operandTile(extent: number, transposed: boolean): TileShape {
  if (!transposed) return { type: "bf16", rows: extent, columns: blockK, swizzle: 128 };
  const swizzle = extent % 64 === 0 ? 128 : extent % 32 === 0 ? 64 : 32;
  return { type: "bf16", rows: blockK, columns: extent, swizzle };
}

/** Stages the kernel. */
export function bf16GemmKernel(config: Bf16Config): Kernel {
  const { blockM, blockN, stages, multicast, grouping } = config;
  const { aTransposed, bTransposed, output, accumulate } = config;
  assert(blockN % 16 === 0 && blockN <= 256, `blockN ${blockN}: wanted a multiple of 16 up to 256`);
  assert(!accumulate || output === "f32", "only float32 is added to");
  const isGradient = aTransposed && bTransposed && accumulate;
  assert(grouping !== "byK" || isGradient, "groups by k: both operands transposed, d added to");
  const groups = blockM / 64;
  const clusterSize = multicast === "none" ? 1 : 2;
  const layout = `${aTransposed ? "t" : "n"}${bTransposed ? "n" : "t"}`;
  const threads = 128 * (groups + 1);
  return stageKernel(`bf16_gemm_${layout}_${grouping}`, { threads, clusterSize }, (k) => {
    const tiles = { a: operandTile(blockM, aTransposed), b: operandTile(blockN, bTransposed) };
    const outTile = outputTile(output, blockN);
    const a = TensorMap.ofTile(k, "a", tiles.a, 3);
    const b = TensorMap.ofTile(k, "b", tiles.b, 3);
    const d = TensorMap.ofTile(k, "d", outTile, 3);
    const params = declareTileParams(k, grouping);
    const pipe = new Pipeline(k, { stages, tiles, consumers: 4 * groups });
    const out = new SharedTile(k, { ...outTile, rows: blockM });
    initBarriers(k, [pipe.full, pipe.empty]);
    k.dependentLaunch("wait");

    const load = (firstWarp: number): void =>
      loadingThread(k, firstWarp, () => {
        for (const map of [a, b, d]) map.prefetch();
        const cursor = pipe.cursor();
        const at = (start: U32, place: U32, transposed: boolean) =>
          transposed ? [place, start] : [start, place];
        forEachTile(k, config, params, ({ row, column, left, right, firstK, depth }) => {
          k.loop(depth.ceilDiv(blockK), (block) => {
            const start = firstK.add(block.mul(blockK));
            pipe.produce(cursor, (stage) => {
              loadForCluster(k, multicast === "a", (options) =>
                stage.load(a, "a", [...at(start, row, aTransposed), left], options),
              );
              loadForCluster(k, multicast === "b", (options) =>
                stage.load(b, "b", [...at(start, column, bTransposed), right], options),
              );
            });
          });
        });
      });

    const math = (firstWarp: number): void => {
      const group = k.warp.sub(firstWarp).shr(2);
      const [cursor, behind] = [pipe.cursor(), pipe.cursor()];
      const sum = new Accumulator(k, blockN);
      const leftOf = (tile: SharedTile) =>
        aTransposed
          ? tile.panelRange(group, 1).downColumns()
          : tile.rows(group.mul(64), 64).alongRows();
      const rightOf = (tile: SharedTile) => (bTransposed ? tile.downColumns() : tile.alongRows());
      forEachTile(k, config, params, ({ row, column, out: matrix, depth }) => {
        sum.fill(0);
        k.loop(depth.ceilDiv(blockK), (block) => {
          pipe.consume(cursor, ({ tiles }) => {
            startProduct(sum, leftOf(tiles.a), rightOf(tiles.b), { keep: true });
            waitProducts(k, 1);
            k.if(block.gt(0), () => pipe.releaseNext(behind));
          });
        });
        waitProducts(k);
        pipe.releaseNext(behind);
        const at = [column, row.add(group.mul(64)), matrix];
        writeTile(sum, out.rows(group.mul(64), 64), group, { map: d, at, accumulate });
      });
      waitForTiles(k);
    };

    k.roles([
      { name: "load", warpgroups: 1, body: load, ...(groups === 2 && { registers: 40 }) },
      { name: "math", warpgroups: groups, body: math, ...(groups === 2 && { registers: 232 }) },
    ]);
    // The other block may still arrive at this one's barriers.
    if (clusterSize > 1) k.syncCluster();
  });
}

/**
 * Where the operands lie, groups one behind the other; where rows are contiguous a and d have one,
 * where groups are by k a and b.
 */
export interface Bf16Addresses {
  readonly a: number;
  readonly b: number;
  readonly d: number;
  /** What `Grouping` says; not for dense products. */
  readonly layout?: number;
}

/** The arguments of a launch; rows of all operands must be whole 16 bytes. */
export function bf16Arguments(
  at: Bf16Addresses,
  { m, n, k, groups }: GroupedSizes,
  config: Pick<Bf16Config, "aTransposed" | "bTransposed" | "output"> & { grouping: Grouping },
): (number | TensorView)[] {
  const { aTransposed, bTransposed, output, grouping } = config;
  const [aWidth, bWidth] = [aTransposed ? m : k, bTransposed ? n : k];
  for (const [name, width] of Object.entries({ a: aWidth, b: bWidth, d: n })) {
    assert(width % 8 === 0, `rows of ${name}: got ${width} elements, wanted a multiple of 8`);
  }
  const matrices = grouping === "masked" ? groups : 1;
  const weights = grouping === "byK" ? 1 : groups;
  const outputs = grouping === "byK" ? groups : matrices;
  return [
    matrixView(at.a, aTransposed ? [m, k, matrices] : [k, m, matrices], 2 * aWidth),
    matrixView(at.b, bTransposed ? [n, k, weights] : [k, n, weights], 2 * bWidth),
    matrixView(at.d, [n, m, outputs], n * (output === "bf16" ? 2 : 4)),
    m,
    n,
    k,
    ...(grouping === "dense" ? [] : [at.layout!, groups]),
  ];
}
