import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { BaleenError, Random } from "../base/index.ts";
import {
  bubbleFormula,
  dualPipe,
  dualPipeV,
  interleaved,
  makeSchedule,
  oneForwardOneBackward,
  pictureSchedule,
  type Schedule,
  scheduleKinds,
  searchSchedule,
  simulate,
  toTuples,
} from "./index.ts";

const golden = fileURLToPath(new URL("../../../shared/golden/dualpipe", import.meta.url));
const unit = { forward: 1, backward: 2, weight: 1, overlapped: 3 };

test("the recorded schedules of the original are met exactly", {
  skip: !existsSync(golden),
}, () => {
  const recorded = JSON.parse(readFileSync(`${golden}/schedules.json`, "utf8"));
  for (const [name, wanted] of Object.entries(recorded)) {
    const [, kind, ranks, chunks] = /^(dualpipev?)_p+(\d+)_m(\d+)$/.exec(name) ?? [];
    const make = kind === "dualpipe" ? dualPipe : dualPipeV;
    assert.deepEqual(toTuples(make(Number(ranks), Number(chunks))), wanted, name);
  }
});

test("DualPipe's first rank of 4 with 8 micro-batches does what the original does", () => {
  assert.deepEqual(toTuples(dualPipe(4, 8))[0].slice(0, 13), [
    ["F", 0, 0],
    ["comm", ["sf0"]],
    ["F", 0, 1],
    ["comm", ["sf0"]],
    ["F", 0, 2],
    ["comm", ["rf1"]],
    ["F", 1, 0],
    ["comm", ["sf0"]],
    ["Bi", 1, 0],
    ["comm", ["sb1", "rf1"]],
    ["W"],
    ["F", 1, 1],
    ["FB", 0, 3, 1, 1],
  ]);
});

test("8 ranks with 20 micro-batches take 66, as in the paper's figure, and hold 9 chunks each", () => {
  const { total, ranks } = simulate(dualPipe(8, 20), unit);
  assert.equal(total, 66);
  for (const rank of ranks) assert.deepEqual([rank.bubble, rank.peakActivations], [6, 9]);
  assert.deepEqual(
    ranks.map((rank) => rank.peakWeightStash),
    [1, 2, 3, 4, 4, 3, 2, 1],
  );
  const at12 = ranks[3].events.find(({ start }) => start === 12);
  assert.deepEqual(at12?.op, { op: "B", phase: 1, chunk: 0 });
  assert.equal(simulate(dualPipeV(4, 10), unit).total, 66);
});

test("times of other sizes and durations are those recorded from the original's order", () => {
  const total = (ranks: number, chunks: number, f = 1, b = 2, w = 1, fb = 3): number =>
    simulate(dualPipe(ranks, chunks), {
      forward: f,
      backward: b,
      weight: w,
      overlapped: fb,
    }).total;
  assert.deepEqual(
    [total(16, 40), total(8, 16), total(8, 32), total(10, 24), total(12, 24), total(16, 32)],
    [134, 54, 102, 80, 82, 110],
  );
  assert.deepEqual([total(8, 20, 10, 20, 8, 26), total(8, 20, 1, 3, 1, 3.5)], [616, 84]);
  assert.ok(Math.abs(total(8, 20, 1, 2, 1, 2.4) - 57.6) < 1e-9);
});

test("bubbles are those of the closed formulas", () => {
  const bubbles = (schedule: Schedule) => simulate(schedule, unit).ranks.map((rank) => rank.bubble);
  for (const schedule of [
    dualPipe(8, 20),
    dualPipe(4, 12),
    dualPipeV(4, 10),
    oneForwardOneBackward(8, 20),
    interleaved(4, 8, 2),
    makeSchedule("zb-h1", 8, 20),
    makeSchedule("zb-h1", 4, 9),
  ]) {
    const wanted = bubbleFormula(schedule, unit);
    for (const bubble of bubbles(schedule)) assert.equal(bubble, wanted, schedule.kind);
  }
  const h2 = makeSchedule("zb-h2", 8, 20);
  assert.equal(bubbleFormula(h2, unit), 0);
  for (const rank of simulate(h2, unit).ranks) assert.equal(rank.idle, 0);
  // The last rank can't start before P - 1, so no schedule of one direction ends sooner than these.
  assert.equal(simulate(makeSchedule("zb-v", 8, 20), unit).total, 6 * 20 + 7);
  const held = (kind: "zb-h1" | "zb-h2" | "zb-v"): number =>
    Math.max(
      ...simulate(makeSchedule(kind, 8, 20), unit).ranks.map((rank) => rank.peakActivations),
    );
  assert.deepEqual([held("zb-h1"), held("zb-h2"), held("zb-v")], [8, 15, 16]);
});

/** A schedule of any kind, of a size that it allows. */
const anySchedule = fc
  .tuple(fc.constantFrom(...scheduleKinds), fc.integer({ min: 1, max: 4 }), fc.nat(6))
  .map(([kind, half, more]) => {
    if (kind === "dualpipe") return makeSchedule(kind, 2 * half, 4 * half + 2 * more);
    if (kind === "dualpipev") return makeSchedule(kind, half, 2 * half + more);
    if (kind === "interleaved") return makeSchedule(kind, half, half * (1 + more));
    return makeSchedule(kind, half, 1 + more);
  });

/** Checks that every chunk goes forward and back once at every place, weights after inputs. */
function checkWhole(schedule: Schedule): void {
  const seen = new Map<string, string>();
  schedule.ranks.forEach((steps, rank) => {
    for (const step of steps) {
      if (step.op === "comm") continue;
      const parts =
        step.op === "FB"
          ? [
              { op: "F", ...step.forward },
              { op: "B", ...step.backward },
            ]
          : [step];
      for (const { op, phase, chunk } of parts) {
        const key = `${rank} ${phase} ${chunk}`;
        seen.set(key, (seen.get(key) ?? "") + op);
      }
    }
  });
  const places = schedule.routes.flat().length;
  assert.equal(seen.size, places * schedule.chunksPerRoute);
  for (const [key, ops] of seen) assert.match(ops, /^F(B|BiW)$/, key);
}

test("every micro-batch goes forward and back once at every place, weights after inputs", () => {
  fc.assert(fc.property(anySchedule, checkWhole), { seed: 4, numRuns: 60 });
});

test("a search finds a shorter order within the memory, one that can't deadlock", () => {
  const times = { forward: 10, backward: 20, weight: 8, overlapped: 26 };
  const start = dualPipe(4, 8);
  const options = { steps: 5000, weightStash: 0.25, memoryLimit: 6 };
  const { schedule, improved, before, after } = searchSchedule(start, times, options);
  assert.equal(before, simulate(start, times).total);
  assert.ok(improved && after < before, `${before} to ${after}`);
  const { total, ranks } = simulate(schedule, times, options);
  assert.equal(total, after);
  for (const rank of ranks) assert.ok(rank.peakMemory <= 6);
  checkWhole(schedule);
  const random = new Random(3);
  const stalls = schedule.ranks.map((steps) => steps.map(() => 30 * random.uniform()));
  simulate(schedule, times, { messages: "rendezvous", stalls });
  assert.deepEqual(searchSchedule(start, times, options).schedule, schedule);
});

test("a search that finds nothing shorter gives back what it got", () => {
  const start = oneForwardOneBackward(1, 3);
  const result = searchSchedule(start, unit, { steps: 500 });
  assert.deepEqual([result.improved, result.before, result.after], [false, 9, 9]);
  assert.equal(result.schedule, start);
});

test("random stalls never end in a deadlock, though every batch waits for its peers", () => {
  fc.assert(
    fc.property(anySchedule, fc.integer(), (schedule, seed) => {
      const random = new Random(seed);
      const stalls = schedule.ranks.map((steps) =>
        steps.map(() => (random.below(4) === 0 ? 20 * random.uniform() : 0)),
      );
      const { total } = simulate(schedule, unit, { messages: "rendezvous", stalls });
      const free = simulate(schedule, unit, { stalls }).total;
      assert.ok(total >= free - 1e-9, `${total} with messages, ${free} without`);
    }),
    { seed: 5, numRuns: 150 },
  );
});

test("blocking messages cost the two DualPipes nothing", () => {
  for (const schedule of [dualPipe(8, 20), dualPipe(2, 8), dualPipeV(4, 10), dualPipeV(1, 3)]) {
    const blocking = simulate(schedule, unit, { messages: "rendezvous" }).total;
    assert.equal(blocking, simulate(schedule, unit).total);
  }
});

test("a schedule whose ranks wait for each other is refused, not hung", () => {
  const { ranks, ...rest } = dualPipe(2, 4);
  const swapped = { ...rest, ranks: [ranks[0].toReversed(), ranks[1]] };
  assert.throws(
    () => simulate(swapped, unit, { messages: "rendezvous" }),
    (error) => error instanceof BaleenError && error.code === "schedule-deadlock",
  );
});

test("wrong input gets one sentence that names the field", () => {
  const wrong: [() => unknown, RegExp][] = [
    [() => dualPipe(3, 8), /^numRanks is 3: give an even/],
    [() => dualPipe(4, 6), /^numMicroBatches is 6: give an even number of at least 8/],
    [() => dualPipeV(4, 7), /^numMicroBatches is 7: give a whole number of at least 8/],
    [() => interleaved(4, 6), /^numMicroBatches is 6: give a multiple of numRanks/],
    [() => oneForwardOneBackward(0, 6), /^numRanks is 0/],
    [
      () => simulate(dualPipe(2, 4), { ...unit, forward: Number.NaN }),
      /^durations.forward is NaN: give/,
    ],
    [
      () => searchSchedule(dualPipe(2, 4), unit, { memoryLimit: 1 }),
      /^memoryLimit is 1, the start/,
    ],
    [() => simulate(dualPipe(2, 4), { ...unit, weight: 5 }), /^durations.weight is 5, more than/],
  ];
  for (const [call, message] of wrong) {
    assert.throws(call, (error) => error instanceof BaleenError && message.test(error.message));
  }
});

test("the picture has a block for every computation, numbers that fit, and frames for pairs", () => {
  const schedule = dualPipe(4, 8);
  const svg = pictureSchedule(schedule, simulate(schedule, unit), unit);
  const count = (pattern: RegExp): number => [...svg.matchAll(pattern)].length;
  const ops = schedule.ranks.flat().filter((step) => step.op !== "comm");
  assert.equal(count(/<g class="(F|B|Bi|W|FB)">/g), ops.length);
  assert.equal(count(/<g class="FB">/g), ops.filter((step) => step.op === "FB").length);
  assert.equal(count(/<g class="rank">/g), 4);
  assert.match(svg, /^<svg [^>]*viewBox="0 0 \d+ \d+"/);
  assert.match(svg, /26 in all; bubble 2 \(7.7 %\), by the formula 2/);
  assert.match(svg, /<title>forward of micro-batch 0, phase 0, 0 to 1<\/title>/);
  assert.ok(svg.endsWith("</svg>"));
});
