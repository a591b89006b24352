import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ceilDiv, Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { type Tensor, tensorOf } from "../tensor/index.ts";
import { benchDecode } from "./decode.bench.ts";
import { type FlashMlaResult, flashMlaWithKvCache, getMlaMetadata } from "./index.ts";
import {
  atEdge,
  checkClose,
  lseTolerance,
  makeCache,
  openAll,
  outTolerance,
  type PagedCache,
  poisoned,
  randomBf16,
} from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
console.log(`seed ${seed}`);
const { reference, machines } = openAll();
after(() => {
  for (const device of [reference, ...machines]) device.close();
});

/** Sizes of a call. */
interface Case {
  readonly queries: number;
  readonly headsQ: number;
  readonly headsK: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly lengths: readonly number[];
  readonly causal: boolean;
  /** Threads that the metadata shares the keys among. */
  readonly threads: number;
  /** Elements between rows. */
  readonly pad?: number;
  readonly hasSink?: boolean;
}

interface Problem extends PagedCache {
  readonly sizes: Case;
  readonly q: Tensor<"bf16">;
  readonly sink: Tensor<"f32"> | undefined;
}

function makeProblem(random: Random, sizes: Case): Problem {
  const { queries, headsQ, headsK, dimQk, lengths, pad = 0, hasSink } = sizes;
  const cache = makeCache(random, lengths, headsK, dimQk, pad);
  const q = randomBf16(random, [lengths.length, queries, headsQ, dimQk], pad);
  const sinks = Float32Array.from({ length: headsQ }, (_, head) =>
    head % 7 === 3 ? Number.POSITIVE_INFINITY : head % 7 === 5 ? -Infinity : random.normal(),
  );
  const sink = hasSink ? tensorOf("f32", [headsQ], sinks) : undefined;
  return { sizes, ...cache, q, sink };
}

function run(device: Device, problem: Problem): FlashMlaResult {
  const { sizes, q, kCache, blockTable, cacheSeqlens, sink } = problem;
  const { queries, headsQ, headsK, headDimV, lengths, causal, threads, pad = 0 } = sizes;
  const rows = (queries * headsQ) / headsK;
  const metadata = getMlaMetadata(cacheSeqlens, rows, headsK, { threads });
  const { tileSchedulerMetadata, numSplits } = metadata;
  return flashMlaWithKvCache(
    device,
    q,
    kCache,
    blockTable,
    cacheSeqlens,
    headDimV,
    tileSchedulerMetadata,
    numSplits,
    {
      causal,
      ...(sink ? { attnSink: sink } : {}),
      out: poisoned("bf16", [lengths.length, queries, headsQ, headDimV], pad),
      lse: poisoned("f32", [lengths.length, headsQ, queries], pad),
    },
  );
}

const widths = [
  [576, 512],
  [512, 512],
  [192, 128],
  [96, 64],
  [40, 24],
  [37, 29],
  [5, 3],
  [1, 1],
] as const;
const heads = [
  [1, 1],
  [16, 1],
  [9, 3],
  [63, 1],
  [128, 1],
  [8, 8],
  [126, 2],
] as const;
const lengthsOf = [[1], [63, 0], [64, 65], [20, 140, 3], [200], [333, 128]] as const;

/** All widths with all lengths; the other choices take turns. */
function* edgeCases(): Generator<Case> {
  let turn = 0;
  for (const [dimQk, headDimV] of widths) {
    for (const lengths of lengthsOf) {
      const [headsQ, headsK] = heads[turn % heads.length];
      yield {
        queries: [1, 2, 4][turn % 3],
        headsQ,
        headsK,
        dimQk,
        headDimV,
        lengths,
        causal: turn % 4 !== 3,
        threads: [1, 2 * headsK, 5 * headsK][turn % 3],
        pad: [0, 6, 1][turn % 3],
        hasSink: turn % 4 === 2,
      };
      turn++;
    }
  }
}

test("every instruction set agrees with the reference, whatever lies in unused rows", () => {
  const random = new Random(seed);
  let split = 0;
  for (const sizes of edgeCases()) {
    const problem = makeProblem(random, sizes);
    const wanted = run(reference, problem);
    for (const device of machines) {
      const what = `${device.isa} ${JSON.stringify(sizes)} seed ${seed}`;
      const { out, lse } = run(device, problem);
      // Of very few dimensions the weights' rounding errors are alike in all heads.
      const { absolute, relative } = outTolerance;
      const tolerance = sizes.headDimV < 16 ? { absolute, relative } : outTolerance;
      checkClose(`${what} out`, out, wanted.out, tolerance);
      checkClose(`${what} lse`, lse, wanted.lse, lseTolerance);
    }
    split += Number(sizes.threads > sizes.headsK);
  }
  assert.ok(split > 10, "too few cases split their keys");
});

test("the reference is the formula", () => {
  const random = new Random(seed);
  const sizes = {
    queries: 3,
    headsQ: 4,
    headsK: 2,
    dimQk: 12,
    headDimV: 8,
    lengths: [70, 2, 0],
    causal: true,
    threads: 1,
    hasSink: true,
  };
  const problem = makeProblem(random, sizes);
  const { q, kCache, blockTable, sink } = problem;
  const { out, lse } = run(reference, problem);
  const bf16 = (code: number) => new Float32Array(Uint32Array.of(code << 16).buffer)[0];
  for (let b = 0; b < 3; b++) {
    for (let i = 0; i < 3; i++) {
      for (let h = 0; h < 4; h++) {
        const visible = Math.max(0, sizes.lengths[b] - 3 + i + 1);
        const keyAt = (t: number, d: number) => {
          const page = blockTable.data[b * blockTable.stride + (t >> 6)];
          return bf16(kCache.data[((page * 64 + (t & 63)) * 2 + (h >> 1)) * 12 + d]);
        };
        const scores = Array.from({ length: visible }, (_, t) => {
          let dot = 0;
          for (let d = 0; d < 12; d++)
            dot += bf16(q.data[((b * 3 + i) * 4 + h) * 12 + d]) * keyAt(t, d);
          return Math.exp(dot / Math.sqrt(12));
        });
        const sum = scores.reduce((x, y) => x + y, 0);
        const got = lse.data[(b * 4 + h) * 3 + i];
        const wanted = visible ? Math.log(sum) : Number.POSITIVE_INFINITY;
        assert.ok(got === wanted || Math.abs(got - wanted) < 1e-6, `lse ${got}, wanted ${wanted}`);
        for (let d = 0; d < 8; d++) {
          const top = scores.reduce((x, y, t) => x + y * keyAt(t, d), 0);
          const value = visible ? top / (sum + Math.exp(sink!.data[h])) : 0;
          const error = Math.abs(bf16(out.data[((b * 3 + i) * 4 + h) * 8 + d]) - value);
          assert.ok(error <= 2 ** -8 * Math.abs(value), `out ${b} ${i} ${h} ${d}: ${error}`);
        }
      }
    }
  }
});

test("an empty sequence gives zeros and an infinite lse, and a batch of none is no error", () => {
  const sizes = { queries: 2, headsQ: 16, headsK: 1, dimQk: 64, headDimV: 64, causal: true };
  for (const device of [reference, ...machines]) {
    const problem = makeProblem(new Random(seed), { ...sizes, lengths: [0, 1], threads: 3 });
    const { out, lse } = run(device, problem);
    assert.ok(out.data.subarray(0, 3 * 16 * 64).every((code) => code === 0));
    assert.ok(lse.data.subarray(0, 32).every((value) => value === Number.POSITIVE_INFINITY));
    for (let head = 0; head < 16; head++) {
      assert.equal(lse.data[32 + 2 * head], Number.POSITIVE_INFINITY);
      assert.ok(Number.isFinite(lse.data[33 + 2 * head]));
    }
    run(device, makeProblem(new Random(seed), { ...sizes, lengths: [], threads: 2 }));
  }
});

test("splitting keys changes no more than rounding, and one thread splits nothing", () => {
  const sizes = { queries: 1, headsQ: 16, headsK: 1, dimQk: 576, headDimV: 512, causal: false };
  const lengths = [1000, 70];
  for (const device of [reference, ...machines]) {
    const random = new Random(seed);
    const problem = makeProblem(random, { ...sizes, lengths, threads: 1, hasSink: true });
    const whole = run(device, problem);
    for (const threads of [2, 3, 16, 64]) {
      const { out, lse } = run(device, { ...problem, sizes: { ...problem.sizes, threads } });
      checkClose(`${device.isa}, ${threads} threads, out`, out, whole.out, outTolerance);
      checkClose(`${device.isa}, ${threads} threads, lse`, lse, whole.lse, lseTolerance);
    }
  }
});

test("the metadata covers every block once, evenly, by a plain walk over it", () => {
  const random = new Random(seed);
  for (let run = 0; run < 200; run++) {
    const batch = random.below(6);
    const lengths = Array.from({ length: batch }, () => random.below(3) * random.below(2000));
    const threads = 1 + random.below(12);
    const overheadBlocks = random.below(6);
    const cacheSeqlens = tensorOf("i32", [batch], Int32Array.from(lengths));
    const { tileSchedulerMetadata: table, numSplits } = getMlaMetadata(cacheSeqlens, 1, 1, {
      threads,
      overheadBlocks,
    });
    assert.deepEqual(table.shape, [threads, 8]);
    const seen = lengths.map((length) => new Uint8Array(Math.max(1, ceilDiv(length, 64))));
    const pieces = lengths.map(() => 0);
    const total = seen.reduce((sum, blocks) => sum + blocks.length + overheadBlocks, 0);
    for (let part = 0; part < threads; part++) {
      const [first, last, begin, end, split] = table.data.subarray(8 * part);
      let load = 0;
      for (let request = first; request <= last; request++) {
        const to = request === last ? end : seen[request].length;
        const from = request === first ? begin : 0;
        if (request === first) assert.equal(split, pieces[request]);
        for (let block = from; block < to; block++) seen[request][block]++;
        pieces[request]++;
        load += to - from + overheadBlocks;
      }
      assert.ok(
        load <= Math.ceil(total / threads) + overheadBlocks,
        `part ${part}: ${load}, seed ${seed}`,
      );
    }
    for (const blocks of seen)
      assert.ok(
        blocks.every((count) => count === 1),
        `seed ${seed}`,
      );
    let sum = 0;
    assert.deepEqual([...numSplits.data], [0, ...pieces.map((count) => (sum += count))]);
  }
});

test("nothing beyond the last element of an operand is touched", () => {
  const random = new Random(seed);
  for (const [dimQk, headDimV] of widths) {
    for (const lengths of [[128, 3], [77]]) {
      const sizes = { queries: 1, headsQ: 17, headsK: 1, dimQk, headDimV, lengths };
      const problem = makeProblem(random, { ...sizes, causal: false, threads: 4, hasSink: true });
      // The last page is in use, so that the cache ends behind the last key of a page.
      problem.blockTable.data[0] = problem.kCache.shape[0] - 1;
      for (const device of machines) {
        const edge = {
          ...problem,
          q: atEdge(problem.q),
          kCache: atEdge(problem.kCache),
          sink: atEdge(problem.sink!),
        };
        const { tileSchedulerMetadata, numSplits } = getMlaMetadata(edge.cacheSeqlens, 17, 1, {
          threads: 4,
        });
        const out = atEdge(poisoned("bf16", [lengths.length, 1, 17, headDimV]));
        const lse = atEdge(poisoned("f32", [lengths.length, 17, 1]));
        const { q, kCache, blockTable, cacheSeqlens } = edge;
        const options = { attnSink: edge.sink, out, lse };
        flashMlaWithKvCache(
          device,
          q,
          kCache,
          blockTable,
          cacheSeqlens,
          headDimV,
          tileSchedulerMetadata,
          numSplits,
          options,
        );
        const wanted = run(device, problem);
        assert.deepEqual(out.data, wanted.out.data);
        assert.deepEqual(lse.data, wanted.lse.data);
      }
    }
  }
});

test("what does not fit together is refused in words", () => {
  const sizes = { queries: 1, headsQ: 2, headsK: 1, dimQk: 8, headDimV: 4, causal: false };
  const problem = makeProblem(new Random(seed), { ...sizes, lengths: [100, 5], threads: 1 });
  const { q, kCache, blockTable, cacheSeqlens } = problem;
  const { tileSchedulerMetadata: table, numSplits } = getMlaMetadata(cacheSeqlens, 2, 1);
  const call = (
    change: Partial<Problem> & { dim?: number; options?: object; table?: Tensor<"i32"> },
  ) => {
    for (const device of [reference, ...machines]) {
      flashMlaWithKvCache(
        device,
        change.q ?? q,
        change.kCache ?? kCache,
        change.blockTable ?? blockTable,
        change.cacheSeqlens ?? cacheSeqlens,
        change.dim ?? 4,
        change.table ?? table,
        numSplits,
        change.options ?? {},
      );
    }
  };
  call({});
  const i32 = (shape: number[], ...values: number[]) =>
    tensorOf("i32", shape, Int32Array.from(values));
  const cases: [RegExp, Parameters<typeof call>[0]][] = [
    [/headDimV: got 9/, { dim: 9 }],
    [/shape of q/, { q: poisoned("bf16", [2, 1, 8]) }],
    [/heads of q: got 2/, { kCache: poisoned("bf16", [5, 64, 3, 8]) }],
    [/shape of kCache/, { kCache: poisoned("bf16", [5, 32, 1, 8]) }],
    [/blockTable\[0, 1\]: got 99/, { blockTable: i32([2, 2], 0, 99, 1, 0) }],
    [/cacheSeqlens\[0\]: got 100, wanted 0..64/, { blockTable: i32([2, 1], 0, 1) }],
    [/cacheSeqlens\[1\]: got -5/, { cacheSeqlens: i32([2], 100, -5) }],
    [/0..3 of request 1, which has 1/, { table: i32([1, 8], 0, 1, 0, 3, 0, 0, 0, 0) }],
    [/request 0 is not covered/, { table: i32([1, 8], 2, 1, 0, 0, 0, 0, 0, 0) }],
    [/softmaxScale: got NaN/, { options: { softmaxScale: Number.NaN } }],
    [/topkLength: wanted undefined/, { options: { topkLength: i32([2], 1, 1) } }],
    [/isFp8Kvcache/, { options: { isFp8Kvcache: true } }],
    [/shape of out/, { options: { out: poisoned("bf16", [2, 1, 2, 5]) } }],
    [/shape of attnSink/, { options: { attnSink: poisoned("f32", [3]) } }],
  ];
  for (const [message, change] of cases) assert.throws(() => call(change), message);
});

test("the benchmark runs", async () => {
  const lines: string[] = [];
  await benchDecode(false, (line) => lines.push(line));
  for (const line of lines) assert.doesNotMatch(line, /NaN|Infinity/);
  assert.ok(lines.length > (machines.length > 0 ? 1 : 0));
});
