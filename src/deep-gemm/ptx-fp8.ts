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
  commitStores,
  firstRow,
  initBarriers,
  type Kernel,
  Pipeline,
  SharedTile,
  type Swizzle,
  stageKernel,
  startProduct,
  TensorMap,
  type TensorView,
  type U32,
  type U64,
  waitProducts,
  waitStores,
} from "../codegen/index.ts";
import { forEachTile, type TileGrid } from "./ptx-tiles.ts";

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

/** The widest swizzle whose span divides a row of the output tile. */
function outputSwizzle(blockN: number): Swizzle {
  return blockN % 64 === 0 ? 128 : blockN % 32 === 0 ? 64 : 32;
}

/** Stages the kernel. */
export function fp8GemmKernel(config: Fp8Config): Kernel {
  const { blockM, blockN, stages, multicast } = config;
  assert(blockN % 16 === 0 && blockN <= 192, `blockN ${blockN}: wanted a multiple of 16 up to 192`);
  const groups = blockM / 64;
  const clusterSize = multicast === "none" ? 1 : 2;
  const threads = 128 * (groups + 1);
  return stageKernel("fp8_gemm_nt", { threads, clusterSize }, (k) => {
    const aTile = { type: "e4m3", rows: blockM, columns: blockK, swizzle: 128 } as const;
    const bTile = { type: "e4m3", rows: blockN, columns: blockK, swizzle: 128 } as const;
    const scaleTile = { type: "f32", rows: 1, columns: blockM, swizzle: 0 } as const;
    const swizzle = outputSwizzle(blockN);
    const outTile = { type: "bf16", rows: 64, columns: blockN, swizzle } as const;
    const a = TensorMap.ofTile(k, "a", aTile);
    const b = TensorMap.ofTile(k, "b", bTile);
    const scaleA = TensorMap.ofTile(k, "scale_a", scaleTile);
    const d = TensorMap.ofTile(k, "d", outTile);
    const scaleB = k.paramPointer("scale_b");
    const shape = { m: k.paramU32("m"), n: k.paramU32("n"), k: k.paramU32("k") };

    const tiles = { a: aTile, b: bTile, scaleA: scaleTile };
    const pipe = new Pipeline(k, { stages, tiles, consumers: 4 * groups });
    const out = new SharedTile(k, { ...outTile, rows: blockM });
    initBarriers(k, [pipe.full, pipe.empty]);
    k.dependentLaunch("wait");

    const load = (firstWarp: number): void => {
      const oneThread = (body: () => void) => k.if(k.warp.eq(firstWarp), () => k.elected(body));
      oneThread(() => {
        for (const map of [a, b, scaleA, d]) map.prefetch();
        const cursor = pipe.cursor();
        forEachTile(k, config, shape, (tile) => {
          const [row, column] = [tile.m.mul(blockM), tile.n.mul(blockN)];
          k.loop(shape.k.ceilDiv(blockK), (block) => {
            pipe.produce(cursor, (stage) => {
              // What the cluster shares, its first block loads for both.
              const both = { multicast: 3 };
              const first = (body: () => void) => k.if(k.clusterRank.eq(0), body);
              if (multicast === "a")
                first(() => stage.load(a, "a", [block.mul(blockK), row], both));
              else stage.load(a, "a", [block.mul(blockK), row]);
              if (multicast === "b")
                first(() => stage.load(b, "b", [block.mul(blockK), column], both));
              else stage.load(b, "b", [block.mul(blockK), column]);
              stage.load(scaleA, "scaleA", [row, block]);
            });
          });
        });
      });
    };

    const math = (firstWarp: number): void => {
      const group = k.warp.sub(firstWarp).shr(2);
      const cursor = pipe.cursor();
      const product = new Accumulator(k, blockN);
      const sum = new Accumulator(k, blockN);
      forEachTile(k, config, shape, (tile) => {
        const scales = new RightScales(k, scaleB, shape, tile.n.mul(blockN), blockN);
        sum.fill(0);
        k.loop(shape.k.ceilDiv(blockK), (block) => {
          const right = scales.load(block);
          pipe.consume(cursor, (stage) => {
            startProduct(
              product,
              stage.tiles.a.rows(group.mul(64), 64).alongRows(),
              stage.tiles.b.alongRows(),
            );
            const row = stage.tiles.scaleA.address.add(group.mul(64).add(firstRow(k)).mul(4));
            const left = [0, 32].map((offset) => k.loadF32("shared", row, { offset }));
            waitProducts(k);
            stage.release();
            product.each((value, { index, half, column }) => {
              sum.values[index].addProduct(value, right.at(half, column, left));
            });
          });
        });
        writeTile(k, sum, out.rows(group.mul(64), 64), d, group, [
          tile.n.mul(blockN),
          tile.m.mul(blockM).add(group.mul(64)),
        ]);
      });
      waitForStores(k);
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

  constructor(k: Builder, scaleB: U64, shape: { n: U32; k: U32 }, column: U32, blockN: number) {
    this.k = k;
    this.blockN = blockN;
    this.crosses = 128 % blockN !== 0;
    const last = shape.n.ceilDiv(128).sub(1);
    const pitch = shape.k.ceilDiv(blockK);
    const first = column.div(128).min(last);
    const rows = this.crosses ? [first, first.add(1).min(last)] : [first];
    this.rows = rows.map((row) => scaleB.at(row.mul(pitch), 4));
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

/** Writes a warpgroup's 64 rows: registers, shared memory, then one copy that the thread leaves to run. */
function writeTile(
  k: Builder,
  sum: Accumulator,
  out: SharedTile,
  d: TensorMap,
  group: U32,
  at: readonly [U32, U32],
): void {
  const barrier = k.namedBarrier(group.add(1), 128);
  const first = (body: () => void) => k.if(k.warp.and(3).eq(0), () => k.elected(body));
  // The tile before must have been read out of `out`.
  first(() => waitStores(k, "read"));
  barrier.sync();
  sum.storeTo(out);
  k.fenceAsync();
  barrier.sync();
  first(() => {
    d.store(out, at);
    commitStores(k);
  });
}

function waitForStores(k: Builder): void {
  k.if(k.warp.and(3).eq(0), () => k.elected(() => waitStores(k, "read")));
}

/** Where the operands of a product lie. */
export interface Fp8Addresses {
  /** `[m, k]` e4m3. */
  readonly a: number;
  /** `[n, k]` e4m3. */
  readonly b: number;
  /** `[ceil(k / 128), m]` float32, rows `alignUp(m, 4)` apart; see `getMnMajorTmaAlignedTensor`. */
  readonly scaleA: number;
  /** `[ceil(n / 128), ceil(k / 128)]` float32. */
  readonly scaleB: number;
  /** `[m, n]` bf16. */
  readonly d: number;
}

/**
 * The arguments of a launch. Copies by tensor map want rows of whole 16 bytes: k a multiple of 16,
 * n of 8.
 */
export function fp8Arguments(
  at: Fp8Addresses,
  shape: { m: number; n: number; k: number },
): (number | TensorView)[] {
  const { m, n, k } = shape;
  assert(k % 16 === 0, `k: got ${k}, wanted a multiple of 16`);
  assert(n % 8 === 0, `n: got ${n}, wanted a multiple of 8`);
  const view = (address: number, columns: number, rows: number, pitch: number): TensorView => ({
    address,
    dims: [columns, rows],
    strideBytes: [pitch],
  });
  return [
    view(at.a, k, m, k),
    view(at.b, k, n, k),
    view(at.scaleA, m, ceilDiv(k, blockK), alignUp(m, 4) * 4),
    view(at.d, n, m, 2 * n),
    at.scaleB,
    m,
    n,
    k,
  ];
}
