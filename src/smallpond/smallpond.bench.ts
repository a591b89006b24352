/**
 * @file What `smallpond` costs beside bare DuckDB, ours and the peer's strictly in turn: the
 * scheduler's rate, resuming, functions over rows, TPC-H, and the hash exchange. Small by default; `--large`
 * runs the sizes of the README; `--soak` first kills processes 200 times. CPU is user and system time
 * of all processes involved.
 */
import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { medianOf } from "../base/index.ts";
import { closeDuck, type Duck, openDuck, quoteText } from "./duck.ts";
import { init, type Pond, queueExecutor, type Row, schema, sql, t } from "./index.ts";
import type { Stage } from "./stage.ts";
import { startWorker, survive } from "./testing/kills.ts";
import { freePort, redisAbsence, startRedis } from "./testing/redis.ts";
import { writeTpch } from "./testing/tpch-data.ts";
import { overInputs, tpchQueries } from "./testing/tpch-queries.ts";
import { freshFolder } from "./testing.ts";

const large = process.argv.includes("--large");
const soak = process.argv.includes("--soak");
const rounds = large ? 5 : 1;
const folder = freshFolder("bench");

interface Cost {
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** A cost in this process. */
async function inProcess(work: () => Promise<unknown>): Promise<Cost> {
  const cpu = process.cpuUsage();
  const startedMs = performance.now();
  await work();
  const used = process.cpuUsage(cpu);
  return { wallMs: performance.now() - startedMs, cpuMs: (used.user + used.system) / 1e3 };
}

/** A cost here and, as their commits tell, in the workers. */
async function inWorkers(pond: Pond, work: () => Promise<unknown>): Promise<Cost> {
  let workersMs = 0;
  const listen = (event: { kind: string; cpuMs?: number; attempt?: string }) => {
    if (event.kind === "end") workersMs += event.cpuMs ?? 0;
  };
  pond.events.on("event", listen);
  const { wallMs, cpuMs } = await inProcess(work);
  pond.events.off("event", listen);
  return { wallMs, cpuMs: cpuMs + workersMs };
}

const medianCost = (costs: readonly Cost[]): Cost => ({
  wallMs: medianOf(costs.map(({ wallMs }) => wallMs)),
  cpuMs: medianOf(costs.map(({ cpuMs }) => cpuMs)),
});

const shown = ({ wallMs, cpuMs }: Cost) => `${cpuMs.toFixed(0)} CPU ms, ${wallMs.toFixed(0)} ms`;

function emptyStage(key: string, partitions: number): Stage {
  return {
    key,
    label: "empty",
    partitions,
    fields: [],
    inputs: [],
    definitions: [],
    parameters: {},
    output: undefined,
    scatter: undefined,
    answer: undefined,
    format: "parquet",
    sink: false,
    copyOptions: "",
    folder,
  };
}

async function scheduler(pond: Pond): Promise<void> {
  const tasks = large ? 10_000 : 300;
  await pond.runStage(emptyStage("warm", 50));
  const rates: number[] = [];
  const resumes: number[] = [];
  for (let round = 0; round < Math.min(3, rounds); round++) {
    const stage = emptyStage(`empty${round}`, tasks);
    rates.push((tasks / (await inProcess(() => pond.runStage(stage))).wallMs) * 1e3);
    resumes.push((await inProcess(() => pond.runStage(stage))).wallMs);
  }
  console.log(`scheduler: ${medianOf(rates).toFixed(0)} empty tasks/s, wanted 2000`);
  console.log(
    `resume of ${tasks} finished tasks: ${medianOf(resumes).toFixed(0)} ms, wanted < 2000`,
  );
}

/** The same function over the same rows: typed columns, and DuckDB's row objects with an appender. */
async function mapRows(pond: Pond, duck: Duck): Promise<void> {
  const rows = large ? 1_000_000 : 20_000;
  const query = `SELECT i::INTEGER AS a, i * 0.5::DOUBLE AS b, i::BIGINT AS c, 'name ' || i AS s FROM range(${rows}) r(i)`;
  const input = join(folder, "map");
  await pond.partialSql(query).write.parquet(input);
  const path = quoteText(join(input, "part-00000.parquet"));
  const made = schema({ a: t.i32, b: t.f64, s: t.utf8 });
  const ours: Cost[] = [];
  const objects: Cost[] = [];
  for (let round = 0; round < rounds; round++) {
    const read = pond
      .readParquet<{ a: number; b: number; s: string }>(input)
      .filter(sql`a > ${-1 - round}`);
    const mapped = read.map((row) => ({ a: row.a, b: row.b * 2, s: row.s }), made as never);
    ours.push(await inWorkers(pond, () => mapped.compute()));
    objects.push(
      await inProcess(async () => {
        const result = await duck.connection.run(`FROM read_parquet(${path})`);
        const out = (await result.getRowObjects()).map((row) => ({
          a: row.a,
          b: (row.b as number) * 2,
          s: row.s,
        }));
        await duck.connection.run(
          "CREATE OR REPLACE TABLE mapped (a INTEGER, b DOUBLE, s VARCHAR)",
        );
        const appender = await duck.connection.createAppender("mapped");
        for (const { a, b, s } of out) {
          appender.appendInteger(a as number);
          appender.appendDouble(b);
          appender.appendVarchar(s as string);
          appender.endRow();
        }
        appender.closeSync();
        await duck.connection.run(
          `COPY mapped TO ${quoteText(join(folder, "mapped.parquet"))} (FORMAT parquet, COMPRESSION uncompressed)`,
        );
      }),
    );
  }
  report(`map over ${rows} rows`, medianCost(ours), "row objects", medianCost(objects), 5);
}

/** Empty tasks through a Redis of our own and two worker processes. */
async function queue(): Promise<void> {
  const absence = redisAbsence();
  if (absence) return console.log(`BullMQ: skipped, ${absence}`);
  const tasks = large ? 5000 : 100;
  const port = await freePort();
  const redis = `redis://127.0.0.1:${port}`;
  const server = await startRedis(port, folder);
  const workers = [await startWorker(redis, 32)];
  const executor = await queueExecutor({ redis, slots: 128 });
  const pond = await init({ root: join(folder, "queue-root"), executor });
  try {
    await pond.runStage(emptyStage("queue-warm", 50));
    const { wallMs } = await inProcess(() => pond.runStage(emptyStage("queue", tasks)));
    console.log(`BullMQ: ${((tasks / wallMs) * 1e3).toFixed(0)} empty tasks/s, wanted 1000`);
  } finally {
    await pond.close();
    for (const child of [...workers, server]) child.kill("SIGKILL");
  }
}

/** The 22 queries on one partition: ours in a worker with its answer written and read, and bare. */
async function tpch(pond: Pond, duck: Duck): Promise<void> {
  const scale = large ? 0.1 : 0.01;
  const data = join(folder, "tpch");
  mkdirSync(data);
  for (const name of await writeTpch(duck, data, scale)) {
    await duck.connection.run(
      `CREATE VIEW ${name} AS FROM ${quoteText(join(data, `${name}.parquet`))}`,
    );
  }
  const cpu: number[] = [];
  const wall: number[] = [];
  for (const query of tpchQueries) {
    const { query: placed, tables } = overInputs(query);
    const frames = tables.map((name) => pond.readParquet(join(data, `${name}.parquet`)));
    const ours: Cost[] = [];
    const bare: Cost[] = [];
    for (let round = 0; round < Math.min(3, rounds); round++) {
      // Another text each round, lest the answer of the last be found.
      const ask = pond.partialSql(`${placed} -- ${round}`, ...frames);
      ours.push(await inWorkers(pond, () => ask.collect()));
      bare.push(await inProcess(async () => await (await duck.connection.run(query)).getRows()));
    }
    cpu.push(medianCost(ours).cpuMs / medianCost(bare).cpuMs);
    wall.push(medianCost(ours).wallMs / medianCost(bare).wallMs);
  }
  const mean = (ratios: number[]) =>
    Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length).toFixed(2);
  console.log(
    `TPC-H at scale ${scale}, one partition: geometric mean over bare DuckDB ${mean(cpu)} CPU, ${mean(wall)} wall, wanted 1.10`,
  );
}

function report(what: string, ours: Cost, peer: string, theirs: Cost, wanted: number): void {
  const cpu = theirs.cpuMs / ours.cpuMs;
  const wall = theirs.wallMs / ours.wallMs;
  console.log(
    `${what}: ${shown(ours)}; ${peer}: ${shown(theirs)}; ratio ${cpu.toFixed(2)} CPU, ${wall.toFixed(2)} wall, wanted ${wanted}`,
  );
}

/** Rows of 100 bytes dealt to 64 parts by the hash of a key of 10. */
async function exchange(pond: Pond, duck: Duck, rows: number): Promise<void> {
  const input = join(folder, "exchange.parquet");
  await duck.connection.run(
    `COPY (SELECT md5(i::VARCHAR)[1:10] AS k, i AS n, repeat(md5((i * 7)::VARCHAR), 3)[1:82] AS v
     FROM range(${rows}) r(i)) TO ${quoteText(input)} (FORMAT parquet, COMPRESSION uncompressed)`,
  );
  const out = join(folder, "partitioned");
  const costs: Record<string, Cost[]> = { ours: [], duck: [], oursRead: [], duckRead: [] };
  let [ourFiles, theirFiles] = [0, 0];
  for (let round = 0; round < Math.min(3, rounds); round++) {
    const dealt = pond
      .readParquet<Row>(input)
      .limit(rows + round)
      .repartition({ n: 64, keys: "k" });
    const counted = pond.partialSql("SELECT count(*) AS n, max(v) AS v FROM {0}", dealt);
    const before = new Set(readdirSync(join(pond.root, "data")));
    // The exchange runs as the first stage of this plan, the readers as the second.
    const stages = await inStages(pond, () => counted.compute());
    costs.ours.push(stages[0]);
    costs.oursRead.push(stages[1]);
    ourFiles = readdirSync(join(pond.root, "data")).filter((name) => !before.has(name)).length - 64;
    rmSync(out, { recursive: true, force: true });
    costs.duck.push(
      await inProcess(() =>
        duck.connection.run(
          `COPY (SELECT *, (hash(k) % 64)::INTEGER AS part FROM read_parquet(${quoteText(input)}) WHERE n > ${-1 - round})
           TO ${quoteText(out)} (FORMAT parquet, COMPRESSION uncompressed, PARTITION_BY (part))`,
        ),
      ),
    );
    theirFiles = readdirSync(out, { recursive: true }).filter((name) =>
      String(name).endsWith(".parquet"),
    ).length;
    costs.duckRead.push(
      await inProcess(async () => {
        for (let part = 0; part < 64; part++) {
          await duck.connection.run(
            `SELECT count(*), max(v) FROM read_parquet(${quoteText(`${out}/part=${part}/*.parquet`)})`,
          );
        }
      }),
    );
  }
  report(
    `hash exchange of ${rows} rows to 64 parts, ${ourFiles} files`,
    medianCost(costs.ours),
    `COPY PARTITION_BY, ${theirFiles} files`,
    medianCost(costs.duck),
    1.5,
  );
  report(
    "reading all 64 parts (ours with 64 tasks)",
    medianCost(costs.oursRead),
    "COPY's",
    medianCost(costs.duckRead),
    1,
  );
}

/** The cost of each stage of a plan, in order, from the workers' commits. */
async function inStages(pond: Pond, work: () => Promise<unknown>): Promise<Cost[]> {
  const costs = new Map<string, { cpuMs: number; fromMs: number; toMs: number }>();
  const listen = (event: import("./index.ts").RunEvent) => {
    if (event.kind === "start" && !costs.has(event.stage)) {
      costs.set(event.stage, { cpuMs: 0, fromMs: event.atMs, toMs: event.atMs });
    }
    const cost = event.kind === "end" ? costs.get(event.stage) : undefined;
    if (cost && event.kind === "end") {
      cost.cpuMs += event.cpuMs;
      cost.toMs = event.atMs;
    }
  };
  pond.events.on("event", listen);
  await work();
  pond.events.off("event", listen);
  return [...costs.values()].map(({ cpuMs, fromMs, toMs }) => ({ cpuMs, wallMs: toMs - fromMs }));
}

/** 200 kills by seed, 10 a round, each round with a Redis and workers of its own. */
async function soakKills(): Promise<void> {
  const seed = Date.now() % 1e6;
  let runs = 0;
  for (let round = 0; round < 20; round++) runs += await survive(seed + round, 10);
  console.log(
    `soak: 200 kills in ${runs} runs (seed ${seed}): all digests equal, no task run again`,
  );
}

const duck = await openDuck({ threads: 2, memoryBytes: 6 * 2 ** 30, spillFolder: folder });
const pond = await init({ root: join(folder, "root"), workers: 2, taskMemoryBytes: 4 * 2 ** 30 });
try {
  if (soak) await soakKills();
  await scheduler(pond);
  await queue();
  await mapRows(pond, duck);
  await tpch(pond, duck);
  for (const rows of large ? [3_000_000, 10_000_000] : [50_000]) await exchange(pond, duck, rows);
} finally {
  await pond.close();
  closeDuck(duck);
}
