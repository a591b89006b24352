/**
 * @file The synthetic models' shapes and weights, whatever file they go to.
 *
 * Weights are drawn as E4M3 codes with a power-of-two scale for each 128x128 block, so that their
 * values are exact in bfloat16 too. They are random, drawn from a seed that is each tensor's name.
 * Names are those of Hugging Face's DeepseekV3 checkpoints.
 */

/**
 * @typedef {object} Shape
 * @property {number} hidden
 * @property {number} layers
 * @property {number} denseLayers How many of the first layers have a dense MLP.
 * @property {number} denseInner
 * @property {number} heads
 * @property {number} nope Per head, without position.
 * @property {number} rope Per head, rotated.
 * @property {number} headDimV
 * @property {number} qRank
 * @property {number} kvRank
 * @property {number} experts
 * @property {number} expertsPerToken
 * @property {number} sharedExperts
 * @property {number} expertInner
 * @property {number} groups
 * @property {number} groupsPerToken
 * @property {number} vocab
 */

/**
 * The models that benchmarks use. `tiny` has ragged block scales and expert groups and checks that
 * both programs run the same model; `small` has about 140 M and `large` about 1.3 B parameters.
 * @type {Readonly<Record<"tiny" | "small" | "large", Shape>>}
 */
export const shapes = {
  tiny: {
    hidden: 256,
    layers: 3,
    denseLayers: 1,
    denseInner: 416,
    heads: 4,
    nope: 32,
    rope: 32,
    headDimV: 32,
    qRank: 96,
    kvRank: 128,
    experts: 16,
    expertsPerToken: 4,
    sharedExperts: 1,
    expertInner: 96,
    groups: 4,
    groupsPerToken: 2,
    vocab: 512,
  },
  small: {
    hidden: 1024,
    layers: 8,
    denseLayers: 1,
    denseInner: 2048,
    heads: 8,
    nope: 128,
    rope: 64,
    headDimV: 128,
    qRank: 256,
    kvRank: 512,
    experts: 32,
    expertsPerToken: 4,
    sharedExperts: 1,
    expertInner: 128,
    groups: 1,
    groupsPerToken: 1,
    vocab: 8192,
  },
  large: {
    hidden: 2048,
    layers: 3,
    denseLayers: 1,
    denseInner: 10944,
    heads: 16,
    nope: 128,
    rope: 64,
    headDimV: 128,
    qRank: 512,
    kvRank: 512,
    experts: 64,
    expertsPerToken: 6,
    sharedExperts: 2,
    expertInner: 1408,
    groups: 1,
    groupsPerToken: 1,
    vocab: 8192,
  },
};

export const routedScale = 2.5;
export const normEps = 1e-6;
export const ropeTheta = 10000;
export const maxPositions = 4096;

/**
 * The number of parameters, and of those that one token uses.
 * @param {Shape} shape
 */
export function countParameters(shape) {
  let total = 0;
  let active = 0;
  for (const { name, rows, columns } of matricesOf(shape)) {
    total += rows * columns;
    if (name.includes(".experts."))
      active += (rows * columns * shape.expertsPerToken) / shape.experts;
    else if (name !== "model.embed_tokens.weight") active += rows * columns;
  }
  return { total, active };
}

/**
 * Every matrix in the order of the checkpoint: name, size, and whether it is quantised.
 * @param {Shape} shape
 */
export function* matricesOf(shape) {
  const { hidden, heads, nope, rope, headDimV, qRank, kvRank } = shape;
  yield { name: "model.embed_tokens.weight", rows: shape.vocab, columns: hidden, plain: true };
  for (let layer = 0; layer < shape.layers; layer++) {
    const attention = `model.layers.${layer}.self_attn`;
    yield { name: `${attention}.q_a_proj.weight`, rows: qRank, columns: hidden };
    yield { name: `${attention}.q_b_proj.weight`, rows: heads * (nope + rope), columns: qRank };
    yield { name: `${attention}.kv_a_proj_with_mqa.weight`, rows: kvRank + rope, columns: hidden };
    yield {
      name: `${attention}.kv_b_proj.weight`,
      rows: heads * (nope + headDimV),
      columns: kvRank,
    };
    yield { name: `${attention}.o_proj.weight`, rows: hidden, columns: heads * headDimV };
    const mlp = `model.layers.${layer}.mlp`;
    if (layer < shape.denseLayers) {
      yield* mlpOf(mlp, hidden, shape.denseInner);
      continue;
    }
    yield { name: `${mlp}.gate.weight`, rows: shape.experts, columns: hidden, plain: true };
    for (let expert = 0; expert < shape.experts; expert++) {
      yield* mlpOf(`${mlp}.experts.${expert}`, hidden, shape.expertInner);
    }
    yield* mlpOf(`${mlp}.shared_experts`, hidden, shape.sharedExperts * shape.expertInner);
  }
  yield { name: "lm_head.weight", rows: shape.vocab, columns: hidden, plain: true };
}

function* mlpOf(prefix, hidden, inner) {
  yield { name: `${prefix}.gate_proj.weight`, rows: inner, columns: hidden };
  yield { name: `${prefix}.up_proj.weight`, rows: inner, columns: hidden };
  yield { name: `${prefix}.down_proj.weight`, rows: hidden, columns: inner };
}

/** Every vector (norms and the gates' biases): name and length. */
export function* vectorsOf(shape) {
  for (let layer = 0; layer < shape.layers; layer++) {
    const prefix = `model.layers.${layer}`;
    yield { name: `${prefix}.input_layernorm.weight`, length: shape.hidden };
    yield { name: `${prefix}.self_attn.q_a_layernorm.weight`, length: shape.qRank };
    yield { name: `${prefix}.self_attn.kv_a_layernorm.weight`, length: shape.kvRank };
    yield { name: `${prefix}.post_attention_layernorm.weight`, length: shape.hidden };
    if (layer < shape.denseLayers) continue;
    yield { name: `${prefix}.mlp.gate.e_score_correction_bias`, length: shape.experts, bias: true };
  }
  yield { name: "model.norm.weight", length: shape.hidden };
}

/** A generator of 32 random bits, seeded by a name (FNV-1a, then the splitmix32 sequence). */
function bitsOf(name) {
  let state = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) state = Math.imul(state ^ name.charCodeAt(i), 0x01000193);
  return () => {
    state = (state + 0x9e3779b9) | 0;
    let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
}

/** The value of each E4M3 code: sign, 4 exponent bits of bias 7, 3 fraction bits; 0x7f is NaN. */
const valueOfCode = Float32Array.from({ length: 256 }, (_, code) => {
  const exponent = (code >> 3) & 15;
  const fraction = code & 7;
  if ((code & 0x7f) === 0x7f) return Number.NaN;
  const magnitude = exponent === 0 ? fraction * 2 ** -9 : (8 + fraction) * 2 ** (exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
});

/** Standard deviation of `normalCodes`: most of the range of E4M3 (448) is used. */
const codeDeviation = 120;

/** 4096 E4M3 codes of normal variates: a weight costs one look-up. */
const normalCodes = Uint8Array.from({ length: 4096 }, (_, index) => {
  const next = bitsOf(`normal ${index}`);
  const radius = Math.sqrt(-2 * Math.log((next() + 1) / 2 ** 32));
  const value = codeDeviation * radius * Math.cos((2 * Math.PI * next()) / 2 ** 32);
  const magnitude = Math.min(448, Math.abs(value));
  let code = 0;
  while (code < 0x7e && valueOfCode[code + 1] <= magnitude) code++;
  const above = code < 0x7e && valueOfCode[code + 1] - magnitude < magnitude - valueOfCode[code];
  return (value < 0 ? 0x80 : 0) | (above ? code + 1 : code);
});

/** The E4M3 codes `[rows, columns]` of a matrix. */
export function codesOf({ name, rows, columns }) {
  const next = bitsOf(name);
  const codes = new Uint8Array(rows * columns);
  for (let i = 0; i < codes.length; i += 2) {
    const bits = next();
    codes[i] = normalCodes[bits & 4095];
    codes[i + 1] = normalCodes[(bits >>> 12) & 4095];
  }
  return codes;
}

/** The scale of each 128x128 block: a power of two near what keeps activations of order one. */
export function scalesOf({ name, rows, columns }) {
  const next = bitsOf(`${name} scales`);
  const exponent = Math.round(Math.log2(1 / Math.sqrt(columns) / codeDeviation));
  const count = Math.ceil(rows / 128) * Math.ceil(columns / 128);
  return Float32Array.from({ length: count }, () => 2 ** (exponent - (next() & 1)));
}

/** The values `[rows, columns]` of a matrix: codes times block scales, exact in bfloat16. */
export function valuesOf(matrix) {
  const { rows, columns } = matrix;
  const codes = codesOf(matrix);
  const scales = scalesOf(matrix);
  const blocks = Math.ceil(columns / 128);
  const values = new Float32Array(rows * columns);
  for (let row = 0, i = 0; row < rows; row++) {
    const first = (row >> 7) * blocks;
    for (let column = 0; column < columns; column++, i++) {
      values[i] = valueOfCode[codes[i]] * scales[first + (column >> 7)];
    }
  }
  return values;
}

/** The values of a vector: near 1 for a norm (exact in bfloat16), near 0 for a bias. */
export function vectorValuesOf({ name, length, bias }) {
  const next = bitsOf(name);
  return Float32Array.from({ length }, () => {
    const step = (next() & 63) - 32;
    return bias ? step / 1000 : 1 + step / 128;
  });
}

/** The bytes in GPT-2's printable alphabet, then `Ġt256`, `Ġt257` and so on (Ġ is a space). */
export function tokensOf(shape) {
  let unprintable = 0;
  return Array.from({ length: shape.vocab }, (_, id) => {
    if (id >= 256) return `\u0120t${id}`;
    const printable = (id >= 33 && id <= 126) || (id >= 161 && id !== 173);
    return String.fromCharCode(printable ? id : 256 + unprintable++);
  });
}
