import assert from "node:assert/strict";
import { test } from "node:test";
import { Gate, type GateConfig } from "./gate.ts";

const v3: GateConfig = {
  numExperts: 8,
  topK: 2,
  numGroups: 4,
  topkGroups: 2,
  scoring: "sigmoid",
  groupScore: "top2-sum",
  normalise: true,
  scale: 2.5,
};

function route(config: GateConfig, logits: number[]) {
  const ids = new Int32Array(config.topK);
  const weights = new Float32Array(config.topK);
  new Gate(config).route(Float32Array.from(logits), ids, weights, 0);
  return { ids: [...ids], weights: [...weights] };
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

test("the bias chooses, the unbiased score weighs, weights are normalised and scaled", () => {
  const bias = Float32Array.of(0, 0, 0, 0, 9, 0, 0, 8);
  const { ids, weights } = route({ ...v3, correctionBias: bias }, [3, 3, 1, 1, -2, 0, 0, -1]);
  assert.deepEqual(ids, [4, 7]);
  const sum = sigmoid(-2) + sigmoid(-1);
  assert.ok(Math.abs(weights[0] - (2.5 * sigmoid(-2)) / sum) < 1e-6);
  assert.ok(Math.abs(weights[1] - (2.5 * sigmoid(-1)) / sum) < 1e-6);
});

test("dropped groups lose even where every kept biased score is negative", () => {
  // A mask of zero instead of minus infinity would let the dropped groups win here.
  const bias = new Float32Array(8).fill(-5);
  const { ids } = route({ ...v3, correctionBias: bias }, [4, 4, 3, 3, 2, 2, 9, -90]);
  assert.ok(
    ids.every((e) => e < 4),
    `got ${ids}`,
  );
});

test("V3 ranks groups by the sum of their two best scores, V2 by the best one", () => {
  const logits = [9, -90, 1, 1, 1, 0.9, -9, -9];
  const one = { ...v3, topkGroups: 1 };
  assert.deepEqual(route(one, logits).ids, [2, 3]);
  const v2 = { ...one, scoring: "softmax", groupScore: "max", normalise: false } as const;
  assert.deepEqual(route(v2, logits).ids, [0, 1]);
});

test("softmax weights are left as they are and scaled", () => {
  const config = { ...v3, numGroups: 1, scoring: "softmax", normalise: false, scale: 16 } as const;
  const { ids, weights } = route(config, [0, 1, 0, 0, 0, 0, 0, 2]);
  assert.deepEqual(ids, [7, 1]);
  const sum = 6 + Math.E + Math.E ** 2;
  assert.ok(Math.abs(weights[0] - (16 * Math.E ** 2) / sum) < 1e-5);
});

test("ties go to the lower id, best first", () => {
  assert.deepEqual(route({ ...v3, numGroups: 1 }, new Array(8).fill(1)).ids, [0, 1]);
});
