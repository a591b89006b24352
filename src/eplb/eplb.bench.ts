/**
 * @file Balance and time of `balanceExperts` beside the exact mode and the lower bound, on synthetic
 * loads: the r-th busiest expert has a load in proportion to r^-exponent, dealt to experts at random,
 * with the noise of a sample of 2^21 routed tokens. Ratios are max GPU load over mean, averaged over
 * the layers. Times are the processor's, of the whole model, the second run of two.
 */
import { balanceExperts, rebalanceExperts, zipfLoads } from "./index.ts";

interface Case {
  readonly name: string;
  readonly exponent: number;
  /** numReplicas, numGroups, numNodes, numGpus. */
  readonly shape: readonly [number, number, number, number];
}

const cases: readonly Case[] = [
  { name: "EP72, 288 slots, zipf 0.8", exponent: 0.8, shape: [288, 1, 1, 72] },
  { name: "prefill EP32, 288, zipf 1.0", exponent: 1, shape: [288, 8, 4, 32] },
  { name: "EP64 on 8 nodes, 320, zipf 0.8", exponent: 0.8, shape: [320, 8, 8, 64] },
  { name: "prefill EP32, 288, zipf 0.5", exponent: 0.5, shape: [288, 8, 4, 32] },
  { name: "prefill EP32, 320, zipf 0.8", exponent: 0.8, shape: [320, 8, 4, 32] },
  { name: "decode EP144, 288, zipf 0.5", exponent: 0.5, shape: [288, 1, 1, 144] },
  { name: "decode EP144, 432, zipf 0.5", exponent: 0.5, shape: [432, 1, 1, 144] },
  { name: "EP72, 288, zipf 1.2", exponent: 1.2, shape: [288, 1, 1, 72] },
];

const average = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** The result of the second run, and its processor time. */
function timed<T>(work: () => T): { result: T; cpuMs: number } {
  work();
  const before = process.cpuUsage();
  const result = work();
  return { result, cpuMs: process.cpuUsage(before).user / 1e3 };
}

const layers = process.argv.includes("--large") ? 58 : 4;
const efforts = process.argv.includes("--large") ? [1, 5] : [1];
console.log(`${layers} layers of 256 experts; ratios: busiest GPU over mean`);
console.log(
  "case                              effort  exact    ours     bound    exact ms  ours ms",
);
cases.forEach(({ name, exponent, shape }, seed) => {
  const weight = zipfLoads({ seed: seed + 1, layers, exponent });
  const exact = timed(() => rebalanceExperts(weight, ...shape));
  for (const effort of efforts) {
    const { result, cpuMs } = timed(() => balanceExperts(weight, ...shape, { effort }));
    const ratios = [
      average(result.layers.map((layer) => layer.exactMaxOverMean)),
      average(result.maxOverMean),
      average(result.layers.map((layer) => layer.lowerBound)),
    ].map((ratio) => ratio.toFixed(4));
    const times = [exact.cpuMs, cpuMs].map((ms) => ms.toFixed(1).padStart(8));
    console.log(
      `${name.padEnd(34)}${String(effort).padEnd(8)}${ratios.join("   ")}  ${times.join("  ")}`,
    );
  }
});
