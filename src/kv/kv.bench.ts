/**
 * @file Transactions per second of each engine: one read and two writes of 100 bytes, durable where
 * the engine has a disk, from 1 and from 64 at a time; and point reads. Processor seconds are this
 * process's only: a PostgreSQL server's are not counted. PostgreSQL takes BALEEN_POSTGRES, or the
 * server on this machine.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../base/index.ts";
import { type KvStore, openLmdbKv, openMemoryKv, openPostgresKv, transact } from "./index.ts";

const seconds = process.argv.includes("--large") ? 3 : 0.2;
const scratch = mkdtempSync(join(tmpdir(), "kv-bench-"));
const url = process.env.BALEEN_POSTGRES ?? "postgresql://postgres@127.0.0.1:5432/postgres";
const random = new Random(1);
const value = new Uint8Array(100).fill(7);
const keyOf = (kind: string): Uint8Array => Buffer.from(`${kind}/${random.below(1e6)}`);

/** Runs `work` from `concurrency` loops at once; prints how often it ended a second. */
async function measure(
  store: KvStore,
  name: string,
  concurrency: number,
  work: () => Promise<unknown>,
): Promise<void> {
  const [before, startMs] = [process.cpuUsage(), performance.now()];
  let count = 0;
  const loop = async () => {
    while (performance.now() - startMs < seconds * 1000) {
      await work();
      count++;
    }
  };
  await Promise.all(Array.from({ length: concurrency }, loop));
  const wallS = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(before);
  const rate = Math.round(count / wallS).toLocaleString("en");
  const cpuUs = ((user + system) / count).toFixed(1);
  const columns = [store.engine.padEnd(10), name.padEnd(20), String(concurrency).padStart(5)];
  console.log(`${columns.join("")}${rate.padStart(12)}${cpuUs.padStart(14)}`);
}

async function bench(store: KvStore): Promise<void> {
  const write = () =>
    transact(store, async (transaction) => {
      await transaction.get(keyOf("a"));
      transaction.set(keyOf("a"), value);
      transaction.set(keyOf("b"), value);
    });
  const read = async () => {
    const transaction = store.begin();
    await transaction.get(keyOf("a"));
    transaction.cancel();
  };
  for (const concurrency of [1, 64]) {
    await measure(store, "get + 2 set", concurrency, write);
    await measure(store, "get", concurrency, read);
  }
  await store.close();
}

console.log("engine    work                at once  a second    CPU us each");
await bench(openMemoryKv());
await bench(openLmdbKv(join(scratch, "lmdb")));
const postgres = await openPostgresKv({ url, table: `kv_bench_${process.pid}` }).catch(
  (error: Error) => console.log(`postgres  skipped: ${error.message}`),
);
if (postgres) {
  await bench(postgres);
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(`DROP TABLE kv_bench_${process.pid}`);
  await client.end();
}
rmSync(scratch, { recursive: true });
