/**
 * @file The `ptx` rung's logits of the lightning indexer (DeepSeek-V3.2) on Hopper, FP8: all heads of
 * a query against one key head,
 *
 *     logits[i, j] = scale[j] * sum_h weight[i, h] * max(0, q[i, h] . k[j])     first[i] <= j < end[i]
 *
 *     q [queries, heads, dim] e4m3   k [keys, dim] e4m3   scale [keys]   weight [queries, heads] f32
 *
 * A block takes 256 / heads queries, whose rows stay in shared memory, and walks over 128 keys at a
 * time: two warpgroups multiply 64 keys by all 256 rows each. Keys are the rows of the product, so a
 * query's heads are columns: their weights stay in registers, and four lanes sum each key's logit.
 * What lies outside a query's range is not written.
 */
import { assert, ceilDiv } from "../base/index.ts";
import {
  Accumulator,
  type Builder,
  type F32,
  firstRow,
  initBarriers,
  type Kernel,
  Pipeline,
  stageKernel,
  startProduct,
  TensorMap,
  type TensorView,
  type U32,
  type U64,
  waitProducts,
} from "../codegen/index.ts";
import { loadingThread } from "./ptx-store.ts";

/** What a logits kernel is specialised for. */
export interface MqaLogitsConfig {
  readonly heads: 32 | 64;
  readonly dim: 64 | 128;
}

/** Rows of queries times heads that a block keeps. */
const rowsPerBlock = 256;
const keysPerStep = 128;
const stages = 3;

/** Stages the kernel. */
export function mqaLogitsKernel({ heads, dim }: MqaLogitsConfig): Kernel {
  const queriesPerBlock = rowsPerBlock / heads;
  return stageKernel("fp8_mqa_logits", { threads: 384 }, (k) => {
    const qTile = { type: "e4m3", rows: rowsPerBlock, columns: dim, swizzle: dim } as const;
    const keyTile = { ...qTile, rows: keysPerStep };
    const [mapQ, mapK] = [TensorMap.ofTile(k, "q", qTile), TensorMap.ofTile(k, "keys", keyTile)];
    const pointers = ["scales", "weights", "first", "end", "logits"] as const;
    const [scales, weights, first, end, logits] = pointers.map((name) => k.paramPointer(name));
    const [queries, keys] = [k.paramU32("queries"), k.paramU32("key_count")];
    const held = new Pipeline(k, { stages: 1, tiles: { q: qTile }, consumers: 8 });
    const pipe = new Pipeline(k, { stages, tiles: { keys: keyTile }, consumers: 8 });
    initBarriers(k, [held.full, held.empty, pipe.full, pipe.empty]);
    k.dependentLaunch("wait");
    const firstQuery = k.blockX.mul(queriesPerBlock);
    const ranges = rangesOf(k, { first, end, firstQuery, queries, keys }, queriesPerBlock);

    const load = (firstWarp: number): void =>
      loadingThread(k, firstWarp, () => {
        const [atQ, cursor] = [held.cursor(), pipe.cursor()];
        held.produce(atQ, (stage) => stage.load(mapQ, "q", [0, firstQuery.mul(heads)]));
        forEachStep(k, ranges, (start) => {
          pipe.produce(cursor, (stage) => stage.load(mapK, "keys", [0, start]));
        });
      });

    const math = (firstWarp: number): void => {
      const ownRow = k.warp.sub(firstWarp).shr(2).mul(64);
      const [atQ, cursor] = [held.cursor(), pipe.cursor()];
      const product = new Accumulator(k, rowsPerBlock);
      const factors = weightsOf(k, weights, firstQuery, queries, heads);
      held.consume(atQ, ({ tiles: { q }, release: releaseQ }) => {
        forEachStep(k, ranges, (start) => {
          pipe.consume(cursor, ({ tiles, release }) => {
            startProduct(product, tiles.keys.rows(ownRow, 64).alongRows(), q.alongRows());
            waitProducts(k);
            release();
          });
          const key = start.add(ownRow).add(firstRow(k));
          for (let query = 0; query < queriesPerBlock; query++) {
            const sums = sumsOf(product, factors, query * heads, heads);
            sums.forEach((sum, half) => {
              const j = key.add(8 * half);
              const { from, to } = ranges.each[query];
              const isMine = k.lane.and(3).eq(0).and(j.ge(from)).and(j.lt(to));
              k.if(isMine, () => {
                const scale = k.loadF32("global", scales.at(j, 4), { readOnly: true });
                const row = logits.at(firstQuery.add(query).mad(keys, j), 4);
                k.store("global", row, [sum.mul(scale)]);
              });
            });
          }
        });
        releaseQ();
      });
    };

    k.roles([
      { name: "load", warpgroups: 1, registers: 40, body: load },
      { name: "math", warpgroups: 2, registers: 232, body: math },
    ]);
  });
}

/** The keys that each query of a block wants, none behind the last query, and those of all. */
interface Ranges {
  readonly each: readonly { readonly from: U32; readonly to: U32 }[];
  readonly least: U32;
  readonly most: U32;
}

function rangesOf(
  k: Builder,
  at: { first: U64; end: U64; firstQuery: U32; queries: U32; keys: U32 },
  count: number,
): Ranges {
  const last = at.queries.sub(1);
  const word = (base: U64, index: U32) =>
    k.load("global", base.at(index, 4), 1, { readOnly: true })[0];
  const each = Array.from({ length: count }, (_, i) => {
    const query = at.firstQuery.add(i);
    const known = query.min(last);
    const to = query.le(last).select(word(at.end, known).min(at.keys), k.u32(0));
    return { from: word(at.first, known), to };
  });
  const least = each.map(({ from }) => from).reduce((a, b) => a.min(b));
  const most = each.map(({ to }) => to).reduce((a, b) => a.max(b));
  return { each, least, most };
}

/** Calls `body` with the first key of each step, at multiples of the step. */
function forEachStep(k: Builder, { least, most }: Ranges, body: (start: U32) => void): void {
  k.loop(most, body, least.div(keysPerStep).mul(keysPerStep), keysPerStep);
}

/** Weights of this thread's columns, in the order of an accumulator's even cells. */
function weightsOf(k: Builder, weights: U64, firstQuery: U32, queries: U32, heads: number): F32[] {
  const last = queries.mul(heads).sub(2);
  return Array.from({ length: rowsPerBlock / 8 }, (_, j) => {
    const column = firstQuery.mad(heads, k.lane.and(3).mul(2)).add(8 * j);
    return k.load("global", weights.at(column.min(last), 4), 2, { readOnly: true });
  }).flatMap((pair) => pair.map((word) => word.asF32()));
}

/** Of both rows of a thread: the weighted sum over the heads of one query, in all four lanes. */
function sumsOf(
  product: Accumulator,
  factors: readonly F32[],
  column: number,
  heads: number,
): F32[] {
  const { k } = product;
  const sums = [0, 1].map(() => k.floatVariable(0));
  product.each((value, { half, column: at, index }) => {
    if (at < column || at >= column + heads) return;
    sums[half].addProduct(value.max(0), factors[(index >> 2) * 2 + (index & 1)]);
  });
  return sums.map((sum) => k.reduce(sum, 4, (a, b) => a.add(b)));
}

/** Where the operands lie; shapes as at the top, `first` and `end` int32 `[queries]`. */
export type MqaLogitsAddresses = Readonly<
  Record<"q" | "keys" | "scales" | "weights" | "first" | "end" | "logits", number>
>;

/** Grid and arguments; logits float32 `[queries, keys]`. */
export function mqaLogitsLaunch(
  at: MqaLogitsAddresses,
  sizes: { readonly queries: number; readonly keys: number },
  { heads, dim }: MqaLogitsConfig,
): { grid: [number, number, number]; args: (number | TensorView)[] } {
  const { queries, keys } = sizes;
  assert(queries > 0 && keys > 0, () => `got ${queries} queries and ${keys} keys, wanted some`);
  const view = (address: number, rows: number) => ({
    address,
    dims: [dim, rows],
    strideBytes: [dim],
  });
  const { scales, weights, first, end, logits } = at;
  return {
    grid: [ceilDiv(queries, rowsPerBlock / heads), 1, 1],
    args: [
      view(at.q, queries * heads),
      view(at.keys, keys),
      ...[scales, weights, first, end, logits, queries, keys],
    ],
  };
}
