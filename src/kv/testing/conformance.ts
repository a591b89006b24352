/**
 * @file What every engine must do, as one list of tests. `exact` engines refuse only transactions whose
 * reads did change; others may refuse more, and only the refusals that must come are asked of them.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../../base/index.ts";
import {
  faultyKv,
  isKvError,
  type KvErrorCode,
  type KvStore,
  keyAfter,
  kvLimits,
  prefixEnd,
  scan,
  type Transaction,
  transact,
} from "../index.ts";
import { checkHistories } from "./history.ts";

/** An engine under test. */
export interface Engine {
  readonly name: string;
  readonly exact: boolean;
  /** Why it can't be tested here, in a line. */
  readonly absent?: string | undefined;
  /** An empty store; `maxAgeMs` as in the engine's options. */
  open(maxAgeMs?: number): Promise<KvStore>;
}

/** Bytes of a text. */
export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const words = (value: Uint8Array | undefined): string | undefined =>
  value && new TextDecoder().decode(value);
const [a, b, c, z] = ["a", "b", "c", "z"].map(bytes);

/** Whether a promise fails with one of the codes. */
async function fails(promise: Promise<unknown>, ...codes: KvErrorCode[]): Promise<void> {
  await assert.rejects(promise, (error) => isKvError(error, ...codes));
}

async function put(store: KvStore, entries: Record<string, string>): Promise<void> {
  await transact(store, async (transaction) => {
    for (const [key, value] of Object.entries(entries)) transaction.set(bytes(key), bytes(value));
  });
}

/** What `run` reads in a transaction of its own. */
async function look<T>(store: KvStore, run: (transaction: Transaction) => Promise<T>): Promise<T> {
  const transaction = store.begin();
  try {
    return await run(transaction);
  } finally {
    transaction.cancel();
  }
}

const valueAt = (store: KvStore, key: Uint8Array): Promise<string | undefined> =>
  look(store, async (transaction) => words(await transaction.snapshotGet(key)));
const keysOf = (store: KvStore): Promise<string[]> =>
  look(store, async (transaction) =>
    (await transaction.getRange(a, z)).map(({ key }) => words(key)!),
  );

/** Two transactions read before either commits: the second commit must fail. */
async function secondFails(
  store: KvStore,
  first: (transaction: Transaction) => Promise<void> | void,
  second: (transaction: Transaction) => Promise<void> | void,
): Promise<void> {
  const [loser, winner] = [store.begin(), store.begin()];
  await loser.get(bytes("start"));
  await second(loser);
  await winner.get(bytes("start"));
  await first(winner);
  await winner.commit();
  await fails(loser.commit(), "kv-conflict");
}

type Case = [name: string, run: (store: KvStore, engine: Engine) => Promise<void>];

const single: Case[] = [
  [
    "a transaction sees its own writes over what was there, in any mix of sets, clears and ranges",
    async (store) => {
      const random = new Random(11);
      const model = new Map<string, string>();
      const draw = () => `k${String(random.below(30)).padStart(2, "0")}`;
      for (let round = 0; round < 12; round++) {
        const transaction = store.begin();
        for (let i = 0; i < 40; i++) {
          const [from, to] = [draw(), draw()].sort();
          const kind = random.below(8);
          if (kind < 3) {
            model.set(from, `${round}.${i}`);
            transaction.set(bytes(from), bytes(`${round}.${i}`));
          } else if (kind === 3) {
            model.delete(from);
            transaction.clear(bytes(from));
          } else if (kind === 4 && random.below(3) === 0) {
            for (const key of model.keys()) if (key >= from && key < to) model.delete(key);
            transaction.clearRange(bytes(from), bytes(to));
          } else if (kind === 5) {
            assert.equal(words(await transaction.get(bytes(from))), model.get(from));
          } else {
            const [limit, reverse] = [1 + random.below(12), random.below(2) === 1];
            const range = [...model].filter(([key]) => key >= from && key < to).sort();
            const wanted = (reverse ? range.reverse() : range).slice(0, limit);
            const options = { limit, reverse };
            const got = await transaction.getRange(bytes(from), bytes(to), options);
            assert.deepEqual(
              got.map(({ key, value }) => [words(key), words(value)]),
              wanted,
            );
          }
        }
        await transaction.commit();
      }
    },
  ],
  [
    "keys are ordered by their bytes, values may be empty, and what is returned is the caller's own",
    async (store) => {
      const keys = [[0], [0, 0], [1], [0x7f], [0x80], [0x80, 0], [0xff], [0xff, 0xff]];
      await transact(store, async (transaction) => {
        for (const key of keys.toReversed()) {
          transaction.set(Uint8Array.from(key), new Uint8Array());
        }
      });
      const [low, high] = [Uint8Array.of(0), Uint8Array.of(0xff, 0xff, 0xff)];
      const found = await look(store, (reader) => reader.getRange(low, high));
      assert.deepEqual(
        found.map(({ key }) => [...key]),
        keys,
      );
      assert.equal(found[0].value.length, 0);
      const prefix = Buffer.from([7, 255]);
      assert.deepEqual([...prefixEnd(prefix)], [8]);
      assert.deepEqual([...prefix], [7, 255]);
      await put(store, { a: "before" });
      const value = (await look(store, (reader) => reader.get(a)))!;
      value.fill(0);
      assert.equal(await valueAt(store, a), "before");
      const mine = bytes("mine");
      const writer = store.begin();
      writer.set(a, mine);
      mine.fill(0);
      await writer.commit();
      assert.equal(await valueAt(store, a), "mine");
    },
  ],
  [
    "a snapshot does not move, and a committed write is seen by everything that begins later",
    async (store) => {
      await put(store, { a: "0" });
      const reader = store.begin();
      assert.equal(words(await reader.get(a)), "0");
      for (let i = 1; i < 30; i++) {
        await put(store, { a: String(i), b: "new" });
        assert.equal(await valueAt(store, a), String(i));
      }
      assert.equal(words(await reader.get(a)), "0");
      assert.deepEqual(await reader.getRange(b, z), []);
      reader.cancel();
    },
  ],
  [
    "write skew is refused",
    async (store) => {
      await put(store, { a: "1", b: "1" });
      const [x, y] = [store.begin(), store.begin()];
      for (const transaction of [x, y]) {
        await transaction.get(a);
        await transaction.get(b);
      }
      x.set(a, bytes("0"));
      y.set(b, bytes("0"));
      const results = await Promise.allSettled([x.commit(), y.commit()]);
      assert.deepEqual(results.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
    },
  ],
  [
    "a phantom in a range that was read is refused, in its gaps and in its empty tail",
    async (store) => {
      await put(store, { b: "1", d: "1" });
      for (const phantom of ["a5", "c", "e"]) {
        await secondFails(
          store,
          (winner) => winner.set(bytes(phantom), a),
          async (loser) => {
            await loser.getRange(a, z);
            loser.set(bytes("zz"), a);
          },
        );
      }
    },
  ],
  [
    "deletes within a range that was read are refused, by key and by range",
    async (store) => {
      for (const remove of [
        (winner: Transaction) => winner.clear(b),
        (winner: Transaction) => winner.clearRange(b, c),
      ]) {
        await put(store, { a: "1", b: "1", c: "1" });
        await secondFails(store, remove, async (loser) => {
          await loser.getRange(a, z);
          loser.set(bytes("zz"), a);
        });
        await put(store, { b: "1" });
        await secondFails(store, remove, async (loser) => {
          await loser.get(b);
          loser.set(bytes("zz"), a);
        });
      }
    },
  ],
  [
    "a conflict is honoured on a key and on a range that were never read",
    async (store) => {
      await secondFails(
        store,
        (winner) => winner.set(b, a),
        (loser) => {
          loser.addReadConflictKey(b);
          loser.set(bytes("x"), a);
        },
      );
      await secondFails(
        store,
        (winner) => winner.set(bytes("m"), a),
        (loser) => {
          loser.addReadConflictRange(c, z);
          loser.set(a, a);
        },
      );
    },
  ],
  [
    "a create and the removal of its directory can't both happen",
    async (store) => {
      await put(store, { dir: "inode" });
      await secondFails(
        store,
        (create) => {
          create.addReadConflictKey(bytes("dir"));
          create.set(bytes("dir/file"), a);
        },
        async (remove) => {
          assert.deepEqual(await remove.getRange(bytes("dir/"), prefixEnd(bytes("dir/"))), []);
          remove.clear(bytes("dir"));
        },
      );
    },
  ],
  [
    "exact engines refuse nothing else: snapshot reads, keys past a limit, blind writes",
    async (store, { exact }) => {
      if (!exact) return;
      await put(store, { a: "1", b: "1", c: "1" });
      const loser = store.begin();
      await loser.snapshotGet(a);
      await loser.snapshotGetRange(a, z);
      assert.equal((await loser.getRange(a, z, { limit: 1 })).length, 1);
      await loser.getRange(a, z, { limit: 1, reverse: true });
      loser.set(b, bytes("2"));
      await put(store, { b: "3", b5: "3" });
      await loser.commit();
      assert.equal(await valueAt(store, b), "2");
      const other = store.begin();
      await other.getRange(a, z, { limit: 1 });
      other.set(z, a);
      await put(store, { a: "4" });
      await fails(other.commit(), "kv-conflict");
    },
  ],
  [
    "ranges longer than a page are scanned whole, with own writes in place",
    async (store) => {
      const key = (i: number) => bytes(`k${String(i).padStart(6, "0")}`);
      await transact(store, async (transaction) => {
        for (let i = 0; i < 5000; i += 2) transaction.set(key(i), a);
      });
      const transaction = store.begin();
      for (let i = 1; i < 5000; i += 2) transaction.set(key(i), b);
      transaction.clearRange(key(1000), key(4000));
      let next = 0;
      for await (const entry of scan(transaction, key(0), z, { pageEntries: 77 })) {
        assert.equal(words(entry.key), words(key(next)));
        next = next === 999 ? 4000 : next + 1;
      }
      assert.equal(next, 5000);
      assert.equal((await transaction.getRange(key(0), z)).length, 1000, "the default limit");
      await transaction.commit();
      const first = await store.begin().getRange(keyAfter(key(999)), z, { limit: 1 });
      assert.equal(words(first[0].key), words(key(4000)));
    },
  ],
  [
    "the limits are kept, and what is refused writes nothing",
    async (store) => {
      const long = new Uint8Array(kvLimits.keyBytes).fill(1);
      const large = new Uint8Array(kvLimits.valueBytes).fill(2);
      await transact(store, async (transaction) => transaction.set(long, large));
      assert.deepEqual(new Uint8Array((await look(store, (reader) => reader.get(long)))!), large);
      const one = store.begin();
      const invalid = (error: unknown) => isKvError(error, "kv-input-invalid");
      assert.throws(() => one.set(new Uint8Array(kvLimits.keyBytes + 1), a), invalid);
      assert.throws(() => one.set(new Uint8Array(), a), invalid);
      assert.throws(() => one.set(a, new Uint8Array(kvLimits.valueBytes + 1)), invalid);
      assert.throws(() => one.clearRange(b, a), invalid);
      await fails(one.getRange(a, b, { limit: 0 }), "kv-input-invalid");
      assert.deepEqual(await one.getRange(a, a), []);
      one.cancel();
      const heavy = store.begin();
      for (let i = 0; i <= 100; i++) heavy.set(bytes(`k${i}`), large);
      await fails(heavy.commit(), "kv-input-invalid");
      assert.deepEqual(await keysOf(store), []);
    },
  ],
  [
    "a transaction that ended is refused, and a cancelled one writes nothing",
    async (store) => {
      const transaction = store.begin();
      transaction.set(a, a);
      transaction.cancel();
      transaction.cancel();
      await fails(transaction.commit(), "kv-transaction-over");
      await fails(transaction.get(a), "kv-transaction-over");
      assert.throws(() => transaction.set(a, a));
      assert.deepEqual(await keysOf(store), []);
      await store.close();
      await fails(store.begin().get(a), "kv-closed");
    },
  ],
];

const many: Case[] = [
  [
    "counters under contention lose no increment",
    async (store) => {
      const increment = () =>
        transact(store, async (transaction) => {
          const value = Number(words(await transaction.get(a)) ?? 0);
          transaction.set(a, bytes(String(value + 1)));
        });
      const worker = async () => {
        for (let i = 0; i < 10; i++) await increment();
      };
      await Promise.all(Array.from({ length: 6 }, worker));
      assert.equal(await valueAt(store, a), "60");
    },
  ],
  [
    "lost answers of commits are settled: each increment counts exactly once",
    async (store) => {
      const random = new Random(23);
      const rates = {
        conflict: 0.1,
        throttled: 0.05,
        lostAfter: 0.2,
        lostBefore: 0.2,
        tooOld: 0.05,
      };
      const faulty = faultyKv(store, rates, random);
      const increment = (id: string) =>
        transact(
          faulty,
          async (transaction) => {
            const value = Number(words(await transaction.get(a)) ?? 0) + 1;
            transaction.set(a, bytes(String(value)));
            return value;
          },
          {
            once: {
              key: bytes(`once/${id}`),
              encode: (value) => bytes(String(value)),
              decode: (value) => Number(words(value)),
            },
          },
        );
      const ids = Array.from({ length: 40 }, (_, i) => `r${i}`);
      const results = await Promise.all(ids.map(increment));
      assert.equal(await valueAt(store, a), "40");
      const sorted = results.toSorted((x, y) => x - y);
      assert.deepEqual(
        sorted,
        ids.map((_, i) => i + 1),
      );
      assert.equal(await increment("r7"), results[7], "a late repeat gets the first answer");
      const lossy = faultyKv(store, { lostAfter: 1 }, random);
      const write = async (transaction: Transaction) => transaction.set(b, b);
      await fails(transact(lossy, write), "kv-maybe-committed");
      await fails(
        transact(lossy, write, { whenUnknown: "repeat", attempts: 2 }),
        "kv-maybe-committed",
      );
    },
  ],
  ["concurrent histories are strictly serialisable", (store) => checkHistories(store)],
];

/** Registers the tests of an engine. */
export function testConformance(engine: Engine): void {
  for (const [name, run] of [...single, ...many]) {
    test(`${engine.name}: ${name}`, { skip: engine.absent ?? false }, async () => {
      const store = await engine.open();
      try {
        await run(store, engine);
      } finally {
        await store.close();
      }
    });
  }
  test(`${engine.name}: an old snapshot is refused`, { skip: engine.absent ?? false }, async () => {
    const store = await engine.open(60);
    await put(store, { a: "1" });
    const old = store.begin();
    await old.get(a);
    await put(store, { a: "2" });
    await new Promise((resolve) => setTimeout(resolve, 150));
    await fails(old.get(a), "kv-too-old");
    old.set(b, b);
    await fails(old.commit(), "kv-too-old", "kv-conflict");
    await store.close();
  });
}
