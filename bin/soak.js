/**
 * @file Runs the simulator of `3fs` over many seeds: `npm run soak -- [seeds] [first seed]`, 10,000 from 1
 * on by default. Stops at the first seed whose history is wrong, and prints it.
 */
import { Simulation } from "../dist/3fs/storage/testing/simulator.js";

const [seeds = 10_000, first = 1] = process.argv.slice(2).map(Number);
const totals = { seeds: 0, operations: 0, unknown: 0, crashes: 0, lostFrames: 0 };
const startMs = performance.now();
for (let seed = first; seed < first + seeds; seed++) {
  const result = await new Simulation({ seed, nodes: 2 + (seed % 2) }).run();
  totals.seeds++;
  for (const name of ["operations", "unknown", "crashes", "lostFrames"])
    totals[name] += result[name];
  if (totals.seeds % 500 === 0) {
    console.log(`${totals.seeds} seeds, ${((performance.now() - startMs) / 1e3).toFixed(0)} s`);
  }
}
console.log(
  `${totals.seeds} seeds: ${totals.operations} reads and writes, ${totals.crashes} kills, ` +
    `${totals.lostFrames} frames lost, ${totals.unknown} writes whose clients gave up: ` +
    "every history linearisable, every replica equal, every target serving again.",
);
