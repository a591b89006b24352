/**
 * @file Gradients of dense multi-head attention, from the forward pass's results:
 *
 *     p = e^(scale q k - lse)      dv = p^T do      dp = do v^T      delta = sum_d do out
 *     ds = p (dp - delta)          dq = scale ds k  dk = scale ds^T q
 */
import type { Device } from "../device/index.ts";
import { bf16ArrayToF32, f32ToBf16, type Tensor, zeros } from "../tensor/index.ts";
import { checkTensor } from "./checks.ts";
import { checkVarlen, firstVisible, type VarlenCall, type VarlenSequence } from "./prefill.ts";
import { runBackward } from "./x86-flash-gradients.ts";

/** Keyword arguments of `flashAttnVarlenBackward`. */
export interface VarlenBackwardOptions {
  /** As in the forward pass. */
  readonly softmaxScale?: number;
  readonly causal?: boolean;
  /** Where to write, instead of new tensors. */
  readonly dq?: Tensor<"bf16">;
  readonly dk?: Tensor<"bf16">;
  readonly dv?: Tensor<"bf16">;
}

/** Gradients, of the shapes of q, k and v. */
export interface VarlenGradients {
  readonly dq: Tensor<"bf16">;
  readonly dk: Tensor<"bf16">;
  readonly dv: Tensor<"bf16">;
}

/** A checked call of the backward pass. */
export interface BackwardCall extends VarlenCall, VarlenGradients {
  readonly dOut: Tensor<"bf16">;
  readonly out: Tensor<"bf16">;
  readonly lse: Tensor<"f32">;
}

/**
 * The gradients of `flashAttnVarlenFunc` for the gradient `dOut` bf16 `[totalQ, headsQ, headDimV]` of
 * its `out`; `out` and `lse` are what it returned, the others its operands. Key heads that serve
 * several query heads get the sum. Sums are float32, the order of additions fixed: the same bits on
 * every run.
 */
export function flashAttnVarlenBackward(
  device: Device,
  dOut: Tensor<"bf16">,
  q: Tensor<"bf16">,
  k: Tensor<"bf16">,
  v: Tensor<"bf16">,
  out: Tensor<"bf16">,
  lse: Tensor<"f32">,
  cuSeqlensQo: Tensor<"i32">,
  cuSeqlensKv: Tensor<"i32">,
  maxSeqlenQo: number,
  maxSeqlenKv: number,
  options: VarlenBackwardOptions = {},
): VarlenGradients {
  const operands = { q, k, v };
  const lengths = [cuSeqlensQo, cuSeqlensKv, maxSeqlenQo, maxSeqlenKv] as const;
  const call = checkVarlen(operands, ...lengths, options);
  const { totalQ, totalKv, headsQ, headsK, dimQk, headDimV } = call;
  checkTensor("dOut", dOut, "bf16", [totalQ, headsQ, headDimV]);
  checkTensor("out", out, "bf16", [totalQ, headsQ, headDimV]);
  checkTensor("lse", lse, "f32", [totalQ, headsQ]);
  const gradient = (name: keyof VarlenGradients, shape: readonly number[]) => {
    const tensor = options[name] ?? zeros("bf16", shape, device.allocate);
    checkTensor(name, tensor, "bf16", shape);
    return tensor;
  };
  const dq = gradient("dq", [totalQ, headsQ, dimQk]);
  const dk = gradient("dk", [totalKv, headsK, dimQk]);
  const dv = gradient("dv", [totalKv, headsK, headDimV]);
  const backward = { ...call, dOut, out, lse, dq, dk, dv };
  if (device.rung === "reference") reference(backward);
  else runBackward(device, backward);
  return { dq, dk, dv };
}

function reference(call: BackwardCall): void {
  for (const sequence of call.sequences) {
    for (let headK = 0; headK < call.headsK; headK++) referenceHead(call, sequence, headK);
  }
}

/** The bf16 row `row` as float32. */
function rowOf(tensor: Tensor<"bf16">, row: number): Float32Array {
  const start = row * tensor.stride;
  return bf16ArrayToF32(tensor.data.subarray(start, start + tensor.shape.at(-1)!));
}

function writeRow(tensor: Tensor<"bf16">, row: number, values: Float64Array): void {
  values.forEach((value, i) => {
    tensor.data[row * tensor.stride + i] = f32ToBf16(value);
  });
}

function dot(x: Float32Array, y: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
  return sum;
}

function add(to: Float64Array, factor: number, x: Float32Array): void {
  for (let i = 0; i < to.length; i++) to[i] += factor * x[i];
}

function referenceHead(call: BackwardCall, sequence: VarlenSequence, headK: number): void {
  const { headsQ, headsK, group, dimQk, headDimV, softmaxScale } = call;
  const { queryStart, queries, keyStart, keys } = sequence;
  const keyRow = (t: number) => (keyStart + t) * headsK + headK;
  const list = <T>(make: (t: number) => T): T[] => Array.from({ length: keys }, (_, t) => make(t));
  const [k, v] = [list((t) => rowOf(call.k, keyRow(t))), list((t) => rowOf(call.v, keyRow(t)))];
  const dk = list(() => new Float64Array(dimQk));
  const dv = list(() => new Float64Array(headDimV));
  for (let i = 0; i < queries * group; i++) {
    const [token, head] = [Math.floor(i / group), headK * group + (i % group)];
    const row = (queryStart + token) * headsQ + head;
    const [q, dOut] = [rowOf(call.q, row), rowOf(call.dOut, row)];
    const delta = dot(dOut, rowOf(call.out, row));
    const lse = call.lse.data[(queryStart + token) * call.lse.stride + head];
    const dq = new Float64Array(dimQk);
    const visible = Math.min(keys, firstVisible(call, sequence) + (call.causal ? token : 0));
    for (let t = 0; t < visible; t++) {
      const p = Math.exp(dot(q, k[t]) * softmaxScale - lse);
      const ds = p * (dot(dOut, v[t]) - delta) * softmaxScale;
      add(dv[t], p, dOut);
      add(dq, ds, k[t]);
      add(dk[t], ds, q);
    }
    writeRow(call.dq, row, dq);
  }
  for (let t = 0; t < keys; t++) {
    writeRow(call.dk, keyRow(t), dk[t]);
    writeRow(call.dv, keyRow(t), dv[t]);
  }
}
