/** @file A unit of GPUs that serves one phase: what it is, checked, and what it holds in memory. */
import type { Architecture } from "./architecture.ts";
import { checkNumber, refuse } from "./errors.ts";
import type { Hardware } from "./hardware.ts";
import { type Imbalance, imbalanceOf } from "./imbalance.ts";

/**
 * A unit: attention is data-parallel and experts are expert-parallel over the same `ranks` GPUs, as
 * in the article.
 */
export interface Deployment {
  readonly hw: Hardware;
  readonly arch: Architecture;
  /** GPUs of the unit. */
  readonly ranks: number;
  /** Routed experts' slots of a GPU, redundant ones included. */
  readonly slotsPerGpu: number;
  /** Zipf exponent of the experts' popularity. */
  readonly skew: number;
  /** How experts are placed: the original EPLB, or ours. */
  readonly placement: "exact" | "balanced";
  /** Whether two micro-batches hide communication. */
  readonly overlap: boolean;
  /** MTP drafts a step, 0 or 1 (more are the same layer again). */
  readonly drafts: number;
  /** What the unit reaches of what the kernels alone would; see `calibration.ts`. */
  readonly efficiency: number;
  /** Busiest over mean, where it is known; else `skew` and `placement` give it. */
  readonly imbalance?: Imbalance;
}

/** Share of the GPU's memory kept for activations, communication buffers and graphs: a choice. */
const reserveShare = 0.1;

/** Bytes of one GPU. */
export interface MemoryBudget {
  readonly weights: number;
  /** Weights by part. */
  readonly parts: Readonly<Record<string, number>>;
  readonly reserve: number;
  /** What is left for the cache; negative where nothing is. */
  readonly kv: number;
  /** Tokens that fit into it. */
  readonly kvTokens: number;
  readonly total: number;
}

/** `deployment` itself; `plan-input-invalid` names the first field that is wrong. */
export function checkDeployment(deployment: Deployment): Deployment {
  const { ranks, slotsPerGpu, skew, drafts, efficiency, arch } = deployment;
  checkNumber("ranks", ranks, { min: 1, max: 65536, whole: true });
  checkNumber("slotsPerGpu", slotsPerGpu, { whole: true });
  checkNumber("skew", skew, { max: 4 });
  checkNumber("drafts", drafts, { max: 8, whole: true });
  checkNumber("efficiency", efficiency, { min: 0.01, max: 2 });
  const { nRoutedExperts } = arch.config;
  if (arch.moeLayers === 0) {
    throw refuse("nRoutedExperts", "is 0", "give a mixture-of-experts model, others have no units");
  }
  if (ranks * slotsPerGpu < nRoutedExperts) {
    const problem = `is ${slotsPerGpu}: ${ranks} GPUs hold ${ranks * slotsPerGpu} experts`;
    throw refuse("slotsPerGpu", problem, `give room for ${nRoutedExperts}`);
  }
  return deployment;
}

/** What the cost model was fitted to, see `calibration.ts`; a part of what makes up a unit. */
export interface FittedNumbers {
  readonly prefillEfficiency: number;
  readonly decodeEfficiency: number;
  readonly prefillSkew: number;
  readonly decodeSkew: number;
}

/** What a pair of units is made of. */
export interface UnitOptions {
  readonly arch: Architecture;
  readonly hw: Hardware;
  readonly fitted: FittedNumbers;
  readonly prefillNodes: number;
  readonly decodeNodes: number;
  /** Default `exact`. */
  readonly placement?: Deployment["placement"];
  /** MTP drafts of the decode unit; default 0. */
  readonly drafts?: number;
  /** Whether two micro-batches hide communication; default true. */
  readonly overlap?: boolean;
}

/** One unit of each phase, run as the article runs them. */
export function unitsOf(options: UnitOptions): {
  readonly prefill: Deployment;
  readonly decode: Deployment;
} {
  const { arch, hw, fitted, prefillNodes, decodeNodes } = options;
  const { placement = "exact", drafts = 0, overlap = true } = options;
  const unit = (nodes: number) => {
    const ranks = checkNumber("nodes", nodes, { min: 1, whole: true }) * hw.gpusPerNode;
    const slotsPerGpu = slotsWithSpare(arch, ranks);
    return { hw, arch, ranks, slotsPerGpu, placement, overlap };
  };
  const { prefillSkew, decodeSkew, prefillEfficiency, decodeEfficiency } = fitted;
  return {
    prefill: checkDeployment({
      ...unit(prefillNodes),
      skew: prefillSkew,
      drafts: 0,
      efficiency: prefillEfficiency,
    }),
    decode: checkDeployment({
      ...unit(decodeNodes),
      skew: decodeSkew,
      drafts,
      efficiency: decodeEfficiency,
    }),
  };
}

/** Slots of a GPU with room for all experts and for redundant ones: the article's 9 and 2 for V3. */
function slotsWithSpare({ config }: Architecture, ranks: number): number {
  return Math.floor(config.nRoutedExperts / ranks) + 1;
}

/** The nodes that a unit stands on; the last one may be shared. */
export function nodesOf({ ranks, hw }: Deployment): number {
  return Math.max(1, Math.ceil(ranks / hw.gpusPerNode));
}

/** How a micro-batch of `tokensPerGpu` tokens falls on the GPUs. */
export function expertImbalance(deployment: Deployment, tokensPerGpu: number): Imbalance {
  const { arch, ranks, slotsPerGpu, skew, placement } = deployment;
  const { nRoutedExperts: experts, numExpertsPerTok, nGroup } = arch.config;
  if (experts === 0 || ranks === 1) return { gpu: 1, node: 1 };
  if (deployment.imbalance) return deployment.imbalance;
  const nodes = nodesOf(deployment);
  return imbalanceOf({
    skew,
    experts,
    // Groups have homes only where they divide evenly; a shared last node has no whole share.
    groups: ranks % nodes === 0 && experts % nGroup === 0 ? nGroup : 1,
    slots: ranks * slotsPerGpu,
    gpus: ranks,
    nodes: ranks % nodes === 0 ? nodes : 1,
    routed: Math.max(1, tokensPerGpu) * ranks * numExpertsPerTok,
    placement,
  });
}

/**
 * What one GPU holds. Weights are FP8 except embedding, head and, in decode, the expansion that
 * absorption uses (bf16); every GPU has all of attention, shared experts, embedding and head.
 */
export function memoryOf(deployment: Deployment, phase: "prefill" | "decode"): MemoryBudget {
  const { arch, hw, slotsPerGpu, drafts } = deployment;
  const { parameters, moeLayers, denseLayers, config } = arch;
  const expansion = arch.projections.find(({ name }) => name === "kv_b")!;
  const isDraft = drafts > 0 ? 1 : 0;
  const moe = moeLayers + isDraft;
  const parts = {
    attention:
      (config.numHiddenLayers + isDraft) *
      (parameters.attention + (phase === "decode" ? expansion.n * expansion.k : 0)),
    "dense MLP": denseLayers * parameters.denseMlp,
    "shared experts": moe * parameters.sharedExperts,
    "routed experts": moe * slotsPerGpu * parameters.expert,
    "gate, in f32": moe * parameters.gate * 4,
    "embedding and head": parameters.vocabulary * 2,
    "MTP projection": isDraft * 2 * config.hiddenSize ** 2,
  };
  const weights = Object.values(parts).reduce((sum, bytes) => sum + bytes, 0);
  const total = hw.hbmGB * 1e9;
  const reserve = total * reserveShare;
  const kv = total - reserve - weights;
  const perToken = arch.kvBytesPerToken + isDraft * arch.kvBytesPerLayer;
  return { weights, parts, reserve, kv, kvTokens: Math.max(0, Math.floor(kv / perToken)), total };
}
