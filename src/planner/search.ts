/**
 * @file The best way to run a model on so many nodes: every sensible unit of both phases is estimated
 * once, those that meet the limits are combined and the nodes divided between them. Winner: the
 * highest throughput; the Pareto front trades it against TPOT and TTFT.
 *
 * Throughputs are capacities: a deployment that is to absorb bursts needs nodes beyond them, which
 * the simulated day shows.
 */
import type { Architecture } from "./architecture.ts";
import { type Deployment, memoryOf } from "./deployment.ts";
import { checkNumber, plannerError } from "./errors.ts";
import {
  checkWorkload,
  type DecodeEstimate,
  estimateDecode,
  estimatePrefill,
  meanContext,
  type PrefillEstimate,
  type Workload,
} from "./estimate.ts";
import { explain } from "./explain.ts";
import type { Hardware } from "./hardware.ts";

/** What to look for. */
export interface SearchOptions {
  readonly arch: Architecture;
  readonly hw: Hardware;
  readonly nodes: number;
  readonly workload: Workload;
  /** Mean time between tokens, at most. */
  readonly tpotMs?: number;
  /** Mean time to the first token, at most. */
  readonly ttftMs?: number;
  /** Whether MTP drafts may be used; `accepted` of them are right (default 0.6). */
  readonly drafts?: boolean;
  readonly accepted?: number;
  /** The fitted numbers of `calibration`, or others. */
  readonly prefillEfficiency: number;
  readonly decodeEfficiency: number;
  readonly prefillSkew: number;
  readonly decodeSkew: number;
  /** Default `balanced`. */
  readonly placement?: Deployment["placement"];
}

/** A prefill unit that was estimated. */
export interface PrefillChoice {
  readonly unitNodes: number;
  readonly slotsPerGpu: number;
  readonly tokensPerGpu: number;
  readonly estimate: PrefillEstimate;
  /** Requests a second of one unit. */
  readonly requestsPerS: number;
}

/** A decode unit that was estimated. */
export interface DecodeChoice {
  readonly unitNodes: number;
  readonly slotsPerGpu: number;
  readonly sequences: number;
  readonly drafts: number;
  readonly overlap: boolean;
  readonly estimate: DecodeEstimate;
  readonly requestsPerS: number;
}

/** A way to use the nodes. */
export interface Plan {
  readonly prefill: PrefillChoice;
  readonly decode: DecodeChoice;
  readonly prefillUnits: number;
  readonly decodeUnits: number;
  readonly nodesUsed: number;
  readonly requestsPerS: number;
  readonly inputPerS: number;
  readonly outputPerS: number;
  readonly ttftMs: number;
  readonly tpotMs: number;
  /** Dollars by million output tokens, all nodes used counted. */
  readonly dollarsPerMillion: number;
  /** How busy the two pools are; one of them is at 1. */
  readonly prefillBusy: number;
  readonly decodeBusy: number;
}

/** What a search found. */
export interface SearchResult {
  readonly best: Plan;
  /** Plans that no other beats in throughput, TPOT and TTFT at once; by throughput, best first. */
  readonly front: readonly Plan[];
  /** Why the best is the best, sentence by sentence. */
  readonly why: readonly string[];
  /** Units estimated, and combinations of two units with a division of the nodes compared. */
  readonly unitsEstimated: number;
  readonly plansCompared: number;
}

const unitNodeCounts = [1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 16, 18, 20, 24, 32, 36, 40];
const stepTokens = [1024, 2048, 4096, 8192, 16384, 32768];
const batchSizes = [
  1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 104, 112, 120, 128, 144, 160, 192,
  224, 256, 320, 384, 448, 512, 640, 768, 1024,
];

/**
 * The best plan, the front and the reasons. Errors: `plan-input-invalid` names a field;
 * `plan-impossible` says which limit can't be met and how close one comes.
 */
export function searchPlans(options: SearchOptions): SearchResult {
  const { nodes, workload, tpotMs = Number.POSITIVE_INFINITY } = options;
  checkNumber("nodes", nodes, { min: 2, max: 100_000, whole: true });
  checkWorkload(workload);
  if (options.tpotMs !== undefined) checkNumber("sla-tpot", options.tpotMs, { min: 1e-3 });
  if (options.ttftMs !== undefined) checkNumber("sla-ttft", options.ttftMs, { min: 1e-3 });
  const prefills = prefillChoices(options);
  const decodes = decodeChoices(options);
  const { ttftMs = Number.POSITIVE_INFINITY } = options;
  const fastPrefills = prefills.filter(({ estimate }) => estimate.ttftMs <= ttftMs);
  const fastDecodes = decodes.filter(({ estimate }) => estimate.tpotMs <= tpotMs);
  refuseImpossible(options, prefills, decodes, fastPrefills, fastDecodes);
  let plansCompared = 0;
  const plans: Plan[] = [];
  const sparePrefills = undominated(fastPrefills, (choice) => choice.estimate.ttftMs);
  const spareDecodes = undominated(fastDecodes, (choice) => choice.estimate.tpotMs);
  for (const prefill of sparePrefills) {
    for (const decode of spareDecodes) {
      const { plan, compared } = divide(options, prefill, decode);
      plansCompared += compared;
      if (plan) plans.push(plan);
    }
  }
  if (plans.length === 0) {
    const least =
      Math.min(...prefills.map((c) => c.unitNodes)) + Math.min(...decodes.map((c) => c.unitNodes));
    throw plannerError(
      "plan-impossible",
      `nodes is ${nodes}, and no prefill unit fits beside a decode unit that meets the limits: ` +
        `give at least ${least}, or looser limits.`,
    );
  }
  const front = paretoFront(plans);
  const why = explain(options, front[0], decodes, plans);
  const unitsEstimated = prefills.length + decodes.length;
  return { best: front[0], front, why, unitsEstimated, plansCompared };
}

function prefillChoices(options: SearchOptions): PrefillChoice[] {
  const { hw, workload } = options;
  const choices: PrefillChoice[] = [];
  for (const { unitNodes, slotsPerGpu, deployment } of units(options, "prefill", 2)) {
    for (const tokensPerGpu of stepTokens) {
      const estimate = estimatePrefill(deployment, workload, tokensPerGpu);
      const perPrompt = workload.promptTokens / unitNodes;
      const requestsPerS = estimate.inputPerNode / perPrompt;
      choices.push({ unitNodes, slotsPerGpu, tokensPerGpu, estimate, requestsPerS });
    }
  }
  if (choices.length > 0) return choices;
  throw tooSmall(hw, options.nodes);
}

function decodeChoices(options: SearchOptions): DecodeChoice[] {
  const { hw, workload, drafts: mayDraft = true, accepted = 0.6, arch } = options;
  const choices: DecodeChoice[] = [];
  const draftCounts = mayDraft && arch.config.numNextnPredictLayers > 0 ? [0, 1] : [0];
  for (const drafts of draftCounts) {
    for (const { unitNodes, slotsPerGpu, deployment } of units(options, "decode", 3, drafts)) {
      const most = memoryOf(deployment, "decode").kvTokens / meanContext(workload);
      for (const sequences of batchSizes) {
        if (sequences > most) break;
        for (const overlap of sequences > 1 ? [true, false] : [false]) {
          const unit = { ...deployment, overlap };
          const estimate = estimateDecode(unit, workload, sequences, accepted);
          const requestsPerS = (estimate.perNode * unitNodes) / workload.outputTokens;
          choices.push({
            unitNodes,
            slotsPerGpu,
            sequences,
            drafts,
            overlap,
            estimate,
            requestsPerS,
          });
        }
      }
    }
  }
  if (choices.length > 0) return choices;
  throw tooSmall(hw, options.nodes);
}

function tooSmall(hw: Hardware, nodes: number): Error {
  return plannerError(
    "plan-impossible",
    `The weights and one sequence don't fit on ${nodes} nodes of ${hw.title}: give more nodes or ` +
      "GPUs with more memory.",
  );
}

/** Units whose weights leave room for a cache; `spread` numbers of slots beside the least. */
function* units(
  options: SearchOptions,
  phase: "prefill" | "decode",
  spread: number,
  drafts = 0,
): Generator<{ unitNodes: number; slotsPerGpu: number; deployment: Deployment }> {
  const { arch, hw, nodes, workload, placement = "balanced" } = options;
  const isPrefill = phase === "prefill";
  const efficiency = isPrefill ? options.prefillEfficiency : options.decodeEfficiency;
  const skew = isPrefill ? options.prefillSkew : options.decodeSkew;
  for (const unitNodes of unitNodeCounts) {
    if (unitNodes >= nodes) return;
    const ranks = unitNodes * hw.gpusPerNode;
    const least = Math.ceil(arch.config.nRoutedExperts / ranks);
    for (let more = 0; more < spread; more++) {
      const slotsPerGpu = least + more;
      const base = { hw, arch, ranks, slotsPerGpu, skew, placement, overlap: true };
      const deployment = { ...base, drafts, efficiency };
      const needed = isPrefill ? 2 * workload.promptTokens : meanContext(workload);
      if (memoryOf(deployment, phase).kvTokens >= needed) {
        yield { unitNodes, slotsPerGpu, deployment };
      }
    }
  }
}

/** Choices that none of the same unit size beats in requests and latency. */
function undominated<C extends { unitNodes: number; requestsPerS: number }>(
  choices: readonly C[],
  latencyOf: (choice: C) => number,
): C[] {
  const kept: C[] = [];
  for (const unitNodes of new Set(choices.map((choice) => choice.unitNodes))) {
    const same = choices.filter((choice) => choice.unitNodes === unitNodes);
    same.sort((a, b) => b.requestsPerS - a.requestsPerS || latencyOf(a) - latencyOf(b));
    let least = Number.POSITIVE_INFINITY;
    for (const choice of same) {
      if (latencyOf(choice) >= least) continue;
      least = latencyOf(choice);
      kept.push(choice);
    }
  }
  return kept;
}

/** The division of the nodes between two kinds of units that serves most requests. */
function divide(
  options: SearchOptions,
  prefill: PrefillChoice,
  decode: DecodeChoice,
): { plan: Plan | undefined; compared: number } {
  const { nodes } = options;
  const most = Math.floor((nodes - prefill.unitNodes) / decode.unitNodes);
  // Both pools as busy as each other, and the whole numbers about that.
  const perDecodeNode = decode.requestsPerS / decode.unitNodes;
  const perPrefillNode = prefill.requestsPerS / prefill.unitNodes;
  const share = perPrefillNode / (perPrefillNode + perDecodeNode);
  const even = (nodes * share) / decode.unitNodes;
  let plan: Plan | undefined;
  let compared = 0;
  for (let decodeUnits = Math.floor(even) - 1; decodeUnits <= even + 1; decodeUnits++) {
    if (decodeUnits < 1 || decodeUnits > most) continue;
    const left = nodes - decodeUnits * decode.unitNodes;
    const prefillUnits = Math.min(
      Math.floor(left / prefill.unitNodes),
      Math.ceil((decodeUnits * decode.requestsPerS) / prefill.requestsPerS),
    );
    compared++;
    const next = planOf(options, prefill, decode, prefillUnits, decodeUnits);
    if (!plan || isBetter(next, plan)) plan = next;
  }
  return { plan, compared };
}

function planOf(
  { workload, hw }: SearchOptions,
  prefill: PrefillChoice,
  decode: DecodeChoice,
  prefillUnits: number,
  decodeUnits: number,
): Plan {
  const prefillMost = prefillUnits * prefill.requestsPerS;
  const decodeMost = decodeUnits * decode.requestsPerS;
  const requestsPerS = Math.min(prefillMost, decodeMost);
  const nodesUsed = prefillUnits * prefill.unitNodes + decodeUnits * decode.unitNodes;
  const outputPerS = requestsPerS * workload.outputTokens;
  const dollarsPerS = (nodesUsed * hw.gpusPerNode * hw.dollarsPerGpuHour) / 3600;
  return {
    prefill,
    decode,
    prefillUnits,
    decodeUnits,
    nodesUsed,
    requestsPerS,
    inputPerS: requestsPerS * workload.promptTokens,
    outputPerS,
    ttftMs: prefill.estimate.ttftMs,
    tpotMs: decode.estimate.tpotMs,
    dollarsPerMillion: (dollarsPerS / outputPerS) * 1e6,
    prefillBusy: requestsPerS / prefillMost,
    decodeBusy: requestsPerS / decodeMost,
  };
}

function isBetter(a: Plan, b: Plan): boolean {
  const ratio = a.requestsPerS / b.requestsPerS;
  if (Math.abs(ratio - 1) > 1e-9) return ratio > 1;
  return a.nodesUsed !== b.nodesUsed ? a.nodesUsed < b.nodesUsed : a.tpotMs < b.tpotMs;
}

/** Plans that none beats in all three; the first is the best. */
function paretoFront(plans: Plan[]): Plan[] {
  plans.sort((a, b) => (isBetter(a, b) ? -1 : isBetter(b, a) ? 1 : a.ttftMs - b.ttftMs));
  const front: Plan[] = [];
  for (const plan of plans) {
    const isBeaten = front.some((one) => one.tpotMs <= plan.tpotMs && one.ttftMs <= plan.ttftMs);
    if (!isBeaten) front.push(plan);
  }
  return front;
}

function refuseImpossible(
  options: SearchOptions,
  prefills: readonly PrefillChoice[],
  decodes: readonly DecodeChoice[],
  fastPrefills: readonly PrefillChoice[],
  fastDecodes: readonly DecodeChoice[],
): void {
  const { hw, nodes } = options;
  if (fastDecodes.length === 0) {
    const best = decodes.reduce((a, b) => (b.estimate.tpotMs < a.estimate.tpotMs ? b : a));
    throw plannerError(
      "plan-impossible",
      `sla-tpot is ${options.tpotMs} ms, but the fastest decode unit of at most ${nodes} nodes of ` +
        `${hw.title} takes ${best.estimate.tpotMs.toFixed(1)} ms a token (${best.unitNodes} nodes, ` +
        `${best.sequences} ${best.sequences === 1 ? "sequence" : "sequences"} a GPU; ` +
        `${best.estimate.bottleneck.sentence}): allow more.`,
    );
  }
  if (fastPrefills.length === 0) {
    const best = prefills.reduce((a, b) => (b.estimate.ttftMs < a.estimate.ttftMs ? b : a));
    const { wait, compute, storage, transfer } = best.estimate.ttftParts;
    throw plannerError(
      "plan-impossible",
      `sla-ttft is ${options.ttftMs} ms, but the fastest prefill unit of at most ${nodes} nodes of ` +
        `${hw.title} needs ${best.estimate.ttftMs.toFixed(0)} ms (wait and compute ` +
        `${(wait + compute).toFixed(0)}, storage ${storage.toFixed(0)}, transfer ` +
        `${transfer.toFixed(0)}): allow more.`,
    );
  }
}
