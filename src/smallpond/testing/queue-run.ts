/**
 * @file A scheduler process for tests: runs a plan of several stages over the queue at the Redis of its
 * first argument, with the root of its second, and prints a digest of the rows and the run's counts.
 */
import { createHash } from "node:crypto";
import { aggregates, init, queueExecutor, schema, sql, t } from "../index.ts";

const [redis, root, label] = process.argv.slice(2);
const executor = await queueExecutor({ redis, slots: 8 });
const pond = await init({ root, executor, taskMemoryBytes: 2 ** 28, attemptsMax: 50 });
const query =
  "SELECT i::INTEGER AS i, (i * 7919 % 1009)::INTEGER AS k, {0}::VARCHAR AS label FROM range(6000) r(i)";
const numbers = pond.partialSql<{ i: number; k: number; label: string }>(
  query.replace("{0}", `'${label}'`),
);
const frame = numbers
  .repartition({ n: 6, keys: "k" })
  .filter(sql`i % 3 <> ${1}`)
  .map(
    async (row) => {
      if (row.i % 500 === 0) await new Promise((done) => setTimeout(done, 40));
      return { k: row.k as number, twice: (row.i as number) * 2 };
    },
    schema({ k: t.i32, twice: t.i32 }) as never,
  )
  .groupBy("k" as never)
  .agg<{ k: number; n: bigint; total: bigint }>({
    n: aggregates.count(),
    total: aggregates.sum("twice"),
  })
  .sort("k");
const digest = createHash("sha256");
let rows = 0;
for await (const row of frame.rows()) {
  digest.update(`${row.k} ${row.n} ${row.total}\n`);
  rows++;
}
console.log(JSON.stringify({ digest: digest.digest("hex"), rows, stats: pond.lastRun }));
await pond.close();
