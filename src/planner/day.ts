/**
 * @file A day of a deployment, as discrete events on a virtual clock: demand over 24 hours, two pools
 * that grow and shrink with it, queues, the cache's way from storage and to decode, cost and revenue.
 *
 * The engine's own scheduler (`planStep`) plans every step and its own balancers place every request
 * and expert; only the time of a step comes from the cost model. A day has 10^8 requests, so it is
 * sampled: in each window (half an hour) one whole prefill unit and some ranks of one decode unit
 * run for some seconds at that hour's rate, and stand for the rest. Not simulated: failures, the
 * time in which units start and drain, and prefixes shared between requests in flight.
 */
import { Random } from "../base/index.ts";
import { gpuLoads, maxOverMean, rebalanceExperts, zipfLoads } from "../eplb/index.ts";
import { reviewExperts } from "../inference/planning.ts";
import type { Architecture } from "./architecture.ts";
import { articleFigures, dollarsOf, poolScale } from "./article.ts";
import { checkScale, type PoolScale, prefillCapacity, sizePools } from "./autoscale.ts";
import { runDecodeUnit, steadySequences } from "./decode-unit.ts";
import { articleDemand, checkDemand, type Demand, rateAt } from "./demand.ts";
import {
  type Deployment,
  type FittedNumbers,
  type MemoryBudget,
  memoryOf,
  unitsOf,
} from "./deployment.ts";
import { checkNumber, plannerError } from "./errors.ts";
import { defaultStorageGBs } from "./estimate.ts";
import type { Hardware } from "./hardware.ts";
import { sampleOf } from "./imbalance.ts";
import { runPrefillUnit } from "./prefill-unit.ts";

/** What day to simulate. */
export interface DayOptions {
  readonly arch: Architecture;
  readonly hw: Hardware;
  readonly fitted: FittedNumbers;
  readonly demand?: Demand;
  readonly scale?: PoolScale;
  readonly seed?: number;
  /** Windows of the day; default 48. */
  readonly windows?: number;
  /** Virtual seconds watched in each; default 16. */
  readonly sampleS?: number;
  /** Decode ranks simulated of each unit; default 8. */
  readonly decodeRanks?: number;
  /** Share of prefill capacity above which the pools grow; default 0.75. */
  readonly prefillUseMost?: number;
  /** Time between tokens above which they grow; default 52. */
  readonly tpotMs?: number;
  /** Prompt tokens a rank computes in a step at most; default 8192. */
  readonly tokenBudget?: number;
  readonly storageGBs?: number;
  /** MTP drafts a step, and the share of them that are right; default 0 and 0.6. */
  readonly drafts?: number;
  readonly accepted?: number;
}

/** A part of the day. */
export interface DayWindow {
  /** Its middle, from midnight. */
  readonly hour: number;
  readonly nodes: number;
  readonly prefillUnits: number;
  readonly decodeUnits: number;
  readonly requestsPerS: number;
  /** Served, by all units. */
  readonly inputPerS: number;
  readonly hitPerS: number;
  readonly outputPerS: number;
  readonly prefillPerNode: number;
  readonly decodePerNode: number;
  readonly ttftMs: { readonly median: number; readonly p99: number };
  readonly tpotMs: { readonly median: number; readonly p99: number };
  /** Tokens computed, of what full steps of like prompts would. */
  readonly prefillUse: number;
  readonly sequencesPerGpu: number;
  /** Mean over maximum: the balancers' three goals, five measures. */
  readonly balancedness: {
    readonly attentionWork: number;
    readonly promptTokens: number;
    readonly kvTokens: number;
    readonly requests: number;
    readonly experts: number;
  };
  /** Whether the experts were placed anew at its end. */
  readonly isRebalanced: boolean;
  /** By prefill node. */
  readonly transferGBs: number;
  readonly storageGBs: number;
  readonly preemptions: number;
  /** Whether demand is beyond the largest pools. */
  readonly isShort: boolean;
  /** By hour. */
  readonly costDollars: number;
  readonly revenueDollars: number;
}

/** The whole day. */
export interface DayResult {
  readonly windows: readonly DayWindow[];
  readonly totals: {
    readonly nodeHours: number;
    readonly nodesMean: number;
    readonly nodesPeak: number;
    readonly inputTokens: number;
    readonly hitTokens: number;
    readonly outputTokens: number;
    readonly costDollars: number;
    readonly revenueDollars: number;
    readonly marginPercent: number;
    /** Means over occupied node time. */
    readonly prefillPerNode: number;
    readonly decodePerNode: number;
    readonly ttftMs: number;
    readonly tpotMs: number;
    readonly rebalances: number;
  };
}

/** Simulates the day; the same options and seed give the same day. */
export function simulateDay(options: DayOptions): DayResult {
  return new Day(options).run();
}

const warmUpS = 6;
/** Mean requests that a GPU must have room for. */
const requestsLeast = 4;

function checkMemory(field: string, nodes: number, memory: MemoryBudget, demand: Demand): void {
  const needed = Math.ceil(requestsLeast * (demand.promptTokens + demand.outputTokens));
  if (memory.kvTokens >= needed) return;
  throw plannerError(
    "plan-impossible",
    `${field} is ${nodes}: beside ${(memory.weights / 1e9).toFixed(1)} GB of weights a GPU holds ` +
      `${memory.kvTokens} tokens of cache, and ${needed} are needed: spread the experts over more nodes.`,
  );
}

class Day {
  private readonly options: DayOptions;
  private readonly demand: Demand;
  private readonly scale: PoolScale;
  private readonly prefill: Deployment;
  private readonly random: Random;
  private readonly experts: ExpertPlacement;

  constructor(options: DayOptions) {
    const { arch, hw, fitted, seed = 1, demand = articleDemand, scale = poolScale } = options;
    this.options = options;
    this.demand = checkDemand(demand);
    this.scale = scale;
    checkScale(scale, this.targets);
    checkNumber("windows", this.windowCount, { min: 1, max: 1440, whole: true });
    checkNumber("sampleS", this.sampleS, { min: 1, max: 3600 });
    checkNumber("seed", seed, { whole: true });
    this.random = new Random(seed);
    const { prefillNodes, decodeNodes } = scale;
    const { drafts = 0 } = options;
    const { prefill, decode } = unitsOf({ arch, hw, fitted, prefillNodes, decodeNodes, drafts });
    this.prefill = prefill;
    checkMemory("prefillNodes", scale.prefillNodes, memoryOf(this.prefill, "prefill"), demand);
    checkMemory("decodeNodes", scale.decodeNodes, memoryOf(decode, "decode"), demand);
    this.experts = new ExpertPlacement(decode, seed);
  }

  private get windowCount(): number {
    return this.options.windows ?? 48;
  }

  private get sampleS(): number {
    return this.options.sampleS ?? 16;
  }

  private get targets() {
    const { prefillUseMost = 0.75, tpotMs = 52, tokenBudget = 8192, accepted = 0.6 } = this.options;
    return { prefillUseMost, tpotMs, tokenBudget, accepted, sequencesMost: 256 };
  }

  run(): DayResult {
    const windows = Array.from({ length: this.windowCount }, (_, i) => this.window(i));
    return { windows, totals: totalsOf(windows, this.scale) };
  }

  private window(index: number): DayWindow {
    const hour = ((index + 0.5) / this.windowCount) * 24;
    const requestsPerS = rateAt(this.demand, hour);
    const { experts, prefill, demand, scale, targets, random } = this;
    const decode = experts.deploymentAt(hour);
    const size = sizePools(scale, targets, prefill, decode, demand, requestsPerS);
    const { prefillUnits, decodeUnits } = size;
    const storageGBs = this.options.storageGBs ?? defaultStorageGBs;
    const shared = { demand, random, warmUpS, seconds: this.sampleS };
    const prompts = runPrefillUnit({
      ...shared,
      deployment: prefill,
      requestsPerS: requestsPerS / prefillUnits,
      tokenBudget: targets.tokenBudget,
      storageGBs,
    });
    const capacity = prefillCapacity(prefill, demand, targets.tokenBudget);
    const perUnit = requestsPerS / decodeUnits;
    const answers = runDecodeUnit({
      ...shared,
      deployment: decode,
      requestsPerS: perUnit,
      ranks: Math.min(this.options.decodeRanks ?? 8, decode.ranks),
      sequencesMost: targets.sequencesMost,
      accepted: targets.accepted,
    });
    const steady = steadySequences(
      decode,
      demand,
      perUnit,
      targets.sequencesMost,
      targets.accepted,
    );
    const review = experts.review(hour, (steady / 2) * decode.ranks);
    const perPrefill = (prefillUnits / prompts.seconds) * prompts.served;
    const inputPerS = prompts.inputTokens * perPrefill;
    const hitPerS = prompts.cachedTokens * perPrefill;
    const outputPerS =
      (answers.tokens / answers.seconds) *
      (decode.ranks / answers.ranks) *
      decodeUnits *
      prompts.served;
    const kvGBs = this.options.arch.kvBytesPerToken / 1e9;
    const prefillNodes = prefillUnits * scale.prefillNodes;
    const { hw } = this.options;
    return {
      hour,
      nodes: size.nodes,
      prefillUnits,
      decodeUnits,
      requestsPerS,
      inputPerS,
      hitPerS,
      outputPerS,
      prefillPerNode: inputPerS / prefillNodes,
      decodePerNode: outputPerS / (decodeUnits * scale.decodeNodes),
      ttftMs: { median: quantile(prompts.ttftMs, 0.5), p99: quantile(prompts.ttftMs, 0.99) },
      tpotMs: { median: quantile(answers.tpotMs, 0.5), p99: quantile(answers.tpotMs, 0.99) },
      prefillUse: prompts.computedTokens / prompts.seconds / capacity,
      sequencesPerGpu: answers.sequences,
      balancedness: {
        attentionWork: prompts.balancedness.attentionWork,
        promptTokens: prompts.balancedness.tokens,
        ...answers.balancedness,
        experts: review.balancedness,
      },
      isRebalanced: review.isRebalanced,
      transferGBs: (inputPerS * kvGBs) / prefillNodes,
      storageGBs: (hitPerS * kvGBs) / prefillNodes,
      preemptions: answers.preemptions,
      isShort: size.isShort,
      costDollars: size.nodes * hw.gpusPerNode * hw.dollarsPerGpuHour,
      revenueDollars: dollarsOf(hitPerS, inputPerS - hitPerS, outputPerS) * 3600,
    };
  }
}

/** Layers that stand for all; popularity drifts between a day's and a night's. */
const expertLayers = 4;
/** Below it a placement is made anew. */
const expertTarget = 0.75;

/** The experts of the decode units: popularity over the day, and where they lie. */
class ExpertPlacement {
  private readonly deployment: Deployment;
  private readonly byDay: number[][];
  private readonly byNight: number[][];
  private phy2log: number[][];

  constructor(deployment: Deployment, seed: number) {
    this.deployment = deployment;
    const { arch, skew } = deployment;
    const experts = arch.config.nRoutedExperts;
    const shared = { layers: expertLayers, exponent: skew, experts, total: 2 ** 44 };
    this.byDay = zipfLoads({ ...shared, seed });
    this.byNight = zipfLoads({ ...shared, seed: seed + 1 });
    this.phy2log = rebalanceExperts(this.popularityAt(0), ...this.shape).phy2log;
  }

  private get shape(): readonly [slots: number, groups: number, nodes: number, gpus: number] {
    const { ranks, slotsPerGpu, hw, arch } = this.deployment;
    const nodes = ranks % hw.gpusPerNode === 0 ? ranks / hw.gpusPerNode : 1;
    return [ranks * slotsPerGpu, arch.config.nGroup, nodes, ranks];
  }

  /** Four parts of five of it stay; the fifth is the day's at noon and the night's at midnight. */
  private popularityAt(hour: number): number[][] {
    const night = 0.2 * (0.5 + 0.5 * Math.cos((hour / 24) * 2 * Math.PI));
    return this.byDay.map((row, layer) =>
      row.map((load, expert) => (1 - night) * load + night * this.byNight[layer][expert]),
    );
  }

  /** The unit with the imbalance of this hour under the placement of now. */
  deploymentAt(hour: number): Deployment {
    const { ranks, arch } = this.deployment;
    const routed = 44 * ranks * arch.config.numExpertsPerTok;
    const batch = sampleOf(this.popularityAt(hour), routed);
    const gpu = meanOf(gpuLoads(batch, this.phy2log, ranks).map(maxOverMean));
    return { ...this.deployment, imbalance: { gpu, node: gpu } };
  }

  /** What the experts' balancer says to the tokens of this hour; a new placement takes effect. */
  review(hour: number, tokens: number): { balancedness: number; isRebalanced: boolean } {
    const [, numGroups, numNodes, numGpus] = this.shape;
    // Statistics of some thousand steps.
    const routed = 4096 * tokens * this.deployment.arch.config.numExpertsPerTok;
    const received = sampleOf(this.popularityAt(hour), routed);
    const { phy2log } = this;
    const shape = { phy2log, numGroups, numNodes, numGpus, target: expertTarget };
    const { balancedness, placement } = reviewExperts(received, shape);
    if (placement) this.phy2log = placement.phy2log;
    return { balancedness, isRebalanced: placement !== undefined };
  }
}

function totalsOf(windows: readonly DayWindow[], scale: PoolScale): DayResult["totals"] {
  const hours = 24 / windows.length;
  const over = (value: (window: DayWindow) => number) =>
    windows.reduce((sum, window) => sum + value(window) * hours, 0);
  const perS = (value: (window: DayWindow) => number) => over(value) * 3600;
  const nodeHours = over((window) => window.nodes);
  const inputTokens = perS((window) => window.inputPerS);
  const outputTokens = perS((window) => window.outputPerS);
  const costDollars = over((window) => window.costDollars);
  const revenueDollars = over((window) => window.revenueDollars);
  const weighed = (value: (window: DayWindow) => number) =>
    over((window) => value(window) * window.requestsPerS) / over((window) => window.requestsPerS);
  return {
    nodeHours,
    nodesMean: nodeHours / 24,
    nodesPeak: Math.max(...windows.map((window) => window.nodes)),
    inputTokens,
    hitTokens: perS((window) => window.hitPerS),
    outputTokens,
    costDollars,
    revenueDollars,
    marginPercent: (revenueDollars / costDollars - 1) * 100,
    prefillPerNode: inputTokens / perS((window) => window.prefillUnits * scale.prefillNodes),
    decodePerNode: outputTokens / perS((window) => window.decodeUnits * scale.decodeNodes),
    ttftMs: weighed((window) => window.ttftMs.median),
    tpotMs: weighed((window) => window.tpotMs.median),
    rebalances: windows.filter((window) => window.isRebalanced).length,
  };
}

/** Of sorted values; NaN of none. */
function quantile(sorted: readonly number[], share: number): number {
  if (sorted.length === 0) return Number.NaN;
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

function meanOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** What the article states of its day, to lay beside a simulated one. */
export const publishedDay: Readonly<Record<string, number>> = {
  nodeHours: articleFigures.nodesMean * 24,
  nodesPeak: articleFigures.nodesPeak,
  inputTokens: articleFigures.inputTokens,
  hitTokens: articleFigures.hitTokens,
  outputTokens: articleFigures.outputTokens,
  costDollars: articleFigures.costDollars,
  revenueDollars: articleFigures.revenueDollars,
  prefillPerNode: articleFigures.prefillPerNode,
  decodePerNode: articleFigures.decodePerNode,
};
