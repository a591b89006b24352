/** @file The benchmark's quick form runs, and the peer's model is ours: weights, names, logits. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { dequantise, openSafetensors, type Safetensors, type Tensor } from "../tensor/index.ts";
import { benchInference, checkAgreement, llamaVersion, syntheticModel } from "./inference.bench.ts";

test("the benchmark runs", async () => {
  const lines: string[] = [];
  await benchInference(false, (line) => lines.push(line));
  assert.equal(lines.length, 4);
  for (const line of lines.slice(1)) {
    assert.match(line, /^ {2}\S.* 1t +[1-9]\d*\.\d \(\d+\.\d\d ms CPU\)$/);
  }
});

/** Reads what `peers/gguf.js` writes: a tensor's values by its name, shapes left out. */
class GgufReader {
  private readonly bytes: Buffer;
  private at = 0;
  private readonly places = new Map<string, { type: number; count: number; offset: number }>();
  private readonly dataStart: number;

  constructor(path: string) {
    this.bytes = readFileSync(path);
    assert.equal(this.bytes.toString("latin1", 0, 4), "GGUF");
    assert.equal(this.bytes.readUInt32LE(4), 3);
    this.at = 8;
    const [tensors, keys] = [this.u64(), this.u64()];
    for (let key = 0; key < keys; key++) {
      this.text();
      this.skipValue(this.u32());
    }
    for (let tensor = 0; tensor < tensors; tensor++) {
      const name = this.text();
      let count = 1;
      for (let dimensions = this.u32(); dimensions > 0; dimensions--) count *= this.u64();
      this.places.set(name, { type: this.u32(), count, offset: this.u64() });
    }
    this.dataStart = Math.ceil(this.at / 32) * 32;
  }

  /** Values as float32, of F32, BF16 or Q8_0. */
  values(name: string): Float32Array {
    const place = this.places.get(name);
    assert.ok(place, `no tensor ${name}`);
    const { type, count, offset } = place;
    const from = this.dataStart + offset;
    const { bytes } = this;
    if (type === 0)
      return Float32Array.from({ length: count }, (_, i) => bytes.readFloatLE(from + 4 * i));
    if (type === 30) {
      const codes = Uint32Array.from(
        { length: count },
        (_, i) => bytes.readUInt16LE(from + 2 * i) << 16,
      );
      return new Float32Array(codes.buffer);
    }
    assert.equal(type, 8);
    return Float32Array.from({ length: count }, (_, i) => {
      const block = from + 34 * (i >> 5);
      return float16(bytes.readUInt16LE(block)) * bytes.readInt8(block + 2 + (i & 31));
    });
  }

  private u32(): number {
    this.at += 4;
    return this.bytes.readUInt32LE(this.at - 4);
  }

  private u64(): number {
    this.at += 8;
    return Number(this.bytes.readBigUInt64LE(this.at - 8));
  }

  private text(): string {
    const length = this.u64();
    this.at += length;
    return this.bytes.toString("utf8", this.at - length, this.at);
  }

  private skipValue(type: number): void {
    const sizes: Record<number, number> = { 4: 4, 5: 4, 6: 4, 7: 1 };
    if (type === 8) this.text();
    else if (type === 9) {
      const element = this.u32();
      for (let count = this.u64(); count > 0; count--) this.skipValue(element);
    } else this.at += sizes[type];
  }
}

/** A positive normal or subnormal float16. */
function float16(code: number): number {
  const exponent = code >> 10;
  return exponent === 0 ? code * 2 ** -24 : (1024 + (code & 1023)) * 2 ** (exponent - 25);
}

let folder: string;
before(() => {
  folder = mkdtempSync(join(tmpdir(), "baleen-"));
});
after(() => rmSync(folder, { recursive: true }));

test("the peer's model is ours: its files hold the checkpoint's numbers", async () => {
  const paths = await syntheticModel(folder, "tiny", ["fp8", "bf16", "Q8_0", "BF16", "F32"]);
  const [f32, bf16, q8] = [paths.F32, paths.BF16, paths.Q8_0].map((path) => new GgufReader(path));
  const ours = openSafetensors(paths.bf16);
  const names = {
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.0.attn_kv_a_mqa.weight": "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    "blk.2.ffn_up_shexp.weight": "model.layers.2.mlp.shared_experts.up_proj.weight",
    "output.weight": "lm_head.weight",
  };
  for (const [theirs, name] of Object.entries(names)) {
    const wanted = ours.f32(name).data;
    assert.deepEqual(f32.values(theirs), wanted, theirs);
    assert.deepEqual(bf16.values(theirs), wanted, theirs);
    assertRounded(q8.values(theirs), wanted, theirs);
  }
  const experts = f32.values("blk.2.ffn_gate_exps.weight");
  const expert = ours.f32("model.layers.2.mlp.experts.5.gate_proj.weight").data;
  assert.deepEqual(experts.subarray(5 * expert.length, 6 * expert.length), expert);
  assertAbsorbed(f32, ours);

  const quantised = openSafetensors(paths.fp8);
  const name = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight";
  const codes = quantised.tensor(name) as Tensor<"f8e4m3">;
  const scales = quantised.tensor(`${name}_scale_inv`) as Tensor<"f32">;
  assert.deepEqual(dequantise(codes, scales).data, ours.f32(name).data);
});

/** Each value is within half a step of 1/127 of its block of 32's largest, the step in float16. */
function assertRounded(got: Float32Array, wanted: Float32Array, name: string): void {
  for (let start = 0; start < wanted.length; start += 32) {
    const block = wanted.subarray(start, start + 32);
    const largest = Math.max(...block.map(Math.abs));
    for (const [i, value] of block.entries()) {
      const error = Math.abs(got[start + i] - value);
      assert.ok(
        error <= largest * (0.5 / 127 + 2 ** -10),
        `${name}[${start + i}]: off by ${error}`,
      );
    }
  }
}

/** kv_b's rows per head are 32 of keys and 32 of values; llama.cpp has the keys transposed. */
function assertAbsorbed(theirs: GgufReader, ours: Safetensors): void {
  const [heads, half, rank] = [4, 32, 128];
  const rows = ours.f32("model.layers.1.self_attn.kv_b_proj.weight").data;
  const keys = theirs.values("blk.1.attn_k_b.weight");
  const values = theirs.values("blk.1.attn_v_b.weight");
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < half; row++) {
      for (let r = 0; r < rank; r++) {
        const key = rows[(head * 2 * half + row) * rank + r];
        assert.equal(keys[(head * rank + r) * half + row], key);
        const value = rows[(head * 2 * half + half + row) * rank + r];
        assert.equal(values[(head * half + row) * rank + r], value);
      }
    }
  }
}

const skip = llamaVersion() === undefined && "llama.cpp is not installed in peers";
test("llama.cpp computes the same logits from it", { skip }, async () => {
  const lines: string[] = [];
  await checkAgreement(await syntheticModel(folder, "tiny", ["bf16", "F32"]), (line) =>
    lines.push(line),
  );
  assert.match(lines[0], /^same network: 60 of 60 likeliest tokens equal/);
});
