import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { gpuLoads, maxOverMean, zipfLoads } from "../eplb/index.ts";
import { parseModelConfig } from "../model/index.ts";
import {
  architectureOf,
  articleFigures,
  articleReport,
  calibration,
  type Deployment,
  decodeStep,
  deepSeekV3,
  estimateDecode,
  estimatePrefill,
  hardware,
  hardwareOf,
  kernelConstants,
  memoryOf,
  nodeSpans,
  parseHardware,
  prefillLoad,
  prefillStep,
} from "./index.ts";
import { Kernels } from "./kernels.ts";
import { decodePipeline, oneAfterTheOther, prefillPipeline, steadyState } from "./overlap.ts";
import { nodesPerToken } from "./prefill.ts";

const meanOf = (values: readonly number[]) =>
  values.reduce((sum, value) => sum + value, 0) / values.length;
const v3 = architectureOf(deepSeekV3);
const unit: Deployment = {
  hw: hardware.h800,
  arch: v3,
  ranks: 32,
  slotsPerGpu: 9,
  skew: 0,
  placement: "exact",
  overlap: true,
  drafts: 0,
  efficiency: 1,
};
const decodeUnit: Deployment = { ...unit, ranks: 144, slotsPerGpu: 2 };
const chat = { promptTokens: 4096, outputTokens: 1024, hitRate: 0.5 };

test("DeepSeek-V3 has the parameters, operations and cache that its papers state", () => {
  const { parameters, flops } = v3;
  assert.equal((parameters.total / 1e9).toFixed(1), "671.0");
  assert.equal((parameters.active / 1e9).toFixed(1), "37.6"); // 37 in the paper
  assert.equal((parameters.mtpLayer / 1e9).toFixed(1), "11.6"); // 14 with its own embedding and head
  assert.equal(v3.kvBytesPerToken, 70_272);
  assert.deepEqual([v3.denseLayers, v3.moeLayers], [3, 58]);
  assert.equal(parameters.attention, 187_105_280);
  assert.deepEqual([v3.plainFlopsPerKey, v3.absorbedFlopsPerKey], [81_920, 278_528]);
  assert.deepEqual(
    [flops.projections, flops.routed, flops.shared].map((n) => Math.round(n / 1e6)),
    [374, 705, 88],
  );
});

test("the built-in V3 is what its published config says, and others are counted alike", () => {
  const published = {
    model_type: "deepseek_v3",
    vocab_size: 129280,
    hidden_size: 7168,
    intermediate_size: 18432,
    moe_intermediate_size: 2048,
    num_hidden_layers: 61,
    num_nextn_predict_layers: 1,
    num_attention_heads: 128,
    n_routed_experts: 256,
    n_shared_experts: 1,
    num_experts_per_tok: 8,
    n_group: 8,
    topk_group: 4,
    first_k_dense_replace: 3,
  };
  assert.deepEqual(architectureOf(parseModelConfig(published)).parameters, v3.parameters);
  // DeepSeek-V2-Lite: 15.7 billion, 2.4 active without the embedding.
  const lite = architectureOf({
    ...deepSeekV3,
    vocabSize: 102400,
    hiddenSize: 2048,
    intermediateSize: 10944,
    moeIntermediateSize: 1408,
    numHiddenLayers: 27,
    numAttentionHeads: 16,
    qLoraRank: undefined,
    nRoutedExperts: 64,
    nSharedExperts: 2,
    numExpertsPerTok: 6,
    nGroup: 1,
    topkGroup: 1,
    firstKDenseReplace: 1,
  });
  assert.equal((lite.parameters.total / 1e9).toFixed(1), "15.7");
  assert.equal((lite.parameters.active / 1e9).toFixed(1), "2.7");
});

test("kernel times reproduce the tables that they come from", () => {
  const kernels = new Kernels(hardware.h800);
  const tflops = (rows: number, n: number, k: number) =>
    (2 * rows * n * k) / (kernels.product(rows, n, k) * 1e6);
  // DeepGEMM README: rows, n, k, TFLOPS.
  const table = [
    [64, 7168, 16384, 336],
    [128, 7168, 16384, 645],
    [64, 24576, 1536, 289],
    [128, 4096, 7168, 533],
    [4096, 7168, 16384, 1358],
    [4096, 2112, 7168, 1058],
    [4096, 32768, 512, 590],
  ];
  for (const [rows, n, k, published] of table) {
    const error = tflops(rows, n, k) / published - 1;
    assert.ok(Math.abs(error) < 0.06, `${rows} x ${n} x ${k}: ${error}`);
  }
  // DeepEP README: 128 tokens among 64 ranks; half the tokens take less, never less than the floor.
  assert.equal(kernels.lowLatencyExchange("dispatch", 128, 8, 7168, 64), 173);
  const half = kernels.lowLatencyExchange("dispatch", 64, 8, 7168, 64);
  assert.ok(half < 173 && half > kernelConstants.lowLatencyFloorUs.value);
});

test("two micro-batches: the steady state is what the longer lane and the order allow", () => {
  const times = fc.integer({ min: 1, max: 100 });
  const prefill = fc.record({ attention: times, dispatch: times, mlp: times, combine: times });
  fc.assert(
    fc.property(prefill, (load) => {
      const operations = prefillPipeline(load);
      const layer = steadyState(operations);
      const serial = oneAfterTheOther(operations);
      assert.ok(layer.periodUs >= Math.max(layer.computeUs, layer.communicationUs) - 1e-9);
      assert.ok(layer.periodUs <= 2 * serial.periodUs + 1e-9);
      assert.ok(Math.abs(2 * serial.periodUs - layer.computeUs - layer.communicationUs) < 1e-9);
    }),
  );
  const decode = fc.record({
    attention0: times,
    attention1: times,
    shared: times,
    dispatch: times,
    mlp: times,
    combine: times,
  });
  fc.assert(
    fc.property(decode, (load) => {
      const { periodUs } = steadyState(decodePipeline(load));
      const { attention0, attention1, shared, dispatch, mlp, combine } = load;
      // A lane with five stages: never below its busy time, never above stage by stage.
      const stages = Math.max(shared + attention0, dispatch) + mlp + Math.max(attention1, combine);
      assert.ok(periodUs <= 2 * stages + 1e-9, `${periodUs} > ${2 * stages}`);
      assert.ok(periodUs >= 2 * (attention0 + attention1 + shared + mlp) - 1e-9);
    }),
  );
});

test("the article's arithmetic comes out exactly", () => {
  const report = articleReport();
  assert.equal(
    nodeSpans.reduce((sum, { hours }) => sum + hours, 0),
    24,
  );
  assert.equal(report.nodeHours, 5442);
  assert.equal(report.nodesMean, 226.75);
  assert.equal(report.nodesPeak, 278);
  assert.equal(report.costDollars, 87_072);
  assert.equal(Math.round(report.revenue.dollars), 562_100);
  assert.ok(report.revenue.low < articleFigures.revenueDollars);
  assert.ok(report.revenue.high > articleFigures.revenueDollars);
  assert.ok(report.published.isInside);
  assert.equal(Math.round(report.marginPercent), 545);
  assert.equal(report.prefillNodesMean + report.decodeNodesMean, 226.75);
  assert.equal((report.prefillPerNode / 1e3).toFixed(1), "73.7");
  assert.equal((report.decodePerNode / 1e3).toFixed(1), "14.8");
});

test("published points: profile rows within 10 %, rows held out of the fit within 8 %", () => {
  const { points, prefillEfficiency, decodeEfficiency, worstHeldOut } = calibration();
  const fitted = points.filter(({ role }) => role === "fitted");
  assert.equal(fitted.length, 3);
  assert.equal(points.length - fitted.length, 6);
  for (const { point, error, role } of points) {
    const bound = role === "fitted" ? 0.001 : 0.08;
    assert.ok(Math.abs(error) <= bound, `${point.name}: ${error}`);
  }
  assert.ok(worstHeldOut > 0.001, "held-out rows must not have been fitted");
  // Nothing fitted but a uniform slowdown of some 10 %: kernels account for the rest.
  for (const efficiency of [prefillEfficiency, decodeEfficiency]) {
    assert.ok(efficiency > 0.85 && efficiency < 1, String(efficiency));
  }
  const profile = points.filter(({ point }) => point.source === "profile-data");
  for (const { unfittedError } of profile) assert.ok(Math.abs(unfittedError) < 0.12);
});

test("the long run's skew is the one at which EPLB gains what LMSYS reports: 1.49 times", () => {
  const { prefillEfficiency, decodeSkew } = calibration();
  const loads = zipfLoads({ seed: 9, layers: 58, exponent: decodeSkew });
  const asTheyAre = loads.map((row) => row.map((_, expert) => expert));
  const gpu = meanOf(gpuLoads(loads, asTheyAre, 32).map(maxOverMean));
  const node = meanOf(gpuLoads(loads, asTheyAre, 4).map(maxOverMean));
  const load = prefillLoad(16384, 4096);
  const deployment = { ...unit, hw: hardware.h100, efficiency: prefillEfficiency };
  const without = prefillStep({ ...deployment, imbalance: { gpu, node } }, load);
  const placed = prefillStep({ ...deployment, skew: decodeSkew }, load);
  const gain = without.us / placed.us;
  assert.ok(Math.abs(gain / 1.49 - 1) < 0.04, `gain ${gain}`);
});

test("more of anything that costs time takes more time", () => {
  const time = (more: Partial<Deployment>, tokens = 16384, prompt = 4096) =>
    prefillStep({ ...unit, ...more }, prefillLoad(tokens, prompt)).us;
  const base = time({});
  assert.ok(time({}, 32768) > base);
  assert.ok(time({}, 16384, 16384) > base);
  assert.ok(time({ skew: 1 }) > base);
  assert.ok(time({ overlap: false }) > base * 1.1);
  assert.ok(time({ hw: hardware.h20 }) > base * 3);
  assert.ok(time({ hw: hardware.b200 }) < base);
  const cached = prefillStep(unit, prefillLoad(16384, 8192, 0.5)).us;
  assert.ok(cached > base, "cached keys are still attended to");
  const step = (sequences: number, context: number, more: Partial<Deployment> = {}) =>
    decodeStep({ ...decodeUnit, ...more }, { sequences, kvTokens: sequences * context }).us;
  assert.ok(step(128, 4096) > step(64, 4096));
  assert.ok(step(128, 16384) > step(128, 4096));
  assert.ok(step(64, 4096, { drafts: 1 }) > step(64, 4096));
  assert.ok(step(128, 4096, { hw: hardware.h200 }) < step(128, 4096));
});

test("groups of experts bound the nodes that a token visits", () => {
  // 8 groups on 4 nodes, 4 kept: 4 (1 - C(6,4)/C(8,4)) nodes.
  assert.ok(Math.abs(nodesPerToken(unit) - 4 * (1 - 15 / 70)) < 1e-12);
  const ungrouped = { ...unit, arch: architectureOf({ ...deepSeekV3, nGroup: 1, topkGroup: 1 }) };
  assert.ok(nodesPerToken(ungrouped) > nodesPerToken(unit));
});

test("memory: what fits beside the weights, and a clear no where they don't", () => {
  const memory = memoryOf(decodeUnit, "decode");
  assert.ok(memory.weights > 24e9 && memory.weights < 27e9);
  assert.equal(memory.kvTokens, Math.floor(memory.kv / 70_272));
  const estimate = estimateDecode(decodeUnit, chat, 64);
  assert.ok(estimate.sequencesMost > 100);
  assert.throws(() => estimateDecode({ ...decodeUnit, ranks: 8, slotsPerGpu: 33 }, chat, 1), {
    code: "plan-impossible",
    message: /the weights take [\d.]+ GB of the GPU's 80\.0: lower it, or spread/,
  });
  assert.throws(() => estimateDecode(decodeUnit, chat, 4000), {
    code: "plan-impossible",
    message: /^sequences is 4000 a GPU, but [\d.]+ GB beside [\d.]+ GB of weights hold \d+ of/,
  });
});

test("an estimate adds up, and names what holds it back", () => {
  const prefill = estimatePrefill(unit, chat, 16384);
  assert.equal(prefill.perNode, prefill.perGpu * 8);
  assert.equal(prefill.inputPerNode, prefill.perNode * 2);
  const { wait, storage, compute, transfer } = prefill.ttftParts;
  assert.ok(Math.abs(prefill.ttftMs - wait - storage - compute - transfer) < 1e-9);
  assert.equal(prefill.bottleneck.part, "routed experts");
  const slow = { ...unit, hw: { ...hardware.h800, nicGBs: 5 } };
  assert.equal(estimatePrefill(slow, chat, 16384).bottleneck.part, "combine");
  const decode = estimateDecode(decodeUnit, chat, 64);
  assert.ok(Math.abs(decode.perUser * decode.tpotMs - 1000) < 1e-9);
  const drafted = estimateDecode({ ...decodeUnit, drafts: 1 }, chat, 64, 0.6);
  assert.ok(Math.abs(drafted.tpotMs * 1.6 - drafted.step.us / 1e3) < 1e-9);
});

test("every number of a hardware profile and every constant has a source", () => {
  for (const profile of Object.values(hardware)) {
    for (const [key, value] of Object.entries(profile)) {
      if (typeof value !== "number") continue;
      assert.ok((profile.sources[key]?.length ?? 0) > 5, `${profile.name}.${key} has no source`);
    }
  }
  for (const { source } of Object.values(kernelConstants)) assert.ok(source.length > 10);
});

test("wrong input gets one sentence that names the field", () => {
  const refused = (run: () => unknown, code: string, message: RegExp) =>
    assert.throws(run, { code, message });
  refused(() => hardwareOf("h80"), "hardware-unknown", /"h80" has no profile: did you mean h800\?/);
  refused(() => hardwareOf("tpu"), "hardware-unknown", /take one of h800, h100/);
  const edited = parseHardware({ base: "h800", hbmGB: 96 }, "mine");
  assert.deepEqual([edited.hbmGB, edited.hbmGBs, edited.sources.hbmGB], [96, 3350, "given"]);
  assert.deepEqual(parseHardware(JSON.parse(JSON.stringify(hardware.h20))).hbmGBs, 4000);
  const bad = "plan-input-invalid";
  refused(
    () => parseHardware({ base: "h800", hbmGb: 96 }),
    bad,
    /hbmGb is no key: did you mean hbmGB/,
  );
  refused(() => parseHardware({ hbmGB: 96 }), bad, /hardware\.fp8Tflops is missing/);
  refused(() => parseHardware({ base: "h800", sms: -1 }), bad, /sms is -1: give a whole number/);
  refused(() => parseHardware([]), bad, /is no JSON object/);
  refused(
    () => architectureOf({ ...deepSeekV3, hiddenSize: Number.NaN }),
    bad,
    /config\.hiddenSize is NaN/,
  );
  const { kvLoraRank: _, ...without } = deepSeekV3;
  refused(
    () => architectureOf(without as typeof deepSeekV3),
    bad,
    /config\.kvLoraRank is missing: give a whole number/,
  );
  const dense = architectureOf({ ...deepSeekV3, nRoutedExperts: 0, numExpertsPerTok: 1 });
  refused(
    () => prefillStep({ ...unit, arch: dense }, prefillLoad(1, 1)),
    bad,
    /nRoutedExperts is 0: give a mixture-of-experts model/,
  );
  refused(() => prefillLoad(100, 100, 1), bad, /hitRate is 1: leave something/);
  refused(
    () => prefillStep({ ...unit, slotsPerGpu: 7 }, prefillLoad(1, 1)),
    bad,
    /32 GPUs hold 224/,
  );
  refused(() => prefillStep({ ...unit, skew: Number.NaN }, prefillLoad(1, 1)), bad, /skew is NaN/);
  refused(
    () => estimateDecode(decodeUnit, { ...chat, outputTokens: -5 }, 8),
    bad,
    /outputTokens is -5: give a number of at least 1/,
  );
});
