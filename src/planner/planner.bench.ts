/**
 * @file Processor time of the planner's three long calls: the fit, a search, a day. The second run of two,
 * without what the first one remembers of expert placements.
 */
import {
  architectureOf,
  articleDemand,
  calibrate,
  calibration,
  deepSeekV3,
  hardware,
  publishedPoints,
  searchPlans,
  simulateDay,
} from "./index.ts";

const isLarge = process.argv.includes("--large");
const fitted = calibration();
const arch = architectureOf(deepSeekV3);
const hw = hardware.h800;

/** Runs twice, the second time with a slightly other skew, so that nothing is remembered. */
function cpuMs(work: (skew: number) => void): number {
  work(0.001);
  const before = process.cpuUsage();
  work(0.002);
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e3;
}

let [units, plans] = [0, 0];
const search = (placement: "exact" | "balanced") =>
  cpuMs((skew) => {
    const result = searchPlans({
      ...fitted,
      prefillSkew: fitted.prefillSkew + skew,
      decodeSkew: fitted.decodeSkew + skew,
      arch,
      hw,
      nodes: isLarge ? 100 : 8,
      workload: { promptTokens: 4096, outputTokens: 1024, hitRate: 0.5 },
      tpotMs: 50,
      placement,
    });
    [units, plans] = [result.unitsEstimated, result.plansCompared];
  });
const rows: [string, number][] = [
  ["fit to the published points", cpuMs(() => calibrate(publishedPoints))],
  ["search, experts placed exactly", search("exact")],
  ["search, experts placed by ours", search("balanced")],
  [
    `a day of ${(articleDemand.requestsPerDay / 1e6).toFixed(0)} million requests`,
    cpuMs((skew) => {
      const more = { prefillSkew: fitted.prefillSkew + skew };
      simulateDay({ arch, hw, fitted: { ...fitted, ...more }, windows: isLarge ? 48 : 2 });
    }),
  ],
];
for (const [name, ms] of rows) console.log(`${name.padEnd(36)}${ms.toFixed(0).padStart(6)} ms`);
console.log(`search: ${units} units estimated, ${plans} plans compared`);
