import assert from "node:assert/strict";
import { test } from "node:test";
import { isLinearisable } from "./testing/register.ts";
import { Simulation } from "./testing/simulator.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
const seeds = Number(process.env.SEEDS ?? 30);

test("the checker of histories accepts what could have happened, and nothing else", () => {
  const op = (kind: "write" | "read", value: number, startMs: number, endMs: number) => ({
    ...{ kind, value, startMs, endMs },
  });
  const never = Number.POSITIVE_INFINITY;
  assert.ok(isLinearisable([op("write", 1, 0, 1), op("read", 1, 2, 3)], 0));
  assert.ok(!isLinearisable([op("write", 1, 0, 1), op("read", 0, 2, 3)], 0));
  assert.ok(isLinearisable([op("write", 1, 0, 9), op("read", 0, 2, 3), op("read", 1, 4, 5)], 0));
  assert.ok(!isLinearisable([op("write", 1, 0, 9), op("read", 1, 2, 3), op("read", 0, 4, 5)], 0));
  assert.ok(isLinearisable([op("write", 1, 0, never), op("read", 0, 2, 3)], 0));
  assert.ok(isLinearisable([op("write", 1, 0, never), op("read", 1, 2, 3)], 0));
  const lost = [op("write", 1, 0, 1), op("write", 2, 2, 3), op("read", 1, 4, 5)];
  assert.ok(!isLinearisable(lost, 0));
});

test(`${seeds} clusters in trouble from seed ${seed} on: linearisable, equal, and all serve again`, async () => {
  let [operations, crashes] = [0, 0];
  for (let i = 0; i < seeds; i++) {
    const result = await new Simulation({ seed: seed + i, nodes: 2 + (i % 2) }).run();
    operations += result.operations;
    crashes += result.crashes;
  }
  assert.ok(operations > seeds * 20, `${operations} operations`);
  assert.ok(crashes > seeds, `${crashes} crashes`);
});

test("one seed is one history", async () => {
  const [one, same] = [await new Simulation({ seed }).run(), await new Simulation({ seed }).run()];
  assert.deepEqual(one, same);
});
