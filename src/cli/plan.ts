/** @file `baleen plan`: what a deployment yields and costs, from a model's config and a GPU's profile. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { parseModelConfig } from "../model/index.ts";
import {
  type Architecture,
  architectureOf,
  articleDemand,
  articleReport,
  calibration,
  contiguousRates,
  type DayOptions,
  type DocumentRequest,
  deepSeekV3,
  denseRates,
  type EstimateReport,
  estimateReport,
  type FittedNumbers,
  type Hardware,
  hardware,
  hardwareOf,
  kernelConstants,
  lowLatencyUs,
  maskedRates,
  normalRates,
  parseHardware,
  poolScale,
  searchPlans,
  simulateDay,
  type Workload,
} from "../planner/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { type Parsed, UsageError } from "./flags.ts";
import { readJsonFile } from "./input.ts";
import {
  renderDay,
  renderDay6,
  renderEstimate,
  renderHardware,
  renderKernels,
  renderSearch,
} from "./plan-report.ts";

const actions = ["day6", "day", "estimate", "search", "hardware", "kernels", "serve"] as const;

const flags = {
  config: {
    type: "text",
    value: "PATH",
    help: "A model's config.json, or the directory that holds it.",
    defaultHelp: "DeepSeek-V3",
  },
  hw: {
    type: "text",
    value: "NAME|FILE.json",
    default: "h800",
    help: "GPU: h800, h100, h200, h20, b200, gb200, or a profile of your own.",
  },
  nodes: { type: "whole", value: "N", min: 2, max: 100_000, default: 100, help: "search: nodes." },
  prompt: { type: "whole", value: "N", min: 1, default: 4096, help: "Mean tokens of a prompt." },
  output: { type: "whole", value: "N", min: 1, default: 1024, help: "Mean tokens of an answer." },
  "hit-rate": {
    type: "number",
    value: "X",
    min: 0,
    max: 0.999,
    default: 0,
    help: "Share of prompts' tokens in the prefix cache.",
  },
  "sla-tpot": { type: "text", value: "TIME", help: "search: most time a token, such as 50ms." },
  "sla-ttft": {
    type: "text",
    value: "TIME",
    default: "5s",
    help: "search: most time to the first token.",
  },
  drafts: { type: "switch", default: true, help: "search: leave MTP drafts out." },
  overlap: {
    type: "switch",
    default: true,
    help: "estimate: the whole batch at once, no communication hidden.",
  },
  mtp: { type: "switch", help: "estimate, day: with an MTP draft a step." },
  accepted: {
    type: "number",
    value: "X",
    min: 0,
    max: 1,
    default: 0.6,
    help: "Share of drafts that are right.",
  },
  "prefill-skew": {
    type: "number",
    value: "X",
    min: 0,
    max: 4,
    help: "Zipf exponent of experts' popularity in a batch of prompts.",
    defaultHelp: "as fitted",
  },
  "decode-skew": {
    type: "number",
    value: "X",
    min: 0,
    max: 4,
    help: "The same over many sequences.",
    defaultHelp: "0.55",
  },
  placement: {
    type: "choice",
    choices: ["balanced", "exact"],
    default: "balanced",
    help: "Experts placed by ours, or as the original EPLB does.",
  },
  "prefill-nodes": {
    type: "whole",
    value: "N",
    min: 1,
    default: 4,
    help: "estimate, day: nodes of a prefill unit.",
  },
  "decode-nodes": {
    type: "whole",
    value: "N",
    min: 1,
    default: 18,
    help: "estimate, day: nodes of a decode unit.",
  },
  tokens: {
    type: "whole",
    value: "N",
    min: 2,
    default: 16384,
    help: "estimate: prompt tokens a GPU and step.",
  },
  batch: {
    type: "whole",
    value: "N",
    min: 1,
    default: 88,
    help: "estimate: sequences a decoding GPU.",
  },
  requests: {
    type: "whole",
    value: "N",
    min: 1,
    help: "day: requests in 24 hours.",
    defaultHelp: "the article's 147 million",
  },
  seed: { type: "whole", value: "N", min: 0, default: 1, help: "day: of its random numbers." },
  host: { type: "text", value: "ADDRESS", default: "127.0.0.1", help: "serve: where to listen." },
  port: {
    type: "whole",
    value: "N",
    min: 0,
    max: 65535,
    default: 8010,
    help: "serve: port, 0 for any.",
  },
  json: { type: "switch", help: "Print JSON." },
} as const;

type PlanFlags = Parsed<typeof flags>["flags"];

/** Prints a report, or its data. */
export const plan: Command = defineCommand({
  name: "plan",
  summary: "Plan a deployment: what GPUs yield and cost, and the best way to use them.",
  flags,
  operands: actions.join("|"),
  examples: [
    "baleen plan day6",
    "baleen plan day --seed 2",
    "baleen plan search --config config.json --hw h800 --nodes 100 --sla-tpot 50ms",
    "baleen plan serve",
    "baleen plan estimate --hw h200 --decode-nodes 9 --batch 128",
  ],
  async run({ flags, operands }) {
    const [action, ...more] = operands;
    if (!(actions as readonly string[]).includes(action) || more.length > 0) {
      throw new UsageError(`plan: give one of ${actions.join(", ")}.`);
    }
    const print = (data: unknown, render: () => string) =>
      console.log(flags.json ? JSON.stringify(data) : render());
    if (action === "day6") {
      const data = { article: articleReport(), calibration: calibration() };
      print(data, () => renderDay6(data.article, data.calibration));
    } else if (action === "hardware") {
      print(hardware, () => renderHardware(Object.values(hardware)));
    } else if (action === "kernels") {
      const rates = { dense: denseRates, contiguous: contiguousRates, masked: maskedRates };
      const exchanges = { normalGBs: normalRates, lowLatencyUs };
      const data = { products: rates, exchanges, constants: kernelConstants };
      print(data, () => renderKernels(data));
    } else if (action === "day") {
      const result = simulateDay(dayOptions(flags));
      print(result, () => renderDay(result));
    } else if (action === "serve") {
      // Loaded when asked for: it stands on the server and all below it.
      const { servePlan } = await import("./plan-serve.ts");
      await servePlan(pageRequest(flags), flags.host, flags.port);
    } else if (action === "estimate") {
      const data = estimate(flags);
      print(data, () => renderEstimate(data));
    } else {
      const begunMs = performance.now();
      const options = searchOptions(flags);
      const result = searchPlans(options);
      const tookMs = performance.now() - begunMs;
      print({ ...result, tookMs }, () => renderSearch(result, options, tookMs));
    }
  },
});

function searchOptions(flags: PlanFlags): Parameters<typeof searchPlans>[0] {
  const tpotMs = durationMs("sla-tpot", flags["sla-tpot"]);
  const ttftMs = durationMs("sla-ttft", flags["sla-ttft"]);
  return {
    arch: architectureFrom(flags),
    hw: hardwareFrom(flags),
    nodes: flags.nodes,
    workload: workloadFrom(flags),
    ...(tpotMs !== undefined && { tpotMs }),
    ...(ttftMs !== undefined && { ttftMs }),
    drafts: flags.drafts,
    accepted: flags.accepted,
    ...fittedFrom(flags),
    placement: flags.placement,
  };
}

function dayOptions(flags: PlanFlags): DayOptions {
  const { requests } = flags;
  return {
    arch: architectureFrom(flags),
    hw: hardwareFrom(flags),
    fitted: fittedFrom(flags),
    seed: flags.seed,
    drafts: flags.mtp ? 1 : 0,
    accepted: flags.accepted,
    scale: {
      ...poolScale,
      prefillNodes: flags["prefill-nodes"],
      decodeNodes: flags["decode-nodes"],
    },
    ...(requests !== undefined && { demand: { ...articleDemand, requestsPerDay: requests } }),
  };
}

/** The page shows the article's deployment and lengths unless the flags say else. */
function pageRequest(flags: PlanFlags): DocumentRequest {
  const day = dayOptions(flags);
  const { scale = poolScale, demand } = day;
  return {
    estimate: estimate(flags),
    day,
    isArticle:
      flags.config === undefined &&
      flags.hw === "h800" &&
      demand === undefined &&
      !flags.mtp &&
      scale.prefillNodes === poolScale.prefillNodes &&
      scale.decodeNodes === poolScale.decodeNodes,
    search: searchOptions(flags),
  };
}

/** The fitted numbers, with what the flags say instead. */
function fittedFrom(flags: PlanFlags): FittedNumbers {
  const { prefillEfficiency, decodeEfficiency, prefillSkew, decodeSkew } = calibration();
  return {
    prefillEfficiency,
    decodeEfficiency,
    prefillSkew: flags["prefill-skew"] ?? prefillSkew,
    decodeSkew: flags["decode-skew"] ?? decodeSkew,
  };
}

function estimate(flags: PlanFlags): EstimateReport {
  const arch = architectureFrom(flags);
  return estimateReport({
    arch,
    hw: hardwareFrom(flags),
    fitted: fittedFrom(flags),
    prefillNodes: flags["prefill-nodes"],
    decodeNodes: flags["decode-nodes"],
    placement: flags.placement,
    overlap: flags.overlap,
    drafts: flags.mtp && arch.config.numNextnPredictLayers > 0 ? 1 : 0,
    workload: workloadFrom(flags),
    tokensPerGpu: flags.tokens,
    batch: flags.batch,
    accepted: flags.accepted,
  });
}

function workloadFrom(flags: PlanFlags): Workload {
  return {
    promptTokens: flags.prompt,
    outputTokens: flags.output,
    hitRate: flags["hit-rate"],
  };
}

function architectureFrom(flags: PlanFlags): Architecture {
  const path = flags.config;
  if (path === undefined) return architectureOf(deepSeekV3);
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const file = isFolder ? join(path, "config.json") : path;
  return architectureOf(parseModelConfig(readJsonFile(file), file));
}

function hardwareFrom(flags: PlanFlags): Hardware {
  if (!flags.hw.endsWith(".json")) return hardwareOf(flags.hw);
  return parseHardware(readJsonFile(flags.hw), flags.hw);
}

/** A text such as `50ms` or `2s` in milliseconds; a bare number is milliseconds. */
function durationMs(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const match = /^(\d+\.?\d*|\.\d+) *(ms|s)?$/.exec(text.trim());
  const value = match ? Number(match[1]) * (match[2] === "s" ? 1e3 : 1) : Number.NaN;
  if (value > 0) return value;
  throw new UsageError(`--${name}: got "${text}", wanted a time such as 50ms or 2s.`);
}
