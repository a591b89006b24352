/**
 * @file The arithmetic of DeepSeek's Day 6 article, from what it published: the figure of occupied
 * nodes over 24 hours, token counts, prices. Source: "DeepSeek-V3/R1 Inference System Overview",
 * deepseek-ai/open-infra-index, 2025-03-01; noon of 27 to noon of 28 February, Beijing time.
 *
 * Token counts are published in whole billions, so revenue is known to an interval only.
 */

/** Nodes in use for some hours. */
export interface NodeSpan {
  readonly hours: number;
  readonly nodes: number;
}

/** The figure, read off its levels; from noon on. */
export const nodeSpans: readonly NodeSpan[] = [
  { hours: 12, nodes: 278 },
  { hours: 1.25, nodes: 218 },
  { hours: 0.75, nodes: 188 },
  { hours: 0.75, nodes: 158 },
  { hours: 0.25, nodes: 128 },
  { hours: 0.5, nodes: 98 },
  { hours: 3, nodes: 68 },
  { hours: 0.5, nodes: 98 },
  { hours: 0.5, nodes: 128 },
  { hours: 0.5, nodes: 188 },
  { hours: 0.5, nodes: 218 },
  { hours: 3.5, nodes: 278 },
];

/** What the article states. */
export const articleFigures = {
  /** Tokens of the day. */
  inputTokens: 608e9,
  hitTokens: 342e9,
  outputTokens: 168e9,
  /** Of each count: published in whole billions. */
  roundingTokens: 0.5e9,
  nodesMean: 226.75,
  nodesPeak: 278,
  dollarsPerGpuHour: 2,
  gpusPerNode: 8,
  /** R1's prices by million tokens. */
  dollarsHit: 0.14,
  dollarsMiss: 0.55,
  dollarsOutput: 2.19,
  costDollars: 87072,
  revenueDollars: 562027,
  marginPercent: 545,
  prefillPerNode: 73700,
  decodePerNode: 14800,
  /** Mean tokens in the cache of a sequence that gets an output token. */
  kvTokensMean: 4989,
} as const;

/**
 * Scale of the two pools, our inference: all levels of the figure differ by multiples of 30 nodes, which
 * is 3 prefill units of 4 nodes and 1 decode unit of 18; the lowest level is 8 and 2 of them.
 */
export const poolScale = {
  prefillNodes: 4,
  decodeNodes: 18,
  prefillUnitsLeast: 8,
  decodeUnitsLeast: 2,
  prefillUnitsPerStep: 3,
  decodeUnitsPerStep: 1,
  stepsMost: 7,
} as const;

/** What follows from the article's numbers. */
export interface ArticleReport {
  readonly nodeHours: number;
  readonly nodesMean: number;
  readonly nodesPeak: number;
  readonly costDollars: number;
  /** From the rounded counts, and the least and most that those allow. */
  readonly revenue: { readonly dollars: number; readonly low: number; readonly high: number };
  readonly published: { readonly dollars: number; readonly isInside: boolean };
  /** Of the published revenue, and of that from rounded counts; percent of cost. */
  readonly marginPercent: number;
  readonly marginPercentRounded: number;
  /** Mean nodes of the two pools, under `poolScale`. */
  readonly prefillNodesMean: number;
  readonly decodeNodesMean: number;
  /** Tokens a second and node that those imply: input with hits, output. */
  readonly prefillPerNode: number;
  readonly decodePerNode: number;
}

/** Recomputes the article. */
export function articleReport(): ArticleReport {
  const figures = articleFigures;
  let [nodeHours, prefillHours, decodeHours] = [0, 0, 0];
  for (const { hours, nodes } of nodeSpans) {
    const { prefillNodes, decodeNodes } = poolsOf(nodes);
    nodeHours += hours * nodes;
    prefillHours += hours * prefillNodes;
    decodeHours += hours * decodeNodes;
  }
  const costDollars = nodeHours * figures.gpusPerNode * figures.dollarsPerGpuHour;
  const dollars = revenueOf(0);
  const low = revenueOf(-1);
  const high = revenueOf(1);
  const published = figures.revenueDollars;
  return {
    nodeHours,
    nodesMean: nodeHours / 24,
    nodesPeak: Math.max(...nodeSpans.map(({ nodes }) => nodes)),
    costDollars,
    revenue: { dollars, low, high },
    published: { dollars: published, isInside: low <= published && published <= high },
    marginPercent: ((published - costDollars) / costDollars) * 100,
    marginPercentRounded: ((dollars - costDollars) / costDollars) * 100,
    prefillNodesMean: prefillHours / 24,
    decodeNodesMean: decodeHours / 24,
    prefillPerNode: figures.inputTokens / (prefillHours * 3600),
    decodePerNode: figures.outputTokens / (decodeHours * 3600),
  };
}

/** The figure's nodes at `hour` of the day; it begins at noon. */
export function articleNodesAt(hour: number): number {
  let since = (hour + 12) % 24;
  for (const { hours, nodes } of nodeSpans) {
    if (since < hours) return nodes;
    since -= hours;
  }
  return nodeSpans[nodeSpans.length - 1].nodes;
}

/** How a level of the figure divides into the two pools. */
function poolsOf(nodes: number): { prefillNodes: number; decodeNodes: number } {
  const scale = poolScale;
  const least =
    scale.prefillUnitsLeast * scale.prefillNodes + scale.decodeUnitsLeast * scale.decodeNodes;
  const perStep =
    scale.prefillUnitsPerStep * scale.prefillNodes + scale.decodeUnitsPerStep * scale.decodeNodes;
  const steps = (nodes - least) / perStep;
  return {
    prefillNodes:
      (scale.prefillUnitsLeast + steps * scale.prefillUnitsPerStep) * scale.prefillNodes,
    decodeNodes: (scale.decodeUnitsLeast + steps * scale.decodeUnitsPerStep) * scale.decodeNodes,
  };
}

/**
 * Revenue in dollars with every count rounded the way that lowers it most (-1), not at all (0), or the
 * way that raises it most (1). Misses are input less hits, so that more hits earn less.
 */
function revenueOf(direction: -1 | 0 | 1): number {
  const { inputTokens, hitTokens, outputTokens, roundingTokens } = articleFigures;
  const off = direction * roundingTokens;
  const hits = hitTokens - off;
  return dollarsOf(hits, inputTokens + off - hits, outputTokens + off);
}

/** What token counts earn at R1's prices. */
export function dollarsOf(hits: number, misses: number, output: number): number {
  const { dollarsHit, dollarsMiss, dollarsOutput } = articleFigures;
  return (hits * dollarsHit + misses * dollarsMiss + output * dollarsOutput) / 1e6;
}
