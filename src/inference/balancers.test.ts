import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Random } from "../base/index.ts";
import { rebalanceExperts, zipfLoads } from "../eplb/index.ts";
import {
  assignDecode,
  assignPrefill,
  attentionWork,
  balancedness,
  type DecodeLoad,
  reviewExperts,
} from "./balancers.ts";

test("balancedness is mean over maximum", () => {
  assert.equal(balancedness([2, 4]), 0.75);
  assert.equal(balancedness([5, 5, 5]), 1);
  assert.equal(balancedness([0, 0]), 1);
  assert.equal(balancedness([8, 0, 0, 0]), 0.25);
  assert.throws(() => balancedness([]), /at least one/);
});

test("attention's work counts each new token's keys once", () => {
  let pairs = 0;
  for (let token = 0; token < 5; token++) pairs += 7 + token + 1;
  assert.equal(attentionWork(5, 7), pairs);
  assert.equal(attentionWork(0, 100), 0);
});

const prompt = fc.record({ tokens: fc.integer({ min: 1, max: 4000 }), cached: fc.nat(8000) });
const toLoad = ({ tokens, cached }: { tokens: number; cached: number }) => ({
  tokens,
  attentionWork: attentionWork(tokens, cached),
});

test("prefill: every prompt has a rank, and the loads are those of what was given", () => {
  fc.assert(
    fc.property(
      fc.array(prompt.map(toLoad), { minLength: 1, maxLength: 8 }),
      fc.array(prompt.map(toLoad), { maxLength: 40 }),
      (ranks, requests) => {
        const { rankOf, loads, balancedness: after } = assignPrefill(ranks, requests);
        const wanted = ranks.map((load) => ({ ...load }));
        rankOf.forEach((rank, i) => {
          wanted[rank].tokens += requests[i].tokens;
          wanted[rank].attentionWork += requests[i].attentionWork;
        });
        assert.deepEqual(loads, wanted);
        assert.equal(after.tokens, balancedness(wanted.map((load) => load.tokens)));
      },
    ),
  );
});

test("prefill: long prompts and many short ones come out even in both measures", () => {
  const random = new Random(5);
  const requests = Array.from({ length: 1000 }, () =>
    toLoad({
      tokens: Math.ceil(Math.exp(6.5 + 0.7 * random.normal())),
      cached: random.below(6000),
    }),
  );
  const idle = Array.from({ length: 32 }, () => ({ tokens: 0, attentionWork: 0 }));
  const { balancedness: both } = assignPrefill(idle, requests);
  assert.ok(both.attentionWork > 0.95, `attention ${both.attentionWork}`);
  assert.ok(both.tokens > 0.95, `tokens ${both.tokens}`);
  // What a round robin gives, so that the bound above says something.
  const naive = idle.map(() => ({ tokens: 0, work: 0 }));
  requests.forEach((request, i) => {
    naive[i % 32].tokens += request.tokens;
    naive[i % 32].work += request.attentionWork;
  });
  assert.ok(balancedness(naive.map(({ work }) => work)) < 0.8);
});

const idleDecode = (count: number): DecodeLoad[] =>
  Array.from({ length: count }, () => ({
    kvTokens: 0,
    requests: 0,
    kvTokensMax: 10_000,
    requestsMax: 4,
  }));

test("decode: no rank gets more than it has room for, and who is left out fits nowhere", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 6 }),
      fc.array(fc.integer({ min: 1, max: 9000 }), { maxLength: 40 }),
      (count, sizes) => {
        const ranks = idleDecode(count);
        const requests = sizes.map((kvTokens) => ({ kvTokens }));
        const { rankOf, loads } = assignDecode(ranks, requests);
        for (const load of loads) {
          assert.ok(load.kvTokens <= load.kvTokensMax && load.requests <= load.requestsMax);
        }
        rankOf.forEach((rank, i) => {
          if (rank >= 0) return;
          const fits = (load: DecodeLoad) =>
            load.kvTokens + sizes[i] <= load.kvTokensMax && load.requests < load.requestsMax;
          assert.ok(!loads.some(fits), "left out, though a rank has room");
        });
        const placed = rankOf.filter((rank) => rank >= 0).length;
        assert.equal(
          loads.reduce((sum, load) => sum + load.requests, 0),
          placed,
        );
      },
    ),
  );
});

test("decode: cache use and number of requests both come out even", () => {
  const random = new Random(11);
  const requests = Array.from({ length: 144 * 80 }, () => ({
    kvTokens: Math.ceil(Math.exp(8 + 0.7 * random.normal())),
  }));
  const ranks = Array.from({ length: 144 }, () => ({
    kvTokens: 0,
    requests: 0,
    kvTokensMax: 1e6,
    requestsMax: 256,
  }));
  const { balancedness: both } = assignDecode(ranks, requests);
  assert.ok(both.kvTokens > 0.95, `KV ${both.kvTokens}`);
  assert.ok(both.requests > 0.95, `requests ${both.requests}`);
});

test("experts: one rebalance brings Zipf 1.0 from below the target to above 0.9", () => {
  const shape = { numGroups: 8, numNodes: 9, numGpus: 72 };
  const uniform = zipfLoads({ seed: 3, layers: 2, exponent: 0 });
  const { phy2log } = rebalanceExperts(uniform, 360, 8, 9, 72);
  const received = zipfLoads({ seed: 4, layers: 2, exponent: 1 });
  const before = reviewExperts(received, { ...shape, phy2log });
  assert.ok(before.balancedness < 0.5);
  assert.ok(before.placement);
  const after = reviewExperts(received, { ...shape, phy2log: before.placement.phy2log });
  assert.ok(after.balancedness > 0.9, `after ${after.balancedness}`);
  assert.equal(after.placement, undefined);
});
