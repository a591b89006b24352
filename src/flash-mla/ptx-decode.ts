/**
 * @file The `ptx` rung's decoding attention on Hopper: 64 query rows (query tokens times heads) of a
 * request against its pages of a latent cache in bf16, by parts of the tile scheduler's metadata.
 *
 *     q [batch * key heads, rows, dimQk]     cache [pages, 64, key heads, dimQk]
 *     out [batch * key heads, rows, dimV]    lse   [batch * key heads, rows]
 *
 * The output of 64 rows, 64 x 512 float32, is half of a multiprocessor's registers. So two warpgroups
 * keep half of its columns each, and take two blocks of 64 keys at a time, alternately: while one
 * does its softmax the other multiplies. A third one loads.
 *
 *     left                                   right
 *     S0 = Q K0                              S1 = Q K1
 *     m0 = max(m, S0)    ----- m0 ----->
 *     P0 = 2^(S0 - m0)                       m1 = max(m0, S1), P1 = 2^(S1 - m1)
 *     L += P0 V0.left    <--- m1, P1 ---     R += P1 V1.right
 *     P0 *= 2^(m0 - m1)  ----- P0 ----->
 *     L += P1 V1.left                        R += P0 V0.right
 *
 * P0 and P1 pass through the rotary panels of K0 and K1, which no value needs once the scores are
 * done. A block's values are the first dimV columns of its keys, read with k down the columns.
 *
 * Sources: the structure is FlashMLA's; the running softmax Milakov's and Gimelshein's (2018).
 */
import { assert } from "../base/index.ts";
import {
  Accumulator,
  type Builder,
  type ConsumerStage,
  type Cursor,
  type F32,
  type F32Variable,
  firstRow,
  initBarriers,
  type Kernel,
  Pipeline,
  type SharedTile,
  stageKernel,
  startProduct,
  TensorMap,
  type U32,
  waitProducts,
} from "../codegen/index.ts";
import { declareParams, forEachRequest, type Request } from "./ptx-requests.ts";
import { writeResult } from "./ptx-results.ts";
import { pageTokens } from "./types.ts";

/** What a decoding kernel is specialised for. */
export interface DecodeConfig {
  /** Values of a query and a key: dimV and a rotary part of at least 64; a multiple of 64. */
  readonly dimQk: number;
  /** Values of a value: a multiple of 128, at most 512. */
  readonly dimV: number;
}

/** Rows of a tile. */
export const tileRows = 64;
/** Below every score, and finite, so that differences of two are no NaN. */
const lowest = -1e30;

/** Barriers by which the two sides hand over; 0 is the block's. */
const handOver = { maximum: 1, right: 2, left: 3, both: 4, ownLeft: 5, ownRight: 6 } as const;

type Stage = ConsumerStage<"keys">;

/** Stages the kernel. */
export function mlaDecodeKernel(config: DecodeConfig): Kernel {
  const { dimQk, dimV } = config;
  assert(dimV % 128 === 0 && dimV <= 512, `dimV: got ${dimV}, wanted a multiple of 128 up to 512`);
  assert(
    dimQk % 64 === 0 && dimQk >= dimV + 64,
    `dimQk: got ${dimQk}, wanted ${dimV} + 64 or more`,
  );
  return stageKernel("mla_decode", { threads: 384 }, (k) => {
    const rows = { type: "bf16", rows: tileRows, columns: dimQk, swizzle: 128 } as const;
    const keys = { ...rows, rows: pageTokens };
    const half = { ...rows, columns: dimV / 2 };
    const maps = {
      q: TensorMap.ofTile(k, "q", rows, 3),
      cache: TensorMap.ofTile(k, "cache", keys, 4),
      out: TensorMap.ofTile(k, "out", half, 3),
    };
    const params = declareParams(k);
    const queries = new Pipeline(k, { stages: 1, tiles: { q: rows }, consumers: 8 });
    const pages = new Pipeline(k, { stages: 2, tiles: { keys }, consumers: 8 });
    const sides = new Exchange(k);
    initBarriers(k, [queries.full, queries.empty, pages.full, pages.empty]);
    k.dependentLaunch("wait");

    const load = (firstWarp: number): void => {
      const oneThread = (body: () => void) => k.if(k.warp.eq(firstWarp), () => k.elected(body));
      oneThread(() => {
        const [atQuery, atPage] = [queries.cursor(), pages.cursor()];
        forEachRequest(k, params, (request) => {
          queries.produce(atQuery, (stage) => {
            stage.load(maps.q, "q", [0, request.firstRow, request.index]);
          });
          forEachBlock(k, request, (block) => {
            // A block behind the last has no page: any will do, since nothing of it is visible.
            const page = request.pageOf(block);
            pages.produce(atPage, (stage) => {
              stage.load(maps.cache, "keys", [0, 0, k.blockY, page], { hint: "evict_first" });
            });
          });
        });
      });
    };

    const side = (which: "left" | "right") => (): void => {
      const [atQuery, atPage] = [queries.cursor(), pages.cursor()];
      const state = new SideState(k, which, dimV / 2);
      forEachRequest(k, params, (request) => {
        state.reset();
        queries.consume(atQuery, ({ tiles, release }) => {
          forEachPair(k, request, atPage, pages, (first, second) => {
            const pair = { request, q: tiles.q, sides, first, second, dimV };
            if (which === "left") leftPair(state, pair);
            else rightPair(state, pair);
          });
          const sum = sides.total(state);
          // Nobody reads the queries any more: the output leaves through their memory.
          const part = dimV / 128;
          const room = tiles.q.panelRange(which === "left" ? 0 : part, part);
          writeResult(k, { ...state, sum, request, room, params, dimV }, maps.out);
          release();
        });
      });
    };

    k.roles([
      { name: "load", warpgroups: 1, registers: 24, body: load },
      { name: "left", warpgroups: 1, registers: 240, body: side("left") },
      { name: "right", warpgroups: 1, registers: 240, body: side("right") },
    ]);
  });
}

/** Calls `body` for the blocks of a request's part, an even number of them. */
function forEachBlock(k: Builder, request: Request, body: (block: U32) => void): void {
  const count = request.endBlock.sub(request.firstBlock).add(1).and(-2);
  k.loop(count, (i) => body(request.firstBlock.add(i)));
}

/** A block of keys that is in shared memory. */
interface Block {
  readonly stage: Stage;
  /** Number of its first key in the request. */
  readonly start: U32;
  /** Keys of it that exist. */
  readonly valid: U32;
}

function forEachPair(
  k: Builder,
  request: Request,
  cursor: Cursor,
  pages: Pipeline<"keys">,
  body: (first: Block, second: Block) => void,
): void {
  const pairs = request.endBlock.sub(request.firstBlock).add(1).shr(1);
  k.loop(pairs, (i) => {
    const block = request.firstBlock.add(i.mul(2));
    const blockAt = (stage: Stage, number: U32): Block => {
      const start = number.mul(pageTokens);
      return { stage, start, valid: request.keys.sub(request.keys.min(start)).min(pageTokens) };
    };
    pages.consume(cursor, (first) => {
      pages.consume(cursor, (second) => body(blockAt(first, block), blockAt(second, block.add(1))));
    });
  });
}

/** What a side keeps of its 64 rows: a thread has two of them, `row` and 8 further. */
class SideState {
  readonly k: Builder;
  readonly side: "left" | "right";
  /** Its half of the output's columns. */
  readonly out: Accumulator;
  readonly scores: Accumulator;
  /** Of scores not yet scaled; the same in both sides after each pair. */
  readonly maximum: readonly F32Variable[];
  /** Of this thread's columns of this side's blocks. */
  readonly sums: readonly F32Variable[];

  constructor(k: Builder, side: "left" | "right", columns: number) {
    this.k = k;
    this.side = side;
    this.out = new Accumulator(k, columns);
    this.scores = new Accumulator(k, pageTokens);
    this.maximum = [0, 1].map(() => k.floatVariable(lowest));
    this.sums = [0, 1].map(() => k.floatVariable(0));
  }

  reset(): void {
    this.out.fill(0);
    for (const each of this.maximum) each.set(lowest);
    for (const each of this.sums) each.set(0);
  }

  /** Multiplies output and sums by a factor a row. */
  rescale(factors: readonly F32[]): void {
    this.out.each((value, { half }) => value.scale(factors[half]));
    this.sums.forEach((sum, half) => {
      sum.scale(factors[half]);
    });
  }

  /** The four warps of this side meet. */
  meet(): void {
    this.k.namedBarrier(this.side === "left" ? handOver.ownLeft : handOver.ownRight, 128).sync();
  }
}

/** Maxima, sums and probabilities that pass between the sides. */
class Exchange {
  private readonly k: Builder;
  private readonly maxima: U32;
  private readonly sums: Readonly<Record<"left" | "right", U32>>;

  constructor(k: Builder) {
    this.k = k;
    this.maxima = k.shared(2 * 4 * tileRows, 128);
    this.sums = { left: k.shared(4 * tileRows, 128), right: k.shared(4 * tileRows, 128) };
  }

  private rowAddress(base: U32): U32 {
    return firstRow(this.k).mad(4, base);
  }

  private write(base: U32, values: readonly F32[]): void {
    const { k } = this;
    // Four lanes hold each row.
    k.if(k.lane.and(3).eq(0), () => {
      values.forEach((value, half) => {
        k.store("shared", this.rowAddress(base), [value], { offset: 32 * half });
      });
    });
  }

  private read(base: U32): F32[] {
    return [0, 32].map((offset) => this.k.loadF32("shared", this.rowAddress(base), { offset }));
  }

  /** Maxima go from `side` to the other one. */
  writeMaxima(side: "left" | "right", values: readonly F32[]): void {
    this.write(this.maxima.add(side === "left" ? 0 : 4 * tileRows), values);
  }

  readMaxima(side: "left" | "right"): F32[] {
    return this.read(this.maxima.add(side === "left" ? 0 : 4 * tileRows));
  }

  /** The sums of both sides for this thread's rows. */
  total(state: SideState): F32[] {
    const { k } = this;
    const own = state.sums.map((sum) => k.reduce(sum, 4, (a, b) => a.add(b)));
    this.write(this.sums[state.side], own);
    k.namedBarrier(handOver.both, 256).sync();
    const other = this.read(this.sums[state.side === "left" ? "right" : "left"]);
    return own.map((sum, half) => sum.add(other[half]));
  }
}

/** One step of both sides. */
interface Pair {
  readonly request: Request;
  readonly q: SharedTile;
  readonly sides: Exchange;
  readonly first: Block;
  readonly second: Block;
  readonly dimV: number;
}

function leftPair(state: SideState, pair: Pair): void {
  const { k, scores, out } = state;
  const { request, sides, first, second } = pair;
  const before = softmaxStart(state, pair, first);
  const maximum = rowMaxima(state, state.maximum);
  sides.writeMaxima("left", maximum);
  k.namedBarrier(handOver.maximum, 256).arrive();
  exponentials(state, request, maximum);
  state.rescale(before.map((old, half) => old.sub(maximum[half]).mul(request.scale).exp2()));
  addSums(state);
  // Other warps of this side may still multiply these keys; everywhere else a hand-over lies between.
  clearBehind(state, first, pair, () => state.meet());
  startProduct(out, scores.toFragments(), values(first, "left", pair), { keep: true });

  k.namedBarrier(handOver.right, 256).sync();
  const later = sides.readMaxima("right");
  const factors = later.map((now, half) => maximum[half].sub(now).mul(request.scale).exp2());
  scores.each((value, { half }) => value.scale(factors[half]));
  scores.storeTo(rotary(first, pair));
  k.fenceAsync();
  k.namedBarrier(handOver.left, 256).arrive();
  waitProducts(k);
  first.stage.release();
  state.rescale(factors);
  later.forEach((now, half) => {
    state.maximum[half].set(now);
  });
  clearBehind(state, second, pair);
  startProduct(out, rotary(second, pair).alongRows(), values(second, "left", pair), { keep: true });
  waitProducts(k);
  second.stage.release();
}

function rightPair(state: SideState, pair: Pair): void {
  const { k, scores, out } = state;
  const { request, sides, first, second } = pair;
  const before = softmaxStart(state, pair, second);
  k.namedBarrier(handOver.maximum, 256).sync();
  const maximum = rowMaxima(state, sides.readMaxima("left"));
  exponentials(state, request, maximum);
  sides.writeMaxima("right", maximum);
  scores.storeTo(rotary(second, pair));
  k.fenceAsync();
  k.namedBarrier(handOver.right, 256).arrive();
  state.rescale(before.map((old, half) => old.sub(maximum[half]).mul(request.scale).exp2()));
  addSums(state);
  maximum.forEach((now, half) => {
    state.maximum[half].set(now);
  });
  clearBehind(state, second, pair);
  const more = { keep: true, commit: false };
  startProduct(out, scores.toFragments(), values(second, "right", pair), more);

  k.namedBarrier(handOver.left, 256).sync();
  clearBehind(state, first, pair);
  startProduct(out, rotary(first, pair).alongRows(), values(first, "right", pair), { keep: true });
  waitProducts(k);
  first.stage.release();
  second.stage.release();
}

/** Scores of a block, masked; gives copies of the maxima before it. */
function softmaxStart(state: SideState, { request, q }: Pair, block: Block): F32[] {
  const { k, scores, maximum } = state;
  startProduct(scores, q.alongRows(), block.stage.tiles.keys.alongRows());
  const before = maximum.map((value) => k.floatVariable(value));
  waitProducts(k);
  // All keys of a block that ends before the least limit of any row are visible.
  k.if(block.start.add(pageTokens).gt(request.leastLimit), () => {
    const start = block.start.add(k.lane.and(3).mul(2));
    scores.each((value, { half, column }) => {
      const visible = start.add(column).lt(request.limits[half]);
      value.set(visible.select(value, k.f32(Number.NEGATIVE_INFINITY)));
    });
  });
  return before;
}

/** Maxima of each row's scores and what was before. */
function rowMaxima({ k, scores }: SideState, before: readonly F32[]): F32[] {
  return before.map((old, row) => {
    let largest: F32 | undefined;
    scores.each((value, { half }) => {
      if (half === row) largest = largest ? largest.max(value) : value;
    });
    return old.max(k.reduce(largest!, 4, (a, b) => a.max(b)));
  });
}

/** Turns scores into 2^(scale (score - maximum)). */
function exponentials({ scores }: SideState, request: Request, maximum: readonly F32[]): void {
  const offsets = maximum.map((value) => value.mul(request.scale).neg());
  scores.each((value, { half }) => value.set(value.fma(request.scale, offsets[half]).exp2()));
}

function addSums({ scores, sums }: SideState): void {
  scores.each((value, { half }) => sums[half].set(sums[half].add(value)));
}

/** The panel behind the values, 64 x 64. */
function rotary(block: Block, { dimV }: Pair): SharedTile {
  return block.stage.tiles.keys.panelRange(dimV / 64, 1);
}

/** A side's half of a block's values. */
function values(block: Block, side: "left" | "right", { dimV }: Pair) {
  const part = dimV / 128;
  return block.stage.tiles.keys.panelRange(side === "left" ? 0 : part, part).downColumns();
}

/**
 * Makes the rows of values behind the last key zero in this side's half: they have probability zero,
 * but what lies there may be NaN. Both sides are done with the block's scores by now.
 */
function clearBehind(
  state: SideState,
  block: Block,
  { dimV }: Pair,
  before: () => void = () => {},
): void {
  const { k, side } = state;
  k.if(block.valid.lt(pageTokens), () => {
    before();
    const part = dimV / 128;
    const tile = block.stage.tiles.keys.panelRange(side === "left" ? 0 : part, part);
    const thread = k.threadId.and(127);
    // Eight lanes write a row of a panel, 16 bytes each; the swizzle permutes within the row.
    k.loop(
      pageTokens,
      (row) => {
        for (let panel = 0; panel < part; panel++) {
          const address = row.mad(128, tile.address.add(panel * tile.panelBytes));
          const zero = k.u32(0);
          k.store("shared", thread.and(7).mad(16, address), [zero, zero, zero, zero]);
        }
      },
      block.valid.add(thread.shr(3)),
      16,
    );
    k.fenceAsync();
    state.meet();
  });
}
