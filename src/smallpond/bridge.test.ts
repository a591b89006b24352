import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { after, before, test } from "node:test";
import type { DuckDBType } from "@duckdb/node-api";
import { RecordBatch, Table, tableFromIPC, tableToIPC } from "apache-arrow";
import { Random } from "../base/index.ts";
import { fromVector, sqlTypeOf, toRecordBatch } from "./arrow.ts";
import { readChunk } from "./chunk-reader.ts";
import { writeChunks } from "./chunk-writer.ts";
import { type Column, concatColumns, sliceColumn } from "./column.ts";
import { columnOf } from "./column-builder.ts";
import { closeDuck, type Duck, openDuck, parseType } from "./duck.ts";
import { getterOf } from "./values.ts";

let duck: Duck;
before(async () => {
  duck = await openDuck({ threads: 2, memoryBytes: 2 ** 30, spillFolder: tmpdir() });
});
after(() => closeDuck(duck));

const seed = Date.now() % 1e6;
console.log(`bridge seed ${seed}`);

/** One expression in i for each type, NULL for some i where the second says so. */
const samples: Readonly<Record<string, string>> = {
  boolean: "i % 3 = 0",
  tinyint: "(i % 256 - 128)::TINYINT",
  smallint: "(i * 7 - 3000)::SMALLINT",
  integer: "(i * 400003 - 1000000007)::INTEGER",
  bigint: "(i::BIGINT * 1152921504606 - 7)::BIGINT",
  hugeint: "(i::HUGEINT * 34028236692093846346337460 * if(i % 2 = 0, 1, -1))",
  uhugeint: "(340282366920938463463374607431768211455::UHUGEINT - i::UHUGEINT)",
  utinyint: "(i % 256)::UTINYINT",
  usmallint: "(i * 9)::USMALLINT",
  uinteger: "(4294967295 - i)::UINTEGER",
  ubigint: "(18446744073709551615 - i)::UBIGINT",
  float: "(i / 7)::FLOAT",
  double: "(i / 7 - 100)::DOUBLE",
  decimal4: "((i % 100 - 50) || '.5')::DECIMAL(4,1)",
  decimal9: "(i - 2500)::DECIMAL(9,3)",
  decimal18: "(i * 1234567 - 5)::DECIMAL(18,4)",
  decimal38: "(i || '12345678901234567890.0123456789')::DECIMAL(38,10)",
  short: "('s' || i)",
  long: "repeat('über ' || i || ' 鯨', 1 + i % 5)",
  empty: "''",
  blob: "('\\x00\\xFF' || repeat('x', i % 30))::BLOB",
  bit: "right((i::INTEGER)::BIT::VARCHAR, 1 + i % 31)::BIT",
  uuid: "md5(i::VARCHAR)::UUID",
  date: "DATE '1969-12-01' + (i * 3)::INTEGER",
  time: "TIME '00:00:00' + INTERVAL (i) SECOND",
  timeTz: "('10:' || lpad((i % 60)::VARCHAR, 2, '0') || ':00+0' || (i % 9))::TIMETZ",
  timestamp: "TIMESTAMP '1960-01-01' + INTERVAL (i * 1234567) SECOND",
  timestampS: "(TIMESTAMP '1960-01-01' + INTERVAL (i * 1234567) SECOND)::TIMESTAMP_S",
  timestampMs: "(TIMESTAMP '1960-01-01' + INTERVAL (i * 1234567) SECOND)::TIMESTAMP_MS",
  timestampNs: "make_timestamp_ns(i * 1234567890123)",
  timestampTz: "TIMESTAMPTZ '2020-01-01 00:00:00+02' + INTERVAL (i) HOUR",
  interval: "to_months((i % 50)::INTEGER) + to_days((i % 9)::INTEGER) + to_microseconds(i * 977)",
  enum: "(['red','green','blue'][1 + i % 3])::ENUM('red','green','blue')",
  list: "range(i % 5)::BIGINT[]",
  listOfText: "list_transform(range(i % 4), lambda x: repeat('long text ', x::INTEGER))",
  listOfNull: "[NULL, i, NULL]",
  nestedList: "[[i, NULL], [], NULL, [3]]",
  array: "[i, i + 1, NULL]::INTEGER[3]",
  struct: "{'a': i, 'b': 'text ' || i, 'c': if(i % 4 = 0, NULL, {'d': i / 2})}",
  map: "MAP {'k' || i: i, 'other': NULL}",
  mapOfList: "MAP {i: [i, 2], -1: []}",
  listOfStruct: "[{'a': i, 'b': [i::VARCHAR]}, NULL]",
  listOfHuge: "[i::HUGEINT * -5, NULL]",
};

const rowCount = 5000;

async function columnsOf(query: string): Promise<{ columns: Column[]; types: DuckDBType[] }> {
  const result = await duck.connection.run(query);
  const types = result.columnTypes();
  const chunks: Column[][] = [];
  for (;;) {
    const chunk = await result.fetchChunk();
    if (!chunk || chunk.rowCount === 0) break;
    chunks.push(readChunk(chunk, types));
  }
  return { columns: types.map((_, c) => concatColumns(chunks.map((chunk) => chunk[c]))), types };
}

async function load(table: string, columns: readonly Column[], types: readonly DuckDBType[]) {
  const fields = types.map((type, i) => `c${i} ${type}`).join(", ");
  await duck.connection.run(`CREATE OR REPLACE TABLE ${table}(${fields})`);
  const appender = await duck.connection.createAppender(table);
  for (const chunk of writeChunks(columns, types)) appender.appendDataChunk(chunk);
  appender.closeSync();
}

async function assertSame(want: string, got: string, what: string): Promise<void> {
  const query = `SELECT count(*) FROM ((FROM ${want} EXCEPT ALL FROM ${got}) UNION ALL (FROM ${got} EXCEPT ALL FROM ${want}))`;
  const [[different]] = await (await duck.connection.run(query)).getRows();
  assert.equal(different, 0n, what);
  const [[w, g]] = await (
    await duck.connection.run(
      `SELECT (SELECT count(*) FROM ${want}), (SELECT count(*) FROM ${got})`,
    )
  ).getRows();
  assert.equal(g, w, what);
}

/** Whether JavaScript values of a type are exact. */
const exactInJavaScript = (name: string) => name !== "timeTz";

test("every type crosses to typed columns and back, with and without NULL", async () => {
  const random = new Random(seed);
  for (const [name, expression] of Object.entries(samples)) {
    for (const nulls of ["false", "i % 5 = 2", "true"]) {
      const offset = random.below(50);
      await duck.connection.run(
        `CREATE OR REPLACE TABLE want AS SELECT list_extract([${expression}, NULL], if(${nulls}, 2, 1)) AS c0
         FROM (SELECT i + ${offset} AS i FROM range(${rowCount}) r(i))`,
      );
      const { columns, types } = await columnsOf("FROM want");
      await load("got", columns, types);
      await assertSame("want", "got", `${name}, NULL where ${nulls}`);
      const cut = random.below(rowCount);
      const halves = [sliceColumn(columns[0], 0, cut), sliceColumn(columns[0], cut, rowCount)];
      await load("got", [concatColumns(halves)], types);
      await assertSame("want", "got", `${name} cut at ${cut}, NULL where ${nulls}`);
    }
  }
});

test("every type crosses to Arrow, through its file format, and back", async () => {
  for (const [name, expression] of Object.entries(samples)) {
    await duck.connection.run(
      `CREATE OR REPLACE TABLE want AS SELECT list_extract([${expression}, NULL], if(i % 7 = 3, 2, 1)) AS c0
       FROM range(${rowCount}) r(i)`,
    );
    const { columns, types } = await columnsOf("FROM want");
    const batch = toRecordBatch(["c0"], columns);
    assert.ok(batch instanceof RecordBatch);
    const table = tableFromIPC(tableToIPC(new Table([batch]), "file"));
    const type = await parseType(duck.connection, sqlTypeOf(table.schema.fields[0]));
    assert.equal(String(type), String(types[0]), name);
    const vector = table.getChildAt(0);
    assert.ok(vector);
    await load("got", [fromVector(vector, type, name)], types);
    await assertSame("want", "got", name);
    const [from, to] = [1003, 4001];
    await load("got", [fromVector(vector.slice(from, to), type, name)], types);
    await duck.connection.run(
      `CREATE OR REPLACE TABLE part AS SELECT c0 FROM want WHERE rowid >= ${from} AND rowid < ${to}`,
    );
    await assertSame("part", "got", `${name}, a slice`);
  }
});

test("JavaScript values of every type make the same column again", async () => {
  for (const [name, expression] of Object.entries(samples)) {
    if (!exactInJavaScript(name)) continue;
    await duck.connection.run(
      `CREATE OR REPLACE TABLE want AS SELECT list_extract([${expression}, NULL], if(i % 7 = 3, 2, 1)) AS c0
       FROM range(${rowCount}) r(i)`,
    );
    const { columns, types } = await columnsOf("FROM want");
    const get = getterOf(columns[0]);
    const values = Array.from({ length: rowCount }, (_, i) => get(i));
    await load("got", [columnOf(types[0], values, "c0")], types);
    await assertSame("want", "got", name);
  }
});

test("Arrow tables from elsewhere get the types that match", async () => {
  const { vectorFromArray, Dictionary, Utf8, Int8, Bool, TimestampMillisecond } = await import(
    "apache-arrow"
  );
  const table = new Table({
    words: vectorFromArray(["a", "b", null, "a"], new Dictionary(new Utf8(), new Int8())),
    flags: vectorFromArray([true, null, false, true], new Bool()),
    times: vectorFromArray([0, 1e12, null, 5], new TimestampMillisecond()),
  });
  const types = table.schema.fields.map(sqlTypeOf);
  assert.deepEqual(types, ["VARCHAR", "BOOLEAN", "TIMESTAMP_MS"]);
  const values = await Promise.all(
    table.schema.fields.map(async (field, i) => {
      const vector = table.getChildAt(i);
      assert.ok(vector);
      const column = fromVector(vector, await parseType(duck.connection, types[i]), field.name);
      const get = getterOf(column);
      return Array.from({ length: 4 }, (_, row) => get(row));
    }),
  );
  assert.deepEqual(values, [
    ["a", "b", null, "a"],
    [true, null, false, true],
    [new Date(0), new Date(1e12), null, new Date(5)],
  ]);
});

test("a value that a column can't hold is refused with the column's name", async () => {
  const refusals: [string, unknown][] = [
    ["TINYINT", 200],
    ["INTEGER", 1.5],
    ["BIGINT", "7"],
    ["UBIGINT", -1n],
    ["HUGEINT", 2n ** 127n],
    ["DECIMAL(4,1)", "1.25"],
    ["DECIMAL(4,1)", "10000"],
    ["VARCHAR", 3],
    ["DATE", "2020-01-01"],
    ["BOOLEAN", 1],
    ["INTEGER[]", 5],
    ["INTEGER[2]", [1]],
    ["ENUM('a', 'b')", "c"],
    ["UUID", "not one"],
  ];
  for (const [sql, value] of refusals) {
    const type = await parseType(duck.connection, sql);
    assert.throws(() => columnOf(type, [null, value], "price"), /Column price is/, sql);
  }
});
