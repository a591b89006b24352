/**
 * @file The first steps of DeepSeek's smallpond, in TypeScript: read Parquet, deal rows by the hash of
 * a column, run SQL in each partition, write Parquet, look at the result.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { init } from "baleen/smallpond";

const folder = mkdtempSync(join(tmpdir(), "baleen-example-"));

// Some prices to begin with.
const pond = await init({ root: join(folder, "root") });
const days = ["DEEP", "SEEK", "POND"].flatMap((ticker, i) =>
  Array.from({ length: 5 }, (_, day) => ({ ticker, price: 100 * (i + 1) + day })),
);
await pond.fromItems(days).write.parquet(join(folder, "prices"));

// Load data.
const prices = pond.readParquet<{ ticker: string; price: number }>(join(folder, "prices"));

// Process data.
const dealt = prices.repartition({ n: 3, keys: "ticker" });
const ranges = pond.partialSql<{ ticker: string; lowest: number; highest: number }>(
  "SELECT ticker, min(price) AS lowest, max(price) AS highest FROM {0} GROUP BY ticker",
  dealt,
);

// Save results.
await ranges.write.parquet(join(folder, "output"));

// Show results.
for (const { ticker, lowest, highest } of await ranges.sort("ticker").collect()) {
  console.log(`${ticker}: ${lowest} to ${highest}`);
}

await pond.close();
rmSync(folder, { recursive: true });
