import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { BaleenError, Random, VirtualClock } from "../../base/index.ts";
import { Allocator } from "./allocator.ts";
import type { Disk } from "./disk.ts";
import { type ChunkChange, ChunkEngine, type Staging } from "./engine.ts";
import { openFileDisk } from "./file-disk.ts";
import { openLmdbStore } from "./lmdb-store.ts";
import { type ChunkRecord, decodeRecord, digestOf, encodeRecord } from "./records.ts";
import { SimulatedMedium } from "./simulated-disk.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
const folder = mkdtempSync(join(tmpdir(), "baleen-storage-"));
after(() => rmSync(folder, { recursive: true, force: true }));
console.log(`seed ${seed}`);

const chunkBytes = 128 * 1024;

function staging(index: number, version: number, change: ChunkChange, commit = true): Staging {
  return { chunk: { inode: 5, index }, chunkBytes, version, chainVersion: 1, change, commit };
}

function randomData(random: Random, bytes: number): Uint8Array {
  const data = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i++) data[i] = random.uint32();
  return data;
}

/** A change, and what it makes of the model's content. */
function randomChange(random: Random, old: Uint8Array): { change: ChunkChange; next: Uint8Array } {
  const which = random.below(10);
  if (which === 0) return { change: { kind: "remove" }, next: new Uint8Array(0) };
  if (which === 1) {
    const length = random.below(chunkBytes + 1);
    const next = new Uint8Array(length);
    next.set(old.subarray(0, length));
    return { change: { kind: "truncate", length }, next };
  }
  const places = [old.length, random.below(chunkBytes), random.below(32) * 4096, 0];
  const offset = Math.min(places[random.below(4)], chunkBytes - 1);
  const bytes = 1 + random.below(Math.min(chunkBytes - offset, random.below(2) ? 300 : 70_000));
  const data = randomData(random, bytes);
  const next = new Uint8Array(Math.max(old.length, offset + bytes));
  next.set(old);
  next.set(data, offset);
  return { change: { kind: "write", offset, data }, next };
}

async function contentOf(engine: ChunkEngine, index: number): Promise<Uint8Array> {
  const record = engine.record({ inode: 5, index });
  if (!record?.committed || record.committed.removed) return new Uint8Array(0);
  return (await engine.read({ inode: 5, index }, 0, chunkBytes)).bytes;
}

async function checkRead(
  engine: ChunkEngine,
  random: Random,
  index: number,
  model: Uint8Array,
): Promise<void> {
  if (model.length === 0) return;
  const offset = random.below(model.length);
  const length = 1 + random.below(model.length - offset);
  const { bytes, firstPage } = await engine.read({ inode: 5, index }, offset, length);
  const from = offset - firstPage * 4096;
  assert.ok(
    Buffer.from(bytes.subarray(from, from + length)).equals(
      model.subarray(offset, offset + length),
    ),
  );
}

for (const openOne of [openFileDisk]) {
  const words = "any series of updates reads back as a plain array would, also after opening again";
  test(`${words} (${openOne.name})`, () => seriesOfUpdates(openOne));
}

async function seriesOfUpdates(openOne: (folder: string) => Disk): Promise<void> {
  const random = new Random(seed);
  const path = join(folder, openOne.name);
  const open = () => ChunkEngine.open(openOne(path), openLmdbStore(join(path, "records")));
  let engine = await open();
  const models = [0, 1, 2].map(() => ({ bytes: new Uint8Array(0) as Uint8Array, version: 0 }));
  for (let i = 0; i < 150; i++) {
    const index = random.below(3);
    const model = models[index];
    const { change, next } = randomChange(random, model.bytes);
    const isDirect = random.below(2) === 0;
    await engine.stage(staging(index, ++model.version, change, isDirect));
    if (change.kind === "remove") model.version = 0;
    if (!isDirect) {
      if (model.bytes.length > 0)
        assert.ok(Buffer.from(await contentOf(engine, index)).equals(model.bytes));
      engine.commit({ inode: 5, index });
    }
    model.bytes = next;
    await checkRead(engine, random, index, next);
    if (i % 40 === 39) {
      await engine.close();
      engine = await open();
    }
  }
  for (const [index, { bytes, version }] of models.entries()) {
    assert.ok(Buffer.from(await contentOf(engine, index)).equals(bytes), `chunk ${index}`);
    assert.equal(engine.record({ inode: 5, index })?.committed?.version ?? 0, version);
  }
  await engine.close();
}

test("many updates at once share their flushes", async () => {
  const path = join(folder, "group");
  const engine = await ChunkEngine.open(openFileDisk(path), openLmdbStore(join(path, "records")));
  const data = new Uint8Array(5000).fill(3);
  const write = { kind: "write", offset: 0, data } as const;
  await Promise.all(Array.from({ length: 100 }, (_, i) => engine.stage(staging(i, 1, write))));
  assert.ok(engine.batches < 30, `${engine.batches} batches`);
  assert.equal([...engine.records(5)].length, 100);
  assert.equal([...engine.records(6)].length, 0);
  await engine.close();
});

/** Updates in a row on a medium that crashes before one operation; then what is there must be right. */
async function crashRun(crashAt: number): Promise<boolean> {
  const random = new Random(seed + crashAt);
  const medium = new SimulatedMedium(new VirtualClock(), random);
  const { disk, store } = medium.open();
  let crash = (): void => {};
  const crashed = new Promise<void>((resolve) => {
    crash = resolve;
  });
  medium.crashBefore(crashAt, crash);
  const models: Uint8Array[][] = [0, 1].map(() => [new Uint8Array(0)]);
  const durable = [0, 0];
  const work = async (): Promise<void> => {
    const engine = await ChunkEngine.open(disk, store);
    for (let i = 0; i < 12; i++) {
      const index = random.below(2);
      const { change, next } = randomChange(random, models[index].at(-1)!);
      if (change.kind === "remove") continue;
      models[index].push(next);
      const version = models[index].length - 1;
      const isDirect = random.below(2) === 0;
      await engine.stage(staging(index, version, change, isDirect));
      durable[index] = version;
      if (!isDirect) engine.commit({ inode: 5, index });
    }
    await engine.flush();
  };
  const hasCrashed = await Promise.race([crashed.then(() => true), work().then(() => false)]);
  medium.crashBefore(Number.POSITIVE_INFINITY, () => {});
  const again = medium.open();
  const engine = await ChunkEngine.open(again.disk, again.store);
  for (const index of [0, 1]) {
    const record = engine.record({ inode: 5, index });
    if (record?.pending !== undefined) engine.commit({ inode: 5, index });
    const version = record?.committed?.version ?? 0;
    assert.ok(
      version >= durable[index],
      `crash ${crashAt}: version ${version} of ${durable[index]}`,
    );
    assert.ok(Buffer.from(await contentOf(engine, index)).equals(models[index][version]));
  }
  return hasCrashed;
}

test("a crash before any operation loses nothing that was durable and shows no torn chunk", async () => {
  let crashAt = 1;
  while (await crashRun(crashAt)) crashAt++;
  assert.ok(crashAt > 20, `${crashAt} crashes`);
});

test("a flipped bit is noticed by every read of its page, and by no other", async () => {
  const random = new Random(seed);
  const medium = new SimulatedMedium(new VirtualClock(), random);
  const { disk, store } = medium.open();
  const engine = await ChunkEngine.open(disk, store);
  const data = randomData(random, chunkBytes);
  await engine.stage(staging(0, 1, { kind: "replace", data }));
  assert.ok(await engine.scrub({ inode: 5, index: 0 }));
  assert.ok(medium.flipBit());
  assert.ok(!(await engine.scrub({ inode: 5, index: 0 })));
  let bad = 0;
  for (let page = 0; page < 32; page++) {
    const read = engine.read({ inode: 5, index: 0 }, page * 4096 + 10, 100);
    bad += await read.then(
      () => 0,
      (error) => (error.code === "storage-checksum-mismatch" ? 1 : 100),
    );
  }
  assert.equal(bad, 1);
  // An update beside the damage keeps it visible; one over it repairs it.
  await engine.stage(staging(0, 2, { kind: "replace", data }));
  assert.ok(await engine.scrub({ inode: 5, index: 0 }));
});

test("a full or failing disk refuses an update and keeps the old content", async () => {
  const medium = new SimulatedMedium(new VirtualClock(), new Random(seed));
  const { disk, store } = medium.open();
  const engine = await ChunkEngine.open(disk, store);
  const data = new Uint8Array(9000).fill(1);
  await engine.stage(staging(0, 1, { kind: "replace", data }));
  const used = engine.usedBytes;
  for (const [faults, code] of [
    [{ capacityBytes: 0 }, "storage-no-space"],
    [{ failure: 1 }, "storage-io-failed"],
  ] as const) {
    medium.faults = { delayMs: 0, failure: 0, capacityBytes: Number.POSITIVE_INFINITY, ...faults };
    const update = engine.stage(staging(0, 2, { kind: "replace", data: data.slice(1) }));
    await assert.rejects(update, (error) => error instanceof BaleenError && error.code === code);
    medium.faults = { delayMs: 0, failure: 0, capacityBytes: Number.POSITIVE_INFINITY };
    assert.equal(engine.failure, undefined);
    assert.equal(engine.usedBytes, used);
    assert.ok(Buffer.from(await contentOf(engine, 0)).equals(data));
  }
});

test("a failed flush takes the target out of use", async () => {
  const medium = new SimulatedMedium(new VirtualClock(), new Random(seed));
  const { disk, store } = medium.open();
  const failing = { ...disk, flush: () => Promise.reject(new Error("EIO")) };
  const engine = await ChunkEngine.open(failing, store);
  const write = () => engine.stage(staging(0, 1, { kind: "replace", data: new Uint8Array(10) }));
  await assert.rejects(write(), { code: "storage-io-failed" });
  await assert.rejects(write(), { code: "storage-io-failed" });
  assert.equal(engine.failure?.code, "storage-io-failed");
});

test("a removed chunk is gone once that is committed, and its blocks are free", async () => {
  const medium = new SimulatedMedium(new VirtualClock(), new Random(seed));
  const { disk, store } = medium.open();
  const engine = await ChunkEngine.open(disk, store);
  const chunk = { inode: 5, index: 0 };
  await engine.stage(staging(0, 1, { kind: "replace", data: new Uint8Array(10) }));
  await engine.stage(staging(0, 2, { kind: "remove" }, false));
  assert.equal((await engine.read(chunk, 0, 10)).bytes.length, 10);
  engine.commit(chunk);
  assert.equal(engine.record(chunk), undefined);
  await assert.rejects(engine.read(chunk, 0, 1), { code: "storage-chunk-not-found" });
  await engine.flush();
  assert.equal(engine.usedBytes, 0);
  assert.equal([...(await ChunkEngine.open(disk, store)).records()].length, 0);
});

test("channels are remembered and handed on", async () => {
  const medium = new SimulatedMedium(new VirtualClock(), new Random(seed));
  const { disk, store } = medium.open();
  const engine = await ChunkEngine.open(disk, store);
  const tag = { clientId: 9, channel: 2, seq: 7 };
  await engine.stage({ ...staging(0, 1, { kind: "remove" }), tag });
  const again = await ChunkEngine.open(disk, store);
  assert.deepEqual(again.channel(tag), { seq: 7, version: 1 });
  const other = new SimulatedMedium(new VirtualClock(), new Random(seed)).open();
  const successor = await ChunkEngine.open(other.disk, other.store);
  await successor.adoptChannels(again.allChannels());
  const older: [string, { seq: number; version: number }][] = [["9.2", { seq: 3, version: 9 }]];
  await successor.adoptChannels(older, new Set(["9.2"]));
  assert.deepEqual(successor.channel(tag), { seq: 7, version: 1 });
  await successor.adoptChannels(older);
  assert.deepEqual(successor.channel(tag), { seq: 3, version: 9 });
  await successor.adoptChannels([]);
  const after = await ChunkEngine.open(other.disk, other.store);
  assert.deepEqual([successor.channel(tag), after.allChannels()], [undefined, []]);
});

test("the allocator gives each block once, the lowest first, within its capacity", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(2), fc.boolean()), { maxLength: 900 }), (steps) => {
      const allocator = new Allocator(400 * 65536);
      const taken = [0, 1, 2].map(() => new Set<number>());
      let used = 0;
      for (const [sizeClass, isFree] of steps) {
        const bytes = 65536 << sizeClass;
        const held = taken[sizeClass];
        if (isFree && held.size > 0) {
          const index = [...held][held.size >> 1];
          allocator.free({ sizeClass, index });
          held.delete(index);
          used -= bytes;
        } else if (used + bytes > 400 * 65536) {
          assert.throws(() => allocator.allocate(sizeClass), { code: "storage-no-space" });
        } else {
          const { index } = allocator.allocate(sizeClass);
          let lowest = 0;
          while (held.has(lowest)) lowest++;
          assert.equal(index, lowest);
          held.add(index);
          used += bytes;
        }
        assert.equal(allocator.usedBytes, used);
      }
    }),
    { seed, numRuns: 30 },
  );
});

test("records survive encoding, and one changed bit is noticed", () => {
  const version = fc.record(
    {
      version: fc.maxSafeNat(),
      chainVersion: fc.maxSafeNat(),
      block: fc.option(
        fc.record({ sizeClass: fc.nat(10), index: fc.nat() }, { noNullPrototype: true }),
        { nil: undefined },
      ),
      length: fc.nat(),
      removed: fc.boolean(),
      tag: fc.option(
        fc.record(
          { clientId: fc.integer({ min: 1 }), channel: fc.nat(), seq: fc.integer({ min: 1 }) },
          { noNullPrototype: true },
        ),
        { nil: undefined },
      ),
      checksums: fc.array(fc.nat(), { maxLength: 256 }).map((sums) => new Uint32Array(sums)),
    },
    { noNullPrototype: true },
  );
  const maybe = fc.option(version, { nil: undefined });
  const records: fc.Arbitrary<ChunkRecord> = fc.record(
    {
      chunk: fc.record({ inode: fc.maxSafeNat(), index: fc.nat() }, { noNullPrototype: true }),
      chunkBytes: fc.constantFrom(65536, 2 ** 26),
      committed: maybe,
      pending: maybe,
    },
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(records, fc.nat(), (record, place) => {
      const key = `${record.chunk.inode}.${record.chunk.index}`;
      const bytes = encodeRecord(record);
      const back = decodeRecord(key, bytes);
      assert.deepEqual(back, record);
      if (record.committed) assert.equal(digestOf(back.committed!), digestOf(record.committed));
      bytes[place % bytes.length] ^= 1 << (place % 8);
      assert.throws(() => decodeRecord(key, bytes), { code: "storage-io-failed" });
    }),
    { seed },
  );
});
