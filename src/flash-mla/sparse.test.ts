import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { bf16ToF32, f8e4m3ToF32, type Tensor, tensorOf } from "../tensor/index.ts";
import {
  dequantiseKvCache,
  type FlashMlaResult,
  flashMlaSparseFwd,
  flashMlaWithKvCache,
  getMlaMetadata,
  quantiseKvCache,
} from "./index.ts";
import {
  atEdge,
  checkClose,
  lseTolerance,
  openAll,
  outTolerance,
  poisoned,
  randomBf16,
  valuesOf,
} from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
console.log(`seed ${seed}`);
const { reference, machines } = openAll();
after(() => {
  for (const device of [reference, ...machines]) device.close();
});

/** Indices below `keys`, some of them `none`. */
function randomIndices(
  random: Random,
  shape: readonly number[],
  keys: number,
  none: readonly number[],
): Tensor<"i32"> {
  const count = shape.reduce((product, size) => product * size, 1);
  const data = Int32Array.from({ length: count }, () =>
    keys === 0 || random.below(6) === 0 ? none[random.below(none.length)] : random.below(keys),
  );
  return tensorOf("i32", shape, data);
}

function sinksOf(random: Random, heads: number): Tensor<"f32"> {
  const data = Float32Array.from({ length: heads }, (_, head) =>
    head % 7 === 3 ? Number.POSITIVE_INFINITY : head % 7 === 5 ? -Infinity : random.normal(),
  );
  return tensorOf("f32", [heads], data);
}

test("the FP8 cache keeps its layout: codes, scales, rotary values", () => {
  const random = new Random(seed);
  const cache = randomBf16(random, [3, 5, 1, 576], 2);
  for (let i = 0; i < 128; i++) cache.data[i] = 0;
  for (const powerOfTwo of [true, false]) {
    const packed = quantiseKvCache(cache, { powerOfTwo });
    assert.deepEqual(packed.shape, [3, 5, 1, 656]);
    const back = dequantiseKvCache(packed);
    for (let row = 0; row < 15; row++) {
      const bytes = packed.data.subarray(row * 656, (row + 1) * 656);
      const view = new DataView(bytes.buffer, bytes.byteOffset, 656);
      for (let i = 0; i < 576; i++) {
        const wanted = bf16ToF32(cache.data[row * 578 + i]);
        const got = bf16ToF32(back.data[row * 576 + i]);
        if (i >= 512) {
          assert.equal(view.getUint16(528 + 2 * (i - 512), true), cache.data[row * 578 + i]);
          assert.ok(got === wanted);
          continue;
        }
        const scale = view.getFloat32(512 + 4 * (i >> 7), true);
        if (powerOfTwo) assert.ok(Number.isInteger(Math.log2(scale)), `scale ${scale}`);
        assert.ok(Math.abs(f8e4m3ToF32(bytes[i]) * scale - got) <= Math.abs(got) / 256);
        // Half a unit in the last place of e4m3, or of its subnormals, and bf16's own rounding.
        const error = Math.abs(got - wanted);
        assert.ok(
          error <= Math.max(Math.abs(wanted) * 0.067, scale * 2 ** -10),
          `${got} ${wanted}`,
        );
      }
    }
  }
  const zero = quantiseKvCache(poisonedZero());
  assert.ok(dequantiseKvCache(zero).data.every((code) => code === 0));
});

function poisonedZero(): Tensor<"bf16"> {
  return tensorOf("bf16", [1, 2, 1, 576], new Uint16Array(1152));
}

/** A sparse decode over FP8 caches. */
interface Decode {
  readonly batch: number;
  readonly queries: number;
  readonly headsQ: number;
  readonly pageSize: number;
  readonly topk: number;
  readonly hasLengths: boolean;
  readonly extraTopk: number;
  readonly threads: number;
}

const decodes: readonly Decode[] = [
  {
    batch: 2,
    queries: 1,
    headsQ: 16,
    pageSize: 64,
    topk: 64,
    hasLengths: false,
    extraTopk: 0,
    threads: 1,
  },
  {
    batch: 2,
    queries: 3,
    headsQ: 128,
    pageSize: 64,
    topk: 130,
    hasLengths: false,
    extraTopk: 0,
    threads: 5,
  },
  {
    batch: 3,
    queries: 1,
    headsQ: 64,
    pageSize: 2,
    topk: 200,
    hasLengths: true,
    extraTopk: 0,
    threads: 4,
  },
  {
    batch: 2,
    queries: 2,
    headsQ: 5,
    pageSize: 61,
    topk: 70,
    hasLengths: true,
    extraTopk: 40,
    threads: 3,
  },
  {
    batch: 1,
    queries: 1,
    headsQ: 1,
    pageSize: 576,
    topk: 1,
    hasLengths: false,
    extraTopk: 1,
    threads: 2,
  },
];

function makeDecode(random: Random, sizes: Decode) {
  const { batch, queries, headsQ, pageSize, topk, extraTopk } = sizes;
  const cacheOf = () => {
    const pages = Math.ceil(150 / pageSize);
    const packed = quantiseKvCache(randomBf16(random, [pages, pageSize, 1, 576]), {
      powerOfTwo: random.below(2) === 0,
    });
    // The last two rows belong to nobody: all their bytes say NaN.
    packed.data.fill(0xff, packed.data.length - 2 * 656);
    return { packed, keys: pages * pageSize - 2 };
  };
  const [own, extra] = [cacheOf(), cacheOf()];
  const q = randomBf16(random, [batch, queries, headsQ, 576]);
  const indices = randomIndices(random, [batch, queries, topk], own.keys, [-1]);
  indices.data.subarray(0, topk).fill(-1);
  const lengths = (most: number) =>
    tensorOf(
      "i32",
      [batch],
      Int32Array.from({ length: batch }, () => random.below(most + 1)),
    );
  const topkLength = sizes.hasLengths ? { topkLength: lengths(topk) } : {};
  const extras = extraTopk
    ? {
        extraKCache: extra.packed,
        extraIndicesInKvcache: randomIndices(random, [batch, queries, extraTopk], extra.keys, [-1]),
        ...(sizes.hasLengths ? { extraTopkLength: lengths(extraTopk) } : {}),
      }
    : {};
  const sink = sinksOf(random, headsQ);
  return { sizes, q, kCache: own.packed, indices, options: { ...topkLength, ...extras }, sink };
}

function runDecode(device: Device, problem: ReturnType<typeof makeDecode>): FlashMlaResult {
  const { sizes, q, kCache, indices, options, sink } = problem;
  const { batch, queries, headsQ, topk, extraTopk, threads } = sizes;
  const metadata = getMlaMetadata(tensorOf("i32", [batch], new Int32Array(batch)), headsQ, 1, {
    topk,
    threads,
    ...(extraTopk ? { extraTopk } : {}),
    ...options,
  });
  const { tileSchedulerMetadata, numSplits } = metadata;
  return flashMlaWithKvCache(
    device,
    q,
    kCache,
    undefined,
    undefined,
    512,
    tileSchedulerMetadata,
    numSplits,
    {
      isFp8Kvcache: true,
      indices,
      attnSink: sink,
      ...options,
      out: poisoned("bf16", [batch, queries, headsQ, 512]),
      lse: poisoned("f32", [batch, headsQ, queries]),
    },
  );
}

test("sparse decode over an FP8 cache agrees with the reference on every instruction set", () => {
  const random = new Random(seed);
  for (const sizes of decodes) {
    const problem = makeDecode(random, sizes);
    const wanted = runDecode(reference, problem);
    for (const device of machines) {
      const what = `${device.isa} ${JSON.stringify(sizes)} seed ${seed}`;
      const edge = { ...problem, q: atEdge(problem.q), kCache: atEdge(problem.kCache) };
      const { out, lse } = runDecode(device, edge);
      checkClose(`${what} out`, out, wanted.out, { ...outTolerance, absolute: 1e-3 });
      checkClose(`${what} lse`, lse, wanted.lse, lseTolerance);
    }
  }
});

test("sparse decode with all indices in order is dense decode of the decoded cache", () => {
  const random = new Random(seed);
  const packed = quantiseKvCache(randomBf16(random, [3, 64, 1, 576]));
  const q = randomBf16(random, [1, 1, 16, 576]);
  const keys = 150;
  const indices = tensorOf(
    "i32",
    [1, 1, keys],
    Int32Array.from({ length: keys }, (_, i) => i),
  );
  const cacheSeqlens = tensorOf("i32", [1], Int32Array.of(keys));
  const blockTable = tensorOf("i32", [1, 3], Int32Array.of(0, 1, 2));
  for (const device of [reference, ...machines]) {
    const sparse = getMlaMetadata(cacheSeqlens, 16, 1, { topk: keys });
    const dense = getMlaMetadata(cacheSeqlens, 16, 1);
    const got = flashMlaWithKvCache(
      device,
      q,
      packed,
      undefined,
      undefined,
      512,
      sparse.tileSchedulerMetadata,
      sparse.numSplits,
      { isFp8Kvcache: true, indices },
    );
    const wanted = flashMlaWithKvCache(
      device,
      q,
      dequantiseKvCache(packed),
      blockTable,
      cacheSeqlens,
      512,
      dense.tileSchedulerMetadata,
      dense.numSplits,
    );
    assert.deepEqual(valuesOf(got.out), valuesOf(wanted.out));
    assert.deepEqual(got.lse.data, wanted.lse.data);
  }
});

/** [queries, headsQ, headsK, keys, topk, dimQk, headDimV]. */
const prefills = [
  [1, 16, 1, 40, 64, 576, 512],
  [5, 128, 1, 95, 130, 576, 512],
  [7, 64, 1, 153, 128, 512, 512],
  [3, 9, 3, 20, 17, 40, 24],
  [4, 3, 1, 33, 70, 37, 29],
  [2, 1, 1, 0, 5, 64, 64],
] as const;

test("sparse prefill agrees with the reference, and keys that nobody names may be NaN", () => {
  const random = new Random(seed);
  for (const [queries, headsQ, headsK, keys, topk, dimQk, headDimV] of prefills) {
    const q = randomBf16(random, [queries, headsQ, dimQk], 4);
    const kv = randomBf16(random, [keys + 3, headsK, dimQk], 2);
    // The keys behind, and one in front, are nobody's.
    const nobody = (row: number) =>
      kv.data.fill(0x7fc0, row * headsK * kv.stride, (row + 1) * headsK * kv.stride);
    for (const row of [0, keys + 1, keys + 2]) if (row < keys + 2) nobody(row);
    const indices = randomIndices(random, [queries, headsK, topk], Math.max(0, keys), [
      -1,
      keys + 3,
      2147483647,
      -7,
    ]);
    for (let i = 0; i < indices.data.length; i++) if (indices.data[i] === 0) indices.data[i] = -1;
    indices.data.subarray(0, topk).fill(-1);
    const topkLength = tensorOf(
      "i32",
      [queries],
      Int32Array.from({ length: queries }, () => random.below(topk + 1)),
    );
    const edgeKv = machines.length > 0 ? atEdge(kv) : kv;
    for (const options of [{}, { topkLength, attnSink: sinksOf(random, headsQ) }]) {
      const run = (device: Device) =>
        flashMlaSparseFwd(device, q, edgeKv, indices, 1.2 / Math.sqrt(dimQk), headDimV, {
          ...options,
          out: poisoned("bf16", [queries, headsQ, headDimV], 3),
          maxLogits: poisoned("f32", [queries, headsQ], 1),
          lse: poisoned("f32", [queries, headsQ], 1),
        });
      const wanted = run(reference);
      for (const device of machines) {
        const what = `${device.isa} [${[queries, headsQ, headsK, keys, topk, dimQk]}] seed ${seed}`;
        const { out, maxLogits, lse } = run(device);
        const wide = { absolute: 8e-4, relative: 3.01 / 128, cosine: 7e-6 };
        const narrow = { absolute: 1e-6, relative: 2.01 / 65536 };
        checkClose(`${what} out`, out, wanted.out, wide);
        checkClose(`${what} maxLogits`, maxLogits, wanted.maxLogits, narrow);
        checkClose(`${what} lse`, lse, wanted.lse, narrow);
      }
    }
  }
});

test("a sparse call that does not fit together is refused in words", () => {
  const problem = makeDecode(new Random(seed), { ...decodes[3], queries: 1 });
  const fault = (change: object, message: RegExp) => {
    for (const device of [reference, ...machines]) {
      assert.throws(() => runDecode(device, { ...problem, ...change }), message);
    }
  };
  const i32 = (shape: number[], value: number) => {
    const count = shape.reduce((product, size) => product * size, 1);
    return tensorOf("i32", shape, new Int32Array(count).fill(value));
  };
  const { options } = problem;
  const rest = { ...options, topkLength: i32([2], 70) };
  fault(
    { indices: i32([2, 1, 70], 183), options: rest },
    /indices\[0, 0\]: got 183, wanted -1..182/,
  );
  fault({ indices: i32([2, 1, 70], -2), options: rest }, /indices\[0, 0\]: got -2/);
  fault({ indices: i32([2, 70], 0) }, /shape of indices/);
  fault({ options: { ...options, topkLength: i32([2], 71) } }, /topkLength|lengths of indices/);
  fault({ options: { ...options, extraKCache: undefined } }, /extraKCache, extraIndices/);
  const q = randomBf16(new Random(seed), [1, 4, 64]);
  for (const device of [reference, ...machines]) {
    const call = (change: { indices?: Tensor<"i32">; scale?: number; dim?: number }) =>
      flashMlaSparseFwd(
        device,
        q,
        randomBf16(new Random(seed), [9, 1, 64]),
        change.indices ?? i32([1, 1, 5], 1),
        change.scale ?? 1,
        change.dim ?? 64,
      );
    call({});
    assert.throws(() => call({ dim: 65 }), /headDimV: got 65/);
    assert.throws(() => call({ scale: 0 }), /softmaxScale: got 0/);
    assert.throws(() => call({ indices: i32([2, 1, 5], 1) }), /shape of indices/);
  }
});
