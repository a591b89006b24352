import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BaleenError, Random, realClock } from "../../base/index.ts";
import { CallContext } from "../../transport/index.ts";
import { ChunkEngine } from "./engine.ts";
import { openFileDisk } from "./file-disk.ts";
import { openLmdbStore } from "./lmdb-store.ts";
import { StorageNode } from "./node.ts";
import { digestOf } from "./records.ts";
import { SimulatedMedium } from "./simulated-disk.ts";
import { Cluster, routingOf, serving } from "./testing/cluster.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
const folder = mkdtempSync(join(tmpdir(), "baleen-chain-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const chunkBytes = 1 << 20;

function newMedium(): SimulatedMedium {
  return new SimulatedMedium(realClock, new Random(seed));
}

async function engineOn(medium: SimulatedMedium): Promise<ChunkEngine> {
  const { disk, store } = medium.open();
  return ChunkEngine.open(disk, store);
}

function randomBytes(bytes: number): Uint8Array {
  const random = new Random(seed);
  return new Uint8Array(bytes).map(() => random.uint32());
}

const chunk = { inode: 3, index: 0 };

test("a write is on every replica's files when it is answered, and any replica reads it", async () => {
  const cluster = new Cluster(folder, seed);
  for (const id of [1, 2, 3]) {
    const path = join(folder, `disk-${id}`);
    await cluster.add(
      id,
      await ChunkEngine.open(openFileDisk(path), openLmdbStore(join(path, "records"))),
    );
  }
  cluster.route(2, [serving(1), serving(2), serving(3)]);
  const data = randomBytes(300_000);
  await cluster.client.update(1, chunk, chunkBytes, { kind: "write", offset: 0, data });
  const more = { kind: "write", offset: 300_000, data: data.subarray(0, 5000) } as const;
  const answer = await cluster.client.update(1, chunk, chunkBytes, more);
  assert.deepEqual(answer, { version: 2, chunkLength: 305_000 });
  for (const id of [1, 2, 3]) {
    const part = await cluster.client.read(1, chunk, 299_000, 3000, id);
    const wanted = Buffer.concat([data.subarray(299_000), data.subarray(0, 2000)]);
    assert.ok(Buffer.from(part!.data).equals(wanted), `target ${id}`);
    assert.equal(part!.chunkLength, 305_000);
  }
  assert.equal(await cluster.client.read(1, { inode: 3, index: 9 }, 0, 10), undefined);
  const listed = await cluster
    .peerOf(2)
    .list({ chainId: 1, chainVersion: 2, targetId: 2, inode: 3, limit: 10 });
  assert.deepEqual(
    listed.chunks.map(({ length }) => length),
    [305_000],
  );
  await cluster.client.update(1, chunk, chunkBytes, { kind: "remove" });
  for (const id of [1, 2, 3])
    assert.equal(await cluster.client.read(1, chunk, 0, 1, id), undefined);
  await cluster.close();
});

test("a damaged replica is passed over by reads, and repaired from another", async () => {
  const cluster = new Cluster(folder, seed);
  const media = [newMedium(), newMedium()];
  for (const id of [1, 2]) await cluster.add(id, await engineOn(media[id - 1]));
  cluster.route(2, [serving(1), serving(2)]);
  const data = randomBytes(50_000);
  await cluster.client.update(1, chunk, chunkBytes, { kind: "write", offset: 0, data });
  for (let i = 0; i < 20; i++) media[0].flipBit();
  assert.ok(!(await cluster.engines.get(1)!.scrub(chunk)));
  for (let i = 0; i < 6; i++) {
    const part = await cluster.client.read(1, chunk, 0, 50_000);
    assert.ok(Buffer.from(part!.data).equals(data));
  }
  const direct = cluster.client.read(1, chunk, 0, 50_000, 1);
  assert.ok(Buffer.from((await direct)!.data).equals(data), "repaired meanwhile");
  assert.ok(await cluster.engines.get(1)!.scrub(chunk));
  await cluster.close();
});

test("a successor without room fails the write everywhere, and the chunk stays as it was", async () => {
  const cluster = new Cluster(folder, seed);
  const media = [newMedium(), newMedium(), newMedium()];
  for (const id of [1, 2, 3]) await cluster.add(id, await engineOn(media[id - 1]));
  cluster.route(2, [serving(1), serving(2), serving(3)]);
  const data = randomBytes(20_000);
  await cluster.client.update(1, chunk, chunkBytes, { kind: "write", offset: 0, data });
  const { faults } = media[2];
  media[2].faults = { ...faults, capacityBytes: 0 };
  const refused = cluster.client.update(1, chunk, chunkBytes, {
    kind: "write",
    offset: 0,
    data: data.slice(1),
  });
  await assert.rejects(refused, { code: "storage-no-space" });
  media[2].faults = faults;
  for (const id of [1, 2, 3]) {
    const part = await cluster.client.read(1, chunk, 0, 30_000, id);
    assert.ok(Buffer.from(part!.data).equals(data), `target ${id}`);
  }
  const answer = await cluster.client.update(1, chunk, chunkBytes, { kind: "truncate", length: 7 });
  assert.deepEqual(answer, { version: 2, chunkLength: 7 });
  await cluster.close();
});

test("an update that is sent twice happens once; earlier ones and other channels' are told apart", async () => {
  const cluster = new Cluster(folder, seed);
  for (const id of [1, 2]) await cluster.add(id, await engineOn(newMedium()));
  cluster.route(2, [serving(1), serving(2)]);
  const head = cluster.peerOf(1);
  const update = (seq: number, fill: number, offset: number) => ({
    ...{ chainId: 1, chainVersion: 2, targetId: 1, chunk, chunkBytes },
    change: { kind: "write" as const, offset, data: new Uint8Array(10).fill(fill) },
    tag: { clientId: 5, channel: 1, seq },
  });
  const both = await Promise.all([head.update(update(1, 1, 0)), head.update(update(1, 1, 0))]);
  assert.deepEqual(
    both.map(({ version }) => version),
    [1, 1],
  );
  await head.update(update(2, 2, 10));
  assert.equal((await head.update(update(2, 2, 10))).version, 2);
  await assert.rejects(head.update(update(1, 1, 0)), { code: "storage-update-stale" });
  const [first, second] = await Promise.allSettled([
    head.update(update(3, 3, 0)),
    head.update(update(4, 4, 0)),
  ]);
  assert.equal(first.status, "fulfilled");
  assert.equal((second as PromiseRejectedResult).reason.code, "storage-update-busy");
  await cluster.close();
});

test("a target that comes back is filled with what it lacks, rid of what it should not have, then told", async () => {
  const cluster = new Cluster(folder, seed);
  for (const id of [1, 2]) await cluster.add(id, await engineOn(newMedium()));
  cluster.route(2, [serving(1), serving(2)]);
  const write = (index: number, bytes: number) => {
    const change = { kind: "write", offset: 0, data: randomBytes(bytes) } as const;
    return cluster.client.update(1, { inode: 3, index }, chunkBytes, change);
  };
  for (let index = 0; index < 30; index++) await write(index, 100 + index);
  cluster.route(3, [serving(1), { targetId: 2, state: "offline" }]);
  for (let index = 0; index < 10; index++) await write(index, 5000);
  for (let index = 10; index < 15; index++) {
    await cluster.client.update(1, { inode: 3, index }, chunkBytes, { kind: "remove" });
  }
  await write(40, 70_000);
  cluster.route(4, [serving(1), { targetId: 2, state: "syncing" }]);
  const during = [write(3, 9000), write(41, 100)];
  const stateOf = async () => (await cluster.nodes.get(2)!.status())[0].localState;
  for (let i = 0; i < 200 && (await stateOf()) !== "uptodate"; i++) await sleep(10);
  assert.equal(await stateOf(), "uptodate");
  await Promise.all(during);
  const listOf = (id: number) =>
    [...cluster.engines.get(id)!.records()]
      .map(({ chunk: { index }, committed }) => [
        index,
        committed!.version,
        ...committed!.checksums,
      ])
      .sort(([x], [y]) => x - y);
  assert.deepEqual(listOf(2), listOf(1));
  assert.equal(listOf(2).length, 27);
  // The client's channels went along: a retry to the new head is known there.
  const tags = [...cluster.engines.get(1)!.allChannels()].sort();
  assert.deepEqual([...cluster.engines.get(2)!.allChannels()].sort(), tags);
  await cluster.close();
});

test("late and doubled copies of what a predecessor sent are void", async () => {
  const cluster = new Cluster(folder, seed);
  for (const id of [1, 2]) await cluster.add(id, await engineOn(newMedium()));
  cluster.route(2, [serving(1), serving(2)]);
  const write = (fill: number) => ({
    ...{ kind: "write" as const, offset: 0, data: new Uint8Array(100).fill(fill) },
  });
  await cluster.client.update(1, chunk, chunkBytes, write(1));
  await cluster.client.update(1, chunk, chunkBytes, write(2));
  const record = cluster.engines.get(2)!.record(chunk)!.committed!;
  const late = {
    ...{ chainId: 1, chainVersion: 2, targetId: 2, chunk, chunkBytes, madeIn: 2, version: 1 },
    ...{ digest: digestOf(record), isReplacement: true },
    change: { kind: "replace" as const, data: new Uint8Array(100).fill(1) },
  };
  for (const order of [
    [1, 1],
    [1, 2],
    [0, 9],
  ] as const) {
    const forwarded = cluster.peerOf(2).forward({ ...late, order });
    await assert.rejects(forwarded, { code: "storage-update-stale" });
  }
  const part = await cluster.client.read(1, chunk, 0, 100, 2);
  assert.deepEqual([part!.version, part!.data[0]], [2, 2]);
  await cluster.close();
});

test("without a lease, with an old chain, or to the wrong target nothing is served", async () => {
  const cluster = new Cluster(folder, seed);
  for (const id of [1, 2]) await cluster.add(id, await engineOn(newMedium()));
  cluster.route(2, [serving(1), serving(2)]);
  const address = { chainId: 1, chainVersion: 2, targetId: 1 };
  const read = { ...address, chunk, offset: 0, length: 1 };
  const tag = { clientId: 1, channel: 0, seq: 1 };
  const update = { ...address, chunk, chunkBytes, change: { kind: "remove" as const }, tag };
  const peer = cluster.peerOf(1);
  const short = new CallContext({ deadlineMs: 500 });
  for (const [work, code] of [
    [() => peer.read({ ...read, chainVersion: 1 }), "storage-chain-version-mismatch"],
    [() => peer.read({ ...read, targetId: 7 }), "storage-not-serving"],
    [() => cluster.peerOf(2).update({ ...update, targetId: 2 }), "storage-not-head"],
    [() => peer.read({ ...read, offset: -1 }), "fs-input-invalid"],
    [() => peer.read({ ...read, length: 2 ** 27 }), "fs-input-invalid"],
    [() => peer.update({ ...update, chunkBytes: 1000 }), "fs-input-invalid"],
    [() => peer.update({ ...update, tag: {} as never }), "fs-input-invalid"],
    [
      () => peer.update({ ...update, change: { kind: "truncate", length: 2 ** 21 } }),
      "fs-input-invalid",
    ],
    [
      () => peer.update({ ...update, change: { kind: "replace", data: new Uint8Array(1) } }),
      "fs-input-invalid",
    ],
    [() => peer.forward({ ...update, order: [1] } as never), "fs-input-invalid"],
    [() => peer.list({ ...address, limit: 1e6 }), "fs-input-invalid"],
    [() => peer.list({ ...address, limit: 1, from: "9:9" }), "fs-input-invalid"],
    [() => peer.read(undefined as never, short), "fs-input-invalid"],
  ] as const) {
    await assert.rejects(
      work(),
      (error) => error instanceof BaleenError && error.code === code,
      code,
    );
  }
  const engine = await engineOn(newMedium());
  const silent = new StorageNode({
    nodeId: 1,
    engines: new Map([[1, engine]]),
    peerOf: () => peer,
    generation: 1,
  });
  silent.setRouting(routingOf(2, [[serving(1)]]));
  await assert.rejects(silent.read(read), { code: "storage-not-serving" });
  silent.extendLease(performance.now() + 40);
  await assert.rejects(silent.read(read), { code: "storage-chunk-not-found" });
  await sleep(50);
  await assert.rejects(silent.update(update), { code: "storage-not-serving" });
  await cluster.close();
});
