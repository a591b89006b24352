/**
 * @file What others have published about DeepSeek-V3 served at scale: throughputs that the cost model is
 * held against. Each says what was run; three of them give the model its three fitted numbers, the
 * others took no part.
 *
 * Sources: deepseek-ai/profile-data, README (throughputs as LMSYS states them); LMSYS, "Deploying
 * DeepSeek with PD Disaggregation and Large-Scale Expert Parallelism on 96 H100 GPUs", 2025-05-05;
 * DeepSeek, "DeepSeek-V3/R1 Inference System Overview" (Day 6), 2025-03-01.
 */

/** A published throughput. */
export interface PublishedPoint {
  readonly name: string;
  readonly source: string;
  readonly phase: "prefill" | "decode";
  /** Which number of the model it gives, if any. */
  readonly fits?: "prefillEfficiency" | "decodeEfficiency" | "prefillSkew";
  /** Whether experts are evenly popular (simulated or trace-made), or as users make them. */
  readonly isBalanced: boolean;
  readonly hw: string;
  readonly ranks: number;
  readonly slotsPerGpu: number;
  /** Prefill: tokens a GPU and step. Decode: sequences a GPU. */
  readonly batch: number;
  /** Prefill: prompt length. Decode: tokens in the cache of each sequence. */
  readonly context: number;
  readonly drafts: number;
  /** Tokens a sequence and step, with drafts. */
  readonly tokensPerStep: number;
  /** Published: tokens a second and node of 8 GPUs. */
  readonly perNode: number;
  /** What had to be assumed. */
  readonly note?: string;
}

const profile = "profile-data";
const lmsys = "LMSYS, 96 H100";
const prefill = { phase: "prefill", ranks: 32, slotsPerGpu: 9, batch: 16384, drafts: 0 } as const;
const decode = { phase: "decode", drafts: 0, tokensPerStep: 1 } as const;

/** The points, fitted ones first. */
export const publishedPoints: readonly PublishedPoint[] = [
  {
    ...prefill,
    name: "DeepSeek profile, prefill EP32, 4K",
    source: profile,
    fits: "prefillEfficiency",
    isBalanced: true,
    hw: "h800",
    context: 4096,
    tokensPerStep: 1,
    perNode: 62713,
  },
  {
    ...decode,
    name: "DeepSeek profile, decode EP128, 4K",
    source: profile,
    fits: "decodeEfficiency",
    isBalanced: true,
    hw: "h800",
    ranks: 128,
    slotsPerGpu: 2,
    batch: 128,
    context: 4096,
    perNode: 18598,
    note: "whether this trace carries MTP is not known; taken as without",
  },
  {
    ...prefill,
    name: "SGLang, prefill EP32, default EPLB, 4K",
    source: lmsys,
    fits: "prefillSkew",
    isBalanced: false,
    hw: "h100",
    context: 4096,
    tokensPerStep: 1,
    perNode: 50302,
  },
  {
    ...prefill,
    name: "SGLang, prefill EP32, perfect EPLB simulated, 4K",
    source: lmsys,
    isBalanced: true,
    hw: "h100",
    context: 4096,
    tokensPerStep: 1,
    perNode: 59337,
  },
  {
    ...prefill,
    name: "SGLang, prefill EP32, default EPLB, 2K",
    source: lmsys,
    isBalanced: false,
    hw: "h100",
    context: 2048,
    tokensPerStep: 1,
    perNode: 54543,
  },
  {
    ...prefill,
    name: "SGLang, prefill EP32, default EPLB, 1K",
    source: lmsys,
    isBalanced: false,
    hw: "h100",
    context: 1024,
    tokensPerStep: 1,
    perNode: 57674,
  },
  {
    ...decode,
    name: "SGLang, decode EP72, 2K",
    source: lmsys,
    isBalanced: false,
    hw: "h100",
    ranks: 72,
    slotsPerGpu: 4,
    batch: 256,
    context: 2000,
    perNode: 22282,
  },
  {
    ...decode,
    name: "SGLang, decode EP72, 4K, MTP simulated",
    source: lmsys,
    isBalanced: false,
    hw: "h100",
    ranks: 72,
    slotsPerGpu: 4,
    batch: 128,
    context: 4000,
    drafts: 1,
    tokensPerStep: 1.6,
    perNode: 17373,
    note: "two positions a step, 60 % of the drafts accepted, as the source says",
  },
  {
    ...decode,
    name: "DeepSeek online, decode EP144, KV 4,989",
    source: "Day 6 article",
    isBalanced: false,
    hw: "h800",
    ranks: 144,
    slotsPerGpu: 2,
    batch: 88,
    context: 4989,
    perNode: 14800,
    note: "a mean over the day; 88 sequences follow from it and the article's 20 to 22 tokens/s a user",
  },
];
