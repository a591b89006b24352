import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import pg from "pg";
import { BaleenError, VirtualClock } from "../base/index.ts";
import {
  isKvError,
  type KvStore,
  openLmdbKv,
  openMemoryKv,
  openPostgresKv,
  transact,
} from "./index.ts";
import { bytes, testConformance } from "./testing/conformance.ts";

const scratch = mkdtempSync(join(tmpdir(), "kv-test-"));
after(() => {
  spawnSync("umount", [join(scratch, "small")]);
  rmSync(scratch, { recursive: true, force: true });
});
let nextName = 1;
const url = process.env.BALEEN_POSTGRES ?? "postgresql://postgres@127.0.0.1:5432/postgres";

/** Why PostgreSQL can't be tested here. */
async function postgresAbsence(): Promise<string | undefined> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2000 });
  try {
    await client.connect();
    await client.end();
    return undefined;
  } catch (error) {
    return `no PostgreSQL at ${url} (${String(error)}); set BALEEN_POSTGRES to test with one`;
  }
}

const absent = await postgresAbsence();
const prefix = `kv_test_${process.pid}_`;
after(async () => {
  if (absent) return;
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const pattern = "SELECT tablename FROM pg_tables WHERE tablename LIKE $1";
  for (const { tablename } of (await client.query(pattern, [`${prefix}%`])).rows) {
    await client.query(`DROP TABLE ${tablename}`);
  }
  await client.end();
});
const openPostgres = (maxAgeMs = 5000, at = url): Promise<KvStore> =>
  openPostgresKv({ url: at, table: `${prefix}${nextName++}`, maxAgeMs, maxConnections: 8 });

testConformance({
  name: "memory",
  exact: true,
  open: async (maxAgeMs = 5000) => openMemoryKv({ maxAgeMs }),
});
testConformance({
  name: "lmdb",
  exact: true,
  open: async (maxAgeMs = 5000) => openLmdbKv(join(scratch, String(nextName++)), { maxAgeMs }),
});
testConformance({ name: "postgres", exact: false, absent, open: openPostgres });

test("memory: too many waiting commits are refused, and time is the given clock's", async () => {
  const clock = new VirtualClock();
  const store = openMemoryKv({ maxPendingCommits: 2, clock, maxAgeMs: 100 });
  const commits = [1, 2, 3].map((i) => {
    const transaction = store.begin();
    transaction.set(bytes(`k${i}`), bytes("v"));
    return transaction.commit();
  });
  const results = await Promise.allSettled(commits);
  assert.deepEqual(
    results.map(({ status }) => status),
    ["fulfilled", "fulfilled", "rejected"],
  );
  const [{ reason }] = results.filter((result) => result.status === "rejected");
  assert.ok(isKvError(reason, "kv-throttled"));
  const old = store.begin();
  await old.get(bytes("k1"));
  clock.advance(1e6);
  await old.get(bytes("k1"));
  await transact(store, async (transaction) => transaction.set(bytes("k1"), bytes("w")));
  clock.advance(1e6);
  await assert.rejects(old.get(bytes("k1")), (error) => isKvError(error, "kv-too-old"));
});

test("lmdb: what was acknowledged before kill -9 is there afterwards, and groups are whole", async () => {
  const folder = join(scratch, "killed");
  const source = `
    import { openLmdbKv } from ${JSON.stringify(import.meta.resolve("./index.ts".replace(".ts", import.meta.url.endsWith(".js") ? ".js" : ".ts")))};
    const store = openLmdbKv(${JSON.stringify(folder)});
    for (let i = 0; ; i++) {
      const key = (side) => Buffer.from(side + String(i).padStart(8, "0"));
      const transaction = store.begin();
      transaction.set(key("a"), key("v"));
      transaction.set(key("b"), key("v"));
      await transaction.commit();
      console.log(i);
    }`;
  for (let round = 0; round < 3; round++) {
    rmSync(folder, { recursive: true, force: true });
    const child = spawn(process.execPath, ["--input-type=module", "-e", source]);
    let acknowledged = -1;
    child.stdout.on("data", (chunk) => {
      acknowledged = Number(String(chunk).trim().split("\n").at(-1));
      if (acknowledged > 20 + 17 * round) child.kill("SIGKILL");
    });
    let complaint = "";
    child.stderr.on("data", (chunk) => {
      complaint += chunk;
    });
    await new Promise((resolve) => child.on("exit", resolve));
    assert.ok(acknowledged > 20, `the writer stopped: ${complaint}`);
    const store = openLmdbKv(folder);
    const side = async (name: string) =>
      (await store.begin().getRange(bytes(name), bytes(`${name}~`), { limit: 1e6 })).length;
    const counts = [await side("a"), await side("b")];
    assert.equal(counts[0], counts[1], "half of a transaction");
    assert.ok(counts[0] > acknowledged, `${counts[0]} kept, ${acknowledged + 1} acknowledged`);
    await store.close();
  }
});

test("lmdb: a folder that can't be opened is named", () => {
  const folder = join(scratch, "file", "below");
  writeFileSync(join(scratch, "file"), "");
  const named = (error: unknown) =>
    isKvError(error, "kv-unavailable") && error.message.includes(folder);
  assert.throws(() => openLmdbKv(folder), named);
});

const small = join(scratch, "small");
mkdirSync(small);
const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", small]).status === 0;
const unmounted = mounted ? false : "mounting a small disk needs root";

test("lmdb: a full disk loses nothing, and the store goes on", { skip: unmounted }, async () => {
  const store = openLmdbKv(join(small, "kv"));
  const keyOf = (i: number) => bytes(`k${String(i).padStart(3, "0")}`);
  const set = (i: number) =>
    transact(store, async (transaction) => transaction.set(keyOf(i), new Uint8Array(90_000)));
  let count = 0;
  const fill = async () => {
    while (count < 100) await set(count++);
  };
  await assert.rejects(fill(), (error) => isKvError(error, "kv-no-space"));
  const held = async () => {
    const transaction = store.begin();
    const { length } = await transaction.getRange(bytes("k"), bytes("l"));
    transaction.cancel();
    return length;
  };
  assert.equal(await held(), count - 1);
  await assert.rejects(set(count), (error) => isKvError(error, "kv-no-space"));
  assert.equal(spawnSync("mount", ["-o", "remount,size=16m", small]).status, 0);
  await set(count);
  assert.equal(await held(), count);
  await store.close();
});

/** A relay to PostgreSQL that loses the connection when a COMMIT passes: `after` it, or before it. */
async function lossyRelay(
  when: "after" | "before",
): Promise<{ at: string; close(): void; lost(): number }> {
  const { hostname, port } = new URL(url);
  const sockets = new Set<Socket>();
  let armed = 1;
  let lost = 0;
  const server = createServer((front) => {
    const back = connect(Number(port || 5432), hostname);
    for (const socket of [front, back]) {
      sockets.add(socket);
      socket.on("error", () => undefined);
    }
    front.on("close", () => back.destroy());
    back.on("close", () => front.destroy());
    back.on("data", (chunk) => front.write(chunk));
    front.on("data", (chunk) => {
      if (armed > 0 && chunk.includes("COMMIT\0")) {
        armed--;
        lost++;
        if (when === "before") return front.destroy();
        back.removeAllListeners("data");
        back.on("data", () => front.destroy());
      }
      back.write(chunk);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = new URL(url);
  address.port = String((server.address() as { port: number }).port);
  const close = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { at: address.href, close, lost: () => lost };
}

test("postgres: a COMMIT whose answer is lost is looked up by its id", {
  skip: absent ?? false,
}, async () => {
  for (const when of ["after", "before"] as const) {
    const relay = await lossyRelay(when);
    const store = await openPostgres(5000, relay.at);
    const write = async () => {
      const transaction = store.begin();
      transaction.set(bytes("a"), bytes(when));
      await transaction.commit();
    };
    if (when === "after") await write();
    else await assert.rejects(write(), (error) => isKvError(error, "kv-unavailable"));
    assert.equal(relay.lost(), 1);
    const found = await store.begin().get(bytes("a"));
    assert.equal(found !== undefined, when === "after");
    await write();
    await store.close();
    relay.close();
  }
});

test("postgres: a server that is not there and a bad table name are refused in words", async () => {
  const nowhere = openPostgresKv({ url: "postgresql://postgres@127.0.0.1:1/postgres" });
  await assert.rejects(nowhere, (error) => isKvError(error, "kv-unavailable"));
  const injected = openPostgresKv({ url, table: "x; DROP TABLE y" });
  await assert.rejects(
    injected,
    (error) => error instanceof BaleenError && /table/.test(error.message),
  );
});
