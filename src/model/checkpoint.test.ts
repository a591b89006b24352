import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { BaleenError } from "../base/index.ts";
import {
  fromF32,
  openSafetensors,
  type Tensor,
  tensorOf,
  toF32,
  writeSafetensors,
} from "../tensor/index.ts";
import { type Checkpoint, openCheckpoint } from "./checkpoint.ts";
import { parseModelConfig, readModelConfig } from "./config.ts";
import {
  type RandomConfig,
  tinyConfig,
  writeRandomCheckpoint,
} from "./testing/random-checkpoint.ts";

const folder = mkdtempSync(join(tmpdir(), "baleen-checkpoint-"));
after(() => rmSync(folder, { recursive: true }));

const wide: RandomConfig = {
  ...tinyConfig,
  num_hidden_layers: 2,
  hidden_size: 160,
  n_routed_experts: 4,
  n_group: 1,
  topk_group: 1,
};

/** Writes a random model's files and returns their folder. */
function randomDir(weights: "bf16" | "f32" | "f8e4m3", shards = 1): string {
  const dir = mkdtempSync(join(folder, "model-"));
  writeRandomCheckpoint(dir, wide, { seed: 5, weights, shards });
  return dir;
}

const fp8Dir = randomDir("f8e4m3");

/** The FP8 model's tensors, to be changed. */
function tensorsOf(dir: string): Map<string, Tensor> {
  const file = openSafetensors(dir);
  return new Map([...file.tensors.keys()].map((name) => [name, file.tensor(name)]));
}

function openWith(tensors: Map<string, Tensor>, config: Record<string, unknown> = {}): Checkpoint {
  const dir = mkdtempSync(join(folder, "changed-"));
  writeSafetensors(join(dir, "model.safetensors"), tensors);
  return openCheckpoint(dir, parseModelConfig({ ...wide, ...config }));
}

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    assert.ok(error instanceof BaleenError, String(error));
    assert.equal(error.code, "checkpoint-invalid");
    return error.message;
  }
  assert.fail("wanted a BaleenError, got none");
}

for (const shards of [1, 3]) {
  test(`a checkpoint of ${shards} file(s) opens, and gives matrices as they are stored`, () => {
    for (const weights of ["bf16", "f32", "f8e4m3"] as const) {
      const dir = randomDir(weights, shards);
      const checkpoint = openCheckpoint(dir, readModelConfig(dir));
      assert.ok(checkpoint.hasMtp);
      const matrix = checkpoint.linear("model.layers.1.self_attn.kv_a_proj_with_mqa");
      assert.equal(matrix.weight.dtype, weights);
      assert.deepEqual(matrix.weight.shape, [88, 160]);
      assert.equal("scales" in matrix, weights === "f8e4m3");
      if ("scales" in matrix) assert.deepEqual(matrix.scales.shape, [1, 2]);
      assert.equal(checkpoint.vector("model.norm.weight").length, 160);
      assert.equal(checkpoint.linear("lm_head").weight.dtype, "bf16");
      assert.ok(checkpoint.has("model.layers.2.eh_proj.weight"));
      assert.ok(!checkpoint.has("model.layers.2.embed_tokens.weight"));
    }
  });
}

test("every tensor that is taken away is missed by name", () => {
  const all = tensorsOf(fp8Dir);
  for (const name of all.keys()) {
    const rest = new Map(all);
    rest.delete(name);
    // Without its projection the MTP layer as a whole is extra, and that is what is said.
    const wanted = name.endsWith("eh_proj.weight") ? /layers\.2\..* has no place/ : /is missing/;
    const message = refusal(() => openWith(rest));
    assert.match(message, wanted);
    if (!name.endsWith("eh_proj.weight")) assert.ok(message.includes(`tensor ${name} `), message);
  }
});

test("every tensor of another shape is refused by name", () => {
  const all = tensorsOf(fp8Dir);
  for (const [name, tensor] of all) {
    const longer = tensorOf(
      "bf16",
      [...tensor.shape.slice(0, -1), (tensor.shape.at(-1) ?? 0) + 1],
      new Uint16Array(400_000),
    );
    const message = refusal(() => openWith(new Map([...all, [name, longer]])));
    assert.ok(message.includes(`tensor ${name} is [`), message);
  }
});

test("dtypes that make no sense are refused by name", () => {
  const all = tensorsOf(fp8Dir);
  const codes = tensorOf("f8e4m3", [160], new Uint8Array(160));
  assert.match(
    refusal(() => openWith(new Map([...all, ["model.norm.weight", codes]]))),
    /model\.norm\.weight is F8_E4M3, not one of F32, BF16, F16/,
  );
  const table = tensorOf("f8e4m3", [200, 160], new Uint8Array(200 * 160));
  assert.match(
    refusal(() => openWith(new Map([...all, ["model.embed_tokens.weight", table]]))),
    /embed_tokens\.weight is F8_E4M3/,
  );
  const other = tensorOf("f8e5m2", [200, 160], new Uint8Array(200 * 160));
  assert.match(
    refusal(() => openWith(new Map([...all, ["lm_head.weight", other]]))),
    /lm_head\.weight is F8_E5M2/,
  );
});

test("tensors that would be left out of the computation are refused by name", () => {
  const all = tensorsOf(fp8Dir);
  const one = tensorOf("f32", [1], new Float32Array(1));
  for (const name of [
    "model.layers.0.self_attn.q_a_proj.bias",
    "model.layers.0.self_attn.indexer.wk.weight",
    "model.layers.1.mlp.experts.4.up_proj.weight",
    "model.layers.0.input_layernorm.weight_scale_inv",
    "model.layers.3.input_layernorm.weight",
    "adapter.weight",
  ]) {
    const message = refusal(() => openWith(new Map([...all, [name, one]])));
    assert.ok(message.includes(`tensor ${name} has no place`), message);
  }
});

test("harmless extras are taken: old rotary tables and more MTP layers", () => {
  const all = tensorsOf(fp8Dir);
  const one = tensorOf("f32", [1], new Float32Array(1));
  all.set("model.layers.0.self_attn.rotary_emb.inv_freq", one);
  all.set("model.layers.3.eh_proj.weight", one);
  all.set("model.layers.3.enorm.weight", one);
  assert.ok(openWith(all).hasMtp);
});

test("an MTP layer may be announced and absent, or there unannounced, but not in part", () => {
  const all = tensorsOf(fp8Dir);
  assert.equal(openWith(all, { num_nextn_predict_layers: 0 }).hasMtp, false);
  const main = new Map([...all].filter(([name]) => !name.startsWith("model.layers.2.")));
  assert.equal(openWith(main).hasMtp, false);
  const partial = new Map(all);
  partial.delete("model.layers.2.shared_head.norm.weight");
  assert.match(
    refusal(() => openWith(partial)),
    /layers\.2\.shared_head\.norm\.weight .* missing/,
  );
});

test("a config of fewer layers than the weights have is refused", () => {
  const all = tensorsOf(fp8Dir);
  const main = new Map([...all].filter(([name]) => !name.startsWith("model.layers.2.")));
  const message = refusal(() => openWith(main, { num_hidden_layers: 1 }));
  assert.match(message, /layers\.1\..* has no place in a deepseek_v3 of 1 layers/);
});

test("tied embeddings need no head, untied ones do", () => {
  const all = tensorsOf(fp8Dir);
  all.delete("lm_head.weight");
  assert.equal(openWith(all, { tie_word_embeddings: true }).has("lm_head.weight"), false);
  assert.match(
    refusal(() => openWith(all)),
    /lm_head\.weight \[200,160\] is missing/,
  );
});

test("scales may be stored as powers of two or bf16, and come out in f32", () => {
  const all = tensorsOf(fp8Dir);
  const name = "model.layers.0.self_attn.o_proj";
  const scales = all.get(`${name}.weight_scale_inv`) as Tensor<"f32">;
  for (const dtype of ["ue8m0", "bf16"] as const) {
    const narrow = fromF32(scales, dtype);
    const checkpoint = openWith(new Map([...all, [`${name}.weight_scale_inv`, narrow]]));
    const matrix = checkpoint.linear(name);
    assert.ok("scales" in matrix);
    assert.deepEqual(matrix.scales.data, toF32(narrow).data);
  }
});

test("F16 weights are read as f32", () => {
  const dir = mkdtempSync(join(folder, "half-"));
  const all = tensorsOf(randomDir("f32"));
  const name = "model.layers.0.mlp.up_proj.weight";
  const { shape } = all.get(name) as Tensor;
  all.delete(name);
  // A file of its own, since the writer knows no F16.
  writeSafetensors(join(dir, "rest.safetensors"), all);
  const header = JSON.stringify({
    [name]: { dtype: "F16", shape, data_offsets: [0, shape[0] * shape[1] * 2] },
  });
  const data = new Uint16Array(shape[0] * shape[1]).fill(0x3e00);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(
    join(dir, "half.safetensors"),
    Buffer.concat([prefix, Buffer.from(header), Buffer.from(data.buffer)]),
  );
  const weight_map = Object.fromEntries([
    ...[...all.keys()].map((key) => [key, "rest.safetensors"]),
    [name, "half.safetensors"],
  ]);
  writeFileSync(join(dir, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
  const matrix = openCheckpoint(dir, parseModelConfig(wide)).linear(name.replace(/\.weight$/, ""));
  assert.equal(matrix.weight.dtype, "f32");
  assert.ok([...matrix.weight.data].every((value) => value === 1.5));
});

test("a directory of no weights is refused", () => {
  const dir = join(folder, "empty");
  mkdirSync(dir);
  assert.throws(() => openCheckpoint(dir, parseModelConfig(wide)), /has neither/);
});

const root = fileURLToPath(new URL("../../", import.meta.url));
for (const dir of [
  "models/austen-6m",
  "../shared/golden/llm/v3-tiny",
  "../shared/golden/llm/v3-fp8",
]) {
  const path = join(root, dir);
  test(`${dir} fits its config`, { skip: !existsSync(path) && `${dir} is not there` }, () => {
    const config = readModelConfig(path);
    const checkpoint = openCheckpoint(path, config);
    assert.equal(checkpoint.hasMtp, config.numNextnPredictLayers > 0);
    assert.equal(
      checkpoint.linear("model.layers.0.self_attn.o_proj").weight.shape[0],
      config.hiddenSize,
    );
  });
}
