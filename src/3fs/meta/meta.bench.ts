/**
 * @file Metadata operations a second, over memory and over LMDB, whose commits are durable: creates
 * (one file each, an own name in a shared directory) from 1 and from 64 at a time, looks at paths, and
 * the removal of a large tree by one call, of which the call itself is timed. Beside them the disk's
 * own limit: 64-way durable transactions of the same engine with the same bytes.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KvStore, openLmdbKv, openMemoryKv, transact } from "../../kv/index.ts";
import { openWorld, root } from "./testing/world.ts";

const isLarge = process.argv.includes("--large");
const seconds = isLarge ? 3 : 0.2;
const treeFiles = isLarge ? 100_000 : 500;
const scratch = mkdtempSync(join(tmpdir(), "meta-bench-"));

async function measure(
  engine: string,
  name: string,
  concurrency: number,
  work: (i: number) => Promise<unknown>,
): Promise<void> {
  const [before, startMs] = [process.cpuUsage(), performance.now()];
  let count = 0;
  const loop = async () => {
    while (performance.now() - startMs < seconds * 1000) await work(count++);
  };
  await Promise.all(Array.from({ length: concurrency }, loop));
  const wallS = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(before);
  const rate = Math.round(count / wallS).toLocaleString("en");
  const cpuUs = ((user + system) / count).toFixed(1);
  console.log(
    `${engine.padEnd(8)}${name.padEnd(24)}${String(concurrency).padStart(5)}` +
      `${rate.padStart(12)}${cpuUs.padStart(12)}`,
  );
}

async function bench(store: KvStore): Promise<void> {
  const { meta, collectAll } = await openWorld(store);
  const { engine } = store;
  const { id } = await meta.mkdir(root, { path: "/d" }, 0o755);
  for (const concurrency of [1, 64]) {
    await measure(engine, "create", concurrency, (i) =>
      meta.open(root, { directory: id, path: `${concurrency}-${i}` }, { createMode: 0o644 }),
    );
  }
  const bytes = Buffer.alloc(800);
  await measure(engine, "(bare transaction)", 64, (i) =>
    transact(store, async (transaction) => {
      await transaction.get(Buffer.from(`x${i}`));
      transaction.set(Buffer.from(`x${i}`), bytes);
    }),
  );
  await measure(engine, "lookup", 64, (i) => meta.lookup(root, { path: `/d/1-${i % 50}` }));
  const tree = await meta.mkdir(root, { path: "/tree" }, 0o755);
  let made = 0;
  const fill = async () => {
    while (made < treeFiles) {
      const path = `f${made++}`;
      await meta.open(root, { directory: tree.id, path }, { createMode: 0o644 });
    }
  };
  await Promise.all(Array.from({ length: 64 }, fill));
  const startMs = performance.now();
  await meta.remove(root, { path: "/tree" }, { isRecursive: true });
  const removedMs = performance.now();
  await collectAll();
  const collectedS = (performance.now() - removedMs) / 1000;
  const words = `a tree of ${treeFiles.toLocaleString("en")} files: the call returned after`;
  console.log(
    `${engine.padEnd(8)}${words} ${(removedMs - startMs).toFixed(1)} ms, ` +
      `all gone ${collectedS.toFixed(1)} s later`,
  );
  await store.close();
}

console.log("engine  operation            at once    a second CPU us each");
await bench(openMemoryKv());
await bench(openLmdbKv(join(scratch, "lmdb")));
rmSync(scratch, { recursive: true });
