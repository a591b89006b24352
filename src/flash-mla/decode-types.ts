/** @file The contract of `flashMlaWithKvCache`, and the results of its two kinds. */
import type { Device } from "../device/index.ts";
import { type Tensor, zeros } from "../tensor/index.ts";
import { checkTensor } from "./checks.ts";

/** Keyword arguments of `flashMlaWithKvCache`, in upstream's order. */
export interface FlashMlaOptions {
  /** Factor of the scores; default 1 / sqrt(dimQk). */
  readonly softmaxScale?: number;
  /** Query i of n sees keys up to cacheSeqlens - n + i only; dense attention only. */
  readonly causal?: boolean;
  /** Whether the cache is FP8: sparse attention only, which wants it. */
  readonly isFp8Kvcache?: boolean;
  /**
   * Sparse attention: int32 `[batch, queries, topk]`, the keys of each query as page * pageSize +
   * row, -1 for none.
   */
  readonly indices?: Tensor<"i32">;
  /**
   * float32 `[headsQ]`: e^sink is added to the denominator of a head's softmax; `lse` leaves it out.
   */
  readonly attnSink?: Tensor<"f32">;
  /** A second cache and its indices, as the first's; its keys are attended to as well. */
  readonly extraKCache?: Tensor<"f8e4m3">;
  readonly extraIndicesInKvcache?: Tensor<"i32">;
  /** int32 `[batch]`: only so many of a query's leading indices count. */
  readonly topkLength?: Tensor<"i32">;
  readonly extraTopkLength?: Tensor<"i32">;
  /** Where to write, instead of new tensors: shapes as those of `FlashMlaResult`. */
  readonly out?: Tensor<"bf16">;
  readonly lse?: Tensor<"f32">;
}

/** Results of `flashMlaWithKvCache`. */
export interface FlashMlaResult {
  /** bf16 `[batch, queries, headsQ, headDimV]`; 0 where a query sees no key. */
  readonly out: Tensor<"bf16">;
  /** float32 `[batch, headsQ, queries]`, natural logarithm; +infinity where a query sees no key. */
  readonly lse: Tensor<"f32">;
}

/** The tensors to write, checked or new. */
export function decodeResults(
  device: Device,
  sizes: Readonly<Record<"batch" | "queries" | "headsQ" | "headDimV", number>>,
  options: Pick<FlashMlaOptions, "out" | "lse">,
): FlashMlaResult {
  const { batch, queries, headsQ, headDimV } = sizes;
  const outShape = [batch, queries, headsQ, headDimV];
  const lseShape = [batch, headsQ, queries];
  const out = options.out ?? zeros("bf16", outShape, device.allocate);
  const lse = options.lse ?? zeros("f32", lseShape, device.allocate);
  checkTensor("out", out, "bf16", outShape);
  checkTensor("lse", lse, "f32", lseShape);
  return { out, lse };
}
