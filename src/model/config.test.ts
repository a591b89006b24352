import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { BaleenError } from "../base/index.ts";
import { isMoeLayer, type ModelConfig, parseModelConfig, readModelConfig } from "./config.ts";
import {
  deepseekV2Lite,
  kimiK2,
  moonlight,
  deepseekV3 as v3,
} from "./testing/published-configs.ts";

const folder = mkdtempSync(join(tmpdir(), "baleen-config-"));
after(() => rmSync(folder, { recursive: true }));

test("DeepSeek-V3's config resolves to what the paper and the code say", () => {
  assert.deepEqual(parseModelConfig(v3), {
    modelType: "deepseek_v3",
    vocabSize: 129280,
    hiddenSize: 7168,
    intermediateSize: 18432,
    moeIntermediateSize: 2048,
    numHiddenLayers: 61,
    numNextnPredictLayers: 1,
    numAttentionHeads: 128,
    qLoraRank: 1536,
    kvLoraRank: 512,
    qkNopeHeadDim: 128,
    qkRopeHeadDim: 64,
    vHeadDim: 128,
    nRoutedExperts: 256,
    nSharedExperts: 1,
    numExpertsPerTok: 8,
    nGroup: 8,
    topkGroup: 4,
    topkMethod: "noaux_tc",
    scoringFunc: "sigmoid",
    normTopkProb: true,
    routedScalingFactor: 2.5,
    firstKDenseReplace: 3,
    moeLayerFreq: 1,
    rmsNormEps: 1e-6,
    rope: {
      theta: 10000,
      yarn: {
        factor: 40,
        originalMaxPositionEmbeddings: 4096,
        betaFast: 32,
        betaSlow: 1,
        mscale: 1,
        mscaleAllDim: 1,
      },
    },
    maxPositionEmbeddings: 163840,
    tieWordEmbeddings: false,
    bosTokenId: 0,
    eosTokenIds: [1],
    quantization: { scaleFormat: "f32" },
  } satisfies ModelConfig);
});

test("DeepSeek-V2-Lite has no query latent, softmax scores, greedy choice and no MTP layer", () => {
  assert.deepEqual(parseModelConfig(deepseekV2Lite), {
    ...parseModelConfig(v3),
    modelType: "deepseek_v2",
    vocabSize: 102400,
    hiddenSize: 2048,
    intermediateSize: 10944,
    moeIntermediateSize: 1408,
    numHiddenLayers: 27,
    numNextnPredictLayers: 0,
    numAttentionHeads: 16,
    qLoraRank: undefined,
    nRoutedExperts: 64,
    nSharedExperts: 2,
    numExpertsPerTok: 6,
    nGroup: 1,
    topkGroup: 1,
    topkMethod: "greedy",
    scoringFunc: "softmax",
    normTopkProb: false,
    routedScalingFactor: 1,
    firstKDenseReplace: 1,
    rope: {
      theta: 10_000,
      yarn: {
        factor: 40,
        originalMaxPositionEmbeddings: 4096,
        betaFast: 32,
        betaSlow: 1,
        mscale: 707 / 1000,
        mscaleAllDim: 707 / 1000,
      },
    },
    bosTokenId: 100000,
    eosTokenIds: [100001],
    quantization: undefined,
  } satisfies ModelConfig);
});

test("Moonlight is a V3 without groups, query latent, YaRN and FP8", () => {
  assert.deepEqual(parseModelConfig(moonlight), {
    ...parseModelConfig(v3),
    vocabSize: 163840,
    hiddenSize: 2048,
    intermediateSize: 11264,
    moeIntermediateSize: 1408,
    numHiddenLayers: 27,
    numNextnPredictLayers: 0,
    numAttentionHeads: 16,
    qLoraRank: undefined,
    nRoutedExperts: 64,
    nSharedExperts: 2,
    numExpertsPerTok: 6,
    nGroup: 1,
    topkGroup: 1,
    routedScalingFactor: 2.446,
    firstKDenseReplace: 1,
    rmsNormEps: 1e-5,
    rope: { theta: 50_000, yarn: undefined },
    maxPositionEmbeddings: 8192,
    bosTokenId: 163584,
    eosTokenIds: [163586],
    quantization: undefined,
  } satisfies ModelConfig);
});

test("Kimi-K2 is a V3 by another name, with one group of 384 experts", () => {
  const asV3 = parseModelConfig({ ...kimiK2, model_type: "deepseek_v3" });
  assert.deepEqual(parseModelConfig(kimiK2), { ...asV3, modelType: "kimi_k2" });
  assert.deepEqual([asV3.nRoutedExperts, asV3.nGroup, asV3.topkMethod], [384, 1, "noaux_tc"]);
  assert.deepEqual([asV3.rope.yarn?.betaFast, asV3.rope.yarn?.betaSlow], [1, 1]);
  // What a config leaves out has the defaults of V3.
  const { topk_method, scoring_func, norm_topk_prob, moe_layer_freq, ...bare } = kimiK2;
  assert.deepEqual(parseModelConfig(bare), parseModelConfig(kimiK2));
  assert.deepEqual(
    [topk_method, scoring_func, norm_topk_prob, moe_layer_freq],
    ["noaux_tc", "sigmoid", true, 1],
  );
});

test("what a config leaves out has the default of its model type", () => {
  const bare = {
    vocab_size: 100,
    hidden_size: 64,
    intermediate_size: 128,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    n_routed_experts: 8,
    num_experts_per_tok: 2,
  };
  const asV2 = parseModelConfig({ ...bare, model_type: "deepseek_v2" });
  const asV3 = parseModelConfig({ ...bare, model_type: "deepseek_v3" });
  const chosen = (config: ModelConfig) => [
    config.topkMethod,
    config.scoringFunc,
    config.normTopkProb,
    config.routedScalingFactor,
    config.firstKDenseReplace,
  ];
  assert.deepEqual(chosen(asV2), ["greedy", "softmax", false, 1, 0]);
  assert.deepEqual(chosen(asV3), ["noaux_tc", "sigmoid", true, 2.5, 3]);
  assert.equal(asV3.qLoraRank, 1536);
  assert.deepEqual(asV3.rope, { theta: 10_000, yarn: undefined });
  assert.deepEqual([asV3.nGroup, asV3.topkGroup], [1, 1]);
  assert.deepEqual(asV3.eosTokenIds, []);
});

test("rotary parameters in transformers 5's spelling mean the same", () => {
  const { rope_scaling, rope_theta, num_nextn_predict_layers, ...rest } = v3;
  const { type, ...numbers } = rope_scaling;
  const modern = {
    ...rest,
    num_mtp_layers: num_nextn_predict_layers,
    rope_parameters: { ...numbers, rope_type: type, rope_theta },
  };
  assert.deepEqual(parseModelConfig(modern), parseModelConfig(v3));
  const plain = { ...rest, rope_parameters: { rope_type: "default", rope_theta: 50_000 } };
  assert.deepEqual(parseModelConfig(plain).rope, { theta: 50_000, yarn: undefined });
  const renamed = { ...v3, rope_scaling: { ...numbers, rope_type: "yarn" } };
  assert.deepEqual(parseModelConfig(renamed), parseModelConfig(v3));
});

test("yarn without mscale scales cosines and sines only", () => {
  const { mscale, mscale_all_dim, ...yarn } = v3.rope_scaling;
  const config = parseModelConfig({ ...v3, rope_scaling: yarn });
  assert.deepEqual([config.rope.yarn?.mscale, config.rope.yarn?.mscaleAllDim], [1, 0]);
  assert.deepEqual([mscale, mscale_all_dim], [1, 1]);
});

test("ue8m0 scales are told from float ones", () => {
  const quantization_config = { ...v3.quantization_config, scale_fmt: "ue8m0" };
  const config = parseModelConfig({ ...v3, quantization_config });
  assert.equal(config.quantization?.scaleFormat, "ue8m0");
});

test("layers have experts after the dense ones, where the index is a multiple", () => {
  const config = parseModelConfig({ ...v3, first_k_dense_replace: 3, moe_layer_freq: 2 });
  const layers = [0, 1, 2, 3, 4, 5, 6].filter((layer) => isMoeLayer(config, layer));
  assert.deepEqual(layers, [4, 6]);
  const dense = parseModelConfig({ ...v3, n_routed_experts: null });
  assert.equal(isMoeLayer(dense, 60), false);
});

const refusals: [Record<string, unknown>, RegExp][] = [
  [{ model_type: "llama" }, /model_type is "llama".*deepseek_v2 or deepseek_v3/],
  [{ model_type: undefined }, /model_type is missing/],
  [{ hidden_size: undefined }, /hidden_size is missing/],
  [{ hidden_size: 0 }, /hidden_size is 0/],
  [{ hidden_size: 7168.5 }, /hidden_size is 7168\.5/],
  [{ vocab_size: 1e300 }, /vocab_size is 1e\+300/],
  [{ qk_rope_head_dim: 63 }, /qk_rope_head_dim is 63/],
  [{ hidden_act: "gelu" }, /hidden_act is "gelu"/],
  [{ attention_bias: true }, /attention_bias is true/],
  [{ rope_interleave: false }, /rope_interleave is false/],
  [{ topk_method: "random" }, /topk_method is "random"/],
  [{ scoring_func: "tanh" }, /scoring_func is "tanh"/],
  [{ n_group: 7 }, /n_group is 7, which does not divide 256/],
  [{ topk_group: 9 }, /topk_group is 9, more than the n_group of 8/],
  [{ num_experts_per_tok: 200 }, /num_experts_per_tok is 200, more than the 128/],
  [{ rope_scaling: { ...v3.rope_scaling, type: "linear" } }, /rope_scaling\.rope_type is "linear"/],
  [{ rope_scaling: { ...v3.rope_scaling, factor: undefined } }, /rope_scaling\.factor is missing/],
  [{ rope_scaling: { ...v3.rope_scaling, factor: "40" } }, /rope_scaling\.factor is "40"/],
  [{ rope_scaling: { ...v3.rope_scaling, truncate: false } }, /rope_scaling\.truncate/],
  [{ rope_scaling: { ...v3.rope_scaling, attention_factor: 1.2 } }, /attention_factor is 1\.2/],
  [{ rope_scaling: { ...v3.rope_scaling, partial_rotary_factor: 0.5 } }, /partial_rotary_factor/],
  [{ rms_norm_eps: -1 }, /rms_norm_eps is -1/],
  [{ eos_token_id: "1" }, /eos_token_id is "1"/],
  [{ quantization_config: { quant_method: "awq" } }, /quantization_config\.quant_method is "awq"/],
  [
    { quantization_config: { ...v3.quantization_config, weight_block_size: [64, 64] } },
    /quantization_config\.weight_block_size\.0 is 64/,
  ],
  [
    { quantization_config: { ...v3.quantization_config, activation_scheme: "static" } },
    /quantization_config\.activation_scheme is "static"/,
  ],
];

for (const [change, message] of refusals) {
  test(`a config with ${JSON.stringify(change)} is refused, naming the field`, () => {
    assert.throws(
      () => parseModelConfig({ ...v3, ...change }, "dir/config.json"),
      (error) =>
        error instanceof BaleenError &&
        error.code === "config-invalid" &&
        error.message.startsWith("dir/config.json: ") &&
        message.test(error.message),
    );
  });
}

test("ids that end an answer come from both files, as a number, a list or none", () => {
  const dirOf = (eos: unknown, generation?: unknown) => {
    const dir = mkdtempSync(join(folder, "eos-"));
    writeFileSync(join(dir, "config.json"), JSON.stringify({ ...v3, eos_token_id: eos }));
    if (generation !== undefined) {
      writeFileSync(join(dir, "generation_config.json"), JSON.stringify(generation));
    }
    return dir;
  };
  for (const [eos, generation, wanted] of [
    [1, undefined, [1]],
    [[1, 5], undefined, [1, 5]],
    [null, undefined, []],
    [null, { eos_token_id: [3, 4] }, [3, 4]],
    [1, { eos_token_id: [1, 4] }, [1, 4]],
    [1, { temperature: 0.6 }, [1]],
  ] as const) {
    assert.deepEqual(readModelConfig(dirOf(eos, generation)).eosTokenIds, wanted);
  }
});

test("a directory without a config, or with a broken one, is refused", () => {
  const dir = mkdtempSync(join(folder, "broken-"));
  assert.throws(() => readModelConfig(dir), /config\.json does not exist/);
  writeFileSync(join(dir, "config.json"), "{");
  assert.throws(() => readModelConfig(dir), /config\.json is not valid JSON/);
  writeFileSync(join(dir, "config.json"), "[]");
  assert.throws(() => readModelConfig(dir), /config\.json: the file is/);
});

test("the model in the repository has a config", () => {
  const dir = fileURLToPath(new URL("../../models/austen-6m", import.meta.url));
  const config = readModelConfig(dir);
  assert.equal(config.vocabSize, 2048);
  assert.deepEqual(config.eosTokenIds, []);
});
