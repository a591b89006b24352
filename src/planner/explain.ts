/** @file Why a plan won: what limits it, and what its nearest alternatives would have cost. */
import type { DecodeChoice, Plan, SearchOptions } from "./search.ts";

/** Sentences on `best`, beside all decode units estimated and all plans compared. */
export function explain(
  options: SearchOptions,
  best: Plan,
  decodes: readonly DecodeChoice[],
  plans: readonly Plan[],
): string[] {
  return [
    balanceOf(best, options.nodes),
    batchOf(options, best, decodes),
    `Decode: ${best.decode.estimate.bottleneck.sentence}. ` +
      `Prefill: ${best.prefill.estimate.bottleneck.sentence}.`,
    ...alternatives(best, plans),
  ];
}

function balanceOf(best: Plan, nodes: number): string {
  const limit = best.prefillBusy >= best.decodeBusy ? "prefill" : "decode";
  const other = limit === "prefill" ? best.decodeBusy : best.prefillBusy;
  return (
    `${best.nodesUsed} of ${nodes} nodes in use; the ${limit} pool is full, ` +
    `the other ${percent(other)} busy.`
  );
}

/** Why not more sequences. */
function batchOf(options: SearchOptions, best: Plan, decodes: readonly DecodeChoice[]): string {
  const { decode } = best;
  const like = (choice: DecodeChoice) =>
    choice.unitNodes === decode.unitNodes &&
    choice.slotsPerGpu === decode.slotsPerGpu &&
    choice.drafts === decode.drafts &&
    choice.overlap === decode.overlap;
  const next = decodes.find((choice) => like(choice) && choice.sequences > decode.sequences);
  const now = `${decode.sequences} sequences a GPU take ${best.tpotMs.toFixed(1)} ms a token`;
  const limit = options.tpotMs;
  if (!next) {
    return `${now}; memory holds ${decode.estimate.sequencesMost}, which is less than the next batch size.`;
  }
  const then = `${next.sequences} would take ${next.estimate.tpotMs.toFixed(1)}`;
  return limit !== undefined && next.estimate.tpotMs > limit
    ? `${now}; ${then}, above the ${limit} allowed.`
    : `${now}; ${then}, which this number of nodes has no use for.`;
}

/** What the best plan with another unit, or with the other choice on drafts, yields. */
function alternatives(best: Plan, plans: readonly Plan[]): string[] {
  const lost = (other: Plan) => {
    const share = 1 - other.outputPerS / best.outputPerS;
    return share < 0.0005 ? "as much" : `${percent(share)} less`;
  };
  const top = (keep: (plan: Plan) => boolean) =>
    plans.reduce<Plan | undefined>(
      (most, plan) => (keep(plan) && plan.outputPerS > (most?.outputPerS ?? 0) ? plan : most),
      undefined,
    );
  const lines: string[] = [];
  const { unitNodes, drafts } = best.decode;
  const smaller = top((plan) => plan.decode.unitNodes < unitNodes);
  if (smaller) {
    lines.push(
      `Decode units of ${smaller.decode.unitNodes} nodes would yield ${lost(smaller)}` +
        ` (${smaller.decode.sequences} sequences a GPU).`,
    );
  }
  const larger = top((plan) => plan.decode.unitNodes > unitNodes);
  if (larger) {
    lines.push(`Units of ${larger.decode.unitNodes} nodes would yield ${lost(larger)}.`);
  }
  const other = top((plan) => plan.decode.drafts !== drafts);
  if (other) {
    lines.push(`${drafts > 0 ? "Without" : "With"} MTP drafts it would yield ${lost(other)}.`);
  }
  return lines;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}
