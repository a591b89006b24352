/** @file Door of `flash-mla`: attention over a paged latent cache, and upstream's functions. */
import type { Device } from "../device/index.ts";
import { checkCall } from "./checks.ts";
import * as reference from "./reference.ts";
import type { MlaCall } from "./types.ts";
import * as x86 from "./x86.ts";

export { flashMlaWithKvCache } from "./decode.ts";
export type { FlashMlaOptions, FlashMlaResult } from "./decode-types.ts";
export { dequantiseKvCache, type QuantiseKvOptions, quantiseKvCache } from "./latent-fp8.ts";
export { getMlaMetadata, type MlaMetadata, type MlaMetadataOptions } from "./metadata.ts";
export {
  flashAttnVarlenFunc,
  flashAttnVarlenKvpackedFunc,
  flashAttnVarlenQkvpackedFunc,
  type VarlenOptions,
  type VarlenResult,
} from "./prefill.ts";
export {
  flashAttnVarlenBackward,
  type VarlenBackwardOptions,
  type VarlenGradients,
} from "./prefill-backward.ts";
export {
  combineLaunch,
  type DecodeAddresses,
  type DecodeSizes,
  decodeLaunch,
  type LaunchArguments,
} from "./ptx-arguments.ts";
export { mlaCombineKernel } from "./ptx-combine.ts";
export { type DecodeConfig, mlaDecodeKernel } from "./ptx-decode.ts";
export {
  flashMlaSparseFwd,
  type SparseFwdOptions,
  type SparseFwdResult,
} from "./sparse-prefill.ts";
export { type MlaCall, type MlaSequence, pageTokens } from "./types.ts";

/**
 * Writes to `out` (and `lse`) the causal attention of every sequence's last `queryCount` positions
 * over its paged latent cache, all heads sharing one key of `dimQk` values, whose first `headDimV`
 * are the value: prefill, a chunk of it, and decode alike. A query that sees no key (its position
 * is negative) gets out 0 and lse +infinity, as upstream. Rows of tokens that belong to no sequence
 * are left as they were; cache rows beyond a context and table entries beyond its pages are not
 * read.
 *
 * The bits of a query's result depend only on the query, the keys it sees and the device: keys are
 * taken in blocks of 64 in order, whatever else is in the call and however a prompt is chunked.
 */
export function mlaAttention(device: Device, call: MlaCall): void {
  const shape = checkCall(call);
  if (device.rung === "reference") reference.mlaAttention(call, shape);
  else x86.mlaAttention(device, call, shape);
}
