/**
 * @file The router of a mixture-of-experts layer, in plain TypeScript: a few microseconds a token.
 * It is the reference, and computes the tokens of which machine code is not sure.
 * Sources: DeepSeek-V2 (arXiv 2405.04434, 2.1.2), DeepSeek-V3 (arXiv 2412.19437, 2.1.2).
 */
import { assert, assertEqual } from "../base/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { checkRows, checkVector } from "./checks.ts";

/** How a token's affinities become experts and weights. */
export interface GateConfig {
  readonly numExperts: number;
  readonly topK: number;
  /** Groups that the experts fall into, in order, equally large; 1 turns the group limit off. */
  readonly numGroups: number;
  /** Groups a token may use. */
  readonly topkGroups: number;
  /** `sigmoid` (V3) or `softmax` (V2) over the logits. */
  readonly scoring: "sigmoid" | "softmax";
  /** A group's score: the sum of its two best biased scores (V3's noaux_tc) or its maximum (V2). */
  readonly groupScore: "top2-sum" | "max";
  /** Whether a token's weights are divided by their sum. */
  readonly normalise: boolean;
  /** Factor of the weights, after normalising. */
  readonly scale: number;
  /** `[numExperts]`, added to the scores for the choice only (V3). */
  readonly correctionBias?: Tensor<"f32"> | undefined;
}

/** Tokens to route; see `routeTokens`. */
export interface Routing {
  readonly config: GateConfig;
  /** `[tokens, numExperts]`. */
  readonly logits: Tensor<"f32">;
  readonly tokens: number;
  /** `[tokens, topK]`: the chosen experts, best first. */
  readonly ids: Tensor<"i32">;
  /** `[tokens, topK]`. */
  readonly weights: Tensor<"f32">;
}

/** Every address of a call lies inside its memory, and the numbers of the gate make sense. */
export function checkRouting({ config, logits, tokens, ids, weights }: Routing): void {
  const { numExperts, topK, numGroups, topkGroups, scoring, groupScore, correctionBias } = config;
  const counts = { numExperts, topK, numGroups, topkGroups };
  for (const [what, count] of Object.entries(counts)) {
    assert(
      Number.isSafeInteger(count) && count >= 1,
      () => `${what}: got ${count}, wanted 1 or more`,
    );
  }
  assert(topK <= numExperts, () => `topK: got ${topK}, wanted at most ${numExperts}`);
  const even = numExperts % numGroups === 0;
  assert(even, () => `numGroups: got ${numGroups}, wanted a divisor of ${numExperts}`);
  const known =
    ["sigmoid", "softmax"].includes(scoring) && ["top2-sum", "max"].includes(groupScore);
  assert(known, () => `scoring and groupScore: got ${scoring} and ${groupScore}`);
  assert(Number.isFinite(config.scale), () => `scale: got ${config.scale}, wanted a finite number`);
  assertEqual(logits.dtype, "f32", "dtype of logits");
  assertEqual(ids.dtype, "i32", "dtype of ids");
  assertEqual(weights.dtype, "f32", "dtype of weights");
  checkRows("logits", logits, tokens, numExperts);
  checkRows("ids", ids, tokens, topK);
  checkRows("weights", weights, tokens, topK);
  if (correctionBias === undefined) return;
  assertEqual(correctionBias.dtype, "f32", "dtype of correctionBias");
  checkVector("correctionBias", correctionBias, numExperts);
}

/** A router with its scratch memory. */
export class Gate {
  readonly config: GateConfig;
  private readonly scores: Float32Array;
  private readonly biased: Float32Array;

  constructor(config: GateConfig) {
    this.config = config;
    this.scores = new Float32Array(config.numExperts);
    this.biased = new Float32Array(config.numExperts);
  }

  /**
   * Chooses the experts of token `token` of `call` and writes their ids and weights. Best first;
   * ties go to the lower id.
   */
  route({ logits, ids: idTensor, weights: weightTensor }: Routing, token: number): void {
    const { topK, normalise, scale, correctionBias, numExperts } = this.config;
    const { scores, biased } = this;
    const start = token * logits.stride;
    this.score(logits.data.subarray(start, start + numExperts));
    for (let e = 0; e < scores.length; e++) {
      biased[e] = correctionBias ? scores[e] + correctionBias.data[e] : scores[e];
    }
    const ids = idTensor.data.subarray(token * idTensor.stride);
    const weights = weightTensor.data.subarray(token * weightTensor.stride);
    this.dropGroups();
    let sum = 0;
    for (let j = 0; j < topK; j++) {
      const best = argMax(biased, 0, biased.length);
      biased[best] = Number.NEGATIVE_INFINITY;
      ids[j] = best;
      weights[j] = scores[best];
      sum += scores[best];
    }
    const factor = normalise ? scale / (sum + 1e-20) : scale;
    for (let j = 0; j < topK; j++) weights[j] *= factor;
  }

  private score(logits: Float32Array): void {
    const { scores } = this;
    if (this.config.scoring === "sigmoid") {
      for (let e = 0; e < scores.length; e++) scores[e] = 1 / (1 + Math.exp(-logits[e]));
      return;
    }
    const max = logits[argMax(logits, 0, scores.length)];
    let sum = 0;
    for (let e = 0; e < scores.length; e++) sum += Math.exp(logits[e] - max);
    for (let e = 0; e < scores.length; e++) scores[e] = Math.exp(logits[e] - max) / sum;
  }

  /** Sets the biased scores of every group but the best `topkGroups` to minus infinity. */
  private dropGroups(): void {
    const { numGroups, topkGroups, groupScore } = this.config;
    if (numGroups <= 1 || topkGroups >= numGroups) return;
    const size = this.biased.length / numGroups;
    const groups = new Float32Array(numGroups);
    for (let g = 0; g < numGroups; g++) {
      const first = argMax(this.biased, g * size, (g + 1) * size);
      groups[g] = this.biased[first];
      if (groupScore === "top2-sum" && size > 1) {
        let second = Number.NEGATIVE_INFINITY;
        for (let e = g * size; e < (g + 1) * size; e++) {
          if (e !== first && this.biased[e] > second) second = this.biased[e];
        }
        groups[g] += second;
      }
    }
    const kept = new Set<number>();
    for (let n = 0; n < topkGroups; n++) {
      const best = argMax(groups, 0, numGroups);
      kept.add(best);
      groups[best] = Number.NEGATIVE_INFINITY;
    }
    for (let g = 0; g < numGroups; g++) {
      if (!kept.has(g)) this.biased.fill(Number.NEGATIVE_INFINITY, g * size, (g + 1) * size);
    }
  }
}

/** Index of the largest value in [from, to); the lowest of equals. */
function argMax(values: Float32Array, from: number, to: number): number {
  let best = from;
  for (let i = from + 1; i < to; i++) if (values[i] > values[best]) best = i;
  return best;
}
