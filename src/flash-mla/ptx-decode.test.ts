import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ceilDiv, Random } from "../base/index.ts";
import {
  assembleKernel,
  EmulatorFault,
  emitPtx,
  GlobalMemory,
  goldenListing,
  type Kernel,
  mutantsOf,
  type Schedule,
  testSchedules,
  wgmmaCounts,
  whyNoPtxas,
} from "../codegen/index.ts";
import { kernelRunner, openDevice } from "../device/index.ts";
import { bf16ToF32 } from "../tensor/index.ts";
import { flashMlaWithKvCache } from "./decode.ts";
import { getMlaMetadata } from "./metadata.ts";
import { combineLaunch, decodeLaunch } from "./ptx-arguments.ts";
import { mlaCombineKernel } from "./ptx-combine.ts";
import { type DecodeConfig, mlaDecodeKernel } from "./ptx-decode.ts";
import { makeCache, randomBf16 } from "./testing.ts";

const seed = Number(process.env.SEED ?? 20261124);
const runner = kernelRunner();
/** A broken kernel may hang a GPU. */
const emulatorOnly = runner.onGpu ? "broken kernels run in the emulator only" : false;
const reference = openDevice({ rung: "reference" });
after(() => reference.close());

interface Sizes extends DecodeConfig {
  readonly queries: number;
  readonly headsQ: number;
  readonly headsK: number;
  readonly lengths: readonly number[];
  readonly causal: boolean;
  /** Parts of the scheduler's metadata. */
  readonly parts: number;
}

/** A batch with random operands, NaN wherever nothing may be read, and the reference's answer. */
function problemOf(sizes: Sizes) {
  const { queries, headsQ, headsK, lengths, causal, parts, dimQk, dimV } = sizes;
  const random = new Random(seed + lengths.length + headsQ);
  const batch = lengths.length;
  const rows = (queries * headsQ) / headsK;
  const q = randomBf16(random, [batch, queries, headsQ, dimQk]);
  const cache = makeCache(random, lengths, headsK, dimQk);
  // `threads` stands for multiprocessors here; the room's own tiles take 128 rows.
  const threads = parts * headsK * ceilDiv(rows, 128);
  const metadata = getMlaMetadata(cache.cacheSeqlens, rows, headsK, { threads });
  const softmaxScale = 0.7;
  const { out, lse } = flashMlaWithKvCache(
    reference,
    q,
    cache.kCache,
    cache.blockTable,
    cache.cacheSeqlens,
    dimV,
    metadata.tileSchedulerMetadata,
    metadata.numSplits,
    { softmaxScale, causal },
  );
  return { sizes, batch, rows, q, cache, metadata, softmaxScale, expected: { out, lse } };
}

type Problem = ReturnType<typeof problemOf>;

/** `[batch, queries, headsQ, width]` as the kernel takes it, `[batch, headsK, queries, group, width]`. */
function byKeyHead({ sizes, batch }: Problem, data: Uint16Array, width: number): Uint16Array {
  const { queries, headsQ, headsK } = sizes;
  const group = headsQ / headsK;
  const result = new Uint16Array(data.length);
  let to = 0;
  for (let b = 0; b < batch; b++) {
    for (let head = 0; head < headsK; head++) {
      for (let i = 0; i < queries; i++, to += group * width) {
        const from = ((b * queries + i) * headsQ + head * group) * width;
        result.set(data.subarray(from, from + group * width), to);
      }
    }
  }
  return result;
}

/** Runs both kernels; gives out and lse in the kernel's order. */
function run(decode: Kernel, problem: Problem, schedule: Schedule) {
  const { sizes, batch, rows, q, cache, metadata, softmaxScale } = problem;
  const { headsK, dimQk, dimV } = sizes;
  const memory = new GlobalMemory();
  const results = batch * headsK * rows;
  const partial = metadata.numSplits.data[batch] * headsK * rows;
  const out = memory.output("out", results * dimV * 2);
  const lse = memory.output("lse", results * 4);
  const at = {
    out: out.address,
    lse: lse.address,
    outParts: memory.output("outParts", partial * dimV * 4).address,
    lseParts: memory.output("lseParts", partial * 4).address,
    q: memory.input("q", byKeyHead(problem, q.data, dimQk)).address,
    cache: memory.input("cache", cache.kCache.data).address,
    blockTable: memory.input("blockTable", cache.blockTable.data).address,
    cacheSeqlens: memory.input("cacheSeqlens", cache.cacheSeqlens.data).address,
    metadata: memory.input("metadata", metadata.tileSchedulerMetadata.data).address,
    numSplits: memory.input("numSplits", metadata.numSplits.data).address,
  };
  const launch = {
    ...sizes,
    batch,
    softmaxScale,
    pages: cache.kCache.shape[0],
    pagesPerRequest: cache.blockTable.shape[1],
    parts: metadata.tileSchedulerMetadata.shape[0],
  };
  runner.run(decode, { ...decodeLaunch(at, launch), memory, schedule, stepsMax: 2e6 });
  runner.run(mlaCombineKernel(dimV), { ...combineLaunch(at, launch), memory, schedule });
  return { out: out.u16.slice(0, results * dimV), lse: lse.f32.slice(0, results) };
}

/** Upstream's limits: out within 8e-4 or 2.01 / 128 of itself; lse 1e-6 or 8.01 / 65536; infinities exact. */
function check(problem: Problem, got: ReturnType<typeof run>, where: string): void {
  const { sizes, expected, batch } = problem;
  const { dimV, headsQ, headsK, queries } = sizes;
  const wanted = byKeyHead(problem, expected.out.data, dimV);
  wanted.forEach((code, i) => {
    const [x, y] = [bf16ToF32(got.out[i]), bf16ToF32(code)];
    const off = Math.abs(x - y);
    assert.ok(
      off <= 8e-4 || off <= (2.01 / 128) * Math.abs(y),
      `out[${i}]: ${x}, wanted ${y}; ${where}`,
    );
  });
  const group = headsQ / headsK;
  got.lse.forEach((x, i) => {
    const [matrix, row] = [Math.floor(i / (queries * group)), i % (queries * group)];
    const [b, keyHead] = [Math.floor(matrix / headsK), matrix % headsK];
    const head = keyHead * group + (row % group);
    const y = expected.lse.data[(b * headsQ + head) * queries + Math.floor(row / group)];
    const off = Math.abs(x - y);
    const fits = x === y || off <= 1e-6 || off <= (8.01 / 65536) * Math.abs(y);
    assert.ok(fits, `lse[${i}]: ${x}, wanted ${y}; ${where}`);
  });
  assert.equal(got.lse.length, batch * headsQ * queries);
}

const small = { dimQk: 192, dimV: 128 };
const cases: Readonly<Record<string, Sizes>> = {
  "one head, lengths 1 to three pages": {
    ...small,
    queries: 1,
    headsQ: 1,
    headsK: 1,
    lengths: [1, 64, 70, 192],
    causal: false,
    parts: 1,
  },
  "many heads, an empty request, split over parts": {
    ...small,
    queries: 1,
    headsQ: 70,
    headsK: 1,
    lengths: [0, 140, 20, 200],
    causal: true,
    parts: 3,
  },
  "two key heads, three query tokens, causal": {
    ...small,
    queries: 3,
    headsQ: 6,
    headsK: 2,
    lengths: [2, 66, 129],
    causal: true,
    parts: 2,
  },
  "the dimensions of DeepSeek-V3": {
    dimQk: 576,
    dimV: 512,
    queries: 2,
    headsQ: 16,
    headsK: 1,
    lengths: [70, 150],
    causal: true,
    parts: 2,
  },
};

for (const [name, sizes] of Object.entries(cases)) {
  test(`decoding equals the reference: ${name}`, () => {
    const kernel = mlaDecodeKernel(sizes);
    const problem = problemOf(sizes);
    const large = sizes.dimV === 512;
    for (const schedule of testSchedules(large ? 0 : 2, seed)) {
      check(problem, run(kernel, problem, schedule), `seed ${seed}, ${JSON.stringify(schedule)}`);
    }
  });
}

test("broken decoding kernels are flagged", { skip: emulatorOnly }, (t) => {
  const kernel = mlaDecodeKernel(small);
  const problem = problemOf({
    ...small,
    queries: 1,
    headsQ: 3,
    headsK: 1,
    lengths: [200, 20],
    causal: false,
    parts: 1,
  });
  const schedules = testSchedules(2, seed);
  const mutants = mutantsOf(kernel);
  const survivors = mutants.filter(
    (mutant) =>
      !schedules.some((schedule) => {
        try {
          check(problem, run(mutant.kernel, problem, schedule), "");
          return false;
        } catch (error) {
          if (error instanceof EmulatorFault || error instanceof assert.AssertionError) return true;
          throw error;
        }
      }),
  );
  t.diagnostic(
    `${mutants.length - survivors.length} of ${mutants.length} mutants flagged; survivors: ` +
      (survivors.map((mutant) => mutant.name).join("; ") || "none"),
  );
  // A side's wait for the other side's block: the hand-over of probabilities orders it as well. And a
  // fence before a product that follows another one on an accumulator nobody has touched between:
  // PTX does not want it, but ptxas puts one in where it is missing (C7519).
  const harmless = /^drop (MbarWait|WgFence)/;
  const unexplained = survivors.filter(({ name }) => !harmless.test(name));
  assert.deepEqual(
    unexplained.map(({ name }) => name),
    [],
  );
  assert.ok(survivors.length <= 0.05 * mutants.length);
});

test("the PTX is the one that was reviewed", (t) => {
  const kernels = { "mla-decode": mlaDecodeKernel(small), "mla-combine": mlaCombineKernel(128) };
  for (const [name, kernel] of Object.entries(kernels)) {
    const { text } = emitPtx(kernel);
    const golden = goldenListing(import.meta.url, `golden/${name}.ptx`, text);
    if (golden === undefined) return t.skip("there are no sources here");
    assert.equal(text, golden, "UPDATE_GOLDEN=1 node bin/test.js flash-mla/ptx writes it anew");
  }
  assert.equal(emitPtx(kernels["mla-combine"]).target, "sm_90");
});

test("ptxas takes both kernels: no spills, no warnings", { skip: whyNoPtxas() }, (t) => {
  for (const kernel of [
    mlaDecodeKernel({ dimQk: 576, dimV: 512 }),
    mlaDecodeKernel(small),
    mlaCombineKernel(512),
  ]) {
    const { registers, spillBytes, warnings, counts } = assembleKernel(kernel);
    assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] }, kernel.name);
    assert.equal(counts.local, 0);
    const { hgmma, qgmma } = counts;
    assert.deepEqual({ hgmma, qgmma }, wgmmaCounts(kernel));
    t.diagnostic(
      `${kernel.name}: ${registers} registers, ${counts.total} instructions, ${hgmma} HGMMA`,
    );
  }
});

test("a kernel for dimensions that don't fit is refused", () => {
  assert.throws(
    () => mlaDecodeKernel({ dimQk: 512, dimV: 512 }),
    /dimQk: got 512, wanted 512 \+ 64/,
  );
  assert.throws(() => mlaDecodeKernel({ dimQk: 160, dimV: 96 }), /dimV: got 96/);
});
