/**
 * @file `flashMlaSparseFwd`: prefill in which each query token attends to the keys that its indices
 * name, of one sequence's bf16 latents.
 */
import { assert } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bf16ArrayToF32, f32ToBf16, type Tensor, zeros } from "../tensor/index.ts";
import { checkScale, checkTensor, sizesOf } from "./checks.ts";
import { attendPlainly } from "./reference-flash.ts";
import { type FlashUnit, runFlash, tablesOf } from "./x86-flash.ts";

/** Keyword arguments of `flashMlaSparseFwd`. */
export interface SparseFwdOptions {
  /**
   * float32 `[headsQ]`: e^sink is added to the denominator of a head's softmax; `lse` and
   * `maxLogits` leave it out.
   */
  readonly attnSink?: Tensor<"f32">;
  /** int32 `[queries]`: only so many of a query's leading indices count. */
  readonly topkLength?: Tensor<"i32">;
  /** Where to write, instead of new tensors. */
  readonly out?: Tensor<"bf16">;
  readonly maxLogits?: Tensor<"f32">;
  readonly lse?: Tensor<"f32">;
}

/** Results of `flashMlaSparseFwd`. */
export interface SparseFwdResult {
  /** bf16 `[queries, headsQ, headDimV]`; 0 where a query sees no key. */
  readonly out: Tensor<"bf16">;
  /** float32 `[queries, headsQ]`: the largest scaled score; -infinity where there is none. */
  readonly maxLogits: Tensor<"f32">;
  /** float32 `[queries, headsQ]`, natural logarithm; +infinity where a query sees no key. */
  readonly lse: Tensor<"f32">;
}

interface SparseCall extends SparseFwdResult {
  readonly q: Tensor<"bf16">;
  readonly kv: Tensor<"bf16">;
  readonly indices: Tensor<"i32">;
  readonly smScale: number;
  readonly attnSink: Tensor<"f32"> | undefined;
  readonly lengths: Tensor<"i32"> | undefined;
  readonly sizes: Readonly<
    Record<
      "queries" | "headsQ" | "dimQk" | "keys" | "headsK" | "group" | "topk" | "headDimV",
      number
    >
  >;
}

/**
 * Attention of `q` bf16 `[queries, headsQ, dimQk]` to the keys `kv` bf16 `[keys, headsK, dimQk]` that
 * `indices` int32 `[queries, headsK, topk]` names; -1 and indices of `keys` or more name none. The
 * first `headDimV` (default 512) elements of a key are its value. Keys that no valid index names are
 * not read.
 */
export function flashMlaSparseFwd(
  device: Device,
  q: Tensor<"bf16">,
  kv: Tensor<"bf16">,
  indices: Tensor<"i32">,
  smScale: number,
  headDimV: number = 512,
  options: SparseFwdOptions = {},
): SparseFwdResult {
  const call = checkCall(device, q, kv, indices, smScale, headDimV, options);
  if (device.rung === "reference") reference(call);
  else x86(device, call);
  const { out, maxLogits, lse } = call;
  return { out, maxLogits, lse };
}

function checkCall(
  device: Device,
  q: Tensor<"bf16">,
  kv: Tensor<"bf16">,
  indices: Tensor<"i32">,
  smScale: number,
  headDimV: number,
  options: SparseFwdOptions,
): SparseCall {
  const [queries, headsQ, dimQk] = sizesOf("q", q, "queries, headsQ, dimQk");
  const [keys, headsK] = sizesOf("kv", kv, "keys, headsK, dimQk");
  const [, , topk] = sizesOf("indices", indices, "queries, headsK, topk");
  checkTensor("q", q, "bf16", [queries, headsQ, dimQk]);
  checkTensor("kv", kv, "bf16", [keys, headsK, dimQk]);
  checkTensor("indices", indices, "i32", [queries, headsK, topk]);
  assert(
    headsK >= 1 && headsQ % headsK === 0,
    () => `heads of q: got ${headsQ}, wanted a multiple of the ${headsK} of kv`,
  );
  assert(
    Number.isSafeInteger(headDimV) && headDimV >= 1 && headDimV <= dimQk,
    () => `headDimV: got ${headDimV}, wanted 1..${dimQk}`,
  );
  checkScale(smScale);
  const { attnSink, topkLength: lengths } = options;
  if (attnSink !== undefined) checkTensor("attnSink", attnSink, "f32", [headsQ]);
  if (lengths !== undefined) {
    checkTensor("topkLength", lengths, "i32", [queries]);
    for (let i = 0; i < queries; i++) {
      const length = lengths.data[i];
      assert(
        length >= 0 && length <= topk,
        () => `topkLength[${i}]: got ${length}, wanted 0..${topk}`,
      );
    }
  }
  const allocate = device.allocate;
  const out = options.out ?? zeros("bf16", [queries, headsQ, headDimV], allocate);
  const maxLogits = options.maxLogits ?? zeros("f32", [queries, headsQ], allocate);
  const lse = options.lse ?? zeros("f32", [queries, headsQ], allocate);
  checkTensor("out", out, "bf16", [queries, headsQ, headDimV]);
  checkTensor("maxLogits", maxLogits, "f32", [queries, headsQ]);
  checkTensor("lse", lse, "f32", [queries, headsQ]);
  assert(
    maxLogits.stride === lse.stride,
    () => `stride of maxLogits: got ${maxLogits.stride}, wanted that of lse, ${lse.stride}`,
  );
  const group = headsQ / headsK;
  const sizes = { queries, headsQ, dimQk, keys, headsK, group, topk, headDimV };
  return { q, kv, indices, smScale, attnSink, lengths, sizes, out, maxLogits, lse };
}

/** The valid indices of a query and key head. */
function validIndices(call: SparseCall, query: number, headK: number): number[] {
  const { indices, lengths, sizes } = call;
  const start = (query * sizes.headsK + headK) * indices.stride;
  const count = lengths?.data[query] ?? sizes.topk;
  const valid: number[] = [];
  for (let i = start; i < start + count; i++) {
    const index = indices.data[i];
    if (index >= 0 && index < sizes.keys) valid.push(index);
  }
  return valid;
}

function reference(call: SparseCall): void {
  const { q, kv, smScale, attnSink, out, maxLogits, lse, sizes } = call;
  const { queries, headsQ, headsK, group, dimQk, headDimV } = sizes;
  for (let query = 0; query < queries; query++) {
    for (let headK = 0; headK < headsK; headK++) {
      const keys = validIndices(call, query, headK).map((index) => {
        const start = (index * headsK + headK) * kv.stride;
        return bf16ArrayToF32(kv.data.subarray(start, start + dimQk));
      });
      for (let head = headK * group; head < (headK + 1) * group; head++) {
        const row = query * headsQ + head;
        const values = bf16ArrayToF32(q.data.subarray(row * q.stride, row * q.stride + dimQk));
        const plain = { keys, values: keys };
        const sink = attnSink?.data[head];
        const result = attendPlainly(values, plain, keys.length, headDimV, smScale, sink);
        for (let d = 0; d < headDimV; d++) {
          out.data[row * out.stride + d] = f32ToBf16(result.out[d]);
        }
        maxLogits.data[query * maxLogits.stride + head] = result.maxLogit;
        lse.data[query * lse.stride + head] = result.lse;
      }
    }
  }
}

/** Addresses of keys that a launch lists at most (8 bytes each), unless one query needs more. */
const addressesMax = 2 ** 20;

function x86(device: Device, call: SparseCall): void {
  const { q, kv, attnSink, out, maxLogits, lse, sizes } = call;
  const { queries, headsQ, headsK, group, dimQk, headDimV } = sizes;
  if (group === 0) return;
  const strides = { keyStride: 0, valueStride: 0, ownValues: false };
  for (let query = 0; query < queries; ) {
    const tables = tablesOf(device);
    const units: FlashUnit[] = [];
    for (; query < queries && tables.keys.length < addressesMax; query++) {
      for (let headK = 0; headK < headsK; headK++) {
        const keysAt = tables.keys.length;
        for (const index of validIndices(call, query, headK)) {
          tables.keys.push(kv.address + 2 * (index * headsK + headK) * kv.stride);
        }
        const keyCount = tables.keys.length - keysAt;
        const head = headK * group;
        units.push({
          q: q.address + 2 * (query * headsQ + head) * q.stride,
          out: out.address + 2 * (query * headsQ + head) * out.stride,
          lse: lse.address + 4 * (query * lse.stride + head),
          maxLogits: maxLogits.address + 4 * (query * maxLogits.stride + head),
          tokens: 1,
          sinks: attnSink ? attnSink.address + 4 * head : 0,
          parts: [{ keysAt, valuesAt: 0, keyCount, visible: keyCount }],
        });
      }
    }
    runFlash(device, {
      spec: { source: "rows", row: "bf16", dimQk, headDimV, ...strides },
      group,
      causal: false,
      softmaxScale: call.smScale,
      q: { head: 2 * q.stride, token: 0 },
      out: { head: 2 * out.stride, token: 0 },
      lse: { head: 4, token: 0 },
      units,
      ...tables,
    });
  }
}
