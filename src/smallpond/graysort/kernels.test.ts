/** @file The rungs of the record sort against each other and against what is published. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../../base/index.ts";
import { openDevice } from "../../device/index.ts";
import { type Buckets, emptyTally, openKernels, type RecordKernels } from "./kernels.ts";
import { compareKeys, nextState, recordBytes, stateAfter } from "./record.ts";

const seed = Number(process.env.BALEEN_SEED ?? Date.now() % 2 ** 31);
const note = `seed ${seed}: BALEEN_SEED=${seed} repeats it`;
const device = openDevice({ threads: 1 });
const reference = openKernels(openDevice({ rung: "reference" }));
const rungs: readonly [string, RecordKernels][] = [
  ["reference", reference],
  [device.rung, openKernels(device)],
];

/** Kinds of keys that have sent sorts astray. */
const keyKinds: Record<string, (random: Random, i: number, n: number) => bigint> = {
  uniform: (random) => random80(random),
  equal: () => 0x0102030405060708090an,
  "all zeros, then all ones": (_, i) => (i % 2 === 0 ? 0n : 2n ** 80n - 1n),
  "one prefix": (random) => (0x0123456789abcdefn << 16n) | BigInt(random.below(8)),
  "few keys": (random) => BigInt(random.below(6)) << 60n,
  ascending: (_, i) => BigInt(i) << 30n,
  descending: (_, i, n) => BigInt(n - i) << 30n,
  "crowded at zero": (random) => random80(random) >> BigInt(random.below(80)),
};

function random80(random: Random): bigint {
  let key = 0n;
  for (let i = 0; i < 5; i++) key = (key << 16n) | BigInt(random.below(65536));
  return key;
}

function recordsWith(keyOf: (i: number) => bigint, count: number): Uint8Array {
  const records = new Uint8Array(count * recordBytes);
  for (let i = 0; i < count; i++) {
    const view = new DataView(records.buffer, i * recordBytes);
    const key = keyOf(i);
    view.setBigUint64(0, key >> 16n);
    view.setUint16(8, Number(key & 0xffffn));
    view.setUint32(12, i); // who it was, to see that equal keys keep their order
  }
  return records;
}

/** A stable sort that owes nothing to the code under test. */
function oracle(records: Uint8Array): Buffer {
  const rows = Array.from({ length: records.length / recordBytes }, (_, i) =>
    records.subarray(i * recordBytes, (i + 1) * recordBytes),
  );
  return Buffer.concat(rows.toSorted((left, right) => compareKeys(left, 0, right, 0)));
}

function splittersOf(records: Uint8Array, buckets: number): BigUint64Array {
  const view = new DataView(records.buffer, records.byteOffset);
  const count = records.length / recordBytes;
  const prefixes = Array.from({ length: count }, (_, i) => view.getBigUint64(i * recordBytes));
  prefixes.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  return BigUint64Array.from(
    { length: buckets - 1 },
    (_, i) => prefixes[Math.floor(((i + 1) * count) / buckets)] ?? 0n,
  );
}

function sortedBy(buckets: Buckets, count: number, piece: number): Buffer {
  const out = Buffer.alloc(count * recordBytes, 0xa5);
  let at = 0;
  for (let bucket = 0; bucket < buckets.count; bucket++) {
    const size = buckets.sizeOf(bucket);
    buckets.sort(bucket);
    for (let first = 0; first < size; first += piece) {
      const records = Math.min(piece, size - first);
      buckets.copy(first, out.subarray(at, at + records * recordBytes));
      at += records * recordBytes;
    }
  }
  assert.equal(at, out.length, "every record is in a bucket");
  return out;
}

test("the generator starts as published: row 0 has the key JimGrayRIP", () => {
  for (const [name, kernels] of rungs) {
    const record = new Uint8Array(recordBytes);
    kernels.generate(record, 0n);
    assert.equal(Buffer.from(record).toString("latin1", 0, 10), "JimGrayRIP", name);
    assert.equal(Buffer.from(record).toString("latin1", 12, 44), "0".repeat(32), name);
  }
});

test("skipping ahead ends where stepping does", () => {
  let state = 0n;
  for (let i = 0n; i < 300n; i++) {
    assert.equal(stateAfter(i), state);
    state = nextState(state);
  }
  const far = 0x1234_5678_9abc_def0_1234n;
  assert.equal(nextState(stateAfter(far)), stateAfter(far + 1n));
});

test(`machine code generates what the reference does, in any cut (${note})`, () => {
  const random = new Random(seed);
  for (const firstRow of [0n, 1n, 255n, 2n ** 32n - 3n, BigInt(random.below(2 ** 31))]) {
    const wanted = new Uint8Array(57 * recordBytes);
    reference.generate(wanted, firstRow);
    const got = new Uint8Array(wanted.length).fill(0xa5);
    for (const [name, kernels] of rungs) {
      kernels.generate(got.subarray(0, 20 * recordBytes), firstRow);
      kernels.generate(got.subarray(20 * recordBytes), firstRow + 20n);
      assert.deepEqual(got, wanted, `${name} from row ${firstRow}`);
    }
  }
});

test(`both rungs sort every kind of key stably (${note})`, () => {
  const random = new Random(seed);
  for (const [kind, keyOf] of Object.entries(keyKinds)) {
    for (const [count, bucketCount] of [
      [0, 2],
      [1, 2],
      [2, 4],
      [65, 2],
      [655, 2],
      [3000, 2],
      [3000, 8],
      [3000, 64],
    ] as const) {
      const records = recordsWith((i) => keyOf(random, i, count), count);
      const wanted = oracle(records);
      const splitters = splittersOf(records, bucketCount);
      for (const [name, kernels] of rungs) {
        const buckets = kernels.buckets(count, splitters);
        for (let round = 0; round < 2; round++) {
          const cut = Math.floor(count / 3) * recordBytes;
          buckets.add(records.subarray(0, cut));
          buckets.add(records.subarray(cut));
          const piece = 1 + random.below(700);
          const label = `${name}, ${kind}, ${count} records, ${bucketCount} buckets, ${round}`;
          assert.ok(sortedBy(buckets, count, piece).equals(wanted), label);
          buckets.clear();
        }
        buckets.close();
      }
    }
  }
});

test(`a bucket's pieces are its records in order of arrival (${note})`, () => {
  const random = new Random(seed);
  const count = 4000;
  const records = recordsWith((i) => keyKinds.uniform(random, i, count), count);
  const splitters = splittersOf(records, 4);
  const [wanted, got] = rungs.map(([, kernels]) => {
    const buckets = kernels.buckets(count, splitters);
    buckets.add(records);
    const all = [0, 1, 2, 3].map((bucket) => Buffer.concat(buckets.pieces(bucket)));
    buckets.close();
    return all;
  });
  for (const [bucket, bytes] of got.entries()) {
    assert.ok(bytes.equals(wanted[bucket]), `bucket ${bucket}`);
  }
});

test(`both rungs tally order, duplicates and checksum alike (${note})`, () => {
  const random = new Random(seed);
  for (const [kind, keyOf] of Object.entries(keyKinds)) {
    const records = recordsWith((i) => keyOf(random, i, 500), 500);
    for (const data of [records, oracle(records)]) {
      const [wanted, got] = rungs.map(([, kernels]) => {
        const tally = emptyTally();
        for (const [from, to] of [
          [0, 1],
          [1, 120],
          [120, 120],
          [120, 500],
        ]) {
          kernels.check(data.subarray(from * recordBytes, to * recordBytes), tally);
        }
        return tally;
      });
      assert.deepEqual(got, wanted, kind);
      if (data !== records) assert.equal(got.unordered, 0);
    }
  }
});

test("more records than were asked for are refused", () => {
  for (const [, kernels] of rungs) {
    const buckets = kernels.buckets(3, new BigUint64Array(1));
    assert.throws(() => buckets.add(new Uint8Array(4 * recordBytes)), /got 4, hold 3/);
    assert.throws(() => buckets.add(new Uint8Array(150)), /wanted a multiple of 100/);
    buckets.close();
  }
});
