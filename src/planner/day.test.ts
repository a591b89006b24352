import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../base/index.ts";
import { poolsAt, sizePools } from "./autoscale.ts";
import { runDecodeUnit, steadySequences } from "./decode-unit.ts";
import { drawRequest, rateAt } from "./demand.ts";
import {
  architectureOf,
  articleDemand,
  articleFigures,
  calibration,
  type Deployment,
  deepSeekV3,
  hardware,
  poolScale,
  publishedDay,
  simulateDay,
} from "./index.ts";
import { runPrefillUnit } from "./prefill-unit.ts";

const fitted = calibration();
const arch = architectureOf(deepSeekV3);
const common = { hw: hardware.h800, arch, placement: "exact", overlap: true, drafts: 0 } as const;
const prefill: Deployment = {
  ...common,
  ranks: 32,
  slotsPerGpu: 9,
  skew: fitted.prefillSkew,
  efficiency: fitted.prefillEfficiency,
};
const decode: Deployment = {
  ...common,
  ranks: 144,
  slotsPerGpu: 2,
  skew: fitted.decodeSkew,
  efficiency: fitted.decodeEfficiency,
};
const day = { arch, hw: hardware.h800, fitted };
const mean = (values: readonly number[]) =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

test("requests have the means that were asked for, and hits in whole blocks", () => {
  const random = new Random(1);
  const requests = Array.from({ length: 40_000 }, () => drawRequest(articleDemand, random));
  const prompts = mean(requests.map(({ promptTokens }) => promptTokens));
  const answers = mean(requests.map(({ outputTokens }) => outputTokens));
  const hits = mean(requests.map(({ cachedTokens }) => cachedTokens)) / prompts;
  assert.ok(Math.abs(prompts / articleDemand.promptTokens - 1) < 0.01);
  assert.ok(Math.abs(answers / articleDemand.outputTokens - 1) < 0.01);
  assert.ok(Math.abs(hits / articleDemand.hitRate - 1) < 0.01, String(hits));
  assert.ok(requests.every(({ cachedTokens, promptTokens }) => cachedTokens < promptTokens));
  assert.ok(requests.every(({ cachedTokens }) => cachedTokens % 64 === 0));
  // The mean cache of a sequence that gets a token is the article's.
  const weighed = requests.reduce(
    (sum, { promptTokens, outputTokens }) => sum + (promptTokens + outputTokens / 2) * outputTokens,
    0,
  );
  const kv = weighed / requests.length / answers;
  assert.ok(Math.abs(kv / articleFigures.kvTokensMean - 1) < 0.01, String(kv));
});

test("the demand curve integrates to the day's requests", () => {
  const rates = Array.from({ length: 4800 }, (_, i) => rateAt(articleDemand, (i + 0.5) / 200));
  const total = mean(rates) * 86_400;
  assert.ok(Math.abs(total / articleDemand.requestsPerDay - 1) < 1e-6);
});

const sample = { demand: articleDemand, warmUpS: 6, seconds: 30 };

test("a prefill unit computes what comes, and above its capacity it falls behind", () => {
  const run = (requestsPerS: number) =>
    runPrefillUnit({
      ...sample,
      deployment: prefill,
      random: new Random(7),
      requestsPerS,
      tokenBudget: 8192,
      storageGBs: 40,
    });
  const easy = run(40);
  const offered = easy.inputTokens - easy.cachedTokens;
  assert.ok(Math.abs(easy.computedTokens / offered - 1) < 0.1, "computed what came");
  assert.ok(easy.waiting < 100);
  assert.ok(easy.balancedness.tokens > 0.8);
  const over = run(200);
  assert.ok(over.computedTokens < 0.7 * (over.inputTokens - over.cachedTokens));
  assert.ok(over.waiting > 1000);
  const half = (sorted: readonly number[]) => sorted[sorted.length >> 1];
  assert.ok(half(over.ttftMs) > 2 * half(easy.ttftMs));
});

test("a decode unit holds the sequences that Little's law wants, evenly", () => {
  const requestsPerS = 236;
  const run = runDecodeUnit({
    ...sample,
    deployment: decode,
    random: new Random(7),
    requestsPerS,
    ranks: 8,
    sequencesMost: 256,
    accepted: 0,
  });
  const steady = steadySequences(decode, articleDemand, requestsPerS, 256, 0);
  assert.ok(Math.abs(run.sequences / steady - 1) < 0.1, `${run.sequences} and ${steady}`);
  // Every step draws one token of every sequence.
  const perSecond = run.tokens / run.seconds / run.ranks;
  const wanted = (requestsPerS * articleDemand.outputTokens) / decode.ranks;
  assert.ok(Math.abs(perSecond / wanted - 1) < 0.1, `${perSecond} and ${wanted}`);
  assert.ok(run.balancedness.kvTokens > 0.95 && run.balancedness.requests > 0.95);
  assert.equal(run.preemptions, 0);
});

test("drafts that are right let sequences end sooner", () => {
  const requestsPerS = 150;
  const run = (drafts: number, accepted: number) =>
    runDecodeUnit({
      ...sample,
      deployment: { ...decode, drafts },
      random: new Random(7),
      requestsPerS,
      ranks: 8,
      sequencesMost: 256,
      accepted,
    });
  const [plain, wrong, right] = [run(0, 0), run(1, 0), run(1, 0.9)];
  const half = (sorted: readonly number[]) => sorted[sorted.length >> 1];
  assert.ok(half(wrong.tpotMs) > half(plain.tpotMs), "wrong drafts cost");
  assert.ok(half(right.tpotMs) < half(wrong.tpotMs));
  assert.ok(right.sequences < wrong.sequences);
  for (const { tokens, seconds, ranks } of [plain, right]) {
    const wanted = (requestsPerS * articleDemand.outputTokens) / decode.ranks;
    assert.ok(Math.abs(tokens / seconds / ranks / wanted - 1) < 0.15);
  }
});

test("a decode unit without memory to spare holds back, and loses nothing", () => {
  const tight = { ...decode, hw: { ...hardware.h800, hbmGB: 34 } };
  const run = runDecodeUnit({
    ...sample,
    deployment: tight,
    random: new Random(3),
    requestsPerS: 236,
    ranks: 4,
    sequencesMost: 256,
    accepted: 0,
  });
  assert.ok(run.waiting > 0, "requests wait for memory");
  assert.ok(run.sequences > 5);
});

test("pools grow with the load, by steps of the article's sizes", () => {
  const targets = {
    prefillUseMost: 0.75,
    tpotMs: 52,
    sequencesMost: 256,
    tokenBudget: 8192,
    accepted: 0,
  };
  assert.equal(poolsAt(poolScale, 0).nodes, 68);
  assert.equal(poolsAt(poolScale, poolScale.stepsMost).nodes, 278);
  let before = 0;
  for (const rate of [100, 500, 1000, 1500, 2000, 9000]) {
    const size = sizePools(poolScale, targets, prefill, decode, articleDemand, rate);
    assert.ok(size.nodes >= before);
    assert.equal(size.isShort, rate === 9000);
    before = size.nodes;
  }
});

test("the article's day: nodes, tokens, money and speeds within 5 % of what was published", () => {
  const { windows, totals } = simulateDay(day);
  for (const [name, published] of Object.entries(publishedDay)) {
    const simulated = (totals as Readonly<Record<string, number>>)[name];
    assert.ok(Math.abs(simulated / published - 1) < 0.05, `${name}: ${simulated}, ${published}`);
  }
  // 20 to 22 tokens a second and user.
  assert.ok(totals.tpotMs > 1000 / 22 - 2 && totals.tpotMs < 1000 / 20 + 2, `${totals.tpotMs}`);
  assert.equal(windows.length, 48);
  assert.ok(totals.rebalances >= 1, "the experts' balancer acts on drift");
  for (const { balancedness, isShort } of windows) {
    assert.ok(balancedness.kvTokens > 0.9 && balancedness.requests > 0.9);
    assert.equal(isShort, false);
  }
  const cost = windows.reduce((sum, { nodes }) => sum + (nodes * 8 * 2 * 24) / 48, 0);
  assert.ok(Math.abs(totals.costDollars - cost) < 1e-6);
});

test("a day is the same for the same seed, and another for another", () => {
  const small = { ...day, windows: 3, sampleS: 4, decodeRanks: 3 };
  assert.deepEqual(simulateDay({ ...small, seed: 5 }), simulateDay({ ...small, seed: 5 }));
  assert.notDeepEqual(simulateDay({ ...small, seed: 5 }), simulateDay({ ...small, seed: 6 }));
});

test("a day beyond the pools says so, and wrong input names the field", () => {
  const demand = { ...articleDemand, requestsPerDay: articleDemand.requestsPerDay * 4 };
  const { windows } = simulateDay({ ...day, demand, windows: 2, sampleS: 2, decodeRanks: 2 });
  assert.ok(windows[1].isShort);
  const arrived = windows[1].requestsPerS * demand.promptTokens;
  assert.ok(windows[1].inputPerS < 0.7 * arrived, "only what is served earns");
  const refused = (more: object, message: RegExp) =>
    assert.throws(() => simulateDay({ ...day, ...more }), { code: "plan-input-invalid", message });
  refused({ demand: { ...articleDemand, hitRate: Number.NaN } }, /hitRate is NaN/);
  refused({ demand: { ...articleDemand, curve: [1, -2] } }, /curve\[1\] is -2/);
  refused({ demand: { ...articleDemand, curve: [0] } }, /curve is 0 throughout/);
  refused({ scale: { ...poolScale, prefillNodes: 0 } }, /prefillNodes is 0: give a whole number/);
  refused({ windows: 0 }, /windows is 0/);
  assert.throws(() => simulateDay({ ...day, scale: { ...poolScale, decodeNodes: 1 } }), {
    code: "plan-impossible",
    message: /^decodeNodes is 1: beside [\d.]+ GB of weights a GPU holds 0 tokens of cache/,
  });
});
