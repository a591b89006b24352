/**
 * @file The tile scheduler's metadata: how the keys of a batch of requests are shared out. Pure.
 *
 * Work is counted in blocks of 64 keys, plus some (5) for what a request costs besides. Every part
 * gets the same payload, the mean rounded up plus those once more; requests are dealt out in order, and one that
 * does not fit is split at a block. Source: FlashMLA's scheduler (facts); here a part is a share of
 * the threads rather than of the multiprocessors, and a tile takes 128 rows.
 */
import { assert, assertEqual, ceilDiv } from "../base/index.ts";
import { type Tensor, tensorOf } from "../tensor/index.ts";
import { checkTensor, sizesOf } from "./checks.ts";
import { pageTokens } from "./types.ts";

/** Rows (query tokens times heads of a key head) that a task takes together. */
const tileRows = 128;

/** The largest count that makes sense: of threads, heads, rows or keys. */
const countMax = 2 ** 24;

/** Integers of a part: see `MlaMetadata`. */
const partWords = 8;

/** What `flashMlaWithKvCache` needs to know beside its operands; for equal lengths it can be reused. */
export interface MlaMetadata {
  /**
   * int32 `[parts, 8]`: first and last request (inclusive), first block of the first and end block
   * (exclusive) of the last, number of the first's split, whether the first and the last are split,
   * 0. A part without work names the request behind the last as its first.
   */
  readonly tileSchedulerMetadata: Tensor<"i32">;
  /** int32 `[batch + 1]`: splits of all requests before; each has at least one. */
  readonly numSplits: Tensor<"i32">;
}

/** Keyword arguments of upstream's function, and the number of threads. */
export interface MlaMetadataOptions {
  /** Query heads; no effect here, as upstream. */
  readonly numHeadsQ?: number;
  /** No effect here. */
  readonly isFp8Kvcache?: boolean;
  /** Keys that sparse attention takes for each query, instead of the cached lengths. */
  readonly topk?: number;
  /** int32 `[batch]`: how many of them. */
  readonly topkLength?: Tensor<"i32">;
  /** The same of the extra cache. */
  readonly extraTopk?: number;
  readonly extraTopkLength?: Tensor<"i32">;
  /** Threads that share the work: those of the device; default 1, which splits nothing. */
  readonly threads?: number;
  /**
   * Blocks that a request costs besides its own: default 5, as upstream, which suits a GPU; a
   * processor does with 1, and shares a long request more evenly.
   */
  readonly overheadBlocks?: number;
}

/**
 * Shares out the blocks of a batch. `cacheSeqlens` int32 `[batch]`; `numHeadsPerHeadK` is the number
 * of rows per key head, query tokens times query heads / key heads. Throws on a negative length and
 * on counts that are none.
 */
export function getMlaMetadata(
  cacheSeqlens: Tensor<"i32">,
  numHeadsPerHeadK: number,
  numHeadsK: number,
  options: MlaMetadataOptions = {},
): MlaMetadata {
  const [batch] = sizesOf("cacheSeqlens", cacheSeqlens, "batch");
  checkTensor("cacheSeqlens", cacheSeqlens, "i32", [batch]);
  const { topk, topkLength, extraTopk, extraTopkLength, threads = 1 } = options;
  const { overheadBlocks = 5 } = options;
  const counts = {
    numHeadsPerHeadK,
    numHeadsK,
    threads,
    topk: topk ?? 1,
    extraTopk: extraTopk ?? 1,
  };
  for (const [name, value] of Object.entries(counts)) {
    assert(
      Number.isSafeInteger(value) && value >= 1 && value <= countMax,
      () => `${name}: got ${value}, wanted 1..${countMax}`,
    );
  }
  for (const [name, lengths] of Object.entries({ topkLength, extraTopkLength })) {
    if (lengths !== undefined) checkTensor(name, lengths, "i32", [batch]);
  }
  const parts = Math.max(1, Math.floor(threads / numHeadsK / ceilDiv(numHeadsPerHeadK, tileRows)));
  const blocks = Array.from({ length: batch }, (_, i) => {
    const own = topk === undefined ? cacheSeqlens.data[i] : (topkLength?.data[i] ?? topk);
    const extra = extraTopkLength?.data[i] ?? extraTopk;
    for (const keys of [own, extra ?? 0]) {
      assert(keys >= 0, () => `keys of request ${i}: got ${keys}, wanted a count`);
    }
    return topk === undefined ? blocksOf(own) : sparseBlocksOf(own, extra);
  });
  assert(
    Number.isSafeInteger(overheadBlocks) && overheadBlocks >= 0 && overheadBlocks <= countMax,
    () => `overheadBlocks: got ${overheadBlocks}, wanted 0..${countMax}`,
  );
  return dealOut(blocks, parts, overheadBlocks);
}

/** Blocks of a request with so many keys; one that has none is a block, too. */
export function blocksOf(keys: number): number {
  return Math.max(1, ceilDiv(keys, pageTokens));
}

/** Blocks of `own` keys of the cache and `extra` ones of a second cache, which start a block. */
export function sparseBlocksOf(own: number, extra: number | undefined): number {
  if (extra === undefined) return blocksOf(own);
  return blocksOf(blocksOf(own) * pageTokens + extra);
}

function dealOut(blocks: readonly number[], parts: number, overheadBlocks: number): MlaMetadata {
  const batch = blocks.length;
  const total = blocks.reduce((sum, count) => sum + count + overheadBlocks, 0);
  const payload = ceilDiv(total, parts) + overheadBlocks;
  const rows = new Int32Array(parts * partWords);
  const splits = new Int32Array(batch + 1);
  let [request, block, split] = [0, 0, 0];
  for (let part = 0; part < parts; part++) {
    const begin = { request, block, split };
    let rest = payload;
    while (request < batch) {
      const left = blocks[request] - block;
      if (rest < left + overheadBlocks) break;
      rest -= left + overheadBlocks;
      splits[request + 1] = splits[request] + split + 1;
      [request, block, split] = [request + 1, 0, 0];
    }
    if (request < batch && rest > overheadBlocks) {
      block += rest - overheadBlocks;
      split++;
    }
    const last = block > 0 ? request : request - 1;
    const end = block > 0 ? block : (blocks[last] ?? 0);
    let isFirstSplit = begin.block > 0;
    let isLastSplit = last >= 0 && end !== blocks[last];
    if (begin.request === last) isFirstSplit = isLastSplit = isFirstSplit || isLastSplit;
    const row = [begin.request, last, begin.block, end, begin.split];
    rows.set([...row, Number(isFirstSplit), Number(isLastSplit), 0], part * partWords);
  }
  return {
    tileSchedulerMetadata: tensorOf("i32", [parts, partWords], rows),
    numSplits: tensorOf("i32", [batch + 1], splits),
  };
}

/** A run of blocks of one request. */
export interface Segment {
  readonly firstBlock: number;
  readonly endBlock: number;
}

/**
 * The segments of each request, in order, once it is certain that they cover its blocks exactly and
 * are as many as `numSplits` says. Throws where the metadata is not that of these requests.
 */
export function segmentsOf(metadata: MlaMetadata, blocks: readonly number[]): Segment[][] {
  const { tileSchedulerMetadata: table, numSplits } = metadata;
  const [parts] = sizesOf("tileSchedulerMetadata", table, "parts, 8");
  checkTensor("tileSchedulerMetadata", table, "i32", [parts, partWords]);
  checkTensor("numSplits", numSplits, "i32", [blocks.length + 1]);
  const segments: Segment[][] = blocks.map(() => []);
  const remedy = "wanted the one that getMlaMetadata makes of these lengths";
  for (let part = 0; part < parts; part++) {
    const at = part * table.stride;
    const [first, last, begin, end] = table.data.subarray(at, at + 4);
    if (first > last) continue;
    assert(
      first >= 0 && last < blocks.length,
      () => `tileSchedulerMetadata[${part}]: got requests ${first}..${last}, ${remedy}`,
    );
    for (let request = first; request <= last; request++) {
      const firstBlock = request === first ? begin : 0;
      const endBlock = request === last ? end : blocks[request];
      const expected = segments[request].at(-1)?.endBlock ?? 0;
      assert(
        firstBlock === expected && endBlock > firstBlock && endBlock <= blocks[request],
        () =>
          `tileSchedulerMetadata[${part}]: got blocks ${firstBlock}..${endBlock} of request ` +
          `${request}, which has ${blocks[request]}, ${remedy}`,
      );
      segments[request].push({ firstBlock, endBlock });
    }
  }
  segments.forEach((list, request) => {
    assert(
      list.at(-1)?.endBlock === blocks[request],
      () => `tileSchedulerMetadata: request ${request} is not covered, ${remedy}`,
    );
    const wanted = numSplits.data[request] + list.length;
    assertEqual(numSplits.data[request + 1], wanted, `numSplits[${request + 1}]`);
  });
  return segments;
}
