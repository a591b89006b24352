import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BaleenError, Random } from "../base/index.ts";
import { balanceExperts, type Move, migrateExperts, planMoves, zipfLoads } from "./index.ts";

/** Plays moves of one layer, checking budget, sources and that every expert is served at all times. */
function play(
  before: ArrayLike<number>,
  moves: readonly Move[],
  numGpus: number,
  stagingPerGpu: number,
): number[] {
  const slots = Array.from(before);
  const experts = new Set(slots);
  const gpuOf = (slot: number): number => Math.floor((slot * numGpus) / slots.length);
  const rounds = Math.max(-1, ...moves.map((move) => move.round));
  for (let round = 0; round <= rounds; round++) {
    const now = moves.filter((move) => move.round === round);
    assert.ok(now.length > 0, `round ${round} is empty`);
    for (let gpu = 0; gpu < numGpus; gpu++) {
      const received = now.filter((move) => gpuOf(move.toSlot) === gpu).length;
      assert.ok(received <= stagingPerGpu, `GPU ${gpu} takes in ${received} in round ${round}`);
    }
    for (const { expert, fromSlot } of now) assert.equal(slots[fromSlot], expert);
    assert.equal(new Set(now.map((move) => move.toSlot)).size, now.length);
    for (const { expert, toSlot } of now) slots[toSlot] = expert;
    assert.equal(new Set(slots).size, experts.size, "an expert is lost");
  }
  return slots;
}

const sortedGpus = (slots: ArrayLike<number>, numGpus: number): number[][] =>
  Array.from({ length: numGpus }, (_, gpu) => {
    const size = slots.length / numGpus;
    return Array.from({ length: size }, (_, k) => slots[gpu * size + k]).sort((a, b) => a - b);
  });

test("moves lead from any placement to any other within the staging budget", () => {
  fc.assert(
    fc.property(fc.integer(), fc.integer({ min: 1, max: 3 }), (seed, stagingPerGpu) => {
      const random = new Random(seed);
      const numGpus = 1 + random.below(6);
      const slots = numGpus * (1 + random.below(4));
      const experts = 1 + random.below(slots);
      const draw = (): number[] =>
        random.shuffle(
          Array.from({ length: slots }, (_, s) => (s < experts ? s : random.below(experts))),
        );
      const [before, after] = [draw(), draw()];
      const options = { layer: 0, numGpus, numNodes: 1, stagingPerGpu };
      const { moves, phy2log } = planMoves(before, after, options);
      const end = play(before, moves, numGpus, stagingPerGpu);
      assert.deepEqual(end, Array.from(phy2log));
      assert.deepEqual(sortedGpus(end, numGpus), sortedGpus(after, numGpus));
    }),
    { seed: 6, numRuns: 400 },
  );
});

test("a dearer move means fewer moves and a busier GPU; the old placement stays where none pays", () => {
  const weight = zipfLoads({ seed: 9, layers: 2, exponent: 0.8, experts: 64 });
  const shape = [8, 4, 16] as const;
  const old = balanceExperts(
    zipfLoads({ seed: 8, layers: 2, exponent: 0.8, experts: 64 }),
    80,
    ...shape,
  );
  const results = [0, 0.001, 0.01, 10].map((moveCost) =>
    migrateExperts(weight, old.phy2log, ...shape, { moveCost, stagingPerGpu: 1 }),
  );
  for (const { moves, layers, phy2log } of results) {
    layers.forEach(({ moved, after, before }, layer) => {
      const own = moves.filter((move) => move.layer === layer);
      assert.equal(own.length, moved);
      assert.deepEqual(play(old.phy2log[layer], own, 16, 1), phy2log[layer]);
      assert.ok(after <= before);
    });
  }
  const count = results.map(({ moves }) => moves.length);
  assert.ok(count[0] >= count[1] && count[1] >= count[2], `${count}`);
  assert.equal(count[3], 0);
  assert.deepEqual(results[3].phy2log, old.phy2log);
  const cost = ({ layers }: (typeof results)[number], price: number): number =>
    layers.reduce((sum, layer) => sum + layer.after + price * layer.moved, 0);
  assert.ok(cost(results[1], 0.001) <= cost(results[0], 0.001) + 1e-9);
});

test("wrong input gets one sentence that names the field", () => {
  const weight = [[1, 2]];
  const wrong: [() => unknown, RegExp][] = [
    [() => migrateExperts(weight, [[0, 0]], 1, 1, 2), /^phy2log\[0\] has no slot of expert 1/],
    [
      () =>
        migrateExperts(
          weight,
          [
            [0, 1],
            [0, 1],
          ],
          1,
          1,
          2,
        ),
      /^phy2log has 2 layers/,
    ],
    [() => migrateExperts(weight, [[0, 1]], 1, 1, 2, { moveCost: -1 }), /^moveCost is -1/],
    [() => migrateExperts(weight, [[0, 1]], 1, 1, 2, { stagingPerGpu: 0 }), /^stagingPerGpu is 0/],
  ];
  for (const [call, message] of wrong) {
    assert.throws(call, (error) => error instanceof BaleenError && message.test(error.message));
  }
});
