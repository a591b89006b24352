/** @file The reports of `baleen plan` as text. */
import { formatCount } from "../base/index.ts";
import {
  type ArticleReport,
  type Calibration,
  type DayResult,
  type DayWindow,
  type EstimateReport,
  type Hardware,
  type LayerTimeline,
  type MemoryBudget,
  type Plan,
  type ProductRate,
  publishedDay,
  type SearchOptions,
  type SearchResult,
  type Sourced,
} from "../planner/index.ts";

/** A number with thousands apart. */
function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function percent(share: number, digits = 1): string {
  return `${(share * 100).toFixed(digits)} %`;
}

function signed(share: number): string {
  return `${share < 0 ? "-" : "+"}${percent(Math.abs(share))}`;
}

/** The article's arithmetic, and the table of predictions. */
export function renderDay6(article: ArticleReport, calibration: Calibration): string {
  const { revenue, published } = article;
  const rows = calibration.points.map(({ point, role, predicted, error, unfittedError }) => [
    point.name,
    count(point.perNode),
    count(predicted),
    role === "fitted" ? `${signed(error)} by fit` : signed(error),
    role,
    signed(unfittedError),
  ]);
  const heading = ["tokens/s a node", "published", "predicted", "error", "role", "nothing fitted"];
  return [
    "DeepSeek's Day 6, 24 hours, from the published figure, token counts and prices",
    "",
    `node-hours   ${count(article.nodeHours)}: mean ${article.nodesMean} nodes, peak ${article.nodesPeak}`,
    `cost         $${count(article.costDollars)}, 8 GPUs a node at $2 an hour`,
    `revenue      $${count(revenue.dollars)} from the rounded token counts, which allow $${count(revenue.low)} to`,
    `             $${count(revenue.high)}; published $${count(published.dollars)}, ${published.isInside ? "inside" : "OUTSIDE"}`,
    `margin       ${article.marginPercent.toFixed(1)} % of cost with the published revenue, ${article.marginPercentRounded.toFixed(1)} % with ours`,
    `implied      ${(article.prefillPerNode / 1e3).toFixed(1)}k input tokens/s a prefill node (hits included, ` +
      `${article.prefillNodesMean} nodes)`,
    `             ${(article.decodePerNode / 1e3).toFixed(1)}k output tokens/s a decode node (${article.decodeNodesMean} nodes)`,
    "",
    "Cost model against published throughputs",
    "",
    ...table(heading, rows),
    "",
    `fitted: prefill reaches ${percent(calibration.prefillEfficiency)} and decode ` +
      `${percent(calibration.decodeEfficiency)} of what the kernels alone would;`,
    `experts' popularity in a batch of prompts is Zipf with exponent ${calibration.prefillSkew}. ` +
      `Worst row held out: ${percent(calibration.worstHeldOut)}.`,
    `chosen: ${calibration.decodeSkew} over many sequences, from EPLB's published gain in prefill (1.49 times).`,
  ].join("\n");
}

/** A simulated day: its curve, its sums beside the published ones, and what the balancers reached. */
export function renderDay({ windows, totals }: DayResult): string {
  const shown = windows.filter((_, i) => i % Math.max(1, Math.round(windows.length / 12)) === 0);
  const rows = shown.map((window) => [
    clock(window.hour),
    String(window.nodes),
    `${window.prefillUnits} + ${window.decodeUnits}`,
    count(window.prefillPerNode),
    count(window.decodePerNode),
    `${(window.ttftMs.median / 1e3).toFixed(1)} / ${(window.ttftMs.p99 / 1e3).toFixed(1)}`,
    window.tpotMs.median.toFixed(1),
    window.sequencesPerGpu.toFixed(0),
    balance(window),
    `${window.storageGBs.toFixed(1)} / ${window.transferGBs.toFixed(1)}`,
    `${count(window.costDollars)} / ${count(window.revenueDollars)}`,
  ]);
  const heading = [
    "hour",
    "nodes",
    "units",
    "in/s a node",
    "out/s",
    "TTFT s, p99",
    "TPOT ms",
    "seq/GPU",
    "balancedness",
    "GB/s a node",
    "$/h cost, revenue",
  ];
  const values = totals as Readonly<Record<string, number>>;
  const sums = Object.entries(publishedDay).map(([name, published]) => [
    dayNames[name],
    count(values[name]),
    count(published),
    signed(values[name] / published - 1),
  ]);
  const short = windows.filter(({ isShort }) => isShort).length;
  return [
    `nodes  ${windows.map(({ nodes }) => bar(nodes / totals.nodesPeak)).join("")}  from midnight`,
    "",
    ...table(heading, rows),
    "  balancedness: attention work, prompt tokens; cache, requests; experts. GB/s: from storage, to decode.",
    "",
    ...table(["24 hours", "simulated", "article", "difference"], sums),
    "",
    `TTFT ${(totals.ttftMs / 1e3).toFixed(1)} s, TPOT ${totals.tpotMs.toFixed(1)} ms (medians): ` +
      `${(1e3 / totals.tpotMs).toFixed(1)} tokens/s a user; margin ${totals.marginPercent.toFixed(0)} % of cost; ` +
      `experts placed anew ${totals.rebalances} times`,
    ...(short > 0
      ? [
          `In ${short} of ${windows.length} windows demand is beyond the largest pools: queues grow.`,
        ]
      : []),
    "",
    "Sampled: in each window one prefill unit and some decode ranks run for some seconds under the engine's",
    "own scheduler and balancers. The demand curve is inferred from the article's nodes; see the README.",
  ].join("\n");
}

const dayNames: Readonly<Record<string, string>> = {
  nodeHours: "node-hours",
  nodesPeak: "most nodes",
  inputTokens: "input tokens",
  hitTokens: "of which hits",
  outputTokens: "output tokens",
  costDollars: "cost, $",
  revenueDollars: "revenue, $",
  prefillPerNode: "input/s a prefill node",
  decodePerNode: "output/s a decode node",
};

function balance({ balancedness }: DayWindow): string {
  const { attentionWork, promptTokens, kvTokens, requests, experts } = balancedness;
  const two = (value: number) => value.toFixed(2);
  return `${two(attentionWork)} ${two(promptTokens)} ${two(kvTokens)} ${two(requests)} ${two(experts)}`;
}

function clock(hour: number): string {
  const minutes = Math.round(hour * 60);
  return `${String(Math.floor(minutes / 60)).padStart(2, "0")}:${String(minutes % 60).padStart(2, "0")}`;
}

/** A bar of eight heights. */
function bar(share: number): string {
  return "▁▂▃▄▅▆▇█"[Math.min(7, Math.max(0, Math.ceil(share * 8) - 1))];
}

/** All profiles, one a row. */
export function renderHardware(profiles: readonly Hardware[]): string {
  const heading = [
    "name",
    "FP8 TFLOPS",
    "BF16",
    "HBM GB",
    "GB/s",
    "NVLink GB/s",
    "GPUs",
    "NIC GB/s",
    "a node",
    "SMs",
    "$/h",
  ];
  const rows = profiles.map((hw) => [
    hw.name,
    String(hw.fp8Tflops),
    String(hw.bf16Tflops),
    String(hw.hbmGB),
    String(hw.hbmGBs),
    String(hw.nvlinkGBs),
    String(hw.nvlinkGpus),
    String(hw.nicGBs),
    String(hw.gpusPerNode),
    String(hw.sms),
    String(hw.dollarsPerGpuHour),
  ]);
  return [
    ...table(heading, rows),
    "",
    "Dense and nominal, one way, by GPU. --json adds the source of every number; edit a copy and give",
    'it as --hw FILE.json, or only what differs: { "base": "h800", "hbmGB": 96 }.',
  ].join("\n");
}

/** What `renderKernels` prints. */
export interface KernelTables {
  readonly products: Readonly<Record<string, readonly ProductRate[]>>;
  readonly exchanges: Readonly<
    Record<string, readonly { ranks: number; dispatch: number; combine: number }[]>
  >;
  readonly constants: Readonly<Record<string, Sourced>>;
}

/** The measured rates that the cost model stands on, with their sources. */
export function renderKernels({ products, exchanges, constants }: KernelTables): string {
  const shapes = Object.entries(products).flatMap(([layout, rates]) =>
    rates.map(({ n, k, tflops, gbPerS }) => [
      `${layout} ${n} x ${k}`,
      String(tflops),
      String(gbPerS),
    ]),
  );
  const ranks = Object.entries(exchanges).flatMap(([kind, rows]) =>
    rows.map((row) => [`${kind}, ${row.ranks} ranks`, String(row.dispatch), String(row.combine)]),
  );
  const single = Object.entries(constants).map(([name, { value, kind, source }]) => {
    return `${name.padEnd(24)}${String(value).padStart(6)}  ${kind}: ${source}`;
  });
  return [
    "FP8 products on H800 (DeepGEMM README, February 2025)",
    ...table(["layout n x k", "TFLOPS", "GB/s"], shapes),
    "",
    "Exchanges on H800 (DeepEP README, V1): GB/s of 4096 tokens, us of 128",
    ...table(["kind", "dispatch", "combine"], ranks),
    "",
    ...single,
  ].join("\n");
}

/** Both phases of one deployment. */
export function renderEstimate(report: EstimateReport): string {
  const { hw, arch, workload, prefill, decode, prefillUnit, decodeUnit } = report;
  const { parameters } = arch;
  return [
    `${hw.title}; model of ${formatCount(parameters.total)} parameters, ${formatCount(parameters.active)} active, ` +
      `${count(arch.kvBytesPerToken)} bytes of cache a token`,
    `prompts of ${count(workload.promptTokens)} tokens, ${percent(workload.hitRate, 0)} cached; answers of ` +
      `${count(workload.outputTokens)}`,
    "",
    `Prefill, EP${prefillUnit.ranks} with ${prefillUnit.slotsPerGpu} experts a GPU, ` +
      `${count(report.tokensPerGpu)} tokens a GPU and step`,
    `  ${count(prefill.perGpu)} tokens/s a GPU, ${count(prefill.perNode)} a node computed, ` +
      `${count(prefill.inputPerNode)} with hits`,
    `  TTFT ${ms(prefill.ttftMs)}: ${Object.entries(prefill.ttftParts)
      .map(([name, time]) => `${name} ${ms(time)}`)
      .join(", ")}`,
    `  a node sends ${prefill.transferGBs.toFixed(1)} GB/s of cache to decode, and reads ` +
      `${prefill.storageGBs.toFixed(1)} GB/s from storage`,
    ...both(prefill, prefill.step.layer, prefill.step.imbalance),
    "",
    `Decode, EP${decodeUnit.ranks} with ${decodeUnit.slotsPerGpu} experts a GPU, ${report.batch} sequences a ` +
      `GPU${decodeUnit.drafts > 0 ? ", MTP" : ""}`,
    `  ${count(decode.perGpu)} tokens/s a GPU, ${count(decode.perNode)} a node; TPOT ${ms(decode.tpotMs)}, ` +
      `${decode.perUser.toFixed(1)} tokens/s a user`,
    `  memory holds ${count(decode.sequencesMost)} such sequences a GPU`,
    ...both(decode, decode.step.layer, decode.step.imbalance),
  ].join("\n");
}

function both(
  estimate: { memory: MemoryBudget; bottleneck: { sentence: string } },
  layer: LayerTimeline,
  imbalance: number,
): string[] {
  const { memory, bottleneck } = estimate;
  const gb = (bytes: number) => (bytes / 1e9).toFixed(1);
  return [
    `  busiest GPU gets ${imbalance.toFixed(2)} of the mean tokens; bottleneck: ${bottleneck.sentence}`,
    `  memory, GB: weights ${gb(memory.weights)}, cache ${gb(memory.kv)} (${count(memory.kvTokens)} tokens), ` +
      `reserve ${gb(memory.reserve)}`,
    `  one layer, ${(layer.periodUs / 1e3).toFixed(2)} ms${
      layer.operations.some(({ microBatch }) => microBatch === 1)
        ? ", both micro-batches (upper and lower case)"
        : ""
    }:`,
    ...lanes(layer),
  ];
}

/** A letter for each operation; the second micro-batch has small ones. */
const letters: Readonly<Record<string, string>> = {
  attention: "A",
  "attention-0": "A",
  "attention-1": "B",
  shared: "S",
  mlp: "M",
  dispatch: "D",
  combine: "C",
};

/** Both lanes of a layer in letters; what runs over its end comes in again at its start. */
function lanes(layer: LayerTimeline): string[] {
  const width = 88;
  const used = new Map<string, string>();
  const rows = (["compute", "communication"] as const).map((lane) => {
    const cells = new Array<string>(width).fill("·");
    for (const op of layer.operations) {
      if (op.lane !== lane) continue;
      const letter = letters[op.name];
      used.set(letter, op.name);
      const from = Math.round((op.startUs / layer.periodUs) * width);
      const to = Math.round((op.endUs / layer.periodUs) * width);
      for (let i = from; i < to; i++) {
        cells[i % width] = op.microBatch === 0 ? letter : letter.toLowerCase();
      }
    }
    return `    ${lane.padEnd(13)} ${cells.join("")}`;
  });
  const key = [...used].map(([letter, name]) => `${letter} ${name}`).join(", ");
  return [...rows, `    ${key}`];
}

/** The best plan, why, and the front. */
export function renderSearch(result: SearchResult, options: SearchOptions, tookMs: number): string {
  const { best, front, why } = result;
  const shown = front.slice(0, 12);
  return [
    `${count(result.unitsEstimated)} units estimated, ${count(result.plansCompared)} plans compared in ` +
      `${(tookMs / 1e3).toFixed(2)} s; ${options.nodes} nodes of ${options.hw.title}`,
    "",
    "Best throughput within the limits:",
    `  prefill: ${units(best.prefillUnits)} of ${nodes(best.prefill.unitNodes)}, ` +
      `${best.prefill.slotsPerGpu} experts and ${count(best.prefill.tokensPerGpu)} tokens a GPU`,
    `  decode:  ${units(best.decodeUnits)} of ${nodes(best.decode.unitNodes)}, ` +
      `${best.decode.slotsPerGpu} experts and ${best.decode.sequences} sequences a GPU` +
      `${best.decode.drafts > 0 ? ", MTP" : ""}${best.decode.overlap ? "" : ", without overlap"}`,
    `  ${count(best.requestsPerS)} requests/s: ${count(best.inputPerS)} tokens/s in, ${count(best.outputPerS)} out`,
    `  TTFT ${ms(best.ttftMs)}, TPOT ${ms(best.tpotMs)}; $${best.dollarsPerMillion.toFixed(3)} by million tokens out`,
    "",
    "Why:",
    ...why.map((line) => `  ${line}`),
    "",
    `Pareto front (throughput, TPOT, TTFT)${front.length > shown.length ? `, ${shown.length} of ${front.length}` : ""}:`,
    ...table(
      ["tokens/s out", "TPOT ms", "TTFT ms", "$/M out", "prefill", "decode", "a GPU", "nodes"],
      shown.map(frontRow),
    ),
    "",
    "Capacities at full load, on average: bursts need nodes beyond them (baleen plan day).",
  ].join("\n");
}

function frontRow(plan: Plan): string[] {
  const { prefill, decode } = plan;
  return [
    count(plan.outputPerS),
    plan.tpotMs.toFixed(1),
    plan.ttftMs.toFixed(0),
    plan.dollarsPerMillion.toFixed(3),
    `${plan.prefillUnits} x ${prefill.unitNodes}`,
    `${plan.decodeUnits} x ${decode.unitNodes}`,
    `${decode.sequences} seq${decode.drafts > 0 ? " MTP" : ""}`,
    String(plan.nodesUsed),
  ];
}

function units(number: number): string {
  return `${number} ${number === 1 ? "unit" : "units"}`;
}

function nodes(number: number): string {
  return `${number} ${number === 1 ? "node" : "nodes"}`;
}

function ms(value: number): string {
  return value < 1000
    ? `${value.toFixed(value < 100 ? 1 : 0)} ms`
    : `${(value / 1e3).toFixed(2)} s`;
}

/** Rows under a heading; the first column to the left, the others to the right. */
function table(heading: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const widths = heading.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column].length)),
  );
  return [heading, ...rows].map((row) =>
    row
      .map((cell, column) =>
        column === 0 ? cell.padEnd(widths[column]) : cell.padStart(widths[column]),
      )
      .join("  ")
      .trimEnd(),
  );
}
