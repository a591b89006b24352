/**
 * @file What a unit yields: throughput, latency, memory and the bottleneck by name, for one phase.
 *
 * TTFT: half a step's wait on average, the cached prefix from storage, the steps of the prompt, and the
 * cache's way to a decode node; the first token is drawn where the prompt was computed. Queueing
 * beyond that half step is the simulated day's business. TPOT: a step by the tokens that it yields.
 */
import { type DecodeStep, decodeStep } from "./decode.ts";
import { type Deployment, type MemoryBudget, memoryOf } from "./deployment.ts";
import { checkNumber, plannerError } from "./errors.ts";
import type { LayerTimeline } from "./overlap.ts";
import { type PrefillStep, prefillLoad, prefillStep } from "./prefill.ts";

/** What users send, on average. */
export interface Workload {
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Share of the prompts' tokens that are in the prefix cache (memory or disk); below 1. */
  readonly hitRate: number;
  /**
   * What a node reads of cached prefixes from storage. Default 40: 3FS's README has KV cache clients
   * peak at 40 GiB/s over one 400 Gb/s card.
   */
  readonly storageGBs?: number;
}

/** What holds a unit back. */
export interface Bottleneck {
  /** A part of the layer, such as `routed experts`, `combine` or `attention core`. */
  readonly part: string;
  /** Its share of the layer's time. */
  readonly share: number;
  readonly sentence: string;
}

/** What both phases have. */
interface Estimate {
  readonly perGpu: number;
  readonly perNode: number;
  readonly memory: MemoryBudget;
  readonly bottleneck: Bottleneck;
}

/** A prefill unit at full load; tokens are computed ones, hits come on top. */
export interface PrefillEstimate extends Estimate {
  readonly step: PrefillStep;
  /** Input tokens a second and node, hits included. */
  readonly inputPerNode: number;
  readonly ttftMs: number;
  readonly ttftParts: Readonly<Record<"wait" | "storage" | "compute" | "transfer", number>>;
  /** What a node reads from storage, and sends to decode nodes, at that rate. */
  readonly storageGBs: number;
  readonly transferGBs: number;
}

/** A decode unit with a number of sequences a GPU. */
export interface DecodeEstimate extends Estimate {
  readonly step: DecodeStep;
  readonly tpotMs: number;
  /** Tokens a second that one user sees. */
  readonly perUser: number;
  readonly sequencesMost: number;
}

/** `storageGBs` unless given. */
export const defaultStorageGBs = 40;

/** A prefill unit that computes `tokensPerGpu` tokens a GPU and step. */
export function estimatePrefill(
  deployment: Deployment,
  workload: Workload,
  tokensPerGpu: number,
): PrefillEstimate {
  checkWorkload(workload);
  const { hw, arch } = deployment;
  const { promptTokens, hitRate, storageGBs = defaultStorageGBs } = workload;
  const step = prefillStep(deployment, prefillLoad(tokensPerGpu, promptTokens, hitRate));
  const perGpu = (tokensPerGpu * 1e6) / step.us;
  const perNode = perGpu * hw.gpusPerNode;
  const inputPerNode = perNode / (1 - hitRate);
  const kvBytes = promptTokens * arch.kvBytesPerToken;
  const fresh = promptTokens * (1 - hitRate);
  const stepMs = step.us / 1e3;
  const ttftParts = {
    wait: stepMs / 2,
    storage: (hitRate * kvBytes) / ((storageGBs / hw.gpusPerNode) * 1e6),
    compute: stepMs * Math.max(1, Math.ceil(fresh / tokensPerGpu)),
    transfer: kvBytes / (hw.nicGBs * 1e6),
  };
  return {
    step,
    perGpu,
    perNode,
    inputPerNode,
    ttftMs: Object.values(ttftParts).reduce((sum, ms) => sum + ms, 0),
    ttftParts,
    storageGBs: (inputPerNode * hitRate * arch.kvBytesPerToken) / 1e9,
    transferGBs: (inputPerNode * arch.kvBytesPerToken) / 1e9,
    memory: memoryOf(deployment, "prefill"),
    bottleneck: bottleneckOf(step.layer, step.parts),
  };
}

/**
 * A decode unit with `sequences` sequences a GPU; `accepted` of the drafts are right. Errors:
 * `plan-impossible` where their caches don't fit.
 */
export function estimateDecode(
  deployment: Deployment,
  workload: Workload,
  sequences: number,
  accepted = 0.6,
): DecodeEstimate {
  checkWorkload(workload);
  checkNumber("accepted", accepted, { max: 1 });
  const { hw, drafts } = deployment;
  const memory = memoryOf(deployment, "decode");
  const context = meanContext(workload);
  const sequencesMost = Math.floor(memory.kvTokens / context);
  if (sequencesMost < sequences) {
    const gb = (bytes: number) => (bytes / 1e9).toFixed(1);
    const problem =
      memory.kv < 0
        ? `the weights take ${gb(memory.weights)} GB of the GPU's ${gb(memory.total)}`
        : `${gb(memory.kv)} GB beside ${gb(memory.weights)} GB of weights hold ${sequencesMost} of ` +
          `${Math.round(context)} tokens`;
    throw plannerError(
      "plan-impossible",
      `sequences is ${sequences} a GPU, but ${problem}: lower it, or spread the experts over more GPUs.`,
    );
  }
  const step = decodeStep(deployment, { sequences, kvTokens: sequences * context });
  const perStep = tokensPerStep(drafts, accepted);
  const perGpu = (sequences * perStep * 1e6) / step.us;
  const tpotMs = step.us / 1e3 / perStep;
  return {
    step,
    perGpu,
    perNode: perGpu * hw.gpusPerNode,
    tpotMs,
    perUser: 1e3 / tpotMs,
    sequencesMost,
    memory,
    bottleneck: bottleneckOf(step.layer, step.parts),
  };
}

/** Mean tokens in the cache of a decoding sequence: all of the prompt, half of the answer. */
export function meanContext({ promptTokens, outputTokens }: Workload): number {
  return promptTokens + outputTokens / 2;
}

/** Tokens of a sequence and step: each draft counts if all before it were right too. */
export function tokensPerStep(drafts: number, accepted: number): number {
  let [tokens, chance] = [1, 1];
  for (let i = 0; i < drafts; i++) {
    chance *= accepted;
    tokens += chance;
  }
  return tokens;
}

/** Throws `plan-input-invalid` that names the first field that is wrong. */
export function checkWorkload(workload: Workload): void {
  checkNumber("promptTokens", workload.promptTokens, { min: 1 });
  checkNumber("outputTokens", workload.outputTokens, { min: 1 });
  checkNumber("hitRate", workload.hitRate, { max: 0.999 });
  if (workload.storageGBs !== undefined) {
    checkNumber("storageGBs", workload.storageGBs, { min: 1e-3 });
  }
}

/** Communication, where more than this share of the layer waits for it; else the largest part. */
const exposedShare = 0.1;

function bottleneckOf(layer: LayerTimeline, parts: Readonly<Record<string, number>>): Bottleneck {
  const { periodUs, exposedUs } = layer;
  const isExchange = (name: string) => name === "dispatch" || name === "combine";
  const waits = exposedUs > exposedShare * periodUs;
  const [part, us] = Object.entries(parts)
    .filter(([name]) => isExchange(name) === waits)
    .reduce((most, one) => (one[1] > most[1] ? one : most));
  const percent = (share: number) => `${Math.round(share * 100)} %`;
  const share = us / periodUs;
  const sentence = waits
    ? `the network: compute waits ${percent(exposedUs / periodUs)} of a layer, ${part} is the longer exchange`
    : `${part}: ${percent(share)} of a layer; ` +
      (exposedUs > 0.01 * periodUs
        ? `communication adds ${percent(exposedUs / periodUs)}`
        : "communication is hidden");
  return { part, share, sentence };
}
