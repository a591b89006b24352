/**
 * @file `flashMlaWithKvCache`: attention of a few query tokens a request over a paged cache. Here
 * the dense kind; `sparse-decode.ts` has the other. Checks, then hands units of work to a rung.
 */
import { assert, assertEqual, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bf16ArrayToF32, f32ToBf16, type Tensor } from "../tensor/index.ts";
import { checkScale, checkTensor, sizesOf } from "./checks.ts";
import { decodeResults, type FlashMlaOptions, type FlashMlaResult } from "./decode-types.ts";
import { blocksOf, type MlaMetadata, type Segment, segmentsOf } from "./metadata.ts";
import { attendPlainly } from "./reference-flash.ts";
import { sparseDecode } from "./sparse-decode.ts";
import { pageTokens } from "./types.ts";
import { type FlashPart, runFlash, tablesOf } from "./x86-flash.ts";

/** A dense call that passed the checks. */
interface DenseCall extends FlashMlaResult {
  readonly q: Tensor<"bf16">;
  readonly kCache: Tensor<"bf16">;
  readonly blockTable: Tensor<"i32">;
  readonly cacheSeqlens: Tensor<"i32">;
  readonly segments: readonly (readonly Segment[])[];
  readonly softmaxScale: number;
  readonly causal: boolean;
  readonly attnSink: Tensor<"f32"> | undefined;
  readonly sizes: DenseSizes;
}

interface DenseSizes {
  readonly batch: number;
  readonly queries: number;
  readonly headsQ: number;
  readonly dimQk: number;
  readonly headsK: number;
  readonly group: number;
  readonly headDimV: number;
}

/**
 * Attention of `q` bf16 `[batch, queries, headsQ, dimQk]` over a paged cache; query head h uses key
 * head floor(h headsK / headsQ), and the first `headDimV` elements of a key are its value.
 *
 * Dense: `kCache` bf16 `[pages, 64, headsK, dimQk]`, of which a request sees the first `cacheSeqlens`
 * int32 `[batch]` keys of the pages that `blockTable` int32 `[batch, pagesMax]` lists. Keys beyond
 * its length, table entries beyond its pages and what lies behind the tensors are not read.
 *
 * Sparse (`indices`, `isFp8Kvcache`): `kCache` FP8 `[pages, pageSize, 1, 656]`, see
 * `quantiseKvCache`; dimQk 576, headDimV 512; `blockTable` and `cacheSeqlens` may be undefined.
 *
 * The metadata comes from `getMlaMetadata`. Throws on anything that does not fit together.
 */
export function flashMlaWithKvCache(
  device: Device,
  q: Tensor<"bf16">,
  kCache: Tensor<"bf16"> | Tensor<"f8e4m3">,
  blockTable: Tensor<"i32"> | undefined,
  cacheSeqlens: Tensor<"i32"> | undefined,
  headDimV: number,
  tileSchedulerMetadata: Tensor<"i32">,
  numSplits: Tensor<"i32">,
  options: FlashMlaOptions = {},
): FlashMlaResult {
  const metadata = { tileSchedulerMetadata, numSplits };
  const { indices, causal = false, isFp8Kvcache = indices !== undefined } = options;
  assertEqual(isFp8Kvcache, indices !== undefined, "isFp8Kvcache, which goes with indices");
  if (indices !== undefined) {
    assert(!causal, "causal: got true, wanted false for sparse attention");
    return sparseDecode(device, q, kCache as Tensor<"f8e4m3">, headDimV, metadata, options);
  }
  for (const name of sparseOnly) {
    assert(options[name] === undefined, () => `${name}: wanted undefined for dense attention`);
  }
  assert(blockTable && cacheSeqlens, "blockTable, cacheSeqlens: wanted for dense attention");
  const operands = { q, kCache: kCache as Tensor<"bf16">, blockTable, cacheSeqlens };
  const call = checkDense(device, operands, headDimV, metadata, options);
  if (device.rung === "reference") denseReference(call);
  else denseX86(device, call);
  return { out: call.out, lse: call.lse };
}

const sparseOnly = [
  "extraKCache",
  "extraIndicesInKvcache",
  "topkLength",
  "extraTopkLength",
] as const;

type DenseOperands = Pick<DenseCall, "q" | "kCache" | "blockTable" | "cacheSeqlens">;

function checkDense(
  device: Device,
  operands: DenseOperands,
  headDimV: number,
  metadata: MlaMetadata,
  options: FlashMlaOptions,
): DenseCall {
  const { q, kCache, blockTable, cacheSeqlens } = operands;
  const [batch, queries, headsQ, dimQk] = sizesOf("q", q, "batch, queries, headsQ, dimQk");
  const [pages, , headsK] = sizesOf("kCache", kCache, "pages, 64, headsK, dimQk");
  const [, pagesMax] = sizesOf("blockTable", blockTable, "batch, pagesMax");
  checkTensor("q", q, "bf16", [batch, queries, headsQ, dimQk]);
  checkTensor("kCache", kCache, "bf16", [pages, pageTokens, headsK, dimQk]);
  checkTensor("blockTable", blockTable, "i32", [batch, pagesMax]);
  checkTensor("cacheSeqlens", cacheSeqlens, "i32", [batch]);
  const group = checkHeads(headsQ, headsK);
  checkWidth(headDimV, dimQk);
  const { softmaxScale = 1 / Math.sqrt(dimQk), causal = false, attnSink } = options;
  checkScale(softmaxScale);
  if (attnSink !== undefined) checkTensor("attnSink", attnSink, "f32", [headsQ]);
  for (let request = 0; request < batch; request++) {
    checkPages(operands, request, pages, pagesMax);
  }
  const blocks = Array.from(cacheSeqlens.data.subarray(0, batch), blocksOf);
  const segments = segmentsOf(metadata, blocks);
  const sizes = { batch, queries, headsQ, dimQk, headsK, group, headDimV };
  const results = decodeResults(device, sizes, options);
  return { ...operands, ...results, segments, softmaxScale, causal, attnSink, sizes };
}

function checkHeads(headsQ: number, headsK: number): number {
  assert(
    headsK >= 1 && headsQ % headsK === 0,
    () => `heads of q: got ${headsQ}, wanted a multiple of the ${headsK} of kCache`,
  );
  return headsQ / headsK;
}

function checkWidth(headDimV: number, dimQk: number): void {
  assert(
    Number.isSafeInteger(headDimV) && headDimV >= 1 && headDimV <= dimQk,
    () => `headDimV: got ${headDimV}, wanted 1..${dimQk}`,
  );
}

/** A request's length is one, and each page that it needs is in the cache. */
function checkPages(
  { blockTable, cacheSeqlens }: DenseOperands,
  request: number,
  pages: number,
  pagesMax: number,
): void {
  const keys = cacheSeqlens.data[request];
  const wanted = ceilDiv(keys, pageTokens);
  assert(
    keys >= 0 && wanted <= pagesMax,
    () => `cacheSeqlens[${request}]: got ${keys}, wanted 0..${pagesMax * pageTokens}`,
  );
  for (let i = 0; i < wanted; i++) {
    const page = blockTable.data[request * blockTable.stride + i];
    assert(
      page >= 0 && page < pages,
      () => `blockTable[${request}, ${i}]: got ${page}, wanted 0..${pages - 1}`,
    );
  }
}

/** Keys that the first query of a request sees, of a part that starts at key `first`. */
function firstVisible(call: DenseCall, request: number, first: number): number {
  const keys = call.cacheSeqlens.data[request] - first;
  return call.causal ? keys - call.sizes.queries + 1 : keys;
}

function denseReference(call: DenseCall): void {
  const { q, kCache, blockTable, cacheSeqlens, softmaxScale, attnSink, out, lse, sizes } = call;
  const { batch, queries, headsQ, headsK, dimQk, group, headDimV } = sizes;
  for (let request = 0; request < batch; request++) {
    for (let headK = 0; headK < headsK; headK++) {
      const keys = Array.from({ length: cacheSeqlens.data[request] }, (_, t) => {
        const page = blockTable.data[request * blockTable.stride + Math.floor(t / pageTokens)];
        const row = (page * pageTokens + (t % pageTokens)) * headsK + headK;
        return bf16ArrayToF32(
          kCache.data.subarray(row * kCache.stride, row * kCache.stride + dimQk),
        );
      });
      for (let i = 0; i < queries * group; i++) {
        const [query, head] = [Math.floor(i / group), headK * group + (i % group)];
        const row = (request * queries + query) * headsQ + head;
        const values = bf16ArrayToF32(q.data.subarray(row * q.stride, row * q.stride + dimQk));
        const visible = firstVisible(call, request, 0) + (call.causal ? query : 0);
        const plain = { keys, values: keys };
        const sink = attnSink?.data[head];
        const result = attendPlainly(values, plain, visible, headDimV, softmaxScale, sink);
        for (let d = 0; d < headDimV; d++) {
          out.data[row * out.stride + d] = f32ToBf16(result.out[d]);
        }
        lse.data[(request * headsQ + head) * lse.stride + query] = result.lse;
      }
    }
  }
}

function denseX86(device: Device, call: DenseCall): void {
  const { q, kCache, blockTable, attnSink, out, lse, sizes } = call;
  const { batch, queries, headsQ, headsK, dimQk, group, headDimV } = sizes;
  if (batch * queries * headsQ === 0) return;
  const tables = tablesOf(device);
  const keyStride = 2 * headsK * kCache.stride;
  const units = [];
  for (let request = 0; request < batch; request++) {
    for (let headK = 0; headK < headsK; headK++) {
      const start = tables.keys.length;
      const pages = ceilDiv(call.cacheSeqlens.data[request], pageTokens);
      for (let i = 0; i < pages; i++) {
        const page = blockTable.data[request * blockTable.stride + i];
        tables.keys.push(
          kCache.address + page * pageTokens * keyStride + 2 * headK * kCache.stride,
        );
      }
      const row = request * queries * headsQ + headK * group;
      units.push({
        q: q.address + 2 * row * q.stride,
        out: out.address + 2 * row * out.stride,
        lse: lse.address + 4 * (request * headsQ + headK * group) * lse.stride,
        maxLogits: 0,
        tokens: queries,
        sinks: attnSink ? attnSink.address + 4 * headK * group : 0,
        parts: partsOf(call, request, start),
      });
    }
  }
  const spec = { source: "pages", row: "bf16", dimQk, headDimV, keyStride } as const;
  runFlash(device, {
    spec: { ...spec, valueStride: keyStride, ownValues: false },
    group,
    causal: call.causal,
    softmaxScale: call.softmaxScale,
    q: { head: 2 * q.stride, token: 2 * headsQ * q.stride },
    out: { head: 2 * out.stride, token: 2 * headsQ * out.stride },
    lse: { head: 4 * lse.stride, token: 4 },
    units,
    ...tables,
  });
}

/** The splits of a request whose pages start at `start` of the table. */
function partsOf(call: DenseCall, request: number, start: number): FlashPart[] {
  const keys = call.cacheSeqlens.data[request];
  return call.segments[request].map(({ firstBlock, endBlock }) => ({
    keysAt: start + firstBlock,
    valuesAt: 0,
    keyCount: Math.min(keys, endBlock * pageTokens) - firstBlock * pageTokens,
    visible: firstVisible(call, request, firstBlock * pageTokens),
  }));
}
