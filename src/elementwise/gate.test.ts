import assert from "node:assert/strict";
import { after, test } from "node:test";
import fc from "fast-check";
import { ceilDiv, Random } from "../base/index.ts";
import { openDevice } from "../device/index.ts";
import { map, pageBytes, unmap, viewAt } from "../native/index.ts";
import { columnsOf, type Tensor, tensorOf, zeros } from "../tensor/index.ts";
import { Gate } from "./gate.ts";
import { type GateConfig, routeTokens } from "./index.ts";

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
  const device = openDevice({ rung: "reference" });
  const row = tensorOf("f32", [1, config.numExperts], Float32Array.from(logits));
  const ids = zeros("i32", [1, config.topK]);
  const weights = zeros("f32", [1, config.topK]);
  routeTokens(device, { config, logits: row, tokens: 1, ids, weights });
  device.close();
  return { ids: [...ids.data], weights: [...weights.data] };
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

test("the bias chooses, the unbiased score weighs, weights are normalised and scaled", () => {
  const bias = tensorOf("f32", [8], Float32Array.of(0, 0, 0, 0, 9, 0, 0, 8));
  const { ids, weights } = route({ ...v3, correctionBias: bias }, [3, 3, 1, 1, -2, 0, 0, -1]);
  assert.deepEqual(ids, [4, 7]);
  const sum = sigmoid(-2) + sigmoid(-1);
  assert.ok(Math.abs(weights[0] - (2.5 * sigmoid(-2)) / sum) < 1e-6);
  assert.ok(Math.abs(weights[1] - (2.5 * sigmoid(-1)) / sum) < 1e-6);
});

test("dropped groups lose even where every kept biased score is negative", () => {
  // A mask of zero instead of minus infinity would let the dropped groups win here.
  const bias = tensorOf("f32", [8], new Float32Array(8).fill(-5));
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

const seed = Number(process.env.SEED ?? 20260103);
const plain = openDevice({ rung: "reference" });
const best = openDevice({ threads: 2 });
const machines = best.rung === "x86" ? [best, openDevice({ isa: "avx2", threads: 1 })] : [];
after(() => {
  for (const device of [plain, ...machines]) device.close();
});

/** A gate of every kind: V3, V2, Kimi, few experts, groups of odd sizes and of one. */
const gates: readonly GateConfig[] = [
  { ...v3, numExperts: 256, topK: 8, numGroups: 8, topkGroups: 4 },
  { ...v3, numExperts: 384, topK: 8, numGroups: 1, topkGroups: 1, scale: 2.827 },
  {
    ...v3,
    numExperts: 160,
    topK: 6,
    numGroups: 8,
    topkGroups: 3,
    scoring: "softmax",
    groupScore: "max",
    normalise: false,
    scale: 16,
  },
  { ...v3, numExperts: 64, topK: 6, numGroups: 1, scoring: "softmax", normalise: false, scale: 1 },
  { ...v3, numExperts: 33, topK: 33, numGroups: 11, topkGroups: 2 },
  { ...v3, numExperts: 9, topK: 4, numGroups: 9, topkGroups: 5, scoring: "softmax" },
  { ...v3, numExperts: 1, topK: 1, numGroups: 1, topkGroups: 1 },
  { ...v3, numExperts: 17, topK: 3, numGroups: 1, topkGroups: 1 },
  { ...v3, numExperts: 1100, topK: 5, numGroups: 100, topkGroups: 3 },
];

/** Memory that ends where a page ends that is not there. */
function atEdge(bytes: number): ArrayBuffer {
  const mapped = Math.max(1, ceilDiv(bytes, pageBytes)) * pageBytes;
  const address = map(mapped + pageBytes);
  unmap(address + mapped, pageBytes);
  return viewAt(address, mapped);
}

/** Logits of every size, with ties, zeros and (some tokens) what is not finite. */
function logitsOf(random: Random, tokens: number, experts: number, odd: boolean): Tensor<"f32"> {
  const logits = edgeTensor(tokens, experts);
  const special = [Number.NaN, Infinity, -Infinity, 1e30, -1e30, 88, -88, -103.9, 1e-40];
  for (let t = 0; t < tokens; t++) {
    const scale = 10 ** (random.below(4) - 2);
    const ties = random.below(4) === 0;
    for (let e = 0; e < experts; e++) {
      const value = random.normal() * scale;
      logits.data[t * experts + e] = ties ? Math.round(value * 4) / 4 : value;
    }
    if (odd && t % 3 === 1) {
      logits.data[t * experts + random.below(experts)] = special[random.below(special.length)];
    }
  }
  return logits;
}

function edgeTensor(rows: number, columns: number): Tensor<"f32"> {
  const count = rows * columns;
  if (machines.length === 0) return zeros("f32", [rows, columns]);
  const buffer = atEdge(4 * count);
  const data = new Float32Array(buffer, buffer.byteLength - 4 * count, count);
  return tensorOf("f32", [rows, columns], data);
}

test("machine code routes as the reference does, to the bit, for every gate", () => {
  for (const base of gates) {
    for (const biased of [false, true]) {
      for (const tokens of [0, 1, 3, 200]) {
        const random = new Random(seed + tokens);
        const { numExperts, topK } = base;
        const vector = tensorOf("f32", [numExperts], edgeTensor(1, numExperts).data);
        vector.data.forEach((_, e) => {
          vector.data[e] = random.normal() * 0.1;
        });
        const config = biased ? { ...base, correctionBias: vector } : base;
        const logits = logitsOf(random, tokens, numExperts, true);
        const results = [plain, ...machines].map((device) => {
          const ids = zeros("i32", [tokens, topK + 1], device.allocate);
          ids.data.fill(-7);
          const weights = columnsOf(zeros("f32", [tokens, topK + 2], device.allocate), 0, topK);
          weights.data.fill(Number.NaN);
          routeTokens(device, { config, logits, tokens, ids, weights });
          return { ids: [...ids.data], weights: [...weights.data] };
        });
        for (const result of results) assert.deepEqual(result, results[0], JSON.stringify(base));
      }
    }
  }
});

test("nearly all tokens are routed by machine code: few are too close to call", () => {
  if (machines.length === 0) return;
  for (const [config, share] of [
    [gates[0], 0.002],
    [gates[2], 0.005],
  ] as const) {
    const { numExperts, topK } = config;
    const logits = logitsOf(new Random(seed), 2000, numExperts, false);
    const ids = zeros("i32", [2000, topK], best.allocate);
    const weights = zeros("f32", [2000, topK], best.allocate);
    let byReference = 0;
    const route = Gate.prototype.route;
    Gate.prototype.route = function (call, token) {
      byReference++;
      route.call(this, call, token);
    };
    try {
      routeTokens(best, { config, logits, tokens: 2000, ids, weights });
    } finally {
      Gate.prototype.route = route;
    }
    assert.ok(byReference < 2000 * share, `got ${byReference} of 2000, ${config.scoring}`);
  }
});

test("hostile gates and shapes are refused, and nothing crashes", () => {
  const odd = fc.oneof(
    fc.constantFrom(-1, 0, 0.5, Number.NaN, 2 ** 31),
    fc.integer({ min: 1, max: 40 }),
  );
  fc.assert(
    fc.property(
      fc.record({ numExperts: odd, topK: odd, numGroups: odd, topkGroups: odd, scale: odd }),
      fc.record({ tokens: odd, rows: fc.nat(5), columns: fc.nat(40), width: fc.nat(10) }),
      fc.boolean(),
      (counts, { tokens, rows, columns, width }, softmax) => {
        const scoring = softmax ? "softmax" : "sigmoid";
        const config: GateConfig = { ...v3, ...counts, scoring };
        for (const device of [plain, ...machines]) {
          const logits = edgeTensor(rows, columns);
          const weights = edgeTensor(rows, width);
          const ids = zeros("i32", [rows, width], device.allocate);
          try {
            routeTokens(device, { config, logits, tokens, ids, weights });
          } catch (error) {
            assert.match(String(error), /^Error: assertion failed: .+/);
          }
        }
      },
    ),
    { seed, numRuns: 400 },
  );
});
