/**
 * @file Pipeline schedules beside each other: time, bubble and memory; then a better order for measured
 * durations. Run: node dist/examples/dualpipe.js
 */
import { dualPipe, makeSchedule, scheduleKinds, searchSchedule, simulate } from "baleen/dualpipe";

// A model of 8 stages, 16 micro-batches; the folded schedules put two stages on each of 4 ranks.
const times = { forward: 1, backward: 2, weight: 1, overlapped: 2.6 };
for (const kind of scheduleKinds) {
  const folded = kind === "dualpipev" || kind === "zb-v" || kind === "interleaved";
  const schedule = makeSchedule(kind, folded ? 4 : 8, 16);
  const { total, ranks } = simulate(schedule, times);
  const bubble = Math.max(...ranks.map((rank) => rank.bubble));
  const held = Math.max(...ranks.map((rank) => rank.peakActivations));
  console.log(
    `${kind.padEnd(12)} ${schedule.numRanks} ranks: time ${total.toFixed(1)}, ` +
      `bubble ${((100 * bubble) / total).toFixed(1)} %, ${held} chunks held`,
  );
}

const measured = { forward: 10, backward: 20, weight: 8, overlapped: 26 };
const { before, after, improved } = searchSchedule(dualPipe(4, 8), measured, { memoryLimit: 6 });
console.log(`search: ${before} before, ${after} after, ${improved ? "shorter" : "no gain"}`);
