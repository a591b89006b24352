import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Random } from "../base/index.ts";
import { Sampler, type TokenHistory } from "./sampler.ts";
import { TokenFilter } from "./token-filter.ts";
import { defaultSampling, type Sampling } from "./types.ts";

/** The distribution that `sampling` describes, in float64, with a full sort. */
function naiveDistribution(
  logits: ArrayLike<number>,
  sampling: Sampling,
  history?: TokenHistory,
): Float64Array {
  const adjusted = Array.from(logits, (logit, id) => {
    const count = history?.answer.get(id) ?? 0;
    const seen = count > 0 || (history?.prompt.has(id) ?? false);
    let value = logit;
    if (seen) {
      const { repetitionPenalty } = sampling;
      value = value > 0 ? value / repetitionPenalty : value * repetitionPenalty;
    }
    value -= count * sampling.frequencyPenalty + (count > 0 ? sampling.presencePenalty : 0);
    for (const [tokenId, bias] of sampling.logitBias) if (tokenId === id) value += bias;
    return Math.fround(value);
  });
  let order = adjusted.map((_, id) => id).sort((x, y) => adjusted[y] - adjusted[x] || x - y);
  const weight = (id: number) =>
    Math.exp((adjusted[id] - adjusted[order[0]]) / sampling.temperature);
  if (sampling.topK > 0) order = order.slice(0, sampling.topK);
  const mass = order.reduce((sum, id) => sum + weight(id), 0);
  if (sampling.topP < 1) {
    let sum = 0;
    const last = order.findIndex((id) => {
      sum += weight(id);
      return sum >= sampling.topP * mass;
    });
    if (last >= 0) order = order.slice(0, last + 1);
  }
  order = order.filter((id) => weight(id) >= sampling.minP);
  const kept = order.reduce((sum, id) => sum + weight(id), 0);
  const result = new Float64Array(logits.length);
  for (const id of order) result[id] = weight(id) / kept;
  return result;
}

function randomLogits(random: Random, size: number, spread: number): Float32Array {
  return Float32Array.from({ length: size }, () => random.normal() * spread);
}

/** Draws `count` tokens at positions from 0 on, and compares their frequencies with `wanted`. */
function assertFrequencies(
  logits: Float32Array,
  sampling: Sampling,
  wanted: Float64Array,
  count: number,
  history?: TokenHistory,
): void {
  const sampler = new Sampler(logits.length);
  const counts = new Float64Array(logits.length);
  for (let i = 0; i < count; i++) counts[sampler.draw(logits, sampling, i, history)]++;
  let [chiSquare, freedom, restWanted, restCount] = [0, -1, 0, 0];
  for (let id = 0; id < logits.length; id++) {
    if (wanted[id] === 0) assert.equal(counts[id], 0, `token ${id} was filtered but drawn`);
    const expected = wanted[id] * count;
    if (expected < 10) {
      restWanted += expected;
      restCount += counts[id];
      continue;
    }
    chiSquare += (counts[id] - expected) ** 2 / expected;
    freedom++;
  }
  if (restWanted >= 10) {
    chiSquare += (restCount - restWanted) ** 2 / restWanted;
    freedom++;
  }
  // Wilson and Hilferty's approximation: z is standard normal; 4.5 is a chance of 3e-6.
  if (freedom < 1) return;
  const share = 2 / (9 * freedom);
  const z = ((chiSquare / freedom) ** (1 / 3) - (1 - share)) / Math.sqrt(share);
  assert.ok(z < 4.5, `chi-square ${chiSquare} of ${freedom} degrees of freedom, z ${z}`);
}

const settings: Partial<Sampling>[] = [
  {},
  { temperature: 0.7 },
  { temperature: 3 },
  { topK: 5 },
  { topP: 0.8 },
  { minP: 0.1 },
  { temperature: 1.5, topK: 20, topP: 0.9, minP: 0.02 },
  {
    logitBias: [
      [3, 2],
      [5, -100],
      [3, 1],
    ],
  },
  { repetitionPenalty: 1.8, presencePenalty: 0.5, frequencyPenalty: 0.3 },
];

for (const [index, setting] of settings.entries()) {
  test(`frequencies follow the distribution: ${JSON.stringify(setting)}`, () => {
    const random = new Random(100 + index);
    const logits = randomLogits(random, 60, 1.5);
    const sampling = { ...defaultSampling, ...setting, seed: 7000 + index };
    const history = {
      prompt: new Set([1, 2, 3]),
      answer: new Map([
        [3, 2],
        [9, 1],
      ]),
    };
    const wanted = naiveDistribution(logits, sampling, history);
    assertFrequencies(logits, sampling, wanted, 30_000, history);
  });
}

test("frequencies follow the distribution when the seed runs instead of the position", () => {
  const logits = randomLogits(new Random(5), 40, 1);
  const sampler = new Sampler(40);
  const wanted = naiveDistribution(logits, defaultSampling);
  const counts = new Float64Array(40);
  for (let seed = 0; seed < 20_000; seed++) {
    counts[sampler.draw(logits, { ...defaultSampling, seed: seed * 4294967296 }, 3)]++;
  }
  for (let id = 0; id < 40; id++) {
    const expected = wanted[id] * 20_000;
    assert.ok(Math.abs(counts[id] - expected) < 5 * Math.sqrt(expected) + 5, `token ${id}`);
  }
});

const filters = fc.record({
  temperature: fc.constantFrom(1e-300, 0.01, 0.5, 1, 2, 1000, 1e6),
  topK: fc.constantFrom(0, 2, 3, 10, 100, 1000),
  topP: fc.constantFrom(0, 0.1, 0.5, 0.9, 0.999, 1),
  minP: fc.constantFrom(0, 0.01, 0.5, 1),
});

test("the filters keep exactly the tokens that a full sort keeps", () => {
  fc.assert(
    fc.property(filters, fc.nat(1e6), fc.integer({ min: 1, max: 400 }), (chosen, seed, size) => {
      const random = new Random(seed);
      const logits = randomLogits(random, size, [0, 0.001, 1, 10][seed % 4]);
      if (seed % 3 === 0) for (let i = 0; i < size; i++) logits[i] = Math.round(logits[i]);
      if (seed % 5 === 0) for (let i = 1; i < size; i += 2) logits[i] = -Infinity;
      const sampling = { ...defaultSampling, ...chosen };
      const max = Math.max(...logits);
      const cut = new TokenFilter(size).cut(logits, max, sampling);
      const kept = (id: number) =>
        logits[id] > cut.logit || (logits[id] === cut.logit && id <= cut.tokenId);
      const wanted = naiveDistribution(logits, sampling);
      for (let id = 0; id < size; id++) {
        // Weights below 1e-20 of the greatest may be kept: none is ever drawn.
        if (wanted[id] > 0) assert.ok(kept(id), `token ${id} of ${size} was dropped`);
        else if (kept(id)) {
          const weight = Math.exp((logits[id] - max) / sampling.temperature);
          const all = sampling.topK === 0 && sampling.topP === 1 && sampling.minP === 0;
          assert.ok(weight < 1e-19 || all, `token ${id} of ${size} was kept`);
        }
      }
    }),
    { numRuns: 1000 },
  );
});

test("greedy takes the lowest id among equals, and penalties and bias move it", () => {
  const sampler = new Sampler(4);
  const greedy = { ...defaultSampling, temperature: 0 };
  const logits = new Float32Array([1, 5, 5, 2]);
  assert.equal(sampler.draw(logits, greedy, 0), 1);
  const history = { prompt: new Set<number>(), answer: new Map([[1, 1]]) };
  assert.equal(sampler.draw(logits, { ...greedy, presencePenalty: 0.1 }, 0, history), 2);
  assert.equal(sampler.draw(logits, { ...greedy, logitBias: [[3, 3.5]] }, 0), 3);
  const prompt = { prompt: new Set([1, 2]), answer: new Map() };
  assert.equal(sampler.draw(logits, { ...greedy, repetitionPenalty: 3 }, 0, prompt), 3);
  assert.deepEqual([...logits], [1, 5, 5, 2]);
});

test("ids beyond the vocabulary are never drawn", () => {
  const logits = new Float32Array([0, 1, 100, 100]);
  const sampler = new Sampler(2);
  assert.equal(sampler.draw(logits, { ...defaultSampling, temperature: 0 }, 0), 1);
  for (let i = 0; i < 100; i++) assert.ok(sampler.draw(logits, defaultSampling, i) < 2);
  assert.deepEqual(
    sampler.logprobs(logits, 1, 5).top.map(({ tokenId }) => tokenId),
    [1, 0],
  );
});

test("a draw depends on its own row, seed and position only", () => {
  const random = new Random(11);
  const rows = Array.from({ length: 20 }, () => randomLogits(random, 300, 2));
  const sampling = { ...defaultSampling, topP: 0.95, seed: 42 };
  const alone = rows.map((row, i) => new Sampler(300).draw(row, sampling, i));
  const shared = new Sampler(300);
  const order = random.shuffle(rows.map((_, i) => i));
  for (const i of order) assert.equal(shared.draw(rows[i], sampling, i), alone[i]);
  const others = rows.map((row, i) => shared.draw(row, { ...sampling, seed: 43 }, i));
  assert.notDeepEqual(others, alone);
});

test("close distributions draw the same token nearly as often as any coupling could", () => {
  const random = new Random(21);
  const sampler = new Sampler(200);
  const logits = randomLogits(random, 200, 2);
  const close = logits.map((logit) => logit + random.normal() * 0.3);
  const [p, q] = [logits, close].map((row) => naiveDistribution(row, defaultSampling));
  const distance = p.reduce((sum, value, id) => sum + Math.abs(value - q[id]) / 2, 0);
  let same = 0;
  for (let i = 0; i < 5000; i++) {
    const drawn = sampler.draw(logits, defaultSampling, i);
    if (drawn === sampler.draw(close, defaultSampling, i)) same++;
  }
  const promised = (1 - distance) / (1 + distance);
  assert.ok(same / 5000 > promised - 0.03, `${same / 5000} agree, ${promised} are promised`);
});

test("log probabilities are those of the raw logits in float64, the likeliest first", () => {
  const random = new Random(31);
  const logits = randomLogits(random, 500, 4);
  logits[20] = logits[10];
  const max = Math.max(...logits);
  const normaliser = max + Math.log(logits.reduce((sum, x) => sum + Math.exp(x - max), 0));
  const order = [...logits.keys()].sort((x, y) => logits[y] - logits[x] || x - y);
  const { tokenId, logprob, top } = new Sampler(500).logprobs(logits, 10, 20);
  assert.equal(tokenId, 10);
  assert.ok(Math.abs(logprob - (logits[10] - normaliser)) < 1e-12);
  assert.deepEqual(
    top.map((entry) => entry.tokenId),
    order.slice(0, 20),
  );
  for (const entry of top) {
    assert.ok(Math.abs(entry.logprob - (logits[entry.tokenId] - normaliser)) < 1e-12);
  }
});

test("logits that are no numbers are refused with a clear error", () => {
  const sampler = new Sampler(3);
  const draw = (...logits: number[]) => sampler.draw(new Float32Array(logits), defaultSampling, 0);
  assert.throws(() => draw(1, NaN, 2), /logit of token 1 is not a number/);
  assert.throws(() => draw(NaN, NaN, NaN), /not a number/);
  assert.throws(() => draw(1, Infinity, 2), /logit of token 1 is infinite/);
  assert.throws(() => draw(-Infinity, -Infinity, -Infinity), /no token has a finite logit/);
  assert.equal(draw(-Infinity, 0, -Infinity), 1);
});
