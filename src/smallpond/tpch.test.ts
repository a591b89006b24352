import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { closeDuck, openDuck, quoteText, rowsOf } from "./duck.ts";
import { writeTpch } from "./testing/tpch-data.ts";
import { overInputs, tpchQueries } from "./testing/tpch-queries.ts";
import { withPond } from "./testing.ts";

const plain = (rows: unknown) =>
  JSON.stringify(rows, (_, value) => (typeof value === "bigint" ? `${value}` : value));

test("TPC-H: the data are dbgen's, and the 22 answers those of bare DuckDB", async () => {
  await withPond(async (pond, folder) => {
    const duck = await openDuck({ threads: 2, memoryBytes: 2 ** 30, spillFolder: tmpdir() });
    const names = await writeTpch(duck, folder, 0.01);
    for (const name of names) {
      await duck.connection.run(
        `CREATE VIEW ${name} AS FROM ${quoteText(join(folder, `${name}.parquet`))}`,
      );
    }
    // Published answers at scale 0.01: row count, query 1's first row, query 6.
    const [[lines]] = await rowsOf(duck.connection, "SELECT count(*) FROM lineitem");
    assert.equal(lines, 60175n);
    const [first] = await rowsOf(
      duck.connection,
      `SELECT qty::VARCHAR, base::VARCHAR FROM (${tpchQueries[0]})`,
    );
    assert.deepEqual(first, ["380456.00", "532348211.65"]);
    const [[six]] = await rowsOf(
      duck.connection,
      `SELECT revenue::VARCHAR FROM (${tpchQueries[5]})`,
    );
    assert.equal(six, "1193053.2253");
    const shown = (query: string) => `SELECT COLUMNS(*)::VARCHAR FROM (${query})`;
    for (const [i, query] of tpchQueries.entries()) {
      const want = await rowsOf(duck.connection, shown(query));
      const { query: placed, tables } = overInputs(query);
      const frames = tables.map((name) => pond.readParquet(join(folder, `${name}.parquet`)));
      const got = await pond.partialSql<Record<string, string>>(shown(placed), ...frames).collect();
      assert.equal(plain(got.map((row) => Object.values(row))), plain(want), `query ${i + 1}`);
    }
    closeDuck(duck);
  });
});
