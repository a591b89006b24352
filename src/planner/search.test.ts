import assert from "node:assert/strict";
import { test } from "node:test";
import { architectureOf, calibration, deepSeekV3, hardware, searchPlans } from "./index.ts";

const options = {
  ...calibration(),
  arch: architectureOf(deepSeekV3),
  hw: hardware.h800,
  nodes: 100,
  workload: { promptTokens: 4096, outputTokens: 1024, hitRate: 0.5 },
  tpotMs: 50,
  ttftMs: 5000,
  placement: "exact",
} as const;

test("a search keeps its limits, adds up, and takes at most two seconds", () => {
  const begun = process.cpuUsage();
  const { best, front, why, unitsEstimated, plansCompared } = searchPlans(options);
  const { user, system } = process.cpuUsage(begun);
  assert.ok(unitsEstimated + plansCompared >= 5000, `${unitsEstimated} + ${plansCompared}`);
  assert.ok(user + system < 2e6, `${(user + system) / 1e6} s of processor time`);
  assert.equal(front[0], best);
  assert.ok(why.length >= 3);
  for (const plan of front) {
    const { prefill, decode, prefillUnits, decodeUnits } = plan;
    assert.ok(plan.tpotMs <= 50 && plan.ttftMs <= 5000);
    const nodes = prefillUnits * prefill.unitNodes + decodeUnits * decode.unitNodes;
    assert.ok(nodes === plan.nodesUsed && nodes <= 100);
    assert.ok(decode.sequences <= decode.estimate.sequencesMost);
    const most = Math.min(prefillUnits * prefill.requestsPerS, decodeUnits * decode.requestsPerS);
    assert.ok(Math.abs(plan.requestsPerS - most) < 1e-9);
    assert.ok(Math.abs(Math.max(plan.prefillBusy, plan.decodeBusy) - 1) < 1e-12);
    // Output tokens by way of the decode pool's own estimate.
    const yielded = decodeUnits * decode.unitNodes * decode.estimate.perNode * plan.decodeBusy;
    assert.ok(Math.abs(yielded / plan.outputPerS - 1) < 1e-9);
  }
});

test("no plan of the front beats another in all three", () => {
  const { front } = searchPlans(options);
  for (const a of front) {
    for (const b of front) {
      if (a === b) continue;
      const yieldsMore = a.outputPerS > b.outputPerS * (1 + 1e-9);
      const beats = yieldsMore && a.tpotMs <= b.tpotMs && a.ttftMs <= b.ttftMs;
      assert.ok(!beats, "one plan of the front beats another");
    }
  }
});

test("looser limits and more nodes never yield less", () => {
  const output = (more: Partial<Parameters<typeof searchPlans>[0]>) =>
    searchPlans({ ...options, ...more }).best.outputPerS;
  const base = output({});
  assert.ok(output({ tpotMs: 100 }) >= base);
  assert.ok(output({ tpotMs: 30 }) <= base);
  assert.ok(output({ ttftMs: 1000 }) <= base);
  assert.ok(output({ nodes: 200 }) > 1.9 * base);
  assert.ok(output({ drafts: false }) <= base);
});

test("what can't be met gets the reason and the nearest that can", () => {
  const refused = (more: object, code: string, message: RegExp) =>
    assert.throws(() => searchPlans({ ...options, ...more }), { code, message });
  const no = "plan-impossible";
  refused({ tpotMs: 2 }, no, /sla-tpot is 2 ms, but the fastest decode unit .* takes [\d.]+ ms/);
  refused({ ttftMs: 10 }, no, /sla-ttft is 10 ms, but the fastest prefill unit .* needs \d+ ms/);
  refused({ nodes: 2 }, no, /don't fit on 2 nodes of NVIDIA H800 SXM: give more nodes/);
  refused({ nodes: 2.5 }, "plan-input-invalid", /nodes is 2.5: give a whole number/);
  refused({ tpotMs: Number.NaN }, "plan-input-invalid", /sla-tpot is NaN/);
  const workload = { ...options.workload, hitRate: 1.5 };
  refused({ workload }, "plan-input-invalid", /hitRate is 1.5: give a number from 0 to 0.999/);
});
