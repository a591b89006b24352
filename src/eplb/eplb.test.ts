import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { BaleenError, Random } from "../base/index.ts";
import {
  balanceExperts,
  gpuLoads,
  maxOverMean,
  picturePlacement,
  rebalanceExperts,
} from "./index.ts";
import { zipfLoads } from "./loads.ts";

const golden = fileURLToPath(new URL("../../../shared/golden/eplb", import.meta.url));

/** The exact mode's plan of the original's README, which its authors print there. */
const readme = {
  weight: [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
  ],
  phy2log: [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
  ],
};

test("the example of the original's README comes out as printed there", () => {
  const plan = rebalanceExperts(readme.weight, 16, 4, 2, 8);
  assert.deepEqual(plan.phy2log, readme.phy2log);
  assert.deepEqual(plan.log2phy[0][5], [0, 2]);
  assert.deepEqual(plan.log2phy[0][0], [12, -1]);
});

test("the recorded plans of the original are met exactly", { skip: !existsSync(golden) }, () => {
  for (const file of readdirSync(golden).filter((name) => name.endsWith(".json"))) {
    const { weight, numReplicas, numGroups, numNodes, numGpus, ...wanted } = JSON.parse(
      readFileSync(join(golden, file), "utf8"),
    );
    const plan = rebalanceExperts(weight, numReplicas, numGroups, numNodes, numGpus);
    for (const key of ["phy2log", "log2phy", "logcnt"] as const) {
      assert.deepEqual(plan[key], wanted[key], `${file}: ${key}`);
    }
  }
});

test("ties go to the lowest index, with all loads equal or 0", () => {
  const plan = rebalanceExperts([new Array(4).fill(0), new Array(4).fill(7)], 6, 1, 1, 3);
  assert.deepEqual(plan.logcnt, [
    [3, 1, 1, 1],
    [2, 2, 1, 1],
  ]);
});

/** Checks the three maps against each other, and that strict affinity is kept. */
function checkMaps(
  plan: ReturnType<typeof rebalanceExperts>,
  numExperts: number,
  groups?: { numGroups: number; numNodes: number },
): void {
  plan.phy2log.forEach((row, layer) => {
    for (let expert = 0; expert < numExperts; expert++) {
      const slots = plan.log2phy[layer][expert].filter((slot) => slot >= 0);
      assert.equal(slots.length, plan.logcnt[layer][expert]);
      assert.ok(slots.length > 0, `expert ${expert} has no slot`);
      for (const slot of slots) assert.equal(row[slot], expert);
    }
    if (groups === undefined) return;
    const nodeOfGroup = new Map<number, number>();
    row.forEach((expert, slot) => {
      const group = Math.floor((expert * groups.numGroups) / numExperts);
      const node = Math.floor((slot * groups.numNodes) / row.length);
      assert.equal(nodeOfGroup.get(group) ?? node, node, `group ${group} is on two nodes`);
      nodeOfGroup.set(group, node);
    });
  });
}

const shapes = [
  { experts: 8, replicas: 8, groups: 1, nodes: 1, gpus: 8 },
  { experts: 16, replicas: 24, groups: 4, nodes: 2, gpus: 8 },
  { experts: 12, replicas: 16, groups: 4, nodes: 2, gpus: 8 },
  { experts: 5, replicas: 9, groups: 1, nodes: 1, gpus: 3 },
  { experts: 24, replicas: 48, groups: 6, nodes: 3, gpus: 24 },
  { experts: 2, replicas: 12, groups: 1, nodes: 1, gpus: 3 },
];

test("balanced plans are whole, keep groups together and are never worse than exact ones", () => {
  const seed = 20250227;
  fc.assert(
    fc.property(fc.constantFrom(...shapes), fc.integer(), fc.nat(3), (shape, seed, kind) => {
      const { experts, replicas, groups, nodes, gpus } = shape;
      const random = new Random(seed);
      const draw = [
        () => random.below(1000),
        () => (random.below(experts) === 0 ? 1000 : 0),
        () => random.uniform() ** 8,
        () => 5,
      ][kind];
      const weight = [Array.from({ length: experts }, draw)];
      const plan = balanceExperts(weight, replicas, groups, nodes, gpus, { effort: 0.05 });
      checkMaps(plan, experts, { numGroups: groups, numNodes: nodes });
      const [layer] = plan.layers;
      const loads = gpuLoads(weight, plan.phy2log, gpus)[0];
      assert.ok(Math.abs(maxOverMean(loads) - layer.maxOverMean) < 1e-9);
      const exact = rebalanceExperts(weight, replicas, groups, nodes, gpus);
      assert.ok(layer.maxOverMean <= maxOverMean(gpuLoads(weight, exact.phy2log, gpus)[0]));
      assert.ok(layer.lowerBound <= layer.maxOverMean * (1 + 1e-9), JSON.stringify(layer));
    }),
    { seed, numRuns: 150 },
  );
});

test("EP72, prefill EP32 and one hot expert come out as balanced as promised", () => {
  const average = (values: number[]): number => values.reduce((x, y) => x + y) / values.length;
  const ep72 = balanceExperts(zipfLoads({ seed: 1, layers: 4, exponent: 0.8 }), 288, 1, 1, 72);
  assert.ok(average(ep72.maxOverMean) < 1.002, String(average(ep72.maxOverMean)));
  assert.ok(average(ep72.layers.map((layer) => layer.exactMaxOverMean)) > 1.03);
  const prefill = balanceExperts(zipfLoads({ seed: 2, layers: 4, exponent: 1 }), 288, 8, 4, 32);
  const gap = (of: (layer: (typeof prefill.layers)[number]) => number): number =>
    average(prefill.layers.map((layer) => of(layer) - layer.lowerBound));
  assert.ok(gap((layer) => layer.maxOverMean) < gap((layer) => layer.exactMaxOverMean) / 2);
  const hot = [new Array(16).fill(0)];
  hot[0][3] = 1000;
  const plan = balanceExperts(hot, 24, 4, 2, 8);
  assert.equal(plan.maxOverMean[0], 2);
  assert.equal(plan.layers[0].exactMaxOverMean, 3.2);
  assert.equal(plan.layers[0].limit, "node");
});

test("spilled replicas and global placement relieve a hot node, as far as allowed", () => {
  const random = new Random(7);
  const weight = [Array.from({ length: 64 }, (_, e) => (e < 8 ? 900 : 100) + random.below(50))];
  const shape = [72, 8, 4, 24] as const;
  const strict = balanceExperts(weight, ...shape);
  const spill = balanceExperts(weight, ...shape, { affinity: { spill: 6 } });
  const global = balanceExperts(weight, ...shape, { affinity: "global" });
  assert.ok(spill.maxOverMean[0] < strict.maxOverMean[0] - 0.05);
  assert.ok(global.maxOverMean[0] <= spill.maxOverMean[0] + 0.01);
  const away = spill.phy2log[0].filter((expert, slot) => {
    const group = Math.floor(expert / 8);
    const nodes = spill.phy2log[0].flatMap((e, s) =>
      Math.floor(e / 8) === group ? [Math.floor(s / 18)] : [],
    );
    const home = [0, 1, 2, 3].reduce((best, node) =>
      nodes.filter((n) => n === node).length > nodes.filter((n) => n === best).length ? node : best,
    );
    return Math.floor(slot / 18) !== home;
  });
  assert.ok(away.length <= 6, `${away.length} replicas lie away`);
});

test("wrong input gets one sentence that names the field", () => {
  const wrong: [() => unknown, RegExp][] = [
    [() => rebalanceExperts([[1, Number.NaN]], 2, 1, 1, 2), /^weight\[0\]\[1\] is NaN: give/],
    [() => rebalanceExperts([[1, -2]], 2, 1, 1, 2), /^weight\[0\]\[1\] is -2: give/],
    [() => rebalanceExperts([[1, 2], [1]], 2, 1, 1, 2), /^weight\[1\] has 1 loads/],
    [() => rebalanceExperts([], 2, 1, 1, 2), /^weight has no layers/],
    [
      () => rebalanceExperts([[1, 2]], 3, 1, 1, 2),
      /^numReplicas \(3\) is not divisible by numGpus/,
    ],
    [() => rebalanceExperts([[1, 2]], 1, 1, 1, 1), /^numReplicas is 1 for 2 experts/],
    [
      () => rebalanceExperts([[1, 2, 3]], 4, 2, 2, 4),
      /experts \(3\) is not divisible by numGroups/,
    ],
    [() => rebalanceExperts([[1, 2]], 3, 2, 2, 3), /^numGpus \(3\) is not divisible by numNodes/],
    [() => rebalanceExperts([[1, 2]], 2, 1, 1, 0), /^numGpus is 0/],
    [() => balanceExperts([[1, 2]], 2, 1, 1, 2, { effort: -1 }), /^effort is -1/],
    [
      () => balanceExperts([[1, 2, 3, 4]], 4, 3, 2, 2, { affinity: "strict" }),
      /^affinity needs homes/,
    ],
  ];
  for (const [call, message] of wrong) {
    assert.throws(call, (error) => error instanceof BaleenError && message.test(error.message));
  }
});

test("the picture has bars for few layers, a heat map for many, and says what it shows", () => {
  const weight = zipfLoads({ seed: 4, layers: 12, exponent: 0.8, experts: 16 });
  const { phy2log } = rebalanceExperts(weight, 24, 4, 2, 8);
  for (const layers of [2, 12]) {
    const svg = picturePlacement(weight.slice(0, layers), phy2log.slice(0, layers), 8, "A < B");
    const count = (pattern: RegExp): number => [...svg.matchAll(pattern)].length;
    assert.equal(count(/<g class="layer">/g), layers);
    assert.equal(count(/<title>layer \d+, GPU \d: [\d.]+ of the mean<\/title>/g), layers * 8);
    assert.match(svg, /<title>A &lt; B: \d+ layers, 8 GPUs; busiest over mean/);
    assert.equal(count(/stroke-dasharray/g), layers === 2 ? 2 : 0);
    assert.ok(!/NaN|undefined/.test(svg));
  }
});
