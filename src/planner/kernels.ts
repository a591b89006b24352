/**
 * @file How fast kernels run: published measurements on H800, each with its source, and from them the
 * time of any product, copy or exchange on any hardware profile.
 *
 * A product takes the longer of its arithmetic and its traffic, at the rates that were measured for
 * the nearest shape; those two rates alone reproduce the published tables at both ends (many rows,
 * few rows). On another GPU a kernel is taken to reach the same share of the nominal peak: an
 * assumption, and no measurement.
 */
import type { Hardware } from "./hardware.ts";
import { hardware } from "./hardware.ts";

/** A number, and where it comes from. */
export interface Sourced {
  readonly value: number;
  readonly source: string;
  /** `published`: measured by others; `choice`: ours, for want of a published one. */
  readonly kind: "published" | "choice";
}

/** What a product of one shape reaches. */
export interface ProductRate {
  readonly n: number;
  readonly k: number;
  /** With thousands of rows. */
  readonly tflops: number;
  /** With 64 and 128 rows (grouped: 256 rows in each of 4 groups), the mean. */
  readonly gbPerS: number;
}

/** FP8 products. Source: DeepGEMM README, February 2025, H800: normal GEMMs, rows 64, 128, 4096. */
export const denseRates: readonly ProductRate[] = [
  { n: 2112, k: 7168, tflops: 1058, gbPerS: 1599 },
  { n: 24576, k: 1536, tflops: 990, gbPerS: 2452 },
  { n: 32768, k: 512, tflops: 590, gbPerS: 2123 },
  { n: 7168, k: 16384, tflops: 1358, gbPerS: 2636 },
  { n: 4096, k: 7168, tflops: 1304, gbPerS: 2271 },
  { n: 7168, k: 2048, tflops: 1025, gbPerS: 2374 },
];

/** The same README: grouped, contiguous layout, 4 groups of 8192 rows. */
export const contiguousRates: readonly ProductRate[] = [
  { n: 4096, k: 7168, tflops: 1297, gbPerS: 2064 },
  { n: 7168, k: 2048, tflops: 1099, gbPerS: 2047 },
];

/** The same README: grouped, masked layout, 1 group of 1024 rows and 4 groups of 256. */
export const maskedRates: readonly ProductRate[] = [
  { n: 4096, k: 7168, tflops: 1233, gbPerS: 2064 },
  { n: 7168, k: 2048, tflops: 925, gbPerS: 2047 },
];

/** Exchanges of 4096 tokens, GB/s: NVLink at 8 ranks, RDMA above. Source: DeepEP README, V1. */
export const normalRates: readonly { ranks: number; dispatch: number; combine: number }[] = [
  { ranks: 8, dispatch: 153, combine: 158 },
  { ranks: 16, dispatch: 43, combine: 43 },
  { ranks: 32, dispatch: 58, combine: 57 },
  { ranks: 64, dispatch: 51, combine: 50 },
];

/** Low-latency exchanges of 128 tokens, hidden 7168, top 8, in us. Source: DeepEP README, V1. */
export const lowLatencyUs: readonly { ranks: number; dispatch: number; combine: number }[] = [
  { ranks: 8, dispatch: 77, combine: 114 },
  { ranks: 16, dispatch: 118, combine: 195 },
  { ranks: 32, dispatch: 155, combine: 273 },
  { ranks: 64, dispatch: 173, combine: 314 },
  { ranks: 128, dispatch: 192, combine: 369 },
  { ranks: 256, dispatch: 194, combine: 360 },
];

/** The names of the single numbers. */
export type KernelConstant =
  | "decodeAttentionTflops"
  | "decodeAttentionGBs"
  | "prefillAttentionTflops"
  | "elementwiseGBs"
  | "batchedProductGBs"
  | "headGBs"
  | "kernelGapUs"
  | "lowLatencyFloorUs"
  | "communicationSms";

/** Single numbers. */
export const kernelConstants: Readonly<Record<KernelConstant, Sourced>> = {
  decodeAttentionTflops: {
    value: 660,
    source: "FlashMLA README, 2025-04: dense decode on H800, compute-bound",
    kind: "published",
  },
  decodeAttentionGBs: {
    value: 3000,
    source: "FlashMLA README: dense decode on H800, memory-bound",
    kind: "published",
  },
  prefillAttentionTflops: {
    value: 560,
    source: "below FlashMLA's sparse prefill (640) and FlashAttention-3 at 4K, causal",
    kind: "choice",
  },
  elementwiseGBs: {
    value: 2400,
    source: "0.72 of HBM, what DeepGEMM's memory-bound products reach too",
    kind: "choice",
  },
  batchedProductGBs: {
    value: 2400,
    source: "bf16 products per head that absorb kv_b; as element-wise",
    kind: "choice",
  },
  headGBs: { value: 2636, source: "as the widest of DeepGEMM's shapes", kind: "choice" },
  kernelGapUs: {
    value: 3,
    source: "start and end of a small kernel inside a CUDA graph; usually 2 to 5",
    kind: "choice",
  },
  lowLatencyFloorUs: {
    value: 25,
    source: "flags and one network round trip; the rest of DeepEP's times grows with tokens",
    kind: "choice",
  },
  communicationSms: {
    value: 24,
    source: "Day 6 article and profile-data: 24 of 132 SMs exchange in prefill, 108 compute",
    kind: "published",
  },
};

const measuredOn = hardware.h800;

/** Kernel times on one GPU. Times are microseconds. */
export class Kernels {
  private readonly flopScale: number;
  private readonly bf16Scale: number;
  private readonly hbmScale: number;
  private readonly hw: Hardware;

  constructor(hw: Hardware) {
    this.hw = hw;
    this.flopScale = hw.fp8Tflops / measuredOn.fp8Tflops;
    this.bf16Scale = hw.bf16Tflops / measuredOn.bf16Tflops;
    this.hbmScale = hw.hbmGBs / measuredOn.hbmGBs;
  }

  /** `rows` rows through an FP8 matrix of `n` by `k`; `smShare` of the GPU's processors compute. */
  product(rows: number, n: number, k: number, smShare = 1): number {
    return this.roofline(rateOf(denseRates, n, k), rows * n * k * 2, n * k, rows, n, k, smShare);
  }

  /**
   * `rows` rows over `groups` matrices that all have some; masked is the layout of decode. All rows
   * of the busiest GPU count, so imbalance is in `rows`.
   */
  grouped(
    rows: number,
    groups: number,
    n: number,
    k: number,
    layout: "contiguous" | "masked",
    smShare = 1,
  ): number {
    const rate = rateOf(layout === "masked" ? maskedRates : contiguousRates, n, k);
    return this.roofline(rate, rows * n * k * 2, groups * n * k, rows, n, k, smShare);
  }

  /** Traffic of element-wise kernels. */
  elementwise(bytes: number): number {
    return bytes / (kernelConstants.elementwiseGBs.value * this.hbmScale * 1e3);
  }

  /** Per-head bf16 products that absorb the expansion: the longer of arithmetic and weights. */
  batched(flops: number, weightBytes: number): number {
    const arithmetic =
      flops / (kernelConstants.prefillAttentionTflops.value * this.bf16Scale * 1e6);
    const traffic = weightBytes / (kernelConstants.batchedProductGBs.value * this.hbmScale * 1e3);
    return Math.max(arithmetic, traffic);
  }

  /** Attention's core in decode, absorbed form. */
  decodeAttention(flops: number, kvBytes: number): number {
    const arithmetic = flops / (kernelConstants.decodeAttentionTflops.value * this.bf16Scale * 1e6);
    const traffic = kvBytes / (kernelConstants.decodeAttentionGBs.value * this.hbmScale * 1e3);
    return Math.max(arithmetic, traffic);
  }

  /** Attention's core in prefill, plain form. */
  prefillAttention(flops: number, smShare = 1): number {
    const rate = kernelConstants.prefillAttentionTflops.value * this.bf16Scale * smShare;
    return flops / (rate * 1e6);
  }

  /** The output head: reads its bf16 weights once. */
  head(flops: number, weightBytes: number): number {
    const arithmetic =
      flops / (kernelConstants.prefillAttentionTflops.value * this.bf16Scale * 1e6);
    return Math.max(
      arithmetic,
      weightBytes / (kernelConstants.headGBs.value * this.hbmScale * 1e3),
    );
  }

  /** Starts and ends of `count` small kernels. */
  gaps(count: number): number {
    return count * kernelConstants.kernelGapUs.value;
  }

  /** A normal exchange: `bytes` over the bottleneck link of one GPU of `ranks`. */
  normalExchange(kind: "dispatch" | "combine", bytes: number, ranks: number): number {
    return bytes / (this.exchangeGBs(normalRates, kind, ranks, 153 / 160) * 1e3);
  }

  /**
   * A low-latency exchange of `tokens` tokens, `copies` copies each of `hidden` channels, among
   * `ranks`; scaled from the published times of 128 tokens.
   */
  lowLatencyExchange(
    kind: "dispatch" | "combine",
    tokens: number,
    copies: number,
    hidden: number,
    ranks: number,
  ): number {
    const floor = kernelConstants.lowLatencyFloorUs.value;
    const domain = this.hw.nvlinkGpus;
    const inDomain = ranks <= domain;
    const at = interpolate(lowLatencyUs, kind, inDomain ? Math.min(ranks, 8) : ranks);
    const link = inDomain
      ? this.hw.nvlinkGBs / measuredOn.nvlinkGBs
      : this.hw.nicGBs / measuredOn.nicGBs;
    const volume = (tokens / 128) * (copies / 8) * (hidden / 7168);
    return floor + ((at - floor) * volume) / link;
  }

  private exchangeGBs(
    rates: typeof normalRates,
    kind: "dispatch" | "combine",
    ranks: number,
    nvlinkShare: number,
  ): number {
    // NVLink reaches 0.8 of nominal on H800 (160 of 200), and DeepEP most of that.
    if (ranks <= this.hw.nvlinkGpus) return this.hw.nvlinkGBs * 0.8 * nvlinkShare;
    return (interpolate(rates, kind, Math.max(16, ranks)) * this.hw.nicGBs) / measuredOn.nicGBs;
  }

  private roofline(
    rate: ProductRate,
    flops: number,
    weightBytes: number,
    rows: number,
    n: number,
    k: number,
    smShare: number,
  ): number {
    const bytes = weightBytes + rows * (k + 2 * n);
    const arithmetic = flops / (rate.tflops * this.flopScale * smShare * 1e6);
    return Math.max(arithmetic, bytes / (rate.gbPerS * this.hbmScale * 1e3));
  }
}

/** The measured shape that is nearest in the logarithms of its sides. */
function rateOf(rates: readonly ProductRate[], n: number, k: number): ProductRate {
  let best = rates[0];
  let least = Number.POSITIVE_INFINITY;
  for (const rate of rates) {
    const distance = Math.abs(Math.log(rate.n / n)) + Math.abs(Math.log(rate.k / k));
    if (distance < least) [best, least] = [rate, distance];
  }
  return best;
}

/** Between the measured numbers of ranks, linear in their logarithm; level beyond the ends. */
function interpolate(
  table: readonly { ranks: number; dispatch: number; combine: number }[],
  kind: "dispatch" | "combine",
  ranks: number,
): number {
  const last = table[table.length - 1];
  if (ranks <= table[0].ranks) return table[0][kind];
  if (ranks >= last.ranks) return last[kind];
  const above = table.findIndex((row) => row.ranks >= ranks);
  const [low, high] = [table[above - 1], table[above]];
  const share = Math.log(ranks / low.ranks) / Math.log(high.ranks / low.ranks);
  return low[kind] + share * (high[kind] - low[kind]);
}
