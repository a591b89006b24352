/**
 * @file The time of a prefill step: all GPUs of a unit compute some thousand prompt tokens each, two
 * micro-batches hiding each other's exchanges. Layer = attention, dispatch, MLP, combine.
 *
 * A token's attention sees all tokens before it: over a prompt of L of which c are cached, c + (L-c)/2
 * keys on average; the plain form expands keys and values of the cached ones too.
 */
import { checkDeployment, type Deployment, expertImbalance, nodesOf } from "./deployment.ts";
import { checkNumber, refuse } from "./errors.ts";
import { Kernels, kernelConstants } from "./kernels.ts";
import { type LayerTimeline, oneAfterTheOther, prefillPipeline, steadyState } from "./overlap.ts";

/** What one GPU, the busiest, computes in a step. */
export interface PrefillLoad {
  /** Tokens to compute. */
  readonly tokens: number;
  /** Sum over those tokens of the keys each one sees. */
  readonly keys: number;
  /** Tokens whose keys and values are expanded: computed and cached ones. */
  readonly expanded: number;
  /** Prompts that end in this step. */
  readonly prompts: number;
  /** Tokens of the mean GPU: what the experts share out. Default: `tokens`, all GPUs alike. */
  readonly meanTokens?: number;
}

/** A step of a prefill unit. */
export interface PrefillStep {
  readonly us: number;
  readonly layer: LayerTimeline;
  /** One layer's microseconds by part, the whole batch; communication too. */
  readonly parts: Readonly<Record<string, number>>;
  /** Busiest GPU over the mean, of the experts' tokens. */
  readonly imbalance: number;
  readonly tokens: number;
}

/** Small kernels of attention and of the MLP: norms, rotary embedding, quantisation, routing, sums. */
const gaps = { attention: 12, mlp: 10 };

/** The load of `tokens` tokens from prompts of `promptTokens`, `hitRate` of which are cached. */
export function prefillLoad(tokens: number, promptTokens: number, hitRate = 0): PrefillLoad {
  checkNumber("tokens", tokens, { min: 1 });
  checkNumber("promptTokens", promptTokens, { min: 1 });
  checkNumber("hitRate", hitRate, { max: 1 });
  if (hitRate === 1) throw refuse("hitRate", "is 1", "leave something to compute");
  const cached = promptTokens * hitRate;
  const fresh = promptTokens - cached;
  const prompts = tokens / fresh;
  return {
    tokens,
    keys: tokens * (cached + (fresh + 1) / 2),
    // A prompt longer than the step is expanded anew in each of its chunks.
    expanded: prompts >= 1 ? prompts * promptTokens : cached + (fresh + tokens) / 2,
    prompts,
  };
}

/** The time of a step with this load on every GPU. */
export function prefillStep(deployment: Deployment, load: PrefillLoad): PrefillStep {
  const { arch, hw, overlap, efficiency, drafts } = checkDeployment(deployment);
  const kernels = new Kernels(hw);
  // Without overlap the whole batch goes through at once.
  const batches = overlap ? 2 : 1;
  const tokens = load.tokens / batches;
  const shared = (load.meanTokens ?? load.tokens) / batches;
  const imbalance = expertImbalance(deployment, shared);
  const smShare = overlap ? (hw.sms - communicationSms(hw.sms)) / hw.sms : 1;
  const attention = attentionTimes(kernels, deployment, load, batches, smShare);
  const mlp = mlpTimes(kernels, deployment, { own: tokens, shared }, imbalance.gpu, smShare);
  const exchange = exchangeTimes(kernels, deployment, shared, imbalance.node);
  const pipeline = prefillPipeline({
    attention: sum(attention),
    mlp: sum(mlp),
    ...exchange,
  });
  const layer = overlap ? steadyState(pipeline) : oneAfterTheOther(pipeline);
  const { hiddenSize: h, vocabSize, intermediateSize } = arch.config;
  const dense =
    batches *
    (sum(attention) +
      kernels.product(tokens, 2 * intermediateSize, h) +
      kernels.product(tokens, h, intermediateSize) +
      kernels.elementwise(tokens * intermediateSize * 5));
  const head = kernels.head(load.prompts * arch.flops.head, h * vocabSize * 2);
  const moeLayers = arch.moeLayers + Math.min(1, drafts);
  const us = moeLayers * layer.periodUs + arch.denseLayers * dense + head;
  const parts = Object.fromEntries(
    Object.entries({ ...attention, ...mlp, ...exchange }).map(([name, time]) => [
      name,
      batches * time,
    ]),
  );
  return { us: us / efficiency, layer, parts, imbalance: imbalance.gpu, tokens: load.tokens };
}

/** The processors that exchanges occupy, as a share of the GPU that it was published for. */
function communicationSms(sms: number): number {
  return (kernelConstants.communicationSms.value / 132) * sms;
}

function attentionTimes(
  kernels: Kernels,
  { arch }: Deployment,
  load: PrefillLoad,
  batches: number,
  smShare: number,
): Record<string, number> {
  const tokens = load.tokens / batches;
  const expanded = load.expanded / batches;
  const { config } = arch;
  let projections = 0;
  for (const { name, n, k } of arch.projections) {
    projections += kernels.product(name === "kv_b" ? expanded : tokens, n, k, smShare);
  }
  const heads = config.numAttentionHeads;
  const queries = heads * (config.qkNopeHeadDim + config.qkRopeHeadDim);
  const values = heads * config.vHeadDim;
  const h = config.hiddenSize;
  const latent = (config.qLoraRank ?? 0) + config.kvLoraRank + config.qkRopeHeadDim;
  // Bytes a token: bf16 in and out, FP8 (one byte) where a product follows.
  const perToken =
    h * (2 + 2 + 2 + 1) + // residual and norm, quantised
    latent * (2 + 1) + // norms of the latents, quantised; the cache's row
    queries * (2 + 2) + // rotary embedding of the queries, in place
    values * (2 + 1); // output, quantised
  // Keys gathered beside the rotary part, for each expanded token.
  const perExpanded = queries * 2 + heads * config.qkNopeHeadDim * 2;
  return {
    projections,
    "attention core": kernels.prefillAttention(
      (load.keys / batches) * arch.plainFlopsPerKey,
      smShare,
    ),
    "attention, element-wise":
      kernels.elementwise(tokens * perToken + expanded * perExpanded) +
      kernels.gaps(gaps.attention),
  };
}

function mlpTimes(
  kernels: Kernels,
  { arch, slotsPerGpu, ranks }: Deployment,
  { own: tokens, shared: mean }: { readonly own: number; readonly shared: number },
  imbalance: number,
  smShare: number,
): Record<string, number> {
  const { hiddenSize: h, moeIntermediateSize: width, numExpertsPerTok: k } = arch.config;
  const { nSharedExperts } = arch.config;
  const rows = mean * k * imbalance;
  const layout = "contiguous";
  const routed =
    kernels.grouped(rows, slotsPerGpu, 2 * width, h, layout, smShare) +
    kernels.grouped(rows, slotsPerGpu, h, width, layout, smShare);
  const sharedWidth = width * nSharedExperts;
  const shared =
    nSharedExperts === 0
      ? 0
      : kernels.product(tokens, 2 * sharedWidth, h, smShare) +
        kernels.product(tokens, h, sharedWidth, smShare);
  // A token arrives once on each GPU that it goes to, and is copied to each of its experts there.
  const arrivals = mean * imbalance * distinct(ranks, k);
  const bytes =
    tokens * (h * (2 + 2 + 1) + h * 4) + // norm and quantisation; sum with residual
    arrivals * h + // received rows read
    rows * h + // and written once an expert
    rows * width * (4 + 1) + // SwiGLU of the halves, quantised
    tokens * sharedWidth * (4 + 1) +
    rows * h * 2 + // experts' outputs read
    arrivals * h * 2; // and summed by arrival
  return {
    "routed experts": routed,
    "shared experts": shared,
    "MLP, element-wise": kernels.elementwise(bytes) + kernels.gaps(gaps.mlp),
  };
}

/** Expected number of different places among `n` that `k` choices fall on, `n` equally likely. */
function distinct(n: number, k: number): number {
  return n * (1 - (1 - 1 / n) ** k);
}

/** Different nodes that a token goes to. Groups lie on one node each where they divide evenly. */
export function nodesPerToken(deployment: Deployment): number {
  const { nGroup, topkGroup, numExpertsPerTok } = deployment.arch.config;
  const nodes = nodesOf(deployment);
  if (nGroup > 1 && topkGroup < nGroup && nGroup % nodes === 0) {
    const perNode = nGroup / nodes;
    // Chance that none of a node's groups is among the kept ones.
    let none = 1;
    for (let i = 0; i < topkGroup; i++) none *= Math.max(0, nGroup - perNode - i) / (nGroup - i);
    return nodes * (1 - none);
  }
  return distinct(nodes, numExpertsPerTok);
}

function exchangeTimes(
  kernels: Kernels,
  deployment: Deployment,
  tokens: number,
  imbalance: number,
): { dispatch: number; combine: number } {
  const { arch, ranks, hw } = deployment;
  if (ranks === 1) return { dispatch: 0, combine: 0 };
  const { hiddenSize: h, numExpertsPerTok } = arch.config;
  const copies =
    ranks <= hw.nvlinkGpus ? distinct(ranks, numExpertsPerTok) : nodesPerToken(deployment);
  const rows = tokens * copies * imbalance;
  return {
    // FP8 with one float32 scale for 128 channels; back in bf16.
    dispatch: kernels.normalExchange("dispatch", rows * h * (1 + 4 / 128), ranks),
    combine: kernels.normalExchange("combine", rows * h * 2, ranks),
  };
}

function sum(times: Readonly<Record<string, number>>): number {
  return Object.values(times).reduce((total, time) => total + time, 0);
}
