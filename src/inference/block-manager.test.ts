import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { blockKey } from "./block-key.ts";
import { BlockManager } from "./block-manager.ts";

/** The same promises, kept with plain lists: which key lies idle for how long, who holds what. */
class NaiveManager {
  readonly total: number;
  held: { key: string | undefined; references: number }[] = [];
  idle: string[] = [];

  constructor(total: number) {
    this.total = total;
  }

  get free(): number {
    return this.total - this.held.length;
  }

  evictIfFull(): void {
    if (this.held.length + this.idle.length === this.total) this.idle.shift();
  }

  isCached(key: string): boolean {
    return this.idle.includes(key) || this.held.some((block) => block.key === key);
  }
}

/** One random operation: which, and on which of the blocks or keys. */
const operation = fc.record({
  kind: fc.constantFrom("allocate", "take", "release", "publish", "match"),
  pick: fc.nat(1000),
});

test("pages are held, idle or empty as a plain list of them says", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 12 }),
      fc.array(operation, { maxLength: 300 }),
      (total, operations) => {
        const manager = new BlockManager(total);
        const naive = new NaiveManager(total);
        const pages = new Map<object, number>();
        for (const { kind, pick } of operations) {
          const held = naive.held[pick % Math.max(1, naive.held.length)];
          const key = `k${pick % 9}`;
          if (kind === "allocate" && naive.free > 0) {
            naive.evictIfFull();
            const block = { key: undefined, references: 1 };
            naive.held.push(block);
            const page = manager.allocate();
            assert.ok(![...pages.values()].includes(page), "a held page was handed out again");
            pages.set(block, page);
          } else if (kind === "release" && held) {
            manager.release(pages.get(held)!);
            if (--held.references === 0) {
              naive.held = naive.held.filter((block) => block !== held);
              pages.delete(held);
              if (held.key !== undefined) naive.idle.push(held.key);
            }
          } else if (kind === "publish" && held?.references === 1 && held.key === undefined) {
            const page = manager.publish(pages.get(held)!, key);
            const twin = naive.held.find((block) => block.key === key);
            if (twin) {
              assert.equal(page, pages.get(twin));
              twin.references++;
              naive.held = naive.held.filter((block) => block !== held);
              pages.delete(held);
            } else {
              if (!naive.idle.includes(key)) assert.equal(page, pages.get(held));
              naive.idle = naive.idle.filter((other) => other !== key);
              held.key = key;
              pages.set(held, page);
            }
          } else if (kind === "take" && naive.isCached(key)) {
            const page = manager.take(key);
            const holder = naive.held.find((block) => block.key === key);
            if (holder) {
              assert.equal(page, pages.get(holder));
              holder.references++;
            } else {
              naive.idle = naive.idle.filter((other) => other !== key);
              const block = { key, references: 1 };
              naive.held.push(block);
              pages.set(block, page);
            }
          } else if (kind === "match") {
            const keys = Array.from({ length: 4 }, (_, i) => `k${(pick + i) % 9}`);
            const found = keys.findIndex((each) => !naive.isCached(each));
            const blocks = found < 0 ? keys.length : found;
            const idle = keys.slice(0, blocks).filter((each) => naive.idle.includes(each)).length;
            assert.deepEqual(manager.match(keys, 4), { blocks, idle, missing: keys[blocks] });
          }
          manager.check();
          assert.equal(manager.free, naive.free);
          assert.equal(manager.used, naive.held.length);
          assert.equal(manager.cached, naive.idle.length);
          for (const block of naive.held) {
            assert.equal(manager.referencesOf(pages.get(block)!), block.references);
          }
        }
      },
    ),
  );
});

test("the page unused for longest is evicted first, and a prefix outlives its continuation", () => {
  const manager = new BlockManager(3);
  const chain = ["a", "ab", "abc"].map((key) => manager.publish(manager.allocate(), key));
  for (const page of chain.toReversed()) manager.release(page);
  assert.equal(manager.allocate(), chain[2]);
  assert.deepEqual(manager.match(["a", "ab", "abc"], 3), { blocks: 2, idle: 2, missing: "abc" });
});

test("mistakes with pages are caught", () => {
  const manager = new BlockManager(1);
  const page = manager.allocate();
  assert.throws(() => manager.allocate(), /no free page/);
  manager.publish(page, "a");
  assert.throws(() => manager.publish(page, "b"), /has a key already/);
  manager.release(page);
  assert.throws(() => manager.release(page), /has no reference/);
  assert.throws(() => manager.take("b"), /key of a cached block/);
  assert.throws(() => manager.unexpect("b"), /announced before/);
});

test("a block's key depends on every token before its end, and on nothing else", () => {
  const tokens = Int32Array.from({ length: 64 }, (_, i) => i);
  const key = blockKey("", tokens);
  assert.equal(key.length, 32);
  assert.equal(blockKey("", tokens.slice()), key);
  assert.equal(blockKey("", new Int32Array([7, ...tokens]).subarray(1)), key);
  assert.notEqual(blockKey(key, tokens), key);
  for (let i = 0; i < 64; i++) assert.notEqual(blockKey("", tokens.with(i, 100)), key);
});
