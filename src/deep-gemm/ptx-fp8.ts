/**
 * @file The `ptx` rung's FP8 product on Hopper: d = a b^T with a scale for each row and 128 of k on
 * the left, for each 128 x 128 on the right, bf16 out.
 *
 *     a [m, k] e4m3    scaleA [k / 128, m] f32 (m contiguous)     d [m, n] bf16
 *     b [n, k] e4m3    scaleB [n / 128, k / 128] f32
 *
 * One block of threads per multiprocessor walks over tiles of d. One warpgroup loads: a single
 * thread keeps a ring of stages full. The others multiply, 64 rows each:
 *
 *     load   acquire -> TMA a, b, scaleA                       (ring of stages in shared memory)
 *     math   wait -> 4 wgmma, k = 32 each -> release -> sum += product * scaleA * scaleB
 *            after the last k: sum -> bf16 -> shared -> TMA store, while the next tile loads
 *
 * Sums are promoted from the tensor core to float32 registers every 128 of k because that is where
 * the scales change, and because the tensor core itself keeps only about 14 bits of an FP8 sum.
 * Sources: DeepSeek-V3 (arXiv 2412.19437), section 3.3; the structure is that of DeepGEMM.
 */
import { alignUp, assert, ceilDiv } from "../base/index.ts";
import {
  Accumulator,
  type Builder,
  firstRow,
  initBarriers,
  type Kernel,
  Pipeline,
  SharedTile,
  stageKernel,
  startProduct,
  TensorMap,
  type TensorView,
  type U32,
  type U64,
  waitProducts,
} from "../codegen/index.ts";
import {
  loadForCluster,
  loadingThread,
  matrixView,
  outputTile,
  waitForTiles,
  writeTile,
} from "./ptx-store.ts";
import {
  declareTileParams,
  forEachTile,
  type Grouping,
  type Tile,
  type TileGrid,
  type TileParams,
} from "./ptx-tiles.ts";

/** What an FP8 kernel is specialised for. */
export interface Fp8Config extends TileGrid {
  /** 64 for each math warpgroup. */
  readonly blockM: 64 | 128;
  /** A multiple of 16, at most 192. */
  readonly blockN: number;
  readonly stages: number;
}

/** k of one stage: 128 bytes, the span of the swizzle, and the extent of a scale. */
const blockK = 128;

/** Stages the kernel. */
export function fp8GemmKernel(config: Fp8Config): Kernel {
  const { blockM, blockN, stages, multicast, grouping } = config;
  assert(blockN % 16 === 0 && blockN <= 192, `blockN ${blockN}: wanted a multiple of 16 up to 192`);
  assert(grouping !== "byK", "FP8 products by groups of k are not written yet");
  const groups = blockM / 64;
  const clusterSize = multicast === "none" ? 1 : 2;
  const threads = 128 * (groups + 1);
  return stageKernel(`fp8_gemm_nt_${grouping}`, { threads, clusterSize }, (k) => {
    const aTile = { type: "e4m3", rows: blockM, columns: blockK, swizzle: 128 } as const;
    const bTile = { type: "e4m3", rows: blockN, columns: blockK, swizzle: 128 } as const;
    const scaleTile = { type: "f32", rows: 1, columns: blockM, swizzle: 0 } as const;
    const outTile = outputTile("bf16", blockN);
    const a = TensorMap.ofTile(k, "a", aTile, 3);
    const b = TensorMap.ofTile(k, "b", bTile, 3);
    const scaleA = TensorMap.ofTile(k, "scale_a", scaleTile, 3);
    const d = TensorMap.ofTile(k, "d", outTile, 3);
    const scaleB = k.paramPointer("scale_b");
    const params = declareTileParams(k, grouping);

    const tiles = { a: aTile, b: bTile, scaleA: scaleTile };
    const pipe = new Pipeline(k, { stages, tiles, consumers: 4 * groups });
    const out = new SharedTile(k, { ...outTile, rows: blockM });
    initBarriers(k, [pipe.full, pipe.empty]);
    k.dependentLaunch("wait");

    const load = (firstWarp: number): void =>
      loadingThread(k, firstWarp, () => {
        for (const map of [a, b, scaleA, d]) map.prefetch();
        const cursor = pipe.cursor();
        forEachTile(k, config, params, ({ row, column, left, right }) => {
          k.loop(params.k.ceilDiv(blockK), (block) => {
            const start = block.mul(blockK);
            pipe.produce(cursor, (stage) => {
              loadForCluster(k, multicast === "a", (options) =>
                stage.load(a, "a", [start, row, left], options),
              );
              loadForCluster(k, multicast === "b", (options) =>
                stage.load(b, "b", [start, column, right], options),
              );
              stage.load(scaleA, "scaleA", [row, block, left]);
            });
          });
        });
      });

    const math = (firstWarp: number): void => {
      const group = k.warp.sub(firstWarp).shr(2);
      const ownRow = group.mul(64);
      const cursor = pipe.cursor();
      const product = new Accumulator(k, blockN);
      const sum = new Accumulator(k, blockN);
      forEachTile(k, config, params, ({ row, column, left, right }) => {
        const scales = new RightScales(k, scaleB, params, { column, right }, blockN);
        sum.fill(0);
        k.loop(params.k.ceilDiv(blockK), (block) => {
          const factors = scales.load(block);
          pipe.consume(cursor, ({ tiles, release }) => {
            startProduct(product, tiles.a.rows(ownRow, 64).alongRows(), tiles.b.alongRows());
            const at = tiles.scaleA.address.add(ownRow.add(firstRow(k)).mul(4));
            const rows = [0, 32].map((offset) => k.loadF32("shared", at, { offset }));
            waitProducts(k);
            release();
            product.each((value, { index, half, column }) => {
              sum.values[index].addProduct(value, factors.at(half, column, rows));
            });
          });
        });
        const at = [column, row.add(ownRow), left];
        writeTile(sum, out.rows(ownRow, 64), group, { map: d, at });
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
 * The scales of b that one tile needs: one, or two where its columns cross a multiple of 128. The
 * crossing is a multiple of 16, so each group of 8 columns has one scale.
 */
class RightScales {
  private readonly k: Builder;
  private readonly crosses: boolean;
  private readonly blockN: number;
  private readonly rows: readonly U64[];
  /** Columns of the tile before the crossing. */
  private readonly boundary: U32;

  constructor(
    k: Builder,
    scaleB: U64,
    { n, k: depth }: TileParams,
    { column, right }: Pick<Tile, "column" | "right">,
    blockN: number,
  ) {
    this.k = k;
    this.blockN = blockN;
    this.crosses = 128 % blockN !== 0;
    const perMatrix = n.ceilDiv(128);
    const last = perMatrix.sub(1);
    const pitch = depth.ceilDiv(blockK);
    const first = column.div(128).min(last);
    const rows = this.crosses ? [first, first.add(1).min(last)] : [first];
    this.rows = rows.map((row) => scaleB.at(right.mad(perMatrix, row).mul(pitch), 4));
    this.boundary = k.u32(128).sub(column.and(127));
  }

  /** The factors of one k block: `at(half, column, left)` is left's times the column's. */
  load(block: U32) {
    const { k, crosses, boundary, blockN } = this;
    const right = this.rows.map((row) => k.loadF32("global", row.at(block, 4), { readOnly: true }));
    const known = new Map<string, ReturnType<typeof k.loadF32>>();
    const columns = Array.from({ length: crosses ? blockN / 16 : 1 }, (_, i) =>
      crosses ? boundary.gt(i * 16).select(right[0], right[1]) : right[0],
    );
    const at = (half: 0 | 1, column: number, left: readonly ReturnType<typeof k.loadF32>[]) => {
      const index = crosses ? Math.floor(column / 16) : 0;
      const key = `${half},${index}`;
      const factor = known.get(key) ?? left[half].mul(columns[index]);
      known.set(key, factor);
      return factor;
    };
    return { at };
  }
}

/** Where the operands of products lie; groups one behind the other. */
export interface Fp8Addresses {
  /** `[groups, m, k]` e4m3, or `[m, k]` where rows are contiguous. */
  readonly a: number;
  /** `[groups, n, k]` e4m3. */
  readonly b: number;
  /** `[groups, ceil(k / 128), m]` float32, rows padded as `getMnMajorTmaAlignedTensor` does. */
  readonly scaleA: number;
  /** `[groups, ceil(n / 128), ceil(k / 128)]` float32. */
  readonly scaleB: number;
  /** `[groups, m, n]` bf16, or `[m, n]`. */
  readonly d: number;
  /** What `Grouping` says; not for dense products. */
  readonly layout?: number;
}

/** Sizes of products that share a launch; `groups` is 1 for a dense one. */
export interface GroupedSizes {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly groups: number;
}

/**
 * The arguments of a launch. Copies by tensor map want rows of whole 16 bytes: k a multiple of 16,
 * n of 8.
 */
export function fp8Arguments(
  at: Fp8Addresses,
  { m, n, k, groups }: GroupedSizes,
  grouping: Grouping,
): (number | TensorView)[] {
  assert(k % 16 === 0, `k: got ${k}, wanted a multiple of 16`);
  assert(n % 8 === 0, `n: got ${n}, wanted a multiple of 8`);
  const blocks = ceilDiv(k, blockK);
  const matrices = grouping === "masked" ? groups : 1;
  return [
    matrixView(at.a, [k, m, matrices], k),
    matrixView(at.b, [k, n, groups], k),
    matrixView(at.scaleA, [m, blocks, matrices], alignUp(m, 4) * 4),
    matrixView(at.d, [n, m, matrices], 2 * n),
    at.scaleB,
    m,
    n,
    k,
    ...(grouping === "dense" ? [] : [at.layout!, groups]),
  ];
}
