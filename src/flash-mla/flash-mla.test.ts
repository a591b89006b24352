import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ceilDiv, Random } from "../base/index.ts";
import { type Device, openDevice } from "../device/index.ts";
import { f32ToBf16, type Tensor, tensorOf, zeros } from "../tensor/index.ts";
import { benchMla } from "./flash-mla.bench.ts";
import { type MlaCall, type MlaSequence, mlaAttention, pageTokens } from "./index.ts";
import { atEdge } from "./testing.ts";

const seed = Number(process.env.SEED ?? 20260102);
const reference = openDevice({ rung: "reference" });
const best = openDevice({ threads: 2 });
const machines = best.rung === "x86" ? [best, openDevice({ isa: "avx2", threads: 1 })] : [];
after(() => {
  for (const device of [reference, ...machines]) device.close();
});
if (machines.length === 0) console.log(`machine code is not tested: ${best.description}`);

/** A millionth of the largest values, which are normal variates; scores are off by as much. */
const tolerance = 4e-6;

/** Sizes of a call: a [queryCount, contextLength] for each sequence. */
interface Case {
  readonly heads: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly dtype: "f32" | "bf16";
  readonly lengths: readonly (readonly [queryCount: number, contextLength: number])[];
}

/** A call with shuffled pages; whatever must not be read is NaN, and so is the output. */
interface Problem {
  readonly call: MlaCall;
  /** Keys of sequence s, position t, dimension i: what a plain implementation would read. */
  readonly keyOf: (s: number, t: number, i: number) => number;
}

function makeProblem(random: Random, sizes: Case): Problem {
  const { heads, dimQk, headDimV, dtype, lengths } = sizes;
  const tokens = lengths.reduce((sum, [queries]) => sum + queries, 0) + 2;
  const q = zeros("f32", [tokens, heads, dimQk], reference.allocate);
  for (let i = 0; i < q.data.length; i++) q.data[i] = random.normal();
  const pageCounts = lengths.map(([, context]) => ceilDiv(context, pageTokens));
  const pages = pageCounts.reduce((sum, count) => sum + count, 3);
  const free = random.shuffle(Array.from({ length: pages }, (_, i) => i));
  const cacheShape = [pages, pageTokens, dimQk];
  const kvCache =
    dtype === "f32"
      ? zeros(dtype, cacheShape, reference.allocate)
      : zeros(dtype, cacheShape, reference.allocate);
  const values = new Float32Array(kvCache.data.length).fill(Number.NaN);
  kvCache.data.fill(dtype === "f32" ? Number.NaN : 0x7fc0);
  const sequences: MlaSequence[] = [];
  let queryStart = 1;
  lengths.forEach(([queryCount, contextLength], s) => {
    // The entries beyond the context are no page numbers at all.
    const blockTable = new Int32Array(pageCounts[s] + 2).fill(-559038737);
    for (let p = 0; p < pageCounts[s]; p++) blockTable[p] = free.pop()!;
    for (let t = 0; t < contextLength; t++) {
      const start = (blockTable[t >> 6] * pageTokens + (t & 63)) * dimQk;
      for (let i = start; i < start + dimQk; i++) {
        const code = f32ToBf16(random.normal());
        values[i] = new Float32Array(Uint32Array.of(code << 16).buffer)[0];
        kvCache.data[i] = dtype === "f32" ? values[i] : code;
      }
    }
    sequences.push({ queryStart, queryCount, contextLength, blockTable });
    queryStart += queryCount;
  });
  const out = zeros("f32", [tokens, heads, headDimV], reference.allocate);
  const lse = zeros("f32", [tokens, heads], reference.allocate);
  out.data.fill(Number.NaN);
  lse.data.fill(Number.NaN);
  const keyOf = (s: number, t: number, i: number): number => {
    const page = sequences[s].blockTable[Math.floor(t / pageTokens)];
    return values[(page * pageTokens + (t % pageTokens)) * dimQk + i];
  };
  const call = { q, kvCache, sequences, headDimV, softmaxScale: 1.3 / Math.sqrt(dimQk), out, lse };
  return { call, keyOf };
}

/** Attention of one query and head, straight from the formula. */
function naive(
  { call, keyOf }: Problem,
  s: number,
  query: number,
  head: number,
): { out: number[]; lse: number } {
  const { q, sequences, headDimV, softmaxScale } = call;
  const [, heads, dimQk] = q.shape;
  const { queryStart, queryCount, contextLength } = sequences[s];
  const start = ((queryStart + query) * heads + head) * dimQk;
  const scores: number[] = [];
  for (let t = 0; t <= contextLength - queryCount + query; t++) {
    let dot = 0;
    for (let i = 0; i < dimQk; i++) dot += q.data[start + i] * keyOf(s, t, i);
    scores.push(dot * softmaxScale);
  }
  const largest = Math.max(...scores);
  const weights = scores.map((score) => Math.exp(score - largest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const out = Array.from({ length: headDimV }, (_, i) =>
    weights.reduce((sum, weight, t) => sum + (weight / total) * keyOf(s, t, i), 0),
  );
  return { out, lse: largest + Math.log(total) };
}

/** Compares some queries (all, where there are few) of a finished call with the formula. */
function checkAgainstFormula(problem: Problem, random: Random, what: string): void {
  const { call } = problem;
  const [, heads] = call.q.shape;
  const dim = call.headDimV;
  call.sequences.forEach((sequence, s) => {
    const { queryStart, queryCount } = sequence;
    const rows = queryCount * heads;
    const picked = new Set([0, rows - 1]);
    while (picked.size < Math.min(rows, 12)) picked.add(random.below(rows));
    for (const row of picked) {
      const [query, head] = [Math.floor(row / heads), row % heads];
      const wanted = naive(problem, s, query, head);
      const at = (queryStart + query) * heads + head;
      const place = `${what}, sequence ${s}, query ${query}, head ${head}, seed ${seed}`;
      for (let i = 0; i < dim; i++) {
        const error = Math.abs(call.out.data[at * dim + i] - wanted.out[i]);
        assert.ok(error <= tolerance, `${place}, out[${i}]: error ${error}`);
      }
      const error = Math.abs(call.lse!.data[at] - wanted.lse);
      assert.ok(
        error <= tolerance * Math.max(1, Math.abs(wanted.lse)),
        `${place}, lse: error ${error}`,
      );
    }
  });
}

/** Largest difference between two results, NaNs at the same places. */
function difference(x: Tensor<"f32">, y: Tensor<"f32">): number {
  let largest = 0;
  for (let i = 0; i < x.data.length; i++) {
    if (Number.isNaN(x.data[i]) && Number.isNaN(y.data[i])) continue;
    const error = Math.abs(x.data[i] - y.data[i]);
    // A NaN on one side only, or one infinity, must not pass as "not larger".
    if (!(error <= largest)) largest = x.data[i] === y.data[i] ? largest : error;
    if (Number.isNaN(largest)) return Number.NaN;
  }
  return largest;
}

function emptyLike(tensor: Tensor<"f32">): Tensor<"f32"> {
  const copy = zeros("f32", tensor.shape, reference.allocate);
  copy.data.fill(Number.NaN);
  return copy;
}

/** The same call into fresh NaNs. */
function rerun(device: Device, call: MlaCall): { out: Tensor<"f32">; lse: Tensor<"f32"> } {
  const results = { out: emptyLike(call.out), lse: emptyLike(call.lse!) };
  mlaAttention(device, { ...call, ...results });
  return results;
}

/** Bits of the rows of one sequence. */
function bitsOf(tensor: Tensor<"f32">, from: number, rows: number): Uint32Array {
  const step = tensor.data.length / tensor.shape[0];
  const part = tensor.data.slice(from * step, (from + rows) * step);
  return new Uint32Array(part.buffer);
}

const dims = [
  [576, 512],
  [160, 128],
  [96, 64],
  [40, 24],
  [37, 29],
  [17, 17],
  [5, 3],
  [1, 1],
] as const;
const lengthsOf = [
  [[1, 1]],
  [[1, 63]],
  [
    [1, 64],
    [1, 65],
    [2, 200],
  ],
  [
    [2, 2],
    [5, 5],
    [5, 65],
    [1, 130],
  ],
  [
    [64, 64],
    [3, 70],
  ],
  [[65, 200]],
  [[130, 130]],
] as const;

/**
 * Every length with every width and dtype; the head counts take turns, few where there is much to
 * do.
 */
function* edgeCases(): Generator<Case> {
  const headCounts = [1, 3, 4, 16, 20, 128, 2, 5];
  let turn = 0;
  for (const [dimQk, headDimV] of dims) {
    for (const lengths of lengthsOf) {
      const rows = lengths.reduce((sum, [queries]) => sum + queries, 0);
      const large = rows * dimQk > 20_000;
      const heads = headCounts[turn % (large ? 4 : headCounts.length)];
      for (const dtype of ["f32", "bf16"] as const) {
        yield { heads: large ? Math.min(heads, 4) : heads, dimQk, headDimV, dtype, lengths };
      }
      turn++;
    }
  }
}

test("the reference is the formula, whatever lies in unused cache rows and table entries", () => {
  const random = new Random(seed);
  for (const sizes of edgeCases()) {
    if (sizes.dimQk > 100 && sizes.lengths[0][0] > 5) continue;
    const problem = makeProblem(random, sizes);
    mlaAttention(reference, problem.call);
    checkAgainstFormula(problem, random, JSON.stringify(sizes));
  }
});

test("machine code is the formula and the reference on every instruction set", () => {
  const random = new Random(seed);
  for (const sizes of edgeCases()) {
    const problem = makeProblem(random, sizes);
    const wanted = rerun(reference, problem.call);
    for (const device of machines) {
      const { out, lse } = rerun(device, problem.call);
      const what = `${device.isa} ${JSON.stringify(sizes)}`;
      assert.ok(
        difference(out, wanted.out) <= tolerance,
        `${what}: ${difference(out, wanted.out)}`,
      );
      assert.ok(
        difference(lse, wanted.lse) <= 2 * tolerance,
        `${what}: ${difference(lse, wanted.lse)}`,
      );
      checkAgainstFormula({ ...problem, call: { ...problem.call, out, lse } }, random, what);
    }
  }
});

test("nothing beyond the last element of an operand is touched", () => {
  for (const device of machines) {
    for (const dtype of ["f32", "bf16"] as const) {
      for (const [dimQk, headDimV] of dims) {
        const lengths = [
          [2, 128],
          [3, 64],
        ] as const;
        const { call } = makeProblem(new Random(seed), {
          heads: 3,
          dimQk,
          headDimV,
          dtype,
          lengths,
        });
        const wanted = rerun(device, call);
        const [q, kvCache] = [atEdge(call.q), atEdge(call.kvCache)];
        const [out, lse] = [atEdge(emptyLike(call.out)), atEdge(emptyLike(call.lse!))];
        mlaAttention(device, { ...call, q, kvCache, out, lse });
        assert.equal(difference(out, wanted.out), 0);
        assert.equal(difference(lse, wanted.lse), 0);
      }
    }
  }
});

test("rows that belong to no sequence are left as they were", () => {
  const sizes = { heads: 3, dimQk: 20, headDimV: 12, dtype: "f32", lengths: [[2, 7]] } as const;
  for (const device of [reference, ...machines]) {
    const { call } = makeProblem(new Random(seed), sizes);
    mlaAttention(device, call);
    for (const row of [0, 3]) {
      assert.ok(call.out.data.subarray(row * 36, row * 36 + 36).every(Number.isNaN));
      assert.ok(call.lse!.data.subarray(row * 3, row * 3 + 3).every(Number.isNaN));
    }
  }
});

test("a query that sees no key gets zeros and an infinite lse; no query at all is no error", () => {
  const random = new Random(seed);
  const sizes = { heads: 5, dimQk: 20, headDimV: 12, dtype: "bf16", lengths: [[3, 2]] } as const;
  for (const device of [reference, ...machines]) {
    const problem = makeProblem(random, sizes);
    const { out, lse } = rerun(device, problem.call);
    assert.ok(out.data.subarray(60, 120).every((value) => value === 0));
    assert.ok(lse.data.subarray(5, 10).every((value) => value === Infinity));
    assert.ok(out.data.subarray(120, 240).every(Number.isFinite));
    mlaAttention(device, { ...problem.call, sequences: [] });
    const none = { queryStart: 0, queryCount: 0, contextLength: 0, blockTable: new Int32Array(0) };
    mlaAttention(device, { ...problem.call, sequences: [none] });
    const blank = { ...none, queryStart: 0, queryCount: 2 };
    mlaAttention(device, { ...problem.call, sequences: [blank] });
    assert.ok(problem.call.out.data.subarray(0, 120).every((value) => value === 0));
  }
});

test("rows of q, out and lse may be strided", () => {
  const sizes = { heads: 3, dimQk: 20, headDimV: 12, dtype: "f32", lengths: [[4, 70]] } as const;
  for (const device of [reference, ...machines]) {
    const { call } = makeProblem(new Random(seed), sizes);
    mlaAttention(device, call);
    const stretch = (tensor: Tensor<"f32">, stride: number): Tensor<"f32"> => {
      const width = tensor.shape[2];
      const data = new Float32Array(18 * stride).fill(Number.NaN);
      for (let r = 0; r < 18; r++) {
        data.set(tensor.data.subarray(r * width, (r + 1) * width), r * stride);
      }
      return tensorOf("f32", tensor.shape, data, stride);
    };
    const out = stretch(emptyLike(call.out), 33);
    const lse = tensorOf("f32", [6, 3], new Float32Array(60).fill(Number.NaN), 10);
    mlaAttention(device, { ...call, q: stretch(call.q, 41), out, lse });
    assert.equal(difference(out, stretch(call.out, 33)), 0);
    for (let i = 0; i < 60; i++) {
      const wanted = i % 10 < 3 ? call.lse!.data[Math.floor(i / 10) * 3 + (i % 10)] : Number.NaN;
      assert.ok(Object.is(lse.data[i], wanted), `lse element ${i}`);
    }
  }
});

test("extreme scores give no NaN: one key takes all, or all are alike", () => {
  for (const device of [reference, ...machines]) {
    for (const size of [0, 1e4, 1e18]) {
      const lengths = [[70, 200]] as const;
      const sizes = { heads: 4, dimQk: 32, headDimV: 16, dtype: "f32", lengths } as const;
      const problem = makeProblem(new Random(seed), sizes);
      for (let i = 0; i < problem.call.q.data.length; i++) problem.call.q.data[i] *= size;
      const { out, lse } = rerun(device, problem.call);
      assert.ok(out.data.subarray(64, 71 * 64).every((value) => Math.abs(value) < 6));
      assert.ok(lse.data.subarray(4, 71 * 4).every(Number.isFinite));
      const call = { ...problem.call, out, lse };
      if (size === 0) checkAgainstFormula({ ...problem, call }, new Random(seed), "zero scores");
    }
  }
});

test("a query has the same bits alone, in any company, and however its prompt is chunked", () => {
  for (const device of [reference, ...machines]) {
    for (const heads of [1, 3, 16]) {
      for (const dtype of ["f32", "bf16"] as const) {
        const lengths = [
          [130, 200],
          [1, 77],
          [65, 65],
          [1, 200],
        ] as const;
        const sizes = { heads, dimQk: 52, headDimV: 36, dtype, lengths };
        const { call } = makeProblem(new Random(seed), sizes);
        const whole = rerun(device, call);
        const same = (got: Record<"out" | "lse", Tensor<"f32">>, from: number, rows: number) => {
          for (const name of ["out", "lse"] as const) {
            const what = `${device.isa}, ${heads} heads, ${dtype}, ${name}, seed ${seed}`;
            const wanted = bitsOf(whole[name], from, rows);
            assert.deepEqual(bitsOf(got[name], from, rows), wanted, what);
          }
        };
        for (const sequence of call.sequences) {
          const alone = rerun(device, { ...call, sequences: [sequence] });
          same(alone, sequence.queryStart, sequence.queryCount);
        }
        for (const chunk of [1, 7, 64]) {
          const [{ queryStart, queryCount, contextLength, blockTable }] = call.sequences;
          for (let done = 0; done < queryCount; done += chunk) {
            if (chunk === 1 && done % 13 !== 0) continue;
            const count = Math.min(chunk, queryCount - done);
            const part = {
              queryStart: queryStart + done,
              queryCount: count,
              contextLength: contextLength - queryCount + done + count,
              blockTable,
            };
            same(rerun(device, { ...call, sequences: [part] }), queryStart + done, count);
          }
        }
      }
    }
  }
});

test("later keys, even NaN ones, contribute exactly nothing to an earlier query", () => {
  for (const device of [reference, ...machines]) {
    for (const heads of [1, 3, 8]) {
      const lengths = [[40, 100]] as const;
      const sizes = { heads, dimQk: 24, headDimV: 20, dtype: "f32", lengths } as const;
      const { call, keyOf } = makeProblem(new Random(seed), sizes);
      const before = rerun(device, call);
      const [{ blockTable }] = call.sequences;
      for (let t = 80; t < 100; t++) {
        const start = (blockTable[t >> 6] * pageTokens + (t & 63)) * 24;
        call.kvCache.data.fill(t % 2 ? Number.NaN : Infinity, start, start + 24);
      }
      assert.ok(Number.isFinite(keyOf(0, 79, 0)));
      const { out, lse } = rerun(device, call);
      assert.deepEqual(bitsOf(out, 1, 20), bitsOf(before.out, 1, 20));
      assert.deepEqual(bitsOf(lse, 1, 20), bitsOf(before.lse, 1, 20));
      assert.ok(out.data.slice(21 * heads * 20, 41 * heads * 20).every(Number.isNaN));
    }
  }
});

test("the door refuses a call whose addresses would leave their memory", () => {
  const sizes = { heads: 2, dimQk: 8, headDimV: 4, dtype: "f32", lengths: [[2, 70]] } as const;
  const { call } = makeProblem(new Random(seed), sizes);
  const [sequence] = call.sequences;
  const withSequence = (change: Partial<MlaSequence>): MlaCall => ({
    ...call,
    sequences: [{ ...sequence, ...change }],
  });
  const cases: [RegExp, MlaCall][] = [
    [/queries 3\+2 of 4 tokens/, withSequence({ queryStart: 3 })],
    [/queryCount: got -1/, withSequence({ queryCount: -1 })],
    [/contextLength: got 1.5/, withSequence({ contextLength: 1.5 })],
    [/blockTable: got 4 pages, wanted 5/, withSequence({ contextLength: 300 })],
    [/blockTable\[2\]: got -559038737/, withSequence({ contextLength: 130 })],
    [/blockTable\[1\]: got 5/, withSequence({ blockTable: Int32Array.of(0, 5) })],
    [/headDimV: got 9/, { ...call, headDimV: 9 }],
    [/headDimV: got 0/, { ...call, headDimV: 0 }],
    [/softmaxScale: got NaN/, { ...call, softmaxScale: Number.NaN }],
    [/shape of kvCache/, { ...call, kvCache: zeros("f32", [5, 64, 9]) }],
    [/shape of kvCache/, { ...call, kvCache: zeros("f32", [5, 32, 8]) }],
    [/shape of out/, { ...call, out: zeros("f32", [4, 2, 5]) }],
    [/shape of lse/, { ...call, lse: zeros("f32", [4, 1]) }],
    [/q: got 64 elements/, { ...call, q: { ...call.q, stride: 9 } }],
    [/dtype of out/, { ...call, out: zeros("bf16", [4, 2, 4]) as unknown as Tensor<"f32"> }],
  ];
  for (const [message, wrong] of cases) {
    for (const device of [reference, ...machines]) {
      assert.throws(() => mlaAttention(device, wrong), message);
    }
  }
});

test("the benchmark runs", () => {
  const lines: string[] = [];
  benchMla(false, (line) => lines.push(line));
  for (const line of lines) assert.doesNotMatch(line, /NaN|Infinity/);
  assert.ok(lines.length > (machines.length > 0 ? 1 : 0));
});
