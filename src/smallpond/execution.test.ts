import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { aggregates, init, type Pond, type RunEvent, schema, sql, t } from "./index.ts";
import { freshFolder, withPond } from "./testing.ts";

const seed = Date.now() % 1e6;
console.log(`execution seed ${seed}`);

/** A plan of several stages, and its answer. */
function manyStages(pond: Pond, parts = 4) {
  const numbers = pond.partialSql<{ i: number; k: number }>(
    "SELECT i::INTEGER AS i, (i * 7919 % 1009)::INTEGER AS k FROM range(20000) r(i)",
  );
  return numbers
    .repartition({ n: parts, keys: "k" })
    .filter(sql`i % 3 <> ${1}`)
    .map((row) => ({ k: row.k, twice: row.i * 2 }), schema({ k: t.i32, twice: t.i32 }) as never)
    .groupBy("k" as never)
    .agg<{ k: number; n: bigint; total: bigint }>({
      n: aggregates.count(),
      total: aggregates.sum("twice"),
    })
    .sort("k");
}

const digest = (rows: unknown) =>
  JSON.stringify(rows, (_, value) => (typeof value === "bigint" ? `${value}n` : value));

test("a plan run again executes nothing, and an edited step only what follows it", async () => {
  await withPond(async (pond) => {
    const first = await manyStages(pond).collect();
    assert.ok((pond.lastRun?.executed ?? 0) > 8);
    assert.deepEqual(await manyStages(pond).collect(), first);
    assert.equal(pond.lastRun?.executed, 0);
    const again = await init({ root: pond.root, workers: 2 });
    assert.deepEqual(await manyStages(again).collect(), first);
    assert.equal(again.lastRun?.executed, 0);
    await again.close();
    const base = pond
      .partialSql<{ i: number }>("SELECT i::INTEGER AS i FROM range(1000) r(i)")
      .repartition({ n: 3, keys: "i" });
    await base.map((row) => ({ j: row.i + 1 }), schema({ j: t.i32 }) as never).collect();
    assert.equal(pond.lastRun?.executed, 4);
    await base.map((row) => ({ j: row.i + 2 }), schema({ j: t.i32 }) as never).collect();
    assert.equal(pond.lastRun?.executed, 3);
  });
});

test("a changed input file is read again", async () => {
  await withPond(async (pond, folder) => {
    const path = join(folder, "in.csv");
    writeFileSync(path, "a\n1\n2\n");
    assert.equal(await pond.readCsv(path).count(), 2);
    writeFileSync(path, "a\n1\n2\n3\n");
    assert.equal(await pond.readCsv(path).count(), 3);
  });
});

test("crashes, failures and stalls change nothing but the number of attempts", async () => {
  const want = digest(await withPond((pond) => manyStages(pond).collect()));
  let attempts = 0;
  for (let round = 0; round < 3; round++) {
    const faults = { seed: seed + round, crash: 0.15, fail: 0.2, stall: 0.1, stallMs: 150 };
    await withPond(
      async (pond) => {
        assert.equal(digest(await manyStages(pond).collect()), want, `faults ${seed + round}`);
        attempts += (pond.lastRun?.attempts ?? 0) - (pond.lastRun?.executed ?? 0);
        await manyStages(pond).collect();
        assert.equal(pond.lastRun?.executed, 0);
      },
      { faults, attemptsMax: 30 },
    );
  }
  assert.ok(attempts > 0, "no fault was injected");
});

test("a task that always fails ends the run with its reason, and is not tried where that can't help", async () => {
  await withPond(
    async (pond) => {
      await assert.rejects(manyStages(pond).collect(), {
        code: "fault-injected",
        message: /\(after 3 attempts\): A fault was injected/,
      });
    },
    { faults: { seed, fail: 1 }, attemptsMax: 3 },
  );
  await withPond(async (pond) => {
    const bad = pond.fromItems([{ a: "x" }]).select({ b: sql`a::INTEGER` });
    await assert.rejects(bad.collect(), { code: "sql-error" });
    assert.equal(pond.lastRun, undefined);
  });
});

test("a straggler gets a second copy, and the first commit wins", async () => {
  await withPond(
    async (pond) => {
      const events: RunEvent[] = [];
      pond.events.on("event", (event) => events.push(event));
      const base = pond
        .partialSql<{ i: number }>("SELECT i::INTEGER AS i FROM range(1000) r(i)")
        .repartition({ n: 6, keys: "i" });
      const stalls = base.map(
        async (row) => {
          const global = globalThis as { stalled?: boolean };
          // Only the first process that meets row 0 stalls: it marks the place by a file.
          if (row.i === 0 && !global.stalled) {
            const { existsSync: has, writeFileSync: mark } = await import("node:fs");
            const { tmpdir } = await import("node:os");
            const path = `${tmpdir()}/baleen-straggler-${process.ppid}`;
            if (!has(path)) {
              mark(path, "");
              await new Promise((done) => setTimeout(done, 20_000));
            }
          }
          return { i: row.i };
        },
        schema({ i: t.i32 }) as never,
      );
      const marker = `${(await import("node:os")).tmpdir()}/baleen-straggler-${process.pid}`;
      rmSync(marker, { force: true });
      const startedMs = performance.now();
      assert.equal((await stalls.collect()).length, 1000);
      rmSync(marker, { force: true });
      assert.ok(performance.now() - startedMs < 15_000, "the copy did not help");
      assert.ok((pond.lastRun?.copies ?? 0) >= 1);
    },
    { stragglerMs: 300 },
  );
});

test("a task beyond its memory is killed and tried again with more, up to the limit", async () => {
  const hungry = (pond: Pond) =>
    pond.fromItems([{ mib: 900 }]).map(
      (row) => {
        const held: Uint8Array[] = [];
        for (let i = 0; i < row.mib; i++) held.push(new Uint8Array(2 ** 20).fill(1));
        const untilMs = Date.now() + 400;
        while (Date.now() < untilMs);
        return { held: held.length };
      },
      schema({ held: t.i32 }) as never,
    );
  await withPond(
    async (pond) => {
      assert.deepEqual(await hungry(pond).collect(), [{ held: 900 }]);
      assert.ok((pond.lastRun?.attempts ?? 0) > 1);
    },
    { taskMemoryBytes: 128 * 2 ** 20, taskMemoryBytesMax: 2 ** 31 },
  );
  await withPond(
    async (pond) => {
      await assert.rejects(hungry(pond).collect(), {
        code: "out-of-memory",
        message: /more than its 128 MiB/,
      });
    },
    { taskMemoryBytes: 2 ** 27, taskMemoryBytesMax: 2 ** 27 },
  );
});

test("a task that needs more than its memory spills", async () => {
  await withPond(
    async (pond) => {
      const big = pond.partialSql<{ i: number; s: string }>(
        "SELECT i, md5(i::VARCHAR) || md5((i + 1)::VARCHAR) AS s FROM range(2000000) r(i)",
      );
      const rows = await big.partialSort("s").take(2);
      assert.deepEqual(
        rows.map(({ s }) => s.slice(0, 3)),
        ["000", "000"],
      );
    },
    { taskMemoryBytes: 96 * 2 ** 20, taskMemoryBytesMax: 96 * 2 ** 20 },
  );
});

test("a cancelled run stops at once and can be gone on with", async () => {
  await withPond(async (pond) => {
    const slow = pond
      .partialSql<{ i: number }>("SELECT i::INTEGER AS i FROM range(8) r(i)")
      .repartition({ n: 8, keys: "i" })
      .map(
        async (row) => {
          await new Promise((done) => setTimeout(done, 200));
          return row;
        },
        schema({ i: t.i32 }) as never,
      );
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 500);
    const startedMs = performance.now();
    await assert.rejects(slow.collect({ signal: controller.signal }), { code: "aborted" });
    assert.ok(performance.now() - startedMs < 1500);
    assert.equal((await slow.collect()).length, 8);
  });
});

test("nothing partial is ever published: a failing write leaves neither folder nor manifest", async () => {
  await withPond(async (pond, folder) => {
    const out = join(folder, "out");
    const half = pond
      .partialSql<{ i: number }>("SELECT i::INTEGER AS i FROM range(4000) r(i)")
      .repartition({ n: 4 })
      .map(
        (row) => {
          if (row.i === 3999) throw new Error("late");
          return row;
        },
        schema({ i: t.i32 }) as never,
      );
    await assert.rejects(half.write.parquet(out), { code: "function-failed" });
    assert.ok(!existsSync(out));
    const whole = pond.partialSql("SELECT 1 AS a");
    await whole.write.parquet(out);
    const before = readFileSync(join(out, "_manifest.json"), "utf8");
    await assert.rejects(half.write.parquet(out, { mode: "overwrite" }), {
      code: "function-failed",
    });
    assert.equal(readFileSync(join(out, "_manifest.json"), "utf8"), before);
  });
});

test("a full disk fails the run with one sentence and publishes nothing", async (context) => {
  const mount = join(freshFolder("full"), "small");
  mkdirSync(mount);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m", "tmpfs", mount], { stdio: "ignore" });
  } catch {
    return context.skip("no right to mount a small file system here");
  }
  try {
    await withPond(async (pond) => {
      const big = pond
        .partialSql("SELECT i, md5(i::VARCHAR) AS s FROM range(500000) r(i)")
        .repartition({ n: 2 });
      const out = join(mount, "out");
      await assert.rejects(big.write.parquet(out), {
        code: "disk-full",
        message: /free some space/i,
      });
      assert.ok(!existsSync(out));
      assert.deepEqual(readdirSync(`${out}.staging`), []);
    });
  } finally {
    execFileSync("umount", [mount]);
  }
});
