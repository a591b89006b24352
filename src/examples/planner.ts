/**
 * @file What a deployment yields: the cost model against published figures, the best use of 32 nodes, and a
 * simulated day. Run: node dist/examples/planner.js
 */
import {
  architectureOf,
  articleReport,
  calibration,
  deepSeekV3,
  hardware,
  searchPlans,
  simulateDay,
} from "baleen/planner";

const fitted = calibration();
const heldOut = fitted.points.filter(({ role }) => role === "held out");
console.log(
  `${heldOut.length} published throughputs that took no part in the fit: ` +
    `off by at most ${(fitted.worstHeldOut * 100).toFixed(1)} %`,
);
const { nodeHours, costDollars } = articleReport();
console.log(`the article's day: ${nodeHours} node-hours, $${costDollars}`);

// Any `ModelConfig` and any profile will do; `parseHardware` checks one of your own.
const arch = architectureOf(deepSeekV3);
const hw = hardware.h800;
const { best, why } = searchPlans({
  ...fitted,
  arch,
  hw,
  nodes: 32,
  workload: { promptTokens: 2048, outputTokens: 512, hitRate: 0.3 },
  tpotMs: 50,
  ttftMs: 3000,
  placement: "exact",
});
console.log(
  `32 nodes: ${best.prefillUnits} prefill units of ${best.prefill.unitNodes} and ` +
    `${best.decodeUnits} decode units of ${best.decode.unitNodes} nodes, ` +
    `${Math.round(best.outputPerS / 1e3)}k tokens/s at ${best.tpotMs.toFixed(0)} ms`,
);
console.log(why[0]);

const { totals } = simulateDay({ arch, hw, fitted, windows: 12, sampleS: 6, decodeRanks: 4 });
console.log(
  `a simulated day: ${Math.round(totals.nodesMean)} nodes on average, ` +
    `${(1e3 / totals.tpotMs).toFixed(0)} tokens/s a user`,
);
