/**
 * @file The tables of TPC-H at any scale, for tests and benchmarks: numbers, dates and codes after dbgen's
 * published random streams (a multiplicative generator, 16807 modulo 2^31 - 1, one seed a column, a
 * fixed number of draws a row), comments from a few words of our own. Source: TPC-H
 * specification 3.0, clause 4.2, and the seeds and formulas that dbgen documents.
 */
import { join } from "node:path";
import { BIGINT, DATE, DECIMAL, type DuckDBType, INTEGER, VARCHAR } from "@duckdb/node-api";
import { writeChunks } from "../chunk-writer.ts";
import { columnOf } from "../column-builder.ts";
import { type Duck, quoteText } from "../duck.ts";

/** A column's stream: `drawsPerRow` numbers belong to each row, drawn or not. */
class Stream {
  private rowSeed: number;
  private seed: number;
  private readonly drawsPerRow: number;

  constructor(seed: number, drawsPerRow = 1) {
    this.rowSeed = seed;
    this.seed = seed;
    this.drawsPerRow = drawsPerRow;
  }

  /** A uniform whole number from `low` to `high`. */
  draw(low: number, high: number): number {
    this.seed = (this.seed * 16807) % 2147483647;
    return low + Math.floor((this.seed / 2147483647) * (high - low + 1));
  }

  pick<T>(items: readonly T[]): T {
    return items[this.draw(1, items.length) - 1];
  }

  nextRow(): void {
    for (let i = 0; i < this.drawsPerRow; i++) this.rowSeed = (this.rowSeed * 16807) % 2147483647;
    this.seed = this.rowSeed;
  }
}

const nextRows = (streams: Readonly<Record<string, Stream>>): void => {
  for (const stream of Object.values(streams)) stream.nextRow();
};

const dayMs = 86_400_000;
const firstDay = Date.UTC(1992, 0, 1) / dayMs;
const today = Date.UTC(1995, 5, 17) / dayMs;
const dateOf = (day: number) => new Date(day * dayMs);
const money = (cents: number) => (cents / 100).toFixed(2);
const numbered = (word: string, n: number) => `${word}#${String(n).padStart(9, "0")}`;

const words = (list: string) => list.split(" ");
const segments = words("AUTOMOBILE BUILDING FURNITURE HOUSEHOLD MACHINERY");
const priorities = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
const instructions = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"];
const modes = ["REG AIR", "AIR", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"];
const cross = (...lists: readonly string[][]) =>
  lists.reduce((left, right) => left.flatMap((a) => right.map((b) => `${a} ${b}`)));
const partTypes = cross(
  words("STANDARD SMALL MEDIUM LARGE ECONOMY PROMO"),
  words("ANODIZED BURNISHED PLATED POLISHED BRUSHED"),
  words("TIN NICKEL BRASS STEEL COPPER"),
);
const containers = cross(
  words("SM LG MED JUMBO WRAP"),
  words("CASE BOX BAG JAR PKG PACK CAN DRUM"),
);
const colors = words(
  "almond antique aquamarine azure beige bisque black blanched blue blush brown burlywood chartreuse chiffon " +
    "chocolate coral cornflower cream cyan dark deep dim dodger drab firebrick floral forest frosted gainsboro ghost " +
    "goldenrod green grey honeydew hot indian ivory khaki lace lavender lawn lemon light lime linen magenta maroon " +
    "medium metallic midnight mint misty moccasin navajo navy olive orange orchid pale papaya peach peru pink plum " +
    "powder puff purple red rose rosy royal saddle salmon sandy seashell sienna sky slate smoke snow spring steel tan " +
    "thistle tomato turquoise violet wheat white yellow",
);
const regions = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"];
const nations: readonly [string, number][] = [
  ["ALGERIA", 0],
  ["ARGENTINA", 1],
  ["BRAZIL", 1],
  ["CANADA", 1],
  ["EGYPT", 4],
  ["ETHIOPIA", 0],
  ["FRANCE", 3],
  ["GERMANY", 3],
  ["INDIA", 2],
  ["INDONESIA", 2],
  ["IRAN", 4],
  ["IRAQ", 4],
  ["JAPAN", 2],
  ["JORDAN", 4],
  ["KENYA", 0],
  ["MOROCCO", 0],
  ["MOZAMBIQUE", 0],
  ["PERU", 1],
  ["CHINA", 2],
  ["ROMANIA", 3],
  ["SAUDI ARABIA", 4],
  ["VIETNAM", 2],
  ["RUSSIA", 3],
  ["UNITED KINGDOM", 3],
  ["UNITED STATES", 1],
];
const commentWords = words(
  "quick slow special pending requests deposits Customer Complaints express packages final",
);

const comment = (stream: Stream) =>
  Array.from({ length: 4 }, () => stream.pick(commentWords)).join(" ");

/** A price in cents by the part's number. */
const retailPrice = (part: number) =>
  90_000 + (Math.floor(part / 10) % 20_001) + (part % 1000) * 100;

const supplierOf = (part: number, i: number, suppliers: number) =>
  ((part + i * (suppliers / 4 + Math.floor((part - 1) / suppliers))) % suppliers) + 1;

/** Columns of a table: name, type, and the values that rows push. */
class Rows {
  readonly names: readonly string[];
  readonly types: readonly DuckDBType[];
  readonly values: unknown[][];

  constructor(columns: Readonly<Record<string, DuckDBType>>) {
    this.names = Object.keys(columns);
    this.types = Object.values(columns);
    this.values = this.types.map(() => []);
  }

  push(...row: readonly unknown[]): void {
    for (let i = 0; i < row.length; i++) this.values[i].push(row[i]);
  }
}

const cash = DECIMAL(15, 2);

function phone(stream: Stream, nation: number): string {
  const parts = [stream.draw(100, 999), stream.draw(100, 999), stream.draw(1000, 9999)];
  return [nation + 10, ...parts].join("-");
}

function suppliers(count: number): Rows {
  const rows = new Rows({
    s_suppkey: BIGINT,
    s_name: VARCHAR,
    s_address: VARCHAR,
    s_nationkey: INTEGER,
    s_phone: VARCHAR,
    s_acctbal: cash,
    s_comment: VARCHAR,
  });
  const s = {
    nation: new Stream(110356601),
    phone: new Stream(884434366, 3),
    balance: new Stream(962338209),
    comment: new Stream(1341315363, 4),
  };
  for (let i = 1; i <= count; i++) {
    const nation = s.nation.draw(0, 24);
    rows.push(
      i,
      numbered("Supplier", i),
      `street ${i}`,
      nation,
      phone(s.phone, nation),
      money(s.balance.draw(-99_999, 999_999)),
      comment(s.comment),
    );
    nextRows(s);
  }
  return rows;
}

function customers(count: number): Rows {
  const rows = new Rows({
    c_custkey: BIGINT,
    c_name: VARCHAR,
    c_address: VARCHAR,
    c_nationkey: INTEGER,
    c_phone: VARCHAR,
    c_acctbal: cash,
    c_mktsegment: VARCHAR,
    c_comment: VARCHAR,
  });
  const s = {
    nation: new Stream(1489529863),
    phone: new Stream(1521138112, 3),
    balance: new Stream(298370230),
    segment: new Stream(1140279430),
    comment: new Stream(1335826707, 4),
  };
  for (let i = 1; i <= count; i++) {
    const nation = s.nation.draw(0, 24);
    rows.push(
      i,
      numbered("Customer", i),
      `road ${i}`,
      nation,
      phone(s.phone, nation),
      money(s.balance.draw(-99_999, 999_999)),
      s.segment.pick(segments),
      comment(s.comment),
    );
    nextRows(s);
  }
  return rows;
}

function parts(count: number): Rows {
  const rows = new Rows({
    p_partkey: BIGINT,
    p_name: VARCHAR,
    p_mfgr: VARCHAR,
    p_brand: VARCHAR,
    p_type: VARCHAR,
    p_size: INTEGER,
    p_container: VARCHAR,
    p_retailprice: cash,
    p_comment: VARCHAR,
  });
  const s = {
    maker: new Stream(1),
    brand: new Stream(46831694),
    type: new Stream(1841581359),
    size: new Stream(1193163244),
    container: new Stream(727633698),
    name: new Stream(709314158, 92),
    comment: new Stream(804159733, 4),
  };
  for (let i = 1; i <= count; i++) {
    const maker = s.maker.draw(1, 5);
    const name = [...colors];
    for (let k = 0; k < 5; k++) {
      const other = s.name.draw(k, colors.length - 1);
      [name[k], name[other]] = [name[other], name[k]];
    }
    rows.push(
      i,
      name.slice(0, 5).join(" "),
      `Manufacturer#${maker}`,
      `Brand#${maker * 10 + s.brand.draw(1, 5)}`,
      s.type.pick(partTypes),
      s.size.draw(1, 50),
      s.container.pick(containers),
      money(retailPrice(i)),
      comment(s.comment),
    );
    nextRows(s);
  }
  return rows;
}

function partSuppliers(partCount: number, supplierCount: number): Rows {
  const rows = new Rows({
    ps_partkey: BIGINT,
    ps_suppkey: BIGINT,
    ps_availqty: INTEGER,
    ps_supplycost: cash,
    ps_comment: VARCHAR,
  });
  const s = {
    quantity: new Stream(1671059989, 4),
    cost: new Stream(1051288424, 4),
    comment: new Stream(1961692154, 16),
  };
  for (let i = 1; i <= partCount; i++) {
    for (let k = 0; k < 4; k++) {
      rows.push(
        i,
        supplierOf(i, k, supplierCount),
        s.quantity.draw(1, 9999),
        money(s.cost.draw(100, 100_000)),
        comment(s.comment),
      );
    }
    nextRows(s);
  }
  return rows;
}

interface Counts {
  readonly orders: number;
  readonly customers: number;
  readonly parts: number;
  readonly suppliers: number;
}

const orderColumns = {
  o_orderkey: BIGINT,
  o_custkey: BIGINT,
  o_orderstatus: VARCHAR,
  o_totalprice: cash,
  o_orderdate: DATE,
  o_orderpriority: VARCHAR,
  o_clerk: VARCHAR,
  o_shippriority: INTEGER,
  o_comment: VARCHAR,
};

const lineColumns = {
  l_orderkey: BIGINT,
  l_partkey: BIGINT,
  l_suppkey: BIGINT,
  l_linenumber: INTEGER,
  l_quantity: cash,
  l_extendedprice: cash,
  l_discount: cash,
  l_tax: cash,
  l_returnflag: VARCHAR,
  l_linestatus: VARCHAR,
  l_shipdate: DATE,
  l_commitdate: DATE,
  l_receiptdate: DATE,
  l_shipinstruct: VARCHAR,
  l_shipmode: VARCHAR,
  l_comment: VARCHAR,
};

/** The streams of lines: seven draws belong to each order, whatever its lines are. */
const lineStreams = () => ({
  quantity: new Stream(209208115, 7),
  discount: new Stream(554590007, 7),
  tax: new Stream(721958466, 7),
  instruct: new Stream(1371272478, 7),
  mode: new Stream(675466456, 7),
  part: new Stream(1808217256, 7),
  supplier: new Stream(2095021727, 7),
  ship: new Stream(1769349045, 7),
  commit: new Stream(904914315, 7),
  receipt: new Stream(373135028, 7),
  flag: new Stream(717419739, 7),
  comment: new Stream(1095462486, 28),
});

/** One line of the order `key` of `day`: its price with tax in cents, and whether it was shipped. */
function pushLine(
  lines: Rows,
  s: ReturnType<typeof lineStreams>,
  counts: Counts,
  key: number,
  day: number,
  n: number,
): { cents: number; isShipped: boolean } {
  const quantity = s.quantity.draw(1, 50);
  const discount = s.discount.draw(0, 10);
  const tax = s.tax.draw(0, 8);
  const instruct = s.instruct.pick(instructions);
  const mode = s.mode.pick(modes);
  const part = s.part.draw(1, counts.parts);
  const supplier = supplierOf(part, s.supplier.draw(0, 3), counts.suppliers);
  const price = retailPrice(part) * quantity;
  const ship = day + s.ship.draw(1, 121);
  const commit = day + s.commit.draw(30, 90);
  const receipt = ship + s.receipt.draw(1, 30);
  const flag = receipt <= today ? s.flag.pick(["R", "A"]) : "N";
  const isShipped = ship <= today;
  const dates = [dateOf(ship), dateOf(commit), dateOf(receipt)];
  const amounts = [String(quantity), money(price), money(discount), money(tax)];
  const codes = [flag, isShipped ? "F" : "O"];
  lines.push(
    key,
    part,
    supplier,
    n,
    ...amounts,
    ...codes,
    ...dates,
    instruct,
    mode,
    comment(s.comment),
  );
  const discounted = Math.floor((price * (100 - discount)) / 100);
  return { cents: Math.floor((discounted * (100 + tax)) / 100), isShipped };
}

function ordersAndLines(counts: Counts): { orders: Rows; lines: Rows } {
  const orders = new Rows(orderColumns);
  const lines = new Rows(lineColumns);
  const s = {
    customer: new Stream(851767375),
    date: new Stream(1066728069),
    priority: new Stream(591449447),
    clerk: new Stream(1171034773),
    count: new Stream(1434868289),
    comment: new Stream(276090261, 4),
  };
  const ofLines = lineStreams();
  for (let i = 1; i <= counts.orders; i++) {
    const key = Math.floor(i / 8) * 32 + (i % 8);
    let customer = s.customer.draw(1, counts.customers);
    // A third of the customers never order.
    for (let delta = 1; customer % 3 === 0; delta = -delta) {
      customer = Math.min(customer + delta, counts.customers);
    }
    const day = firstDay + s.date.draw(0, 2405);
    const priority = s.priority.pick(priorities);
    const clerk = numbered("Clerk", s.clerk.draw(1, 1000));
    const lineCount = s.count.draw(1, 7);
    let [total, shipped] = [0, 0];
    for (let n = 1; n <= lineCount; n++) {
      const { cents, isShipped } = pushLine(lines, ofLines, counts, key, day, n);
      total += cents;
      if (isShipped) shipped++;
    }
    const status = shipped === lineCount ? "F" : shipped > 0 ? "P" : "O";
    const text = comment(s.comment);
    orders.push(key, customer, status, money(total), dateOf(day), priority, clerk, 0, text);
    nextRows(s);
    nextRows(ofLines);
  }
  return { orders, lines };
}

/** Writes the eight tables at `scale` (1 is about 1 GB) as `<table>.parquet` in `folder`; returns their names. */
export async function writeTpch(duck: Duck, folder: string, scale: number): Promise<string[]> {
  const of = (count: number) => Math.max(4, Math.round(count * scale));
  const counts = {
    orders: of(1_500_000),
    customers: of(150_000),
    parts: of(200_000),
    suppliers: of(10_000),
  };
  const nation = new Rows({
    n_nationkey: INTEGER,
    n_name: VARCHAR,
    n_regionkey: INTEGER,
    n_comment: VARCHAR,
  });
  nations.forEach(([name, region], i) => {
    nation.push(i, name, region, "a nation");
  });
  const region = new Rows({ r_regionkey: INTEGER, r_name: VARCHAR, r_comment: VARCHAR });
  regions.forEach((name, i) => {
    region.push(i, name, "a region");
  });
  const { orders, lines } = ordersAndLines(counts);
  const tables = {
    region,
    nation,
    supplier: suppliers(counts.suppliers),
    customer: customers(counts.customers),
    part: parts(counts.parts),
    partsupp: partSuppliers(counts.parts, counts.suppliers),
    orders,
    lineitem: lines,
  };
  for (const [name, { names, types, values }] of Object.entries(tables)) {
    const fields = names.map((column, i) => `${column} ${types[i]}`).join(", ");
    await duck.connection.run(`CREATE OR REPLACE TABLE ${name} (${fields})`);
    const appender = await duck.connection.createAppender(name);
    const columns = values.map((column, i) => columnOf(types[i], column, names[i]));
    for (const chunk of writeChunks(columns, types)) appender.appendDataChunk(chunk);
    appender.closeSync();
    await duck.connection.run(
      `COPY ${name} TO ${quoteText(join(folder, `${name}.parquet`))} (FORMAT parquet)`,
    );
    await duck.connection.run(`DROP TABLE ${name}`);
  }
  return Object.keys(tables);
}
