/**
 * @file The router of a mixture-of-experts layer, in plain TypeScript: a few microseconds a token.
 * Sources: DeepSeek-V2 (arXiv 2405.04434, 2.1.2), DeepSeek-V3 (arXiv 2412.19437, 2.1.2).
 */

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
  /** float32 `[numExperts]`, added to the scores for the choice only (V3). */
  readonly correctionBias?: Float32Array | undefined;
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
   * Chooses the experts of one token from its logits `[numExperts]` and writes `topK` ids and
   * weights at `offset`. Best first; ties go to the lower id.
   */
  route(logits: Float32Array, ids: Int32Array, weights: Float32Array, offset: number): void {
    const { topK, normalise, scale, correctionBias } = this.config;
    const { scores, biased } = this;
    this.score(logits);
    for (let e = 0; e < scores.length; e++) {
      biased[e] = correctionBias ? scores[e] + correctionBias[e] : scores[e];
    }
    this.dropGroups();
    let sum = 0;
    for (let j = 0; j < topK; j++) {
      const best = argMax(biased, 0, biased.length);
      biased[best] = Number.NEGATIVE_INFINITY;
      ids[offset + j] = best;
      weights[offset + j] = scores[best];
      sum += scores[best];
    }
    const factor = normalise ? scale / (sum + 1e-20) : scale;
    for (let j = 0; j < topK; j++) weights[offset + j] *= factor;
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
    while (kept.size < topkGroups) {
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
