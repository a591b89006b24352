/**
 * @file The forward pass once more, as an oracle: float64, one token after another, plain attention
 * (keys and values expanded per head), nothing shared with the real one but the file reader and
 * config.json. Weights are dequantised, activations are not quantised: what `f32` precision computes.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, type Safetensors } from "../../tensor/index.ts";

type Vector = Float64Array;

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float32Array;
}

/** What the oracle computes of one sequence. */
export interface NaiveResult {
  /** Per token, the logits. */
  readonly logits: Vector[];
  /** Per token but the last, the MTP layer's logits, where the checkpoint has one. */
  readonly mtpLogits: Vector[];
}

/** The logits of every token of one sequence. */
export function naiveForward(dir: string, tokens: readonly number[]): NaiveResult {
  return new Naive(dir).run(tokens);
}

class Naive {
  // biome-ignore lint/suspicious/noExplicitAny: config.json as it is, unchecked on purpose
  private readonly config: Record<string, any>;
  private readonly files: Safetensors;
  private readonly matrices = new Map<string, Matrix>();

  constructor(dir: string) {
    this.config = JSON.parse(readFileSync(join(dir, "config.json"), "utf8"));
    this.files = openSafetensors(dir);
  }

  run(tokens: readonly number[]): NaiveResult {
    const { num_hidden_layers: layers } = this.config;
    const embedding = this.matrix("model.embed_tokens");
    const head = this.matrix("lm_head");
    let x = tokens.map((id) => row(embedding, id));
    for (let layer = 0; layer < layers; layer++) x = this.layer(layer, x);
    const hidden = x.map((v) => this.norm(v, "model.norm"));
    const logits = hidden.map((h) => times(head, h));
    const prefix = `model.layers.${layers}`;
    if (!this.files.tensors.has(`${prefix}.eh_proj.weight`)) return { logits, mtpLogits: [] };
    const joined = hidden.slice(0, -1).map((h, i) => {
      const e = this.norm(row(embedding, tokens[i + 1]), `${prefix}.enorm`);
      return Float64Array.of(...e, ...this.norm(h, `${prefix}.hnorm`));
    });
    const projection = this.matrix(`${prefix}.eh_proj`);
    const guessed = this.layer(
      layers,
      joined.map((v) => times(projection, v)),
    );
    const mtpLogits = guessed.map((v) => times(head, this.norm(v, `${prefix}.shared_head.norm`)));
    return { logits, mtpLogits };
  }

  private layer(index: number, x: Vector[]): Vector[] {
    const prefix = `model.layers.${index}`;
    const normed = x.map((v) => this.norm(v, `${prefix}.input_layernorm`));
    const attended = this.attention(`${prefix}.self_attn`, normed);
    const y = x.map((v, i) => v.map((value, j) => value + attended[i][j]));
    return y.map((v) => {
      const h = this.norm(v, `${prefix}.post_attention_layernorm`);
      const dense = index < this.config.first_k_dense_replace;
      const out = dense ? this.mlp(`${prefix}.mlp`, h) : this.experts(`${prefix}.mlp`, h);
      return v.map((value, j) => value + out[j]);
    });
  }

  private attention(prefix: string, x: Vector[]): Vector[] {
    const c = this.config;
    const [nope, rope, v, latentDim] = [
      c.qk_nope_head_dim,
      c.qk_rope_head_dim,
      c.v_head_dim,
      c.kv_lora_rank,
    ];
    const linear = (name: string, input: Vector) => times(this.matrix(`${prefix}.${name}`), input);
    const queries: Vector[] = [];
    const expanded: Vector[] = [];
    const rotary: Vector[] = [];
    x.forEach((h, position) => {
      const low = c.q_lora_rank
        ? this.norm(linear("q_a_proj", h), `${prefix}.q_a_layernorm`, 1e-6)
        : h;
      const query = linear(c.q_lora_rank ? "q_b_proj" : "q_proj", low);
      for (let head = 0; head < c.num_attention_heads; head++) {
        const start = head * (nope + rope) + nope;
        query.set(this.rotated(query.slice(start, start + rope), position), start);
      }
      queries.push(query);
      const joint = linear("kv_a_proj_with_mqa", h);
      const latent = this.norm(joint.slice(0, latentDim), `${prefix}.kv_a_layernorm`, 1e-6);
      expanded.push(linear("kv_b_proj", latent));
      rotary.push(this.rotated(joint.slice(latentDim), position));
    });
    const yarn = c.rope_scaling;
    const m = yarn ? 0.1 * yarn.mscale_all_dim * Math.log(yarn.factor) + 1 : 1;
    const scale = (m * m) / Math.sqrt(nope + rope);
    return x.map((_, i) => {
      const out = new Float64Array(c.num_attention_heads * v);
      for (let head = 0; head < c.num_attention_heads; head++) {
        const q = queries[i].subarray(head * (nope + rope), (head + 1) * (nope + rope));
        const scores = expanded.slice(0, i + 1).map((kv, j) => {
          const key = kv.subarray(head * (nope + v), head * (nope + v) + nope);
          return scale * (dot(q.subarray(0, nope), key) + dot(q.subarray(nope), rotary[j]));
        });
        softmax(scores).forEach((p, j) => {
          const start = head * (nope + v) + nope;
          for (let d = 0; d < v; d++) out[head * v + d] += p * expanded[j][start + d];
        });
      }
      return linear("o_proj", out);
    });
  }

  private rotated(pairs: Vector, position: number): Vector {
    const { rope_theta: theta, rope_scaling: yarn } = this.config;
    const dim = pairs.length;
    const out = new Float64Array(dim);
    for (let i = 0; i < dim / 2; i++) {
      let frequency = theta ** ((-2 * i) / dim);
      if (yarn) {
        const corrected = (turns: number) =>
          (dim * Math.log(yarn.original_max_position_embeddings / (turns * 2 * Math.PI))) /
          (2 * Math.log(theta));
        const low = Math.max(0, Math.floor(corrected(yarn.beta_fast)));
        const high = Math.min(dim - 1, Math.ceil(corrected(yarn.beta_slow)));
        const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
        frequency = (frequency / yarn.factor) * ramp + frequency * (1 - ramp);
      }
      const [cos, sin] = [Math.cos(position * frequency), Math.sin(position * frequency)];
      out[2 * i] = pairs[2 * i] * cos - pairs[2 * i + 1] * sin;
      out[2 * i + 1] = pairs[2 * i + 1] * cos + pairs[2 * i] * sin;
    }
    return out;
  }

  private experts(prefix: string, h: Vector): Vector {
    const c = this.config;
    const logits = [...times(this.matrix(`${prefix}.gate`), h)];
    const scores =
      c.scoring_func === "sigmoid" ? logits.map((l) => 1 / (1 + Math.exp(-l))) : softmax(logits);
    const biasName = `${prefix}.gate.e_score_correction_bias`;
    const bias = this.files.tensors.has(biasName) ? this.files.f32(biasName).data : undefined;
    const biased = scores.map((s, e) => s + (bias?.[e] ?? 0));
    const size = biased.length / (c.n_group ?? 1);
    const inGroup = (e: number) => Math.floor(e / size);
    const best = (values: number[], count: number) =>
      values
        .map((value, index) => ({ value, index }))
        .sort((a, b) => b.value - a.value || a.index - b.index)
        .slice(0, count)
        .map(({ index }) => index);
    let allowed = biased;
    if (c.topk_method !== "greedy" && c.n_group > 1) {
      const groups = Array.from({ length: c.n_group }, (_, g) => {
        const own = biased.filter((_, e) => inGroup(e) === g).sort((a, b) => b - a);
        return c.topk_method === "noaux_tc" ? own[0] + own[1] : own[0];
      });
      const kept = new Set(best(groups, c.topk_group));
      allowed = biased.map((b, e) => (kept.has(inGroup(e)) ? b : Number.NEGATIVE_INFINITY));
    }
    const chosen = best(allowed, c.num_experts_per_tok);
    const sum = chosen.reduce((total, e) => total + scores[e], 0);
    const out = new Float64Array(h.length);
    for (const e of chosen) {
      const weight = (scores[e] / (c.norm_topk_prob ? sum : 1)) * c.routed_scaling_factor;
      this.mlp(`${prefix}.experts.${e}`, h).forEach((value, j) => {
        out[j] += weight * value;
      });
    }
    if (c.n_shared_experts > 0) {
      this.mlp(`${prefix}.shared_experts`, h).forEach((value, j) => {
        out[j] += value;
      });
    }
    return out;
  }

  private mlp(prefix: string, h: Vector): Vector {
    const gate = times(this.matrix(`${prefix}.gate_proj`), h);
    const up = times(this.matrix(`${prefix}.up_proj`), h);
    const gated = gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]);
    return times(this.matrix(`${prefix}.down_proj`), gated);
  }

  private norm(x: Vector, name: string, eps: number = this.config.rms_norm_eps): Vector {
    const weight = this.matrix(name).values;
    const inverse = 1 / Math.sqrt(dot(x, x) / x.length + eps);
    return x.map((value, i) => value * inverse * weight[i]);
  }

  private matrix(name: string): Matrix {
    const known = this.matrices.get(name);
    if (known) return known;
    const { shape } = this.files.info(`${name}.weight`);
    const values = this.files.f32(`${name}.weight`).data;
    const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape;
    const scaleName = `${name}.weight_scale_inv`;
    if (this.files.tensors.has(scaleName)) {
      const scales = this.files.f32(scaleName);
      for (let r = 0; r < rows; r++) {
        for (let c = 0; c < columns; c++) {
          const block = Math.floor(r / 128) * scales.shape[1] + Math.floor(c / 128);
          values[r * columns + c] *= scales.data[block];
        }
      }
    }
    const matrix = { rows, columns, values };
    this.matrices.set(name, matrix);
    return matrix;
  }
}

function row(matrix: Matrix, index: number): Vector {
  const { columns, values } = matrix;
  return Float64Array.from(values.subarray(index * columns, (index + 1) * columns));
}

function times({ rows, columns, values }: Matrix, x: Vector): Vector {
  const out = new Float64Array(rows);
  for (let r = 0; r < rows; r++) {
    let sum = 0;
    for (let c = 0; c < columns; c++) sum += values[r * columns + c] * x[c];
    out[r] = sum;
  }
  return out;
}

function dot(a: Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function softmax(scores: readonly number[]): number[] {
  const max = Math.max(...scores);
  const exps = scores.map((s) => Math.exp(s - max));
  const sum = exps.reduce((a, b) => a + b, 0);
  return exps.map((e) => e / sum);
}
