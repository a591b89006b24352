/**
 * @file The sparse kind of `flashMlaWithKvCache`: each query token attends to the keys that its
 * indices name, of an FP8 cache and possibly of a second one.
 */
import { assert, assertEqual } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bf16ArrayToF32, f32ToBf16, type Tensor } from "../tensor/index.ts";
import { checkScale, checkTensor, sizesOf } from "./checks.ts";
import { decodeResults, type FlashMlaOptions, type FlashMlaResult } from "./decode-types.ts";
import { dequantiseToken, latentFp8 } from "./latent-fp8.ts";
import { type MlaMetadata, type Segment, segmentsOf, sparseBlocksOf } from "./metadata.ts";
import { attendPlainly } from "./reference-flash.ts";
import { pageTokens } from "./types.ts";
import { type FlashPart, type FlashUnit, runFlash, tablesOf } from "./x86-flash.ts";

const { nopeDim, ropeDim, tokenBytes } = latentFp8;
const dimQk = nopeDim + ropeDim;

/** A cache with the indices into it. */
interface Scope {
  readonly name: string;
  readonly cache: Tensor<"f8e4m3">;
  readonly indices: Tensor<"i32">;
  /** Indices of a query; how many count, by request. */
  readonly topk: number;
  readonly lengths: Tensor<"i32"> | undefined;
}

interface SparseCall extends FlashMlaResult {
  readonly q: Tensor<"bf16">;
  readonly scopes: readonly Scope[];
  readonly segments: readonly (readonly Segment[])[];
  readonly softmaxScale: number;
  readonly attnSink: Tensor<"f32"> | undefined;
  readonly sizes: Readonly<Record<"batch" | "queries" | "headsQ" | "headDimV", number>>;
}

/** See `flashMlaWithKvCache`. */
export function sparseDecode(
  device: Device,
  q: Tensor<"bf16">,
  kCache: Tensor<"f8e4m3">,
  headDimV: number,
  metadata: MlaMetadata,
  options: FlashMlaOptions,
): FlashMlaResult {
  const call = checkSparse(device, q, kCache, headDimV, metadata, options);
  if (device.rung === "reference") sparseReference(call);
  else sparseX86(device, call);
  return { out: call.out, lse: call.lse };
}

function checkSparse(
  device: Device,
  q: Tensor<"bf16">,
  kCache: Tensor<"f8e4m3">,
  headDimV: number,
  metadata: MlaMetadata,
  options: FlashMlaOptions,
): SparseCall {
  const [batch, queries, headsQ] = sizesOf("q", q, "batch, queries, headsQ, 576");
  checkTensor("q", q, "bf16", [batch, queries, headsQ, dimQk]);
  assertEqual(headDimV, nopeDim, "headDimV of an FP8 cache");
  const { softmaxScale = 1 / Math.sqrt(dimQk), attnSink, topkLength } = options;
  const { extraKCache, extraIndicesInKvcache, extraTopkLength } = options;
  checkScale(softmaxScale);
  if (attnSink !== undefined) checkTensor("attnSink", attnSink, "f32", [headsQ]);
  const scopes = [checkScope("indices", kCache, options.indices!, topkLength, batch, queries)];
  assert(
    (extraKCache === undefined) === (extraIndicesInKvcache === undefined) &&
      (extraTopkLength === undefined || extraKCache !== undefined),
    "extraKCache, extraIndicesInKvcache: wanted both, or neither and no extraTopkLength",
  );
  if (extraKCache && extraIndicesInKvcache) {
    const name = "extraIndicesInKvcache";
    const lengths = extraTopkLength;
    scopes.push(checkScope(name, extraKCache, extraIndicesInKvcache, lengths, batch, queries));
  }
  const blocks = Array.from({ length: batch }, (_, request) => {
    const [own, extra] = scopes.map((scope) => lengthOf(scope, request));
    return sparseBlocksOf(own, extra);
  });
  const segments = segmentsOf(metadata, blocks);
  const sizes = { batch, queries, headsQ, headDimV };
  const results = decodeResults(device, sizes, options);
  return { q, scopes, segments, softmaxScale, attnSink, sizes, ...results };
}

/** The indices of one cache: each is -1 or names a row of it. */
function checkScope(
  name: string,
  cache: Tensor<"f8e4m3">,
  indices: Tensor<"i32">,
  lengths: Tensor<"i32"> | undefined,
  batch: number,
  queries: number,
): Scope {
  const [pages, pageSize] = sizesOf("kCache", cache, "pages, pageSize, 1, 656");
  checkTensor("kCache", cache, "f8e4m3", [pages, pageSize, 1, tokenBytes]);
  const [, , topk] = sizesOf(name, indices, "batch, queries, topk");
  checkTensor(name, indices, "i32", [batch, queries, topk]);
  const scope = { name, cache, indices, topk, lengths };
  if (lengths !== undefined) {
    checkTensor(`lengths of ${name}`, lengths, "i32", [batch]);
    for (let request = 0; request < batch; request++) {
      const length = lengths.data[request];
      assert(
        length >= 0 && length <= topk,
        () => `lengths of ${name}[${request}]: got ${length}, wanted 0..${topk}`,
      );
    }
  }
  for (let row = 0; row < batch * queries; row++) {
    const count = lengthOf(scope, Math.floor(row / queries));
    for (let i = 0; i < count; i++) {
      const index = indices.data[row * indices.stride + i];
      assert(
        index >= -1 && index < pages * pageSize,
        () => `${name}[${row}, ${i}]: got ${index}, wanted -1..${pages * pageSize - 1}`,
      );
    }
  }
  return scope;
}

function lengthOf({ topk, lengths }: Pick<Scope, "topk" | "lengths">, request: number): number {
  return lengths?.data[request] ?? topk;
}

/**
 * Visits the valid indices of a query between two positions, those of the extra cache standing
 * behind the others from the next block on.
 */
function eachIndex(
  call: SparseCall,
  request: number,
  query: number,
  from: number,
  to: number,
  visit: (cache: Tensor<"f8e4m3">, index: number) => void,
): void {
  let start = 0;
  for (const scope of call.scopes) {
    const { cache, indices } = scope;
    const length = lengthOf(scope, request);
    const row = (request * call.sizes.queries + query) * indices.stride;
    const end = Math.min(length, to - start);
    for (let i = Math.max(0, from - start); i < end; i++) {
      const index = indices.data[row + i];
      if (index >= 0) visit(cache, index);
    }
    start += Math.max(1, Math.ceil(length / pageTokens)) * pageTokens;
  }
}

function sparseReference(call: SparseCall): void {
  const { q, attnSink, softmaxScale, out, lse, sizes } = call;
  const { batch, queries, headsQ, headDimV } = sizes;
  const bits = new Uint16Array(dimQk);
  for (let row = 0; row < batch * queries; row++) {
    const [request, query] = [Math.floor(row / queries), row % queries];
    const keys: Float32Array[] = [];
    eachIndex(call, request, query, 0, Number.POSITIVE_INFINITY, (cache, index) => {
      const start = index * cache.stride;
      dequantiseToken(cache.data.subarray(start, start + tokenBytes), bits);
      keys.push(bf16ArrayToF32(bits));
    });
    for (let head = 0; head < headsQ; head++) {
      const at = row * headsQ + head;
      const values = bf16ArrayToF32(q.data.subarray(at * q.stride, at * q.stride + dimQk));
      const sink = attnSink?.data[head];
      const plain = { keys, values: keys };
      const result = attendPlainly(values, plain, keys.length, headDimV, softmaxScale, sink);
      for (let d = 0; d < headDimV; d++) out.data[at * out.stride + d] = f32ToBf16(result.out[d]);
      lse.data[(request * headsQ + head) * lse.stride + query] = result.lse;
    }
  }
}

function sparseX86(device: Device, call: SparseCall): void {
  const { q, attnSink, out, lse, sizes } = call;
  const { batch, queries, headsQ, headDimV } = sizes;
  if (batch * queries * headsQ === 0) return;
  const tables = tablesOf(device);
  const units: FlashUnit[] = [];
  for (let row = 0; row < batch * queries; row++) {
    const [request, query] = [Math.floor(row / queries), row % queries];
    const parts = call.segments[request].map(({ firstBlock, endBlock }): FlashPart => {
      const keysAt = tables.keys.length;
      const [from, to] = [firstBlock * pageTokens, endBlock * pageTokens];
      eachIndex(call, request, query, from, to, (cache, index) => {
        tables.keys.push(cache.address + index * cache.stride);
      });
      const keyCount = tables.keys.length - keysAt;
      return { keysAt, valuesAt: 0, keyCount, visible: keyCount };
    });
    units.push({
      q: q.address + 2 * row * headsQ * q.stride,
      out: out.address + 2 * row * headsQ * out.stride,
      lse: lse.address + 4 * (request * headsQ * lse.stride + query),
      maxLogits: 0,
      tokens: 1,
      sinks: attnSink?.address ?? 0,
      parts,
    });
  }
  const strides = { keyStride: 0, valueStride: 0, ownValues: false };
  runFlash(device, {
    spec: { source: "rows", row: "fp8", dimQk, headDimV, ...strides },
    group: headsQ,
    causal: false,
    softmaxScale: call.softmaxScale,
    q: { head: 2 * q.stride, token: 0 },
    out: { head: 2 * out.stride, token: 0 },
    lse: { head: 4 * lse.stride, token: 0 },
    units,
    ...tables,
  });
}
