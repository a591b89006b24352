import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { blockKey } from "./block-key.ts";
import { BlockManager } from "./block-manager.ts";

/** A block that someone holds, as a plain list of them keeps it. */
interface Held {
  key: string | undefined;
  references: number;
  page: number;
}

/** A block manager beside plain lists that keep the same promises; they must agree. */
class Twins {
  private readonly manager: BlockManager;
  private held: Held[] = [];
  private idle: string[] = [];

  constructor(total: number) {
    this.manager = new BlockManager(total);
  }

  allocate(): void {
    const { total } = this.manager;
    if (this.held.length === total) return;
    if (this.held.length + this.idle.length === total) this.idle.shift();
    const page = this.manager.allocate();
    assert.ok(!this.held.some((block) => block.page === page), "a held page was given again");
    this.held.push({ key: undefined, references: 1, page });
  }

  release(pick: number): void {
    const block = this.held[pick % Math.max(1, this.held.length)];
    if (!block) return;
    this.manager.release(block.page);
    if (--block.references > 0) return;
    this.held = this.held.filter((other) => other !== block);
    if (block.key !== undefined) this.idle.push(block.key);
  }

  publish(pick: number, key: string): void {
    const block = this.held[pick % Math.max(1, this.held.length)];
    if (block?.references !== 1 || block.key !== undefined) return;
    const page = this.manager.publish(block.page, key);
    const twin = this.held.find((other) => other.key === key);
    if (twin) {
      assert.equal(page, twin.page);
      twin.references++;
      this.held = this.held.filter((other) => other !== block);
      return;
    }
    if (!this.idle.includes(key)) assert.equal(page, block.page);
    this.idle = this.idle.filter((other) => other !== key);
    Object.assign(block, { key, page });
  }

  take(key: string): void {
    const holder = this.held.find((block) => block.key === key);
    if (!holder && !this.idle.includes(key)) return;
    const page = this.manager.take(key);
    if (holder) {
      assert.equal(page, holder.page);
      holder.references++;
    } else {
      this.idle = this.idle.filter((other) => other !== key);
      this.held.push({ key, references: 1, page });
    }
  }

  match(keys: readonly string[]): void {
    const isCached = (key: string) =>
      this.idle.includes(key) || this.held.some((block) => block.key === key);
    const found = keys.findIndex((key) => !isCached(key));
    const blocks = found < 0 ? keys.length : found;
    const idle = keys.slice(0, blocks).filter((key) => this.idle.includes(key)).length;
    const wanted = { blocks, idle, missing: keys[blocks] };
    assert.deepEqual(this.manager.match(keys, keys.length), wanted);
  }

  check(): void {
    this.manager.check();
    assert.equal(this.manager.free, this.manager.total - this.held.length);
    assert.equal(this.manager.used, this.held.length);
    assert.equal(this.manager.cached, this.idle.length);
    for (const { page, references } of this.held) {
      assert.equal(this.manager.referencesOf(page), references);
    }
  }
}

/** One random operation: which, and on which of the blocks or keys. */
const operation = fc.record({
  kind: fc.constantFrom("allocate", "take", "release", "publish", "match"),
  pick: fc.nat(1000),
});

test("pages are held, idle or empty as plain lists of them say", () => {
  const operations = fc.array(operation, { minLength: 50, maxLength: 300 });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 12 }), operations, (total, steps) => {
      const twins = new Twins(total);
      for (const { kind, pick } of steps) {
        const key = `k${pick % 9}`;
        if (kind === "allocate") twins.allocate();
        else if (kind === "release") twins.release(pick);
        else if (kind === "publish") twins.publish(pick, key);
        else if (kind === "take") twins.take(key);
        else twins.match([0, 1, 2, 3].map((i) => `k${(pick + i) % 9}`));
        twins.check();
      }
    }),
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
