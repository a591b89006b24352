import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { fromF32, type Tensor, tensorOf, toF32, zeros } from "../tensor/index.ts";
import { fp8MqaLogits, fp8PagedMqaLogits, getPagedMqaLogitsMetadata } from "./index.ts";
import { openAll, randomMatrix } from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const devices = openAll(console.log);
console.log(`seed ${seed}`);
after(() => {
  for (const device of devices) device.close();
});

interface Case {
  readonly queries: number;
  readonly heads: number;
  readonly depth: number;
  readonly keys: number;
  readonly q: Tensor<"f8e4m3">;
  readonly kv: { codes: Tensor<"f8e4m3">; scales: Tensor<"f32"> };
  readonly weights: Tensor<"f32">;
}

function caseOf(random: Random, queries: number, heads: number, depth: number, keys: number): Case {
  const codes = (shape: number[]) => {
    const size = shape.reduce((product, x) => product * x, 1);
    const matrix = fromF32(randomMatrix(random, 1, size), "f8e4m3");
    return { ...matrix, shape, stride: shape.at(-1)! };
  };
  const scales = zeros("f32", [keys]);
  for (let i = 0; i < keys; i++) scales.data[i] = 0.5 + random.uniform();
  return {
    queries,
    heads,
    depth,
    keys,
    q: codes([queries, heads, depth]),
    kv: { codes: codes([keys, depth]), scales },
    weights: randomMatrix(random, queries, heads),
  };
}

/** The logit by its formula, and the sum of its terms' magnitudes. */
function logitOf(one: Case, i: number, j: number): [value: number, magnitude: number] {
  const { heads, depth, q, kv, weights } = one;
  const [x, y] = [toF32(q).data, toF32(kv.codes).data];
  let [sum, magnitude] = [0, 0];
  for (let h = 0; h < heads; h++) {
    let [score, size] = [0, 0];
    for (let at = 0; at < depth; at++) {
      const term = x[(i * heads + h) * depth + at] * y[j * depth + at];
      score += term;
      size += Math.abs(term);
    }
    const weight = weights.data[i * heads + h] * kv.scales.data[j];
    sum += Math.max(0, score) * weight;
    magnitude += size * Math.abs(weight);
  }
  return [sum, magnitude];
}

function ints(values: readonly number[]): Tensor<"i32"> {
  return tensorOf("i32", [values.length], Int32Array.from(values));
}

function checkLogit(name: string, one: Case, i: number, j: number, got: number): void {
  const [value, magnitude] = logitOf(one, i, j);
  const error = Math.abs(got - value) / magnitude;
  assert.ok(error < 5e-7, `${name}: query ${i}, key ${j}: got ${got}, wanted ${value}`);
}

for (const device of devices) {
  const name = device.isa ?? "reference";
  const random = new Random(seed);

  test(`${name}: logits follow the formula within each query's keys, else -infinity`, () => {
    const shapes = [
      [1, 1, 1, 1],
      [3, 32, 128, 64],
      [4, 7, 70, 200],
      [2, 64, 32, 65],
    ];
    for (const [queries, heads, depth, keys] of shapes) {
      const one = caseOf(random, queries, heads, depth, keys);
      const starts = Array.from({ length: queries }, () => random.below(keys + 1) - 1);
      // Beyond the keys, before the start: both are clamped.
      const ends = starts.map((start, i) => (i === 1 ? start - 1 : random.below(keys + 9)));
      const logits = fp8MqaLogits(device, one.q, one.kv, one.weights, ints(starts), ints(ends));
      assert.deepEqual(logits.shape, [queries, keys]);
      assert.equal(logits.stride % 256, 0);
      for (let i = 0; i < queries; i++) {
        for (let j = 0; j < keys; j++) {
          const got = logits.data[i * logits.stride + j];
          if (j >= starts[i] && j < ends[i]) checkLogit(name, one, i, j, got);
          else assert.equal(got, Number.NEGATIVE_INFINITY, `query ${i}, key ${j}`);
        }
      }
    }
  });

  test(`${name}: compressed logits begin at each query's first key`, () => {
    const one = caseOf(random, 3, 8, 64, 150);
    const [starts, ends] = [
      [0, 70, 149],
      [10, 140, 150],
    ];
    const most = 80;
    const logits = fp8MqaLogits(
      device,
      one.q,
      one.kv,
      one.weights,
      ints(starts),
      ints(ends),
      false,
      most,
    );
    assert.deepEqual(logits.shape, [3, most]);
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < most; j++) {
        const got = logits.data[i * logits.stride + j];
        if (j < ends[i] - starts[i]) checkLogit(name, one, i, starts[i] + j, got);
        else assert.equal(got, 0);
      }
    }
  });

  test(`${name}: paged logits equal the plain ones, whatever lies in unused blocks`, () => {
    for (const isOne of [true, false]) pagedCase(device, new Random(seed + 1), isOne);
  });
}

function pagedCase(device: Device, random: Random, isOne: boolean): void {
  const [batch, nextN, heads, depth, blockKv, blocks] = [3, 2, 32, 64, 64, 9];
  const lengths = [1, 130, 64];
  const table = [
    [4, -7, 99],
    [0, 8, 3],
    [5, 1 << 30, -1],
  ];
  const blockTable = tensorOf("i32", [batch, 3], Int32Array.from(table.flat()));
  const cache = zeros("f8e4m3", [blocks, blockKv, 1, depth + 4], (bytes) => device.allocate(bytes));
  cache.data.fill(0x7f);
  const floats = new Float32Array(cache.data.buffer, cache.data.byteOffset);
  const cases = lengths.map((length) => caseOf(random, nextN, heads, depth, length));
  cases.forEach(({ kv, keys }, b) => {
    for (let j = 0; j < keys; j++) {
      const start = table[b][Math.floor(j / blockKv)] * blockKv * (depth + 4);
      const row = j % blockKv;
      cache.data.set(kv.codes.data.subarray(j * depth, (j + 1) * depth), start + row * depth);
      floats[(start + blockKv * depth) / 4 + row] = kv.scales.data[j];
    }
  });
  const q = zeros("f8e4m3", [batch, nextN, heads, depth]);
  const weights = zeros("f32", [batch * nextN, heads]);
  cases.forEach((one, b) => {
    q.data.set(one.q.data, b * nextN * heads * depth);
    weights.data.set(one.weights.data, b * nextN * heads);
  });
  // The last query sees all; the one before sees one less, or as many as it says.
  const seen = (b: number, n: number) =>
    isOne ? lengths[b] - (nextN - 1 - n) : n === 1 ? lengths[b] : Math.floor(lengths[b] / 2);
  const contextLens = isOne
    ? ints(lengths)
    : tensorOf(
        "i32",
        [batch, nextN],
        Int32Array.from({ length: batch * nextN }, (_, i) => seen(i >> 1, i & 1)),
      );
  const meta = getPagedMqaLogitsMetadata(contextLens, blockKv, 4);
  const width = 192;
  for (const clean of [true, false]) {
    const logits = fp8PagedMqaLogits(
      device,
      q,
      cache,
      weights,
      contextLens,
      blockTable,
      meta,
      width,
      clean,
    );
    assert.deepEqual(logits.shape, [batch * nextN, width]);
    for (let i = 0; i < batch * nextN; i++) {
      const [b, n] = [i >> 1, i & 1];
      for (let j = 0; j < width; j++) {
        const got = logits.data[i * logits.stride + j];
        if (j < seen(b, n)) checkLogit(`batch ${b}`, cases[b], n, j, got);
        else assert.equal(got, clean ? Number.NEGATIVE_INFINITY : 0, `${i}, ${j}`);
      }
    }
  }
  const bad = tensorOf("i32", [batch, 3], Int32Array.from([9, 0, 0, 0, 0, 0, 0, 0, 0]));
  assert.throws(
    () => fp8PagedMqaLogits(device, q, cache, weights, contextLens, bad, meta, width),
    /blockTable\[0\]\[0\]: got 9, wanted 0\.\.8/,
  );
}

test("the metadata deals all pieces out, evenly and in order", () => {
  const random = new Random(seed + 2);
  for (let round = 0; round < 20; round++) {
    const lengths = Array.from({ length: random.below(6) }, () => random.below(3000));
    const workers = 1 + random.below(9);
    const meta = getPagedMqaLogitsMetadata(ints(lengths), 64, workers);
    const before = lengths.map((_, b) =>
      lengths.slice(0, b).reduce((sum, length) => sum + Math.ceil(length / 256), 0),
    );
    const all = lengths.reduce((sum, length) => sum + Math.ceil(length / 256), 0);
    const starts = Array.from({ length: workers + 1 }, (_, i) => {
      const [row, piece] = meta.data.subarray(2 * i, 2 * i + 2);
      return (row === lengths.length ? all : before[row]) + piece;
    });
    assert.equal(starts[0], 0);
    assert.equal(starts.at(-1), all);
    for (let i = 0; i < workers; i++) {
      const share = starts[i + 1] - starts[i];
      assert.ok(share >= Math.floor(all / workers) && share <= Math.ceil(all / workers));
    }
  }
});
