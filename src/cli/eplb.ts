/** @file `baleen eplb`: which experts go to which GPUs, from a file of loads. */
import { writeFileSync } from "node:fs";
import { BaleenError } from "../base/index.ts";
import {
  balanceExperts,
  gpuLoads,
  type LayerReport,
  maxOverMean,
  type Placement,
  picturePlacement,
  rebalanceExperts,
} from "../eplb/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { UsageError } from "./flags.ts";
import { readJsonFile } from "./input.ts";

/** Prints a placement's balance, layer by layer, or the placement as JSON. */
export const eplb: Command = defineCommand({
  name: "eplb",
  summary: "Place experts and their replicas on GPUs so that all carry the same load.",
  flags: {
    policy: {
      type: "choice",
      choices: ["balanced", "exact"],
      default: "balanced",
      help: "exact: the original EPLB's plan; balanced: ours, never worse.",
    },
    affinity: {
      type: "text",
      value: "strict|global|N",
      help: "Where groups may lie: at home, anywhere, or N replicas a layer away from home.",
      defaultHelp: "strict where groups divide by nodes",
    },
    effort: { type: "number", value: "X", min: 0, default: 1, help: "Search steps, relative." },
    json: { type: "switch", help: "Print phy2log, log2phy, logcnt (balanced: and maxOverMean)." },
    svg: { type: "text", value: "FILE", help: "Write a picture of the loads." },
  },
  operands: "FILE.json",
  examples: [
    "baleen eplb loads.json --svg loads.svg",
    "baleen eplb loads.json --policy exact --json",
  ],
  async run({ flags, operands }) {
    const [path, ...more] = operands;
    if (path === undefined || more.length > 0) {
      throw new UsageError(
        "eplb takes one file: weight, numReplicas, numGroups, numNodes, numGpus.",
      );
    }
    const problem = problemOf(readJsonFile(path), path);
    const { weight, numReplicas, numGroups, numNodes, numGpus } = problem;
    const shape = [weight, numReplicas, numGroups, numNodes, numGpus] as const;
    const affinity = affinityOf(flags.affinity);
    const options = { effort: flags.effort, ...(affinity !== undefined && { affinity }) };
    const balanced = flags.policy === "balanced" ? balanceExperts(...shape, options) : undefined;
    const plan: Placement = balanced ?? rebalanceExperts(...shape);
    if (flags.svg !== undefined) {
      writeFileSync(flags.svg, picturePlacement(weight, plan.phy2log, numGpus));
    }
    if (flags.json) {
      const { phy2log, log2phy, logcnt } = plan;
      const ratios = balanced && { maxOverMean: balanced.maxOverMean };
      console.log(JSON.stringify({ phy2log, log2phy, logcnt, ...ratios }));
    } else {
      const ratios = gpuLoads(weight, plan.phy2log, numGpus).map(maxOverMean);
      console.log(render(problem, plan, ratios, balanced?.layers));
      if (flags.svg !== undefined) console.log(`\nwrote ${flags.svg}`);
    }
  },
});

interface Problem {
  readonly weight: number[][];
  readonly numReplicas: number;
  readonly numGroups: number;
  readonly numNodes: number;
  readonly numGpus: number;
}

/** The keys are checked for presence only; the room checks their values. */
function problemOf(json: unknown, path: string): Problem {
  const keys = ["weight", "numReplicas", "numGroups", "numNodes", "numGpus"];
  const missing = keys.find((key) => !Object.hasOwn(Object(json), key));
  if (missing === undefined) return json as Problem;
  throw new BaleenError("input-invalid", `${path} has no ${missing}: it takes ${keys.join(", ")}.`);
}

function affinityOf(text: string | undefined): "strict" | "global" | { spill: number } | undefined {
  if (text === undefined || text === "strict" || text === "global") return text;
  if (/^\d+$/.test(text)) return { spill: Number(text) };
  throw new UsageError(`--affinity: got "${text}", wanted strict, global or a number of replicas.`);
}

const average = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

function render(
  problem: Problem,
  plan: Placement,
  ratios: readonly number[],
  layers: readonly LayerReport[] | undefined,
): string {
  const { weight, numReplicas, numNodes, numGpus } = problem;
  const lines = [
    `${weight.length} layers, ${weight[0].length} experts in ${numReplicas} slots on ${numGpus} GPUs, ` +
      `${numNodes} ${numNodes === 1 ? "node" : "nodes"}`,
    "",
    `layer  busiest GPU / mean${layers ? "   exact   bound  limit" : ""}`,
  ];
  const top = Math.max(...ratios, 1 + 1e-9);
  ratios.forEach((ratio, layer) => {
    const bar = "█".repeat(Math.round(((ratio - 1) / (top - 1)) * 12)).padEnd(12, "·");
    const report = layers?.[layer];
    const more = report
      ? `  ${report.exactMaxOverMean.toFixed(4)}  ${report.lowerBound.toFixed(4)}  ${report.limit}`
      : "";
    lines.push(`${String(layer).padStart(5)}  ${ratio.toFixed(4)}  ${bar}${more}`.trimEnd());
  });
  lines.push("", `average ${average(ratios).toFixed(4)}, worst ${Math.max(...ratios).toFixed(4)}`);
  const most = Math.max(...plan.logcnt.flat());
  lines.push(`most replicas of one expert: ${most}`);
  if (layers) {
    const worst = layers.reduce((a, b) => (b.maxOverMean > a.maxOverMean ? b : a));
    const exact = average(layers.map((layer) => layer.exactMaxOverMean));
    const bound = average(layers.map((layer) => layer.lowerBound));
    lines.push(
      `exact mode ${exact.toFixed(4)}, lower bound ${bound.toFixed(4)} on average`,
      `worst layer: ${worst.reason}`,
    );
  }
  return lines.join("\n");
}
