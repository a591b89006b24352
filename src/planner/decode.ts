/**
 * @file The time of a decode step: every GPU of a unit moves its sequences on by one position (with a
 * draft, by two), two micro-batches in five stages. Attention is absorbed: per sequence it reads the
 * latent of every token so far, once for all heads and positions.
 */
import { checkDeployment, type Deployment, expertImbalance } from "./deployment.ts";
import { checkNumber } from "./errors.ts";
import { Kernels } from "./kernels.ts";
import { decodePipeline, type LayerTimeline, oneAfterTheOther, steadyState } from "./overlap.ts";

/** What one GPU, the busiest, decodes. */
export interface DecodeLoad {
  readonly sequences: number;
  /** Tokens in the cache, all sequences together. */
  readonly kvTokens: number;
}

/** A step of a decode unit. */
export interface DecodeStep {
  readonly us: number;
  readonly layer: LayerTimeline;
  /** One layer's microseconds by part, the whole batch; communication too. */
  readonly parts: Readonly<Record<string, number>>;
  readonly imbalance: number;
  readonly positions: number;
}

/** Small kernels of each stage: norms, rotary embedding, quantisation, cache write, routing. */
const gaps = { attention0: 8, attention1: 7, shared: 3, mlp: 4 };

/** The time of a step with this load on every GPU. */
export function decodeStep(deployment: Deployment, load: DecodeLoad): DecodeStep {
  const { arch, hw, overlap, efficiency, drafts } = checkDeployment(deployment);
  checkNumber("sequences", load.sequences, { min: 1 });
  checkNumber("kvTokens", load.kvTokens, {});
  const kernels = new Kernels(hw);
  const positions = load.sequences * (1 + drafts);
  // Without overlap the whole batch goes through at once.
  const batches = overlap ? 2 : 1;
  const rows = positions / batches;
  const imbalance = expertImbalance(deployment, rows);
  const attention = attentionTimes(kernels, deployment, rows, load.kvTokens / batches);
  const mlp = mlpTimes(kernels, deployment, rows, imbalance.gpu);
  const exchange = exchangeTimes(kernels, deployment, rows, imbalance.gpu);
  const { attention0, core, output } = attention;
  const pipeline = decodePipeline({
    attention0,
    attention1: core + output,
    ...mlp,
    ...exchange,
  });
  const layer = overlap ? steadyState(pipeline) : oneAfterTheOther(pipeline);
  const { hiddenSize: h, vocabSize, intermediateSize } = arch.config;
  const dense =
    batches *
    (attention0 +
      core +
      output +
      kernels.product(rows, 2 * intermediateSize, h) +
      kernels.product(rows, h, intermediateSize) +
      kernels.gaps(gaps.shared));
  const head = kernels.head(positions * arch.flops.head, h * vocabSize * 2);
  const draft = layer.periodUs + head + kernels.product(positions, h, 2 * h);
  const us =
    arch.moeLayers * layer.periodUs + arch.denseLayers * dense + head + Math.min(drafts, 1) * draft;
  const parts = {
    "attention projections": attention0 + output,
    "attention core": core,
    "shared experts": mlp.shared,
    "routed experts": mlp.mlp,
    ...exchange,
  };
  return {
    us: us / efficiency,
    layer,
    parts: Object.fromEntries(Object.entries(parts).map(([name, time]) => [name, batches * time])),
    imbalance: imbalance.gpu,
    positions,
  };
}

function attentionTimes(
  kernels: Kernels,
  { arch, drafts }: Deployment,
  rows: number,
  kvTokens: number,
): { attention0: number; core: number; output: number } {
  const { config } = arch;
  const heads = config.numAttentionHeads;
  // Absorption: queries to the latent, and from the latent to values, a bf16 product a head.
  const absorb = (width: number) => {
    const weights = heads * width * config.kvLoraRank;
    return kernels.batched(2 * rows * weights, 2 * weights);
  };
  let attention0 = absorb(config.qkNopeHeadDim) + kernels.gaps(gaps.attention0);
  let output = absorb(config.vHeadDim) + kernels.gaps(gaps.attention1);
  for (const { name, n, k } of arch.projections) {
    if (name === "o") output += kernels.product(rows, n, k);
    else if (name !== "kv_b") attention0 += kernels.product(rows, n, k);
  }
  if (arch.moeLayers > 0) output += kernels.elementwise(arch.parameters.gate * 4);
  const core = kernels.decodeAttention(
    kvTokens * (1 + drafts) * arch.absorbedFlopsPerKey,
    kvTokens * arch.kvBytesPerLayer,
  );
  return { attention0, core, output };
}

function mlpTimes(
  kernels: Kernels,
  { arch, slotsPerGpu }: Deployment,
  rows: number,
  imbalance: number,
): { shared: number; mlp: number } {
  const { hiddenSize: h, moeIntermediateSize: width, nSharedExperts } = arch.config;
  const arrivals = rows * arch.config.numExpertsPerTok * imbalance;
  // With few tokens some experts get none, and their weights are not read.
  const active = slotsPerGpu * (1 - Math.exp(-arrivals / slotsPerGpu));
  const mlp =
    kernels.grouped(arrivals, active, 2 * width, h, "masked") +
    kernels.grouped(arrivals, active, h, width, "masked") +
    kernels.elementwise(arrivals * width * 5) +
    kernels.gaps(gaps.mlp);
  const sharedWidth = width * nSharedExperts;
  const shared =
    nSharedExperts === 0
      ? 0
      : kernels.product(rows, 2 * sharedWidth, h) +
        kernels.product(rows, h, sharedWidth) +
        kernels.gaps(gaps.shared);
  return { shared, mlp };
}

function exchangeTimes(
  kernels: Kernels,
  { arch, ranks }: Deployment,
  rows: number,
  imbalance: number,
): { dispatch: number; combine: number } {
  if (ranks === 1) return { dispatch: 0, combine: 0 };
  const { hiddenSize, numExpertsPerTok } = arch.config;
  const time = (kind: "dispatch" | "combine") =>
    kernels.lowLatencyExchange(kind, rows * imbalance, numExpertsPerTok, hiddenSize, ranks);
  return { dispatch: time("dispatch"), combine: time("combine") };
}
