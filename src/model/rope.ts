/**
 * @file Rotary positions with YaRN.
 * Sources: Su et al. 2021 (arXiv 2104.09864); Peng et al. 2023 (arXiv 2309.00071);
 * DeepSeek-V2 (arXiv 2405.04434, 3.1.4) for mscale.
 */
import { type Allocate, type Tensor, zeros } from "../tensor/index.ts";

/** YaRN's stretch of a short context window. */
export interface YarnScaling {
  readonly factor: number;
  readonly originalMaxPositionEmbeddings: number;
  readonly betaFast: number;
  readonly betaSlow: number;
  readonly mscale: number;
  readonly mscaleAllDim: number;
}

/** What rotary positions depend on. */
export interface RopeConfig {
  /** Rotary width of a head; even. */
  readonly dim: number;
  readonly theta: number;
  readonly yarn?: YarnScaling | undefined;
}

/** YaRN's attention factor: 0.1 m ln(s) + 1 for a stretch s above 1, else 1. */
function yarnMscale(factor: number, mscale: number): number {
  return factor > 1 ? 0.1 * mscale * Math.log(factor) + 1 : 1;
}

/** The factor of attention scores: (nope + rope)^-1/2, times mscale(all dims)^2 under YaRN. */
export function softmaxScale(queryDim: number, yarn: YarnScaling | undefined): number {
  const m = yarn?.mscaleAllDim ? yarnMscale(yarn.factor, yarn.mscaleAllDim) : 1;
  return queryDim ** -0.5 * m * m;
}

/**
 * Angular frequencies `[dim / 2]`, float32: theta^(-2i/dim), under YaRN divided by the stretch for
 * slow dimensions, unchanged for fast ones, with a linear ramp between.
 */
export function ropeFrequencies({ dim, theta, yarn }: RopeConfig): Float32Array {
  const frequencies = new Float32Array(dim / 2);
  for (let i = 0; i < dim / 2; i++) frequencies[i] = 1 / theta ** ((2 * i) / dim);
  if (!yarn) return frequencies;
  /** The dimension whose wave turns `turns` times over the original window. */
  const dimOf = (turns: number) =>
    (dim * Math.log(yarn.originalMaxPositionEmbeddings / (turns * 2 * Math.PI))) /
    (2 * Math.log(theta));
  const low = Math.max(0, Math.floor(dimOf(yarn.betaFast)));
  const high = Math.min(dim - 1, Math.ceil(dimOf(yarn.betaSlow)));
  const width = high === low ? 0.001 : high - low;
  for (let i = 0; i < dim / 2; i++) {
    const slow = Math.min(1, Math.max(0, (i - low) / width));
    frequencies[i] = (frequencies[i] / yarn.factor) * slow + frequencies[i] * (1 - slow);
  }
  return frequencies;
}

/** The cosines and sines of every position, grown as longer contexts ask for them. */
export class RopeTable {
  private readonly frequencies: Float32Array;
  private readonly magnitude: number;
  private readonly dim: number;
  private readonly allocate: Allocate;
  private table: Tensor<"f32">;

  constructor(config: RopeConfig, allocate: Allocate) {
    const { yarn } = config;
    this.dim = config.dim;
    this.allocate = allocate;
    this.frequencies = ropeFrequencies(config);
    this.magnitude = yarn
      ? yarnMscale(yarn.factor, yarn.mscale) / yarnMscale(yarn.factor, yarn.mscaleAllDim)
      : 1;
    this.table = this.build(256);
  }

  /** float32 `[at least positions, dim]`: cosines, then sines, of position times frequency. */
  upTo(positions: number): Tensor<"f32"> {
    if (positions > this.table.shape[0]) {
      this.table = this.build(2 ** Math.ceil(Math.log2(positions)));
    }
    return this.table;
  }

  private build(positions: number): Tensor<"f32"> {
    const half = this.dim / 2;
    const table = zeros("f32", [positions, this.dim], this.allocate);
    for (let p = 0; p < positions; p++) {
      for (let i = 0; i < half; i++) {
        // The angle is rounded to float32 first, as the reference implementations do.
        const angle = Math.fround(p * this.frequencies[i]);
        table.data[p * this.dim + i] = Math.cos(angle) * this.magnitude;
        table.data[p * this.dim + half + i] = Math.sin(angle) * this.magnitude;
      }
    }
    return table;
  }
}
