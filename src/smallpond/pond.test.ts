import assert from "node:assert/strict";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type RecordBatch, Table, type Vector } from "apache-arrow";
import { Random } from "../base/index.ts";
import {
  aggregates,
  type DataFrame,
  desc,
  fn,
  init,
  type Pond,
  type Row,
  schema,
  sql,
  t,
} from "./index.ts";
import { bareRows, freshFolder } from "./testing.ts";

const seed = Date.now() % 1e6;
console.log(`pond seed ${seed}`);
const folder = freshFolder("api");
let pond: Pond;

interface Sale {
  id: number;
  shop: string | null;
  price: number;
  amount: bigint;
}

const random = new Random(seed);
const sales: Sale[] = Array.from({ length: 6000 }, (_, id) => ({
  id,
  shop: random.uniform() < 0.05 ? null : `shop ${random.below(40)}`,
  price: Math.round(random.uniform() * 1e4) / 100,
  amount: BigInt(random.below(1000)) * 10n ** 12n,
}));
const saleSchema = schema({ id: t.i32, shop: t.utf8, price: t.f64, amount: t.i64 });

before(async () => {
  pond = await init({
    root: join(folder, "root"),
    workers: 2,
    taskMemoryBytes: 512 * 2 ** 20,
    broadcastBytes: 1,
  });
});
after(async () => await pond.close());

const frame = () => pond.fromItems(sales as never, saleSchema) as unknown as DataFrame<Sale>;
const sorted = (rows: unknown[]): string[] =>
  rows
    .map((row) =>
      JSON.stringify(row, (_, value) => (typeof value === "bigint" ? `${value}n` : value)),
    )
    .sort();

/** Every way of dealing the sales to partitions. */
const dealings: readonly [string, () => DataFrame<Sale>][] = [
  ["one partition", frame],
  ["rows", () => frame().repartition({ n: 3 })],
  ["hash", () => frame().repartition({ n: 4, keys: "shop" })],
  ["hash of two", () => frame().repartition({ n: 3, keys: ["shop", "id"] })],
  ["range", () => frame().repartition({ n: 3, by: "range", keys: "price" })],
  [
    "files after hash",
    () => frame().repartition({ n: 4, keys: "id" }).repartition({ n: 2, by: "files" }),
  ],
  [
    "rows after hash",
    () => frame().repartition({ n: 4, keys: "id" }).filter(sql`id >= 0`).repartition({ n: 5 }),
  ],
  [
    "column",
    () =>
      (
        frame().select({
          id: "id",
          shop: "shop",
          price: "price",
          amount: "amount",
          p: sql`id % 3`,
        }) as DataFrame<Sale & { p: number }>
      )
        .repartition({ n: 3, by: "column", keys: "p" })
        .select("id", "shop", "price", "amount"),
  ],
  ["bytes", () => frame().repartition({ targetBytes: 20_000 })],
  [
    "more partitions than rows",
    () => frame().limit(5).union(frame().filter(sql`id >= 5`)).repartition({ n: 7, by: "files" }),
  ],
];

test("every dealing of rows keeps each row once", async () => {
  for (const [name, deal] of dealings) {
    assert.deepEqual(sorted(await deal().collect()), sorted(sales), name);
    assert.equal(await deal().count(), sales.length, name);
  }
});

test("group, sort, distinct, limit and join give the same answers however rows are dealt", async () => {
  const byShop = new Map<string | null, Sale[]>();
  for (const sale of sales) byShop.set(sale.shop, [...(byShop.get(sale.shop) ?? []), sale]);
  const wantGroups = [...byShop].map(([shop, of]) => ({
    shop,
    n: BigInt(of.length),
    total: of.reduce((sum, { amount }) => sum + amount, 0n),
    cheapest: Math.min(...of.map(({ price }) => price)),
  }));
  const wantSorted = sales.toSorted((a, b) => b.price - a.price || a.id - b.id);
  const shops = Array.from({ length: 20 }, (_, i) => ({
    shop: `shop ${i * 3}`,
    city: `city ${i % 4}`,
  }));
  const cities = new Map(shops.map(({ shop, city }) => [shop, city]));
  for (const [name, deal] of dealings) {
    const df = deal();
    const groups = df.groupBy("shop").agg({
      n: aggregates.count(),
      total: aggregates.sum("amount"),
      cheapest: aggregates.min("price"),
    });
    assert.deepEqual(sorted(await groups.collect()), sorted(wantGroups), name);
    const withSql = df
      .groupBy("shop")
      .agg({ n: sql`count(*)`, total: aggregates.sum("amount"), cheapest: sql`min(price)` });
    assert.deepEqual(sorted(await withSql.collect()), sorted(wantGroups), name);
    assert.deepEqual(await df.sort(desc("price"), "id").collect(), wantSorted, name);
    assert.deepEqual(await df.sort(desc("price"), "id").take(17), wantSorted.slice(0, 17), name);
    assert.equal(await df.select("shop").distinct().count(), byShop.size, name);
    assert.equal(await df.distinct("shop").count(), byShop.size, name);
    const other = pond.fromItems(shops).repartition({ n: 2 });
    const joined = await df.join(other, { on: "shop" }).collect();
    const wantJoined = sales.flatMap((sale) => {
      const city = cities.get(sale.shop ?? "");
      return city === undefined ? [] : [{ ...sale, city }];
    });
    assert.deepEqual(
      sorted(
        joined.map(({ id, shop, price, amount, city }) => ({ id, shop, price, amount, city })),
      ),
      sorted(wantJoined),
      name,
    );
    assert.equal(
      await df.join(other, { on: "shop", how: "anti" }).count(),
      sales.length - wantJoined.length,
      name,
    );
    assert.equal(await df.join(other, { on: "shop", how: "left" }).count(), sales.length, name);
    const [{ n, most }] = await df
      .agg<{ n: bigint; most: number }>({ n: aggregates.count(), most: aggregates.max("price") })
      .collect();
    assert.deepEqual([n, most], [6000n, wantSorted[0].price], name);
  }
});

test("functions run on rows and batches, inline and from modules", async () => {
  const df = frame().repartition({ n: 3 });
  const mapped = df.map(
    (row) => ({ id: row.id, total: row.price * 2, shop: row.shop ?? "none" }),
    schema({ id: t.i32, total: t.f64, shop: t.utf8 }),
  );
  const want = sales.map(({ id, price, shop }) => ({ id, total: price * 2, shop: shop ?? "none" }));
  assert.deepEqual(await mapped.collect(), want);
  const kept = df.filter(({ price, id }) => price > 50 && id % 2 === 0);
  assert.deepEqual(
    await kept.collect(),
    sales.filter(({ price, id }) => price > 50 && id % 2 === 0),
  );
  const flat = df.flatMap(
    function* ({ id }) {
      for (let i = 0; i < id % 3; i++) yield { id, i };
    },
    schema({ id: t.i32, i: t.i32 }),
  );
  assert.equal(
    await flat.count(),
    sales.reduce((sum, { id }) => sum + (id % 3), 0),
  );
  const module = df.map(
    fn<(row: Sale) => { id: number }>(import.meta.url, "doubled"),
    schema({ id: t.i32 }),
  );
  assert.deepEqual(
    (await module.collect()).map(({ id }) => id),
    sales.map(({ id }) => id * 2),
  );
  const batches = df.mapBatches(
    fn<(batch: RecordBatch) => unknown>(import.meta.url, "idAndAmount"),
    schema({ amount: t.i64, id: t.i32 }),
    { batchRows: 500 },
  );
  assert.deepEqual(
    await batches.collect(),
    sales.map(({ id, amount }) => ({ amount, id })),
  );
  const total = mapped.filter(sql`total > ${100}`).groupBy("shop").agg({ n: aggregates.count() });
  assert.equal(
    (await total.collect()).reduce((sum, { n }) => sum + Number(n), 0),
    want.filter((row) => row.total > 100).length,
  );
});

/** For the test of module functions. */
export function doubled(row: Sale): { id: number } {
  return { id: row.id * 2 };
}

/** For the test of functions over batches. */
export function idAndAmount(batch: RecordBatch): Table {
  return new Table({
    id: batch.getChild("id") as Vector,
    amount: batch.getChild("amount") as Vector,
  });
}

test("what a random operation made is the same for all that use it", async () => {
  const random = pond.partialSql<{ id: number; r: number }>(
    "SELECT id, random() AS r FROM {0}",
    frame().repartition({ n: 2 }),
  );
  const both = random.partialSort("r").union(random);
  const distinct = await both.distinct().count();
  assert.equal(distinct, sales.length);
});

test("shuffling keeps each row, and orders by its seed", async () => {
  const once = await frame().randomShuffle({ seed: 3, n: 3 }).collect();
  assert.deepEqual(sorted(once), sorted(sales));
  assert.notDeepEqual(once, sales);
  assert.deepEqual(await frame().randomShuffle({ seed: 3, n: 3 }).collect(), once);
  assert.notDeepEqual(await frame().randomShuffle({ seed: 4, n: 3 }).collect(), once);
});

test("CSV, JSON and Parquet are written whole and read back, with inferred and given schemas", async () => {
  const df = frame().repartition({ n: 2 });
  for (const format of ["csv", "json", "parquet"] as const) {
    const out = join(folder, `out-${format}`);
    const manifest = await df.write[format](out);
    assert.equal(manifest.rows, sales.length);
    assert.deepEqual(readdirSync(out).sort(), [
      "_manifest.json",
      `part-00000.${format}`,
      `part-00001.${format}`,
    ]);
    assert.ok(!existsSync(`${out}.staging`) && !existsSync(`${out}.publishing`));
    const read =
      format === "csv"
        ? pond.readCsv(out)
        : format === "json"
          ? pond.readJson(out)
          : pond.readParquet(out);
    const given =
      format === "csv"
        ? pond.readCsv<Sale>(out, { schema: saleSchema as never })
        : format === "json"
          ? pond.readJson<Sale>(out, saleSchema as never)
          : pond.readParquet<Sale>(out, saleSchema as never);
    assert.equal(await read.count(), sales.length);
    assert.deepEqual(await given.collect(), sales, format);
  }
});

test("types that Parquet lacks survive between stages", async () => {
  const query = `SELECT i::INTEGER AS i, (i * 170141183460469231731687::HUGEINT * 1000) AS huge,
    ['a','b'][1 + i % 2]::ENUM('a','b') AS word, to_microseconds(i * 977) AS span,
    {'h': i::HUGEINT, 'l': [INTERVAL (i) DAY]} AS nested, MAP {i::VARCHAR: i::UHUGEINT} AS pairs
    FROM range(100) r(i)`;
  const df = pond.partialSql(query).repartition({ n: 3, keys: "i" }).sort("i");
  const fields = await df.schema();
  assert.deepEqual(
    fields.map(({ type }) => type),
    [
      "INTEGER",
      "HUGEINT",
      "ENUM('a', 'b')",
      "INTERVAL",
      "STRUCT(h HUGEINT, l INTERVAL[])",
      "MAP(VARCHAR, UHUGEINT)",
    ],
  );
  const rows = await df.collect();
  assert.equal(rows.length, 100);
  assert.deepEqual(rows[7], {
    i: 7,
    huge: 7n * 170141183460469231731687n * 1000n,
    word: "b",
    span: { months: 0, days: 0, micros: 7n * 977n },
    nested: { h: 7n, l: [{ months: 0, days: 7, micros: 0n }] },
    pairs: new Map([["7", 7n]]),
  });
});

test("the optimiser moves filters and columns below exchanges, and drops exchanges", async () => {
  const hashed = frame().repartition({ n: 3, keys: "shop" });
  const filtered = await hashed.filter(sql`price > ${90}`).select("shop").explain();
  assert.match(filtered, /filter → project → scatter by hash/);
  assert.match(filtered, /\(part\): shop$/m);
  const grouped = await hashed.groupBy("shop").agg({ n: aggregates.count() }).explain();
  assert.equal(grouped.match(/scatter/g)?.length, 1, grouped);
  const twice = await frame()
    .repartition({ n: 5, keys: "id" })
    .repartition({ n: 3, keys: "shop" })
    .explain();
  assert.equal(twice.match(/scatter/g)?.length, 1, twice);
  const wide = await init({ root: join(folder, "root-wide"), workers: 2 });
  const small = wide.fromItems([{ shop: "shop 1", city: "x" }]);
  const left = wide.fromItems(sales as never, saleSchema) as unknown as DataFrame<Sale>;
  const broadcast = await left.repartition({ n: 3 }).join(small, { on: "shop" }).explain();
  assert.doesNotMatch(broadcast, /scatter/);
  await wide.close();
});

test("lineage names the file's columns that a column comes from", async () => {
  const out = join(folder, "lineage");
  await frame().write.parquet(out);
  const df = pond.readParquet<Sale>(out);
  const made = df
    .select<{ shop: string; total: number }>({ shop: sql`lower(shop)`, total: sql`price * amount` })
    .groupBy("shop")
    .agg({ most: sql`max(total)` });
  const lineage = await made.lineage();
  const short = Object.fromEntries(
    Object.entries(lineage).map(([name, from]) => [name, from.map((one) => one.split(":").at(-1))]),
  );
  assert.deepEqual(short, { shop: ["shop"], most: ["amount", "price"] });
});

/** Expects a failure of this code and message. */
const fails = async (work: Promise<unknown>, code: string, message: RegExp) =>
  await assert.rejects(work, (error: Error & { code?: string }) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });

test("bad input is told in one sentence, with file, column and line", async () => {
  const out = join(folder, "bad");
  await frame().write.parquet(out);
  const other = join(folder, "bad2");
  await frame().select({ id: sql`id::VARCHAR`, shop: "shop" }).write.parquet(other);
  await fails(
    pond.readParquet("/nowhere/*.parquet").count(),
    "input-missing",
    /No file matches \/nowhere/,
  );
  await fails(
    pond.readParquet("/nowhere/a.parquet").count(),
    "input-missing",
    /no file \/nowhere\/a.parquet/,
  );
  await fails(
    pond.readParquet([out, other]).count(),
    "schema-mismatch",
    /Column id is VARCHAR in .*bad2.*part-00000.parquet, but INTEGER/,
  );
  await fails(
    pond.readParquet(out, schema({ nope: t.i32 }) as never).count(),
    "schema-mismatch",
    /Column nope is missing in .*bad/,
  );
  await fails(
    frame().filter(sql`prise > 3`).count(),
    "sql-error",
    /"prise" not found.*pond\.test\.[jt]s:\d+/,
  );
  await fails(
    pond.partialSql("SELECT FROM {0} WHERE", frame()).count(),
    "sql-error",
    /pond\.test\.[jt]s:\d+/,
  );
  await fails(
    frame()
      .select({ x: sql`shop::INTEGER` })
      .count()
      .then(() => frame().select({ x: sql`shop::INTEGER` }).collect()),
    "sql-error",
    /Could not convert.*pond\.test/,
  );
  await fails(
    frame().sort("nope").collect(),
    "schema-mismatch",
    /no column nope .*there are id, shop/,
  );
  await fails(
    frame()
      .union(frame().select("id") as never)
      .count(),
    "schema-mismatch",
    /column shop .* missing/,
  );
});

test("bad rows, bad functions and taken folders are told in one sentence", async () => {
  const out = join(folder, "taken");
  await frame().write.parquet(out);
  const outside = frame().repartition({ n: 3, by: "column", keys: "id" });
  await fails(
    outside.count(),
    "sql-error",
    /Column id holds a value that is no partition from 0 to 2/,
  );
  const csv = join(folder, "bad.csv");
  writeFileSync(csv, "a,b\n1,x\nq,y\n");
  await fails(
    pond.readCsv(csv, { schema: schema({ a: t.i64, b: t.utf8 }) as never }).collect(),
    "schema-mismatch",
    /Column a of .*bad.csv, line 3/,
  );
  await fails(frame().limit(3).write.parquet(out), "output-exists", /not empty.*overwrite/);
  assert.equal((await frame().limit(3).write.parquet(out, { mode: "overwrite" })).rows, 3);
  const bad = frame().map(
    (row) => ({ id: row.id, s: row.price as never as string }),
    schema({ id: t.i32, s: t.utf8 }) as never,
  );
  await fails(bad.collect(), "schema-mismatch", /Column s is VARCHAR, but a value is number/);
  const throwing = frame().map(
    (row) => {
      if (row.id > 5) throw new RangeError(`no ${row.id}`);
      return { id: row.id };
    },
    schema({ id: t.i32 }) as never,
  );
  await fails(
    throwing.collect(),
    "function-failed",
    /pond\.test\.[jt]s:\d+\) threw RangeError: no 6/,
  );
  const rate = 2;
  assert.throws(
    () => frame().map((row) => ({ id: row.id * rate }), schema({ id: t.i32 }) as never),
    /uses rate/,
  );
  assert.throws(
    () => pond.fromItems([{ a: 1 }, { a: "x" }] as Row[]),
    /Column a holds values of different types/,
  );
  const gone = new AbortController();
  gone.abort();
  await fails(frame().count({ signal: gone.signal }), "aborted", /cancelled/);
});

test("a query may begin with WITH, and end in a semicolon or a comment", async () => {
  const [row] = await pond.partialSql<{ a: number }>("SELECT 1 AS a;\n").collect();
  const [other] = await pond.partialSql<{ a: number }>("SELECT 1 AS a -- one").collect();
  const few = "WITH few AS (FROM {0} WHERE id < 2) SELECT max(id) AS a FROM few";
  const [last] = await pond.partialSql<{ a: number }>(few, frame()).collect();
  assert.deepEqual([row, other, last], [{ a: 1 }, { a: 1 }, { a: 1 }]);
});

test("bound values never become SQL", async () => {
  const nasty = `'; DROP TABLE x; --"$1{0}`;
  const [row] = await pond
    .fromItems([{ a: 1 }])
    .select<{ v: string; d: Date; b: bigint }>({
      v: sql`${nasty}`,
      d: sql`${new Date(86_400_000)}`,
      b: sql`${2n ** 40n}`,
    })
    .collect();
  assert.deepEqual(row, { v: nasty, d: new Date(86_400_000), b: 2n ** 40n });
  assert.deepEqual(await bareRows("SELECT 1"), [[1]]);
});
