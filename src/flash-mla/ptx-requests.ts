/**
 * @file Which requests, and which blocks of them, a block of threads of a decoding kernel takes: its
 * parameters, and the walk through its row of the tile scheduler's metadata.
 */
import type { Builder, F32, U32, U64 } from "../codegen/index.ts";
import { firstRow } from "../codegen/index.ts";
import { pageTokens } from "./types.ts";

/** Parameters besides the tensor maps, in this order. */
export interface DecodeParams {
  /** int32 `[batch, pagesPerRequest]`; entries behind a request's pages are not looked at. */
  readonly blockTable: U64;
  /** int32 `[batch]`. */
  readonly cacheSeqlens: U64;
  /** int32 `[parts, 8]`, as `getMlaMetadata` writes it. */
  readonly metadata: U64;
  /** int32 `[batch + 1]`. */
  readonly numSplits: U64;
  /** float32 `[splits, key heads, rows, dimV]` and `[splits, key heads, rows]`. */
  readonly outParts: U64;
  readonly lseParts: U64;
  /** float32 `[batch, key heads, rows]`. */
  readonly lse: U64;
  readonly pagesPerRequest: U32;
  readonly keyHeads: U32;
  /** Query tokens times query heads of a key head. */
  readonly rows: U32;
  /** Query heads of a key head, and query tokens. */
  readonly headsPerKey: U32;
  readonly queryTokens: U32;
  /** Whether query token i sees the keys up to its own position only. */
  readonly causal: U32;
  /** The factor of the scores times log2(e). */
  readonly scale: F32;
}

/** Declares the parameters. */
export function declareParams(k: Builder): DecodeParams {
  return {
    blockTable: k.paramPointer("block_table"),
    cacheSeqlens: k.paramPointer("cache_seqlens"),
    metadata: k.paramPointer("metadata"),
    numSplits: k.paramPointer("num_splits"),
    outParts: k.paramPointer("out_parts"),
    lseParts: k.paramPointer("lse_parts"),
    lse: k.paramPointer("lse"),
    pagesPerRequest: k.paramU32("pages_per_request"),
    keyHeads: k.paramU32("key_heads"),
    rows: k.paramU32("rows"),
    headsPerKey: k.paramU32("heads_per_key"),
    queryTokens: k.paramU32("query_tokens"),
    causal: k.paramU32("causal"),
    scale: k.paramF32("scale"),
  };
}

/** A request's part, as every role sees it. */
export interface Request {
  /** Number of its matrix in q, out and lse: request times key heads plus key head. */
  readonly index: U32;
  readonly firstRow: U32;
  readonly firstBlock: U32;
  readonly endBlock: U32;
  /** The key behind the last one of this part, then of those that each of this thread's two rows
   * sees, and of those that all rows see. */
  readonly keys: U32;
  readonly limits: readonly U32[];
  readonly leastLimit: U32;
  /** Whether its keys are shared out to several parts, and the number of this part's results. */
  readonly isSplit: U32;
  readonly split: U32;
  readonly scale: F32;
  /** The page of a block, 0 where it has none. */
  readonly pageOf: (block: U32) => U32;
}

/** Calls `body` for each request of this block's part. */
export function forEachRequest(
  k: Builder,
  params: DecodeParams,
  body: (request: Request) => void,
): void {
  const word = (base: U64, index: U32) =>
    k.load("global", base.at(index, 4), 1, { readOnly: true })[0];
  const part = k.blockZ.mul(8);
  const field = (i: number) => word(params.metadata, part.add(i));
  const [begin, last, firstBlock, endBlock, firstSplit] = [0, 1, 2, 3, 4].map(field);
  const { headsPerKey, queryTokens, causal, pagesPerRequest, keyHeads } = params;
  const firstRowOfTile = k.blockX.mul(64);
  const tokensBefore = queryTokens.sub(1);
  // Query token i of n sees all but the last n - 1 - i keys.
  const hidden = [0, 8].map((more) => {
    const row = firstRowOfTile.add(firstRow(k)).add(more);
    return causal.mul(tokensBefore.sub(row.div(headsPerKey).min(tokensBefore)));
  });
  k.loop(
    last.add(1),
    (request) => {
      const isFirst = request.eq(begin);
      const keys = word(params.cacheSeqlens, request);
      const blocks = keys.ceilDiv(pageTokens).max(1);
      const splitsBefore = word(params.numSplits, request);
      const splits = word(params.numSplits, request.add(1)).sub(splitsBefore);
      const table = request.mul(pagesPerRequest);
      const end = request.eq(last).select(endBlock, blocks);
      const without = (hiddenKeys: U32) => keys.sub(keys.min(hiddenKeys)).min(end.mul(pageTokens));
      body({
        index: request.mad(keyHeads, k.blockY),
        firstRow: firstRowOfTile,
        firstBlock: isFirst.select(firstBlock, k.u32(0)),
        endBlock: end,
        keys: keys.min(end.mul(pageTokens)),
        limits: hidden.map(without),
        leastLimit: without(causal.mul(tokensBefore)),
        isSplit: splits.gt(1).select(k.u32(1), k.u32(0)),
        split: splitsBefore.add(isFirst.select(firstSplit, k.u32(0))),
        scale: params.scale,
        pageOf: (block) => {
          const page = k.variable(0);
          k.if(block.mul(pageTokens).lt(keys), () =>
            page.set(word(params.blockTable, table.add(block))),
          );
          return page;
        },
      });
    },
    begin,
  );
}
