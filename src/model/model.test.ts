import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { after, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Random } from "../base/index.ts";
import { openSafetensors } from "../tensor/index.ts";
import { type LoadOptions, loadModel } from "./load.ts";
import { naiveForward } from "./testing/naive-forward.ts";
import {
  type RandomCheckpointOptions,
  type RandomConfig,
  tinyConfig,
  writeRandomCheckpoint,
} from "./testing/random-checkpoint.ts";
import type { Transformer } from "./transformer.ts";

const folder = mkdtempSync(join(tmpdir(), "baleen-model-"));
after(() => rmSync(folder, { recursive: true }));
const golden = resolve(dirname(fileURLToPath(import.meta.url)), "../../../shared/golden/llm");

const yarn = {
  type: "yarn",
  factor: 40,
  original_max_position_embeddings: 4096,
  beta_fast: 32,
  beta_slow: 1,
  mscale: 1,
  mscale_all_dim: 1,
};

/** Checkpoints of the family that differ in what the loader has to get right. */
const variants: Record<string, { config: RandomConfig; options: RandomCheckpointOptions }> = {
  "V3-like, ragged, MTP": { config: tinyConfig, options: { seed: 1, weights: "bf16" } },
  "V3-like with YaRN in FP8, heads across scale blocks": {
    config: { ...tinyConfig, rope_scaling: yarn },
    options: { seed: 2, weights: "f8e4m3" },
  },
  "V2-Lite-like, no q_lora, softmax, two shared experts, three shards": {
    config: {
      ...tinyConfig,
      model_type: "deepseek_v2",
      architectures: ["DeepseekV2ForCausalLM"],
      q_lora_rank: null,
      topk_method: "greedy",
      scoring_func: "softmax",
      norm_topk_prob: false,
      routed_scaling_factor: 1,
      n_shared_experts: 2,
      num_nextn_predict_layers: 0,
      rope_scaling: { ...yarn, mscale: 0.7, mscale_all_dim: 0.7 },
    },
    options: { seed: 3, weights: "bf16", shards: 3 },
  },
  "V2-like, groups limited by their maximum": {
    config: {
      ...tinyConfig,
      model_type: "deepseek_v2",
      topk_method: "group_limited_greedy",
      scoring_func: "softmax",
      norm_topk_prob: false,
      routed_scaling_factor: 16,
      num_nextn_predict_layers: 0,
    },
    options: { seed: 4, weights: "f32" },
  },
  "Moonlight-like, one group, plain rotary, eps 1e-5": {
    config: {
      ...tinyConfig,
      q_lora_rank: null,
      n_group: 1,
      topk_group: 1,
      rope_theta: 50000,
      rms_norm_eps: 1e-5,
      routed_scaling_factor: 2.446,
      num_nextn_predict_layers: 0,
    },
    options: { seed: 5, weights: "bf16" },
  },
  "real head geometry (512/64/128/128) in FP8": {
    config: {
      ...tinyConfig,
      hidden_size: 256,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      kv_lora_rank: 512,
      qk_nope_head_dim: 128,
      qk_rope_head_dim: 64,
      v_head_dim: 128,
      q_lora_rank: 192,
      rope_scaling: yarn,
    },
    options: { seed: 6, weights: "f8e4m3" },
  },
};

function randomTokens(seed: number, count: number, vocabulary: number): Int32Array {
  const random = new Random(seed);
  return Int32Array.from({ length: count }, () => random.below(vocabulary));
}

/** Logits `[count, vocab]` of one sequence, computed in chunks of the given sizes. */
function logitsInChunks(model: Transformer, tokens: Int32Array, chunks: readonly number[]) {
  const pages = Math.ceil(tokens.length / 64);
  const cache = model.openCache(pages + 1);
  // Pages in falling order, so that a mistaken order shows.
  const blockTable = Int32Array.from({ length: pages }, (_, i) => pages - i);
  const out = new Float32Array(tokens.length * model.vocabSize);
  let position = 0;
  for (const chunk of chunks) {
    const part = tokens.subarray(position, position + chunk);
    const { logits } = model.forward(cache, [
      { tokens: part, position, blockTable, logitRows: part.length },
    ]);
    out.set(logits.data.subarray(0, part.length * model.vocabSize), position * model.vocabSize);
    position += part.length;
  }
  assert.equal(position, tokens.length);
  return out;
}

function maxDifference(got: ArrayLike<number>, wanted: ArrayLike<number>): number {
  let max = 0;
  for (let i = 0; i < wanted.length; i++) {
    const difference = Math.abs(got[i] - wanted[i]);
    if (!(difference <= max)) max = difference;
  }
  return max;
}

async function withModel(dir: string, options: LoadOptions, body: (m: Transformer) => void) {
  const model = await loadModel(dir, options);
  try {
    body(model);
  } finally {
    model.close();
  }
}

const rungs = ["reference", "x86"] as const;

describe("against a naive float64 forward pass", () => {
  for (const [name, { config, options }] of Object.entries(variants)) {
    const dir = join(folder, String(options.seed));
    writeRandomCheckpoint(dir, config, options);
    const tokens = randomTokens(options.seed, 70, config.vocab_size);
    const oracle = naiveForward(dir, [...tokens]);
    for (const rung of rungs) {
      test(`${name}: f32 logits agree within 1e-4 on the ${rung} rung`, async (t) => {
        await withModel(dir, { precision: "f32", rung }, (model) => {
          const logits = logitsInChunks(model, tokens, [70]);
          const wanted = oracle.logits.flatMap((row) => [...row]);
          const difference = maxDifference(logits, wanted);
          t.diagnostic(`max |difference| ${difference.toExponential(1)}`);
          assert.ok(difference < 1e-4, `max |difference| ${difference}`);
        });
      });
    }
    test(`${name}: native logits are the same bits whole, in chunks and token by token`, async () => {
      await withModel(dir, { precision: "native" }, (model) => {
        const whole = logitsInChunks(model, tokens, [70]);
        assert.deepEqual(logitsInChunks(model, tokens, [1, 6, 58, 5]), whole);
        assert.deepEqual(logitsInChunks(model, tokens, new Array(70).fill(1)), whole);
      });
    });
    test(`${name}: a sequence's logits are the same bits alone and in a batch`, async () => {
      await withModel(dir, { precision: "native" }, (model) => {
        const cache = model.openCache(20);
        const random = new Random(77);
        const sequences = Array.from({ length: 5 }, (_, i) => ({
          tokens: randomTokens(i, 1 + random.below(90), config.vocab_size),
          position: 0,
          blockTable: Int32Array.of(3 * i, 3 * i + 1),
          logitRows: 1,
        }));
        const together = model.forward(cache, sequences).logits.data.slice();
        sequences.forEach((sequence, i) => {
          const alone = model.forward(cache, [sequence]).logits.data.slice(0, model.vocabSize);
          const row = together.slice(i * model.vocabSize, (i + 1) * model.vocabSize);
          assert.deepEqual(row, alone, `sequence ${i}`);
        });
      });
    });
    if (oracle.mtpLogits.length > 0) {
      test(`${name}: the MTP layer's f32 logits agree within 1e-4`, async () => {
        await withModel(dir, { precision: "f32" }, (model) => {
          assert.ok(model.canDraft);
          const cache = model.openCache(4);
          const blockTable = Int32Array.of(2, 1);
          model.forward(cache, [{ tokens, position: 0, blockTable, logitRows: 0 }]);
          const nextTokens = tokens.subarray(1);
          const guess = model.draft(cache, [
            { nextTokens, position: 0, hiddenStart: 0, blockTable },
          ]);
          const difference = maxDifference(guess.data, oracle.mtpLogits[nextTokens.length - 1]);
          assert.ok(difference < 1e-4, `max |difference| ${difference}`);
        });
      });
    }
  }
});

test("a bf16 cache keeps the bits of chunks, and its rounding is all that differs", async () => {
  const dir = join(folder, "bf16-cache");
  writeRandomCheckpoint(dir, tinyConfig, { seed: 9, weights: "bf16" });
  const tokens = randomTokens(9, 70, tinyConfig.vocab_size);
  for (const rung of rungs) {
    let exact = new Float32Array();
    await withModel(dir, { precision: "f32", rung }, (model) => {
      exact = logitsInChunks(model, tokens, [70]);
    });
    await withModel(dir, { precision: "f32", rung, kvDtype: "bf16" }, (model) => {
      const whole = logitsInChunks(model, tokens, [70]);
      assert.deepEqual(logitsInChunks(model, tokens, [1, 6, 58, 5]), whole);
      const size = model.vocabSize;
      const rows = Array.from({ length: 70 }, (_, row) =>
        maxDifference(
          whole.subarray(row * size, (row + 1) * size),
          exact.subarray(row * size, (row + 1) * size),
        ),
      ).sort((a, b) => a - b);
      // The median: a rounding that flips a routing decision moves single rows further.
      assert.ok(rows[35] > 0 && rows[35] < 0.1, `median row differs by ${rows[35]}`);
    });
  }
});

interface Golden {
  readonly prompts: number[][];
  readonly greedy: { tokens: number[] }[];
  readonly p3_rows: number[];
}

function readGolden(name: string): Golden {
  return JSON.parse(readFileSync(join(golden, name, "golden.json"), "utf8"));
}

/** Per reference row of all prompts, the largest difference of the model's logits to `p{i}.{kind}`. */
function rowDifferences(model: Transformer, name: string, kind: string): number[] {
  const { prompts, p3_rows } = readGolden(name);
  const tensors = openSafetensors(join(golden, name, "golden.safetensors"));
  const size = model.vocabSize;
  return prompts.flatMap((prompt, i) => {
    const logits = logitsInChunks(model, Int32Array.from(prompt), [prompt.length]);
    const wanted = tensors.f32(`p${i}.${kind}`).data;
    const rows = i === 3 ? p3_rows : prompt.map((_, row) => row);
    return rows.map((row, r) =>
      maxDifference(
        logits.subarray(row * size, (row + 1) * size),
        wanted.subarray(r * size, (r + 1) * size),
      ),
    );
  });
}

const absent = existsSync(golden) ? false : `no golden data at ${golden}`;

describe("against reference logits", { skip: absent }, () => {
  for (const rung of rungs) {
    for (const [name, kind] of [
      ["v3-tiny", "logits"],
      ["v3-fp8", "logits_w8a32"],
    ]) {
      test(`${name}: f32 logits agree within 1e-4 on the ${rung} rung`, async (t) => {
        await withModel(join(golden, name), { precision: "f32", rung }, (model) => {
          const worst = Math.max(...rowDifferences(model, name, kind));
          t.diagnostic(`max |difference| ${worst.toExponential(1)}`);
          assert.ok(worst < 1e-4, `max |difference| ${worst}`);
        });
      });
    }
    test(`v3-fp8: native logits agree within 1e-3 in the median row, ${rung} rung`, async (t) => {
      await withModel(join(golden, "v3-fp8"), { precision: "native", rung }, (model) => {
        const rows = rowDifferences(model, "v3-fp8", "logits").sort((a, b) => a - b);
        const median = rows[rows.length >> 1];
        t.diagnostic(
          `median row ${median.toExponential(1)}, worst ${rows.at(-1)?.toExponential(1)}`,
        );
        assert.ok(median <= 1e-3, `median over ${rows.length} rows ${median}`);
        // No bound on the worst row: an e4m3 rounding that flips can flip a routing decision.
      });
    });
  }
  // The 200-token prompt of v3-fp8 is left out: at its token 155 a value lies 1.6e-7 from the middle
  // of two e4m3 codes, within float32 rounding, and the two ways it may go differ from there on.
  for (const [name, precision, prompts] of [
    ["v3-tiny", "f32", [0, 1, 2, 3]],
    ["v3-fp8", "native", [0, 1, 2]],
  ] as const) {
    test(`${name}: sixteen greedy tokens after each prompt are equal`, async () => {
      await withModel(join(golden, name), { precision }, (model) => {
        const wanted = readGolden(name);
        for (const i of prompts) {
          const got = greedyTokens(model, wanted.prompts[i], 16);
          assert.deepEqual(got, wanted.greedy[i].tokens, `prompt ${i}`);
        }
      });
    });
  }
});

function greedyTokens(model: Transformer, prompt: readonly number[], count: number): number[] {
  const cache = model.openCache(6);
  const blockTable = Int32Array.of(4, 2, 5, 1);
  const out: number[] = [];
  let tokens = Int32Array.from(prompt);
  let position = 0;
  while (out.length < count) {
    const { logits } = model.forward(cache, [{ tokens, position, blockTable, logitRows: 1 }]);
    const row = logits.data.subarray(0, model.vocabSize);
    const next = row.indexOf(Math.max(...row));
    out.push(next);
    position += tokens.length;
    tokens = Int32Array.of(next);
  }
  return out;
}
