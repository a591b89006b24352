/** @file Everything about a planned deployment in one JSON document, for a page or a file. */
import type { Architecture } from "./architecture.ts";
import { type ArticleReport, articleNodesAt, articleReport } from "./article.ts";
import { type Calibration, calibration } from "./calibration.ts";
import { type DayOptions, type DayResult, publishedDay, simulateDay } from "./day.ts";
import { type Deployment, type MemoryBudget, type UnitOptions, unitsOf } from "./deployment.ts";
import {
  type DecodeEstimate,
  estimateDecode,
  estimatePrefill,
  type PrefillEstimate,
  type Workload,
} from "./estimate.ts";
import type { Hardware } from "./hardware.ts";
import type { LayerTimeline } from "./overlap.ts";
import { type Plan, type SearchOptions, type SearchResult, searchPlans } from "./search.ts";

/** Both phases of one deployment, estimated. */
export interface EstimateReport {
  readonly hw: Hardware;
  readonly arch: Architecture;
  readonly workload: Workload;
  readonly tokensPerGpu: number;
  readonly batch: number;
  readonly prefillUnit: Deployment;
  readonly decodeUnit: Deployment;
  readonly prefill: PrefillEstimate;
  readonly decode: DecodeEstimate;
}

/** What to estimate. */
export interface EstimateOptions extends UnitOptions {
  readonly workload: Workload;
  readonly tokensPerGpu: number;
  readonly batch: number;
  /** Share of drafts that are right; default 0.6. */
  readonly accepted?: number;
}

/** Estimates both phases. Errors as of `estimatePrefill` and `estimateDecode`. */
export function estimateReport(options: EstimateOptions): EstimateReport {
  const { hw, arch, workload, tokensPerGpu, batch, accepted } = options;
  const { prefill, decode } = unitsOf(options);
  return {
    hw,
    arch,
    workload,
    tokensPerGpu,
    batch,
    prefillUnit: prefill,
    decodeUnit: decode,
    prefill: estimatePrefill(prefill, workload, tokensPerGpu),
    decode: estimateDecode(decode, workload, batch, accepted),
  };
}

/** One phase of the deployment. */
export interface PhaseReport {
  readonly name: "Prefill" | "Decode";
  /** Its unit in words. */
  readonly unit: string;
  readonly perNode: number;
  /** TTFT or TPOT. */
  readonly latencyMs: number;
  readonly bottleneck: string;
  readonly layer: LayerTimeline;
  readonly parts: Readonly<Record<string, number>>;
  readonly memory: MemoryBudget;
  /** What was estimated, so that a page can estimate it again. */
  readonly deployment: Deployment;
  readonly workload: Workload;
  /** Tokens (prefill) or sequences (decode) of a GPU. */
  readonly load: number;
}

/** A plan of the search's front. */
export interface FrontPoint {
  readonly outputPerS: number;
  readonly tpotMs: number;
  readonly ttftMs: number;
  readonly dollarsPerMillion: number;
  /** Units in words. */
  readonly prefill: string;
  readonly decode: string;
}

/** What a search found, or the sentence that says why there is nothing. */
export type SearchReport =
  | {
      readonly nodes: number;
      readonly limits: string;
      readonly why: readonly string[];
      /** Best first. */
      readonly front: readonly FrontPoint[];
    }
  | { readonly refusal: string };

/** The document. */
export interface PlanDocument {
  readonly hardware: string;
  readonly model: string;
  readonly article: ArticleReport;
  readonly published: Readonly<Record<string, number>>;
  /** The article's nodes by window of the day. */
  readonly publishedNodes: readonly number[];
  /** Whether the day is the article's own. */
  readonly isArticle: boolean;
  readonly calibration: Calibration;
  readonly day: DayResult;
  readonly phases: readonly PhaseReport[];
  readonly search: SearchReport;
}

/** What a document is made of; `isArticle`: the day has the article's model, GPU, pools and demand. */
export interface DocumentRequest {
  readonly estimate: EstimateReport;
  readonly day: DayOptions;
  readonly isArticle: boolean;
  readonly search: SearchOptions;
}

/** Simulates the day, searches, and gathers; some seconds. Errors as of the three, but for refusals. */
export function planDocument({ estimate, day, isArticle, search }: DocumentRequest): PlanDocument {
  const simulated = simulateDay(day);
  const { total, active } = estimate.arch.parameters;
  const billions = (count: number) => Number((count / 1e9).toPrecision(3));
  return {
    hardware: estimate.hw.title,
    model: `${billions(total)} billion parameters, ${billions(active)} active,`,
    article: articleReport(),
    published: publishedDay,
    publishedNodes: simulated.windows.map(({ hour }) => articleNodesAt(hour)),
    isArticle,
    calibration: calibration(),
    day: simulated,
    phases: phasesOf(estimate),
    search: searchReport(search),
  };
}

function phasesOf(estimate: EstimateReport): PhaseReport[] {
  const { prefill, decode, prefillUnit, decodeUnit, workload, tokensPerGpu, batch } = estimate;
  const unit = ({ ranks, slotsPerGpu, drafts }: Deployment) =>
    `EP${ranks}, ${slotsPerGpu} experts a GPU${drafts > 0 ? ", MTP" : ""}`;
  return [
    {
      name: "Prefill",
      unit: unit(prefillUnit),
      perNode: prefill.perNode,
      latencyMs: prefill.ttftMs,
      bottleneck: prefill.bottleneck.sentence,
      layer: prefill.step.layer,
      parts: prefill.step.parts,
      memory: prefill.memory,
      deployment: prefillUnit,
      workload,
      load: tokensPerGpu,
    },
    {
      name: "Decode",
      unit: unit(decodeUnit),
      perNode: decode.perNode,
      latencyMs: decode.tpotMs,
      bottleneck: decode.bottleneck.sentence,
      layer: decode.step.layer,
      parts: decode.step.parts,
      memory: decode.memory,
      deployment: decodeUnit,
      workload,
      load: batch,
    },
  ];
}

function searchReport(options: SearchOptions): SearchReport {
  let result: SearchResult;
  try {
    result = searchPlans(options);
  } catch (error) {
    if ((error as { code?: unknown }).code !== "plan-impossible") throw error;
    return { refusal: (error as Error).message };
  }
  const { promptTokens, outputTokens } = options.workload;
  const tpot = options.tpotMs === undefined ? "" : `, at most ${options.tpotMs} ms a token`;
  const ttft = options.ttftMs === undefined ? "" : `, ${options.ttftMs / 1e3} s to the first`;
  return {
    nodes: options.nodes,
    limits: `prompts of ${promptTokens}, answers of ${outputTokens} tokens${tpot}${ttft}`,
    why: result.why,
    front: result.front.map(pointOf),
  };
}

function pointOf(plan: Plan): FrontPoint {
  const { prefill, decode, prefillUnits, decodeUnits } = plan;
  return {
    outputPerS: plan.outputPerS,
    tpotMs: plan.tpotMs,
    ttftMs: plan.ttftMs,
    dollarsPerMillion: plan.dollarsPerMillion,
    prefill: `${prefillUnits} x ${prefill.unitNodes} nodes`,
    decode:
      `${decodeUnits} x ${decode.unitNodes} nodes with ${decode.sequences} sequences a GPU` +
      (decode.drafts > 0 ? ", MTP" : ""),
  };
}
