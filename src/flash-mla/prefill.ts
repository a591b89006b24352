/**
 * @file Dense multi-head attention over sequences of several lengths, one after another (upstream's
 * `flash_attn_varlen_func` and its kin): forward here, gradients in `prefill-backward.ts`.
 */
import { assert, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bf16ArrayToF32, columnsOf, f32ToBf16, type Tensor, zeros } from "../tensor/index.ts";
import { checkScale, checkTensor, sizesOf } from "./checks.ts";
import { attendPlainly } from "./reference-flash.ts";
import { pageTokens } from "./types.ts";
import { type FlashUnit, runFlash, tablesOf } from "./x86-flash.ts";

/** Keyword arguments of the varlen functions. */
export interface VarlenOptions {
  /** Factor of the scores; default 1 / sqrt(headDimQk). */
  readonly softmaxScale?: number;
  /** A query sees keys up to its own position, counted from the sequence's end. */
  readonly causal?: boolean;
  /** Where to write, instead of new tensors. */
  readonly out?: Tensor<"bf16">;
  readonly lse?: Tensor<"f32">;
}

/** Results of the varlen functions. */
export interface VarlenResult {
  /** bf16 `[totalQ, headsQ, headDimV]`. */
  readonly out: Tensor<"bf16">;
  /** float32 `[totalQ, headsQ]`, natural logarithm; +infinity where a query sees no key. */
  readonly lse: Tensor<"f32">;
}

/** What forward and backward have in common, checked. */
export interface VarlenCall {
  readonly q: Tensor<"bf16">;
  readonly k: Tensor<"bf16">;
  readonly v: Tensor<"bf16">;
  readonly sequences: readonly VarlenSequence[];
  readonly softmaxScale: number;
  readonly causal: boolean;
  readonly headsQ: number;
  readonly headsK: number;
  readonly group: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly totalQ: number;
  readonly totalKv: number;
}

/** Rows of one sequence. */
export interface VarlenSequence {
  readonly queryStart: number;
  readonly queries: number;
  readonly keyStart: number;
  readonly keys: number;
}

/** Checks the operands of a call against each other. */
export function checkVarlen(
  operands: Pick<VarlenCall, "q" | "k" | "v">,
  cuSeqlensQo: Tensor<"i32">,
  cuSeqlensKv: Tensor<"i32">,
  maxSeqlenQo: number,
  maxSeqlenKv: number,
  options: Pick<VarlenOptions, "softmaxScale" | "causal">,
): VarlenCall {
  const { q, k, v } = operands;
  const [totalQ, headsQ, dimQk] = sizesOf("q", q, "totalQ, headsQ, headDimQk");
  const [totalKv, headsK] = sizesOf("k", k, "totalKv, headsK, headDimQk");
  const [, , headDimV] = sizesOf("v", v, "totalKv, headsK, headDimV");
  checkTensor("q", q, "bf16", [totalQ, headsQ, dimQk]);
  checkTensor("k", k, "bf16", [totalKv, headsK, dimQk]);
  checkTensor("v", v, "bf16", [totalKv, headsK, headDimV]);
  assert(
    headsK >= 1 && headsQ % headsK === 0,
    () => `heads of q: got ${headsQ}, wanted a multiple of the ${headsK} of k`,
  );
  assert(dimQk >= 1 && headDimV >= 1, () => `head widths: got ${dimQk} and ${headDimV}`);
  const { softmaxScale = 1 / Math.sqrt(dimQk), causal = false } = options;
  checkScale(softmaxScale);
  const [ends] = sizesOf("cuSeqlensQo", cuSeqlensQo, "batch + 1");
  assert(ends >= 1, "cuSeqlensQo: got no element, wanted batch + 1");
  checkTensor("cuSeqlensQo", cuSeqlensQo, "i32", [ends]);
  checkTensor("cuSeqlensKv", cuSeqlensKv, "i32", [ends]);
  checkStarts("cuSeqlensQo", cuSeqlensQo, totalQ, maxSeqlenQo);
  checkStarts("cuSeqlensKv", cuSeqlensKv, totalKv, maxSeqlenKv);
  const sequences = Array.from({ length: ends - 1 }, (_, i) => ({
    queryStart: cuSeqlensQo.data[i],
    queries: cuSeqlensQo.data[i + 1] - cuSeqlensQo.data[i],
    keyStart: cuSeqlensKv.data[i],
    keys: cuSeqlensKv.data[i + 1] - cuSeqlensKv.data[i],
  }));
  const group = headsQ / headsK;
  const sizes = { headsQ, headsK, group, dimQk, headDimV, totalQ, totalKv };
  return { q, k, v, sequences, softmaxScale, causal, ...sizes };
}

/** The starts ascend from 0 to `total`, no sequence being longer than `longest`. */
function checkStarts(name: string, starts: Tensor<"i32">, total: number, longest: number): void {
  const count = starts.shape[0];
  assert(
    Number.isSafeInteger(longest) && longest >= 0,
    () => `longest sequence of ${name}: got ${longest}, wanted a count`,
  );
  const [first, last] = [starts.data[0], starts.data[count - 1]];
  assert(first === 0 && last === total, () => `${name}: got ${first}..${last}, wanted 0..${total}`);
  for (let i = 1; i < count; i++) {
    const length = starts.data[i] - starts.data[i - 1];
    assert(
      length >= 0 && length <= longest,
      () => `${name}[${i}]: got a sequence of ${length}, wanted 0..${longest}`,
    );
  }
}

/** Keys that the first query of a sequence sees; may be negative. */
export function firstVisible(call: VarlenCall, { queries, keys }: VarlenSequence): number {
  return call.causal ? keys - queries + 1 : keys;
}

/**
 * Attention of each sequence's queries to its own keys: `q` bf16 `[totalQ, headsQ, headDimQk]`, `k`
 * `[totalKv, headsK, headDimQk]`, `v` `[totalKv, headsK, headDimV]`, sequence i being rows
 * `cuSeqlens[i]` to `cuSeqlens[i + 1]` (int32 `[batch + 1]`), none longer than `maxSeqlen`. Query head
 * h uses key head floor(h headsK / headsQ).
 */
export function flashAttnVarlenFunc(
  device: Device,
  q: Tensor<"bf16">,
  k: Tensor<"bf16">,
  v: Tensor<"bf16">,
  cuSeqlensQo: Tensor<"i32">,
  cuSeqlensKv: Tensor<"i32">,
  maxSeqlenQo: number,
  maxSeqlenKv: number,
  options: VarlenOptions = {},
): VarlenResult {
  const operands = { q, k, v };
  const lengths = [cuSeqlensQo, cuSeqlensKv, maxSeqlenQo, maxSeqlenKv] as const;
  const call = checkVarlen(operands, ...lengths, options);
  const { totalQ, headsQ, headDimV } = call;
  const out = options.out ?? zeros("bf16", [totalQ, headsQ, headDimV], device.allocate);
  const lse = options.lse ?? zeros("f32", [totalQ, headsQ], device.allocate);
  checkTensor("out", out, "bf16", [totalQ, headsQ, headDimV]);
  checkTensor("lse", lse, "f32", [totalQ, headsQ]);
  if (device.rung === "reference") reference(call, { out, lse });
  else x86(device, call, { out, lse });
  return { out, lse };
}

/**
 * `flashAttnVarlenFunc` of one tensor bf16 `[total, heads, 2 headDimQk + headDimV]`: q, k and v.
 */
export function flashAttnVarlenQkvpackedFunc(
  device: Device,
  qkv: Tensor<"bf16">,
  cuSeqlens: Tensor<"i32">,
  maxSeqlen: number,
  headDimQk: number,
  options: VarlenOptions = {},
): VarlenResult {
  const [q, k, v] = cut("qkv", qkv, [headDimQk, headDimQk]);
  return flashAttnVarlenFunc(device, q, k, v, cuSeqlens, cuSeqlens, maxSeqlen, maxSeqlen, options);
}

/** `flashAttnVarlenFunc` with k and v in one tensor bf16 `[totalKv, headsK, headDimQk + headDimV]`. */
export function flashAttnVarlenKvpackedFunc(
  device: Device,
  q: Tensor<"bf16">,
  kv: Tensor<"bf16">,
  cuSeqlensQo: Tensor<"i32">,
  cuSeqlensKv: Tensor<"i32">,
  maxSeqlenQo: number,
  maxSeqlenKv: number,
  headDimQk: number,
  options: VarlenOptions = {},
): VarlenResult {
  const [k, v] = cut("kv", kv, [headDimQk]);
  const lengths = [cuSeqlensQo, cuSeqlensKv, maxSeqlenQo, maxSeqlenKv] as const;
  return flashAttnVarlenFunc(device, q, k, v, ...lengths, options);
}

/** `packed` cut at widths, the rest being the last part. */
function cut(name: string, packed: Tensor<"bf16">, widths: readonly number[]): Tensor<"bf16">[] {
  const [total, heads, width] = sizesOf(name, packed, "total, heads, width");
  checkTensor(name, packed, "bf16", [total, heads, width]);
  const parts: Tensor<"bf16">[] = [];
  let from = 0;
  for (const part of [...widths, width - widths.reduce((sum, one) => sum + one, 0)]) {
    assert(
      Number.isSafeInteger(part) && part >= 1,
      () => `headDimQk: got ${widths[0]}, wanted parts of a width of ${width}`,
    );
    parts.push(columnsOf(packed, from, from + part));
    from += part;
  }
  return parts;
}

function reference(call: VarlenCall, { out, lse }: VarlenResult): void {
  const { q, k, v, headsQ, headsK, group, dimQk, headDimV, softmaxScale } = call;
  for (const sequence of call.sequences) {
    for (let headK = 0; headK < headsK; headK++) {
      const rowsOf = (tensor: Tensor<"bf16">, width: number) =>
        Array.from({ length: sequence.keys }, (_, t) => {
          const start = ((sequence.keyStart + t) * headsK + headK) * tensor.stride;
          return bf16ArrayToF32(tensor.data.subarray(start, start + width));
        });
      const plain = { keys: rowsOf(k, dimQk), values: rowsOf(v, headDimV) };
      for (let i = 0; i < sequence.queries * group; i++) {
        const [token, head] = [Math.floor(i / group), headK * group + (i % group)];
        const row = (sequence.queryStart + token) * headsQ + head;
        const query = bf16ArrayToF32(q.data.subarray(row * q.stride, row * q.stride + dimQk));
        const visible = firstVisible(call, sequence) + (call.causal ? token : 0);
        const result = attendPlainly(query, plain, visible, headDimV, softmaxScale);
        for (let d = 0; d < headDimV; d++) {
          out.data[row * out.stride + d] = f32ToBf16(result.out[d]);
        }
        lse.data[(sequence.queryStart + token) * lse.stride + head] = result.lse;
      }
    }
  }
}

function x86(device: Device, call: VarlenCall, { out, lse }: VarlenResult): void {
  const { q, k, v, headsQ, headsK, group, dimQk, headDimV } = call;
  if (group === 0) return;
  const tables = tablesOf(device);
  const units: FlashUnit[] = [];
  for (const sequence of call.sequences) {
    const { queryStart, queries, keyStart, keys } = sequence;
    for (let headK = 0; headK < headsK; headK++) {
      const keysAt = tables.keys.length;
      const valuesAt = tables.values.length;
      for (let run = 0; run < ceilDiv(keys, pageTokens); run++) {
        const row = (keyStart + run * pageTokens) * headsK + headK;
        tables.keys.push(k.address + 2 * row * k.stride);
        tables.values.push(v.address + 2 * row * v.stride);
      }
      const row = queryStart * headsQ + headK * group;
      units.push({
        q: q.address + 2 * row * q.stride,
        out: out.address + 2 * row * out.stride,
        lse: lse.address + 4 * (queryStart * lse.stride + headK * group),
        maxLogits: 0,
        tokens: queries,
        sinks: 0,
        parts: [{ keysAt, valuesAt, keyCount: keys, visible: firstVisible(call, sequence) }],
      });
    }
  }
  const strides = { keyStride: 2 * headsK * k.stride, valueStride: 2 * headsK * v.stride };
  runFlash(device, {
    spec: { source: "pages", row: "bf16", dimQk, headDimV, ...strides, ownValues: true },
    group,
    causal: call.causal,
    softmaxScale: call.softmaxScale,
    q: { head: 2 * q.stride, token: 2 * headsQ * q.stride },
    out: { head: 2 * out.stride, token: 2 * headsQ * out.stride },
    lse: { head: 4, token: 4 * lse.stride },
    units,
    ...tables,
  });
}
