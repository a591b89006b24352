import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { Random, realClock } from "../../base/index.ts";
import { ChunkEngine } from "../storage/engine.ts";
import { SimulatedMedium } from "../storage/simulated-disk.ts";
import { Cluster, serving } from "../storage/testing/cluster.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
const folder = mkdtempSync(join(tmpdir(), "baleen-client-"));
after(() => rmSync(folder, { recursive: true, force: true }));

test(`files of many chunks on several chains behave as one array of bytes, seed ${seed}`, async () => {
  const cluster = new Cluster(folder, seed);
  for (const id of [1, 2, 3, 4, 5, 6]) {
    const { disk, store } = new SimulatedMedium(realClock, new Random(seed + id)).open();
    await cluster.add(id, await ChunkEngine.open(disk, store));
  }
  const pair = (x: number, y: number) => [serving(x), serving(y)];
  cluster.route(2, pair(1, 2), pair(3, 4), pair(5, 6));
  const random = new Random(seed);
  const layout = { tableId: 1, tableVersion: 1, chunkBytes: 65536, stripe: 3, seed: 1 };
  const file = { inode: 12, layout };
  const model = new Uint8Array(600_000);
  let written = 0;
  for (let i = 0; i < 60; i++) {
    const offset = random.below(500_000);
    const length = 1 + random.below(random.below(3) === 0 ? 100_000 : 9000);
    if (i % 12 === 11) {
      await cluster.files.truncate(file, offset);
      model.fill(0, offset);
      written = Math.min(written, offset);
    } else {
      const data = new Uint8Array(length).map(() => random.uint32());
      await cluster.files.write(file, offset, data);
      model.set(data, offset);
      written = Math.max(written, offset + length);
    }
    const [from, count] = [random.below(500_000), random.below(100_000)];
    const got = await cluster.files.read(file, from, count);
    assert.ok(Buffer.from(got).equals(model.subarray(from, from + count)), `step ${i}`);
  }
  // A chunk that was cut to its last written byte may end before the file's old end, never after it.
  assert.ok((await cluster.files.writtenLength(file)) <= written);
  const whole = await cluster.files.read(file, 0, model.length);
  assert.ok(Buffer.from(whole).equals(model));
  await cluster.files.truncate(file, 0);
  assert.equal(await cluster.files.writtenLength(file), 0);
  for (const engine of cluster.engines.values()) assert.equal([...engine.records()].length, 0);
  await cluster.close();
});
