import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import pg from "pg";
import { BaleenError } from "../../base/index.ts";
import { type KvStore, openLmdbKv, openPostgresKv } from "../../kv/index.ts";
import { errnoOf } from "../errors.ts";
import { openWorld, root } from "./testing/world.ts";
import type { Caller, Inode } from "./types.ts";

const ann: Caller = { uid: 100, gid: 100, groups: [50] };
const bob: Caller = { uid: 200, gid: 200 };
let nextRequest = 1;

/** The caller as a client that names its requests. */
function as(caller: Caller, clientId: string): Caller {
  const requestId = nextRequest++;
  return { ...caller, request: { clientId, requestId, ackedBelow: requestId } };
}

async function refuses(promise: Promise<unknown>, errno: string, words = /./): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof BaleenError, String(error));
    assert.equal(errnoOf(error), errno, error.message);
    assert.match(error.message, words);
    return true;
  });
}

test("files are made, found through links, listed in pages, and removed", async () => {
  const { meta, collectAll } = await openWorld();
  const directory = await meta.mkdir(root, { path: "/a/b/c" }, 0o755, { isRecursive: true });
  assert.equal(await meta.realPath(root, directory.id), "/a/b/c");
  await meta.mkdir(root, { path: "/a/b/c" }, 0o755, { isRecursive: true });
  await refuses(meta.mkdir(root, { path: "/a/b/c" }, 0o755), "EEXIST");
  const names = Array.from({ length: 25 }, (_, i) => `f${String(i).padStart(2, "0")}`);
  for (const name of names) {
    const at = { directory: directory.id, path: name };
    await meta.open(root, at, { createMode: 0o644, isExclusive: true });
  }
  await refuses(
    meta.open(root, { path: "/a/b/c/f00" }, { createMode: 0o644, isExclusive: true }),
    "EEXIST",
  );
  const seen: string[] = [];
  for (let hasMore = true; hasMore; ) {
    const after = seen.at(-1);
    const options = { limit: 7, ...(after ? { after } : {}) };
    const page = await meta.readdir(root, directory.id, options);
    seen.push(...page.entries.map(({ name }) => name));
    hasMore = page.hasMore;
  }
  assert.deepEqual(seen, names);
  await meta.symlink(root, { path: "/short" }, "a/b/../b/c");
  await meta.symlink(root, { path: "/a/b/c/up" }, "../../../short/f01");
  assert.equal((await meta.lookup(root, { path: "/a/b/c/up" })).kind, "file");
  assert.equal(
    (await meta.lookup(root, { path: "/short" }, { noFollow: true })).target,
    "a/b/../b/c",
  );
  assert.equal((await meta.lookup(root, { path: "/short/" }, { noFollow: true })).id, directory.id);
  const file = await meta.lookup(root, { path: "/short/f01" });
  await meta.link(root, file.id, { path: "/second" });
  assert.equal((await meta.lookup(root, { path: "/second" })).links, 2);
  await refuses(meta.link(root, directory.id, { path: "/third" }), "EPERM");
  await meta.remove(root, { path: "/short/f01" }, { expect: "file" });
  assert.equal((await meta.batchStat(root, [file.id, 999_999]))[0]?.links, 1);
  const found = await meta.batchLookup(root, [
    { path: "/second" },
    { path: "/nothing" },
    { path: "/second/x" },
  ]);
  assert.deepEqual(
    found.map((inode) => inode?.id ?? null),
    [file.id, null, null],
  );
  await meta.remove(root, { path: "/second" });
  await collectAll();
  assert.deepEqual(await meta.batchStat(root, [file.id]), [null]);
  await refuses(meta.remove(root, { path: "/a/b" }, { expect: "directory" }), "ENOTEMPTY");
  await refuses(meta.remove(root, { path: "/a/b" }, { expect: "file" }), "EISDIR");
  await refuses(meta.remove(root, { path: "/" }), "EBUSY");
  await meta.symlink(root, { path: "/loop" }, "/loop");
  await refuses(meta.lookup(root, { path: "/loop/x" }), "ELOOP");
});

test("permissions: bits, groups, sticky and set-group-id directories, owners' rights", async () => {
  const { meta } = await openWorld();
  await meta.mkdir(root, { path: "/home" }, 0o755);
  await refuses(meta.mkdir(ann, { path: "/home/ann" }, 0o700), "EACCES", /user 100|User 100/);
  const home = await meta.mkdir(root, { path: "/home/ann" }, 0o700);
  await meta.setAttributes(root, home.id, { uid: 100, gid: 100 });
  const file = await meta.open(ann, { path: "/home/ann/f" }, { createMode: 0o640 });
  await refuses(meta.lookup(bob, { path: "/home/ann/f" }), "EACCES");
  await meta.setAttributes(ann, home.id, { mode: 0o755 });
  await refuses(meta.open(bob, { path: "/home/ann/f" }, { read: true }), "EACCES");
  await refuses(meta.setAttributes(bob, file.id, { mode: 0o777 }), "EPERM");
  await refuses(meta.setAttributes(ann, file.id, { uid: 200 }), "EPERM");
  await meta.setAttributes(ann, file.id, { gid: 50, mode: 0o2755 });
  assert.equal((await meta.lookup(ann, { path: "/home/ann/f" })).gid, 50);
  await refuses(meta.setAttributes(bob, file.id, { mtime: { s: 1, ns: 0 } }), "EPERM");
  await refuses(meta.setAttributes(bob, file.id, { mtime: "now" }), "EACCES");
  const old = { s: -5, ns: 999_999_999 };
  assert.deepEqual((await meta.setAttributes(ann, file.id, { mtime: old })).mtime, old);
  assert.equal(await meta.mayAccess(bob, file.id, 4), true);
  assert.equal(await meta.mayAccess(bob, file.id, 2), false);
  const shared = await meta.mkdir(root, { path: "/tmp" }, 0o1777);
  await meta.open(ann, { path: "/tmp/a" }, { createMode: 0o666 });
  await refuses(meta.remove(bob, { path: "/tmp/a" }), "EPERM", /sticky/);
  await refuses(meta.rename(bob, { path: "/tmp/a" }, { path: "/tmp/b" }), "EPERM");
  await meta.setAttributes(root, shared.id, { mode: 0o3777, gid: 50 });
  const below = await meta.mkdir(bob, { path: "/tmp/d" }, 0o755);
  assert.deepEqual([below.gid, below.mode], [50, 0o2755]);
  await refuses(meta.makeNode(ann, { path: "/tmp/dev" }, "block", 0o600, 7), "EPERM");
  assert.equal((await meta.makeNode(ann, { path: "/tmp/pipe" }, "fifo", 0o600)).kind, "fifo");
  await refuses(meta.remove(bob, { path: "/home/ann" }, { isRecursive: true }), "EACCES");
});

test("a directory's times change with its entries, and can be set back", async () => {
  let nowMs = 1_000_000;
  const { meta } = await openWorld(undefined, { wallMs: () => nowMs });
  const { id } = await meta.mkdir(root, { path: "/d" }, 0o755);
  nowMs = 2_000_000.5;
  await meta.open(root, { path: "/d/f" }, { createMode: 0o644 });
  assert.deepEqual((await meta.lookup(root, { path: "/d" })).mtime, { s: 2000, ns: 500_000 });
  await meta.setAttributes(root, id, { mtime: { s: 7, ns: 1 } });
  const inode = await meta.lookup(root, { path: "/d" });
  assert.deepEqual([inode.mtime, inode.ctime.s], [{ s: 7, ns: 1 }, 2000]);
});

test("lengths: hints, exact at close and after a crash, cut by truncation, wide stripes", async () => {
  const { meta, storage, another } = await openWorld();
  const write = { createMode: 0o644, write: true, sessionId: "s1" };
  const file = await meta.open(as(root, "one"), { path: "/f" }, write);
  assert.equal(file.usedStripe, 16);
  storage.write(file, 0, 100_000);
  assert.equal((await meta.lookup(root, { path: "/f" })).length, 0);
  await meta.hintLength(as(root, "one"), file.id, 90_000, 0);
  assert.equal((await meta.lookup(root, { path: "/f" })).length, 90_000);
  assert.equal((await meta.sync(as(root, "one"), file.id)).length, 100_000);
  const cut = await meta.truncate(as(root, "one"), file.id, 10);
  assert.deepEqual([cut.length, cut.truncations], [10, 1]);
  await meta.hintLength(as(root, "one"), file.id, 90_000, 0);
  assert.equal((await meta.lookup(root, { path: "/f" })).length, 10, "a hint from before the cut");
  assert.equal((await meta.truncate(root, file.id, 500_000)).length, 500_000);
  assert.equal((await meta.extendStripe(as(root, "one"), file.id, 16)).usedStripe, 32);
  assert.equal((await meta.extendStripe(as(root, "one"), file.id, 400)).usedStripe, 32);
  storage.write(file, 40 * 65536, 5);
  // The client dies: another instance of the service ends its session with the exact length.
  const other = another();
  await other.pruneClient(root, "one");
  assert.equal((await other.lookup(root, { path: "/f" })).length, 40 * 65536 + 5);
  await refuses(meta.hintLength(as(bob, "one"), file.id, 1e9, 1), "EIO", /answered long ago/);
  await refuses(meta.extendStripe(as(bob, "two"), file.id, 1), "EACCES");
  const emptied = await meta.open(
    as(root, "two"),
    { path: "/f" },
    {
      write: true,
      truncate: true,
      sessionId: "s2",
    },
  );
  assert.deepEqual([emptied.length, storage.chunks.get(file.id)?.size], [0, 0]);
  assert.equal((await meta.close(as(root, "two"), file.id, "s2")).length, 0);
});

test("a file without names lives until its last writer closes it", async () => {
  const { meta, storage, collectAll } = await openWorld();
  const options = { createMode: 0o644, write: true, sessionId: "s" };
  const file = await meta.open(as(root, "c"), { path: "/f" }, options);
  storage.write(file, 0, 5);
  await meta.remove(root, { path: "/f" });
  await collectAll();
  assert.equal((await meta.sync(as(root, "c"), file.id)).length, 5);
  await meta.close(as(root, "c"), file.id, "s");
  await collectAll();
  assert.equal(storage.chunks.has(file.id), false);
  await refuses(meta.sync(as(root, "c"), file.id), "ESTALE");
});

test("a request that is sent again gets its first answer, and an acknowledged one is refused", async () => {
  const { meta, storage, another } = await openWorld();
  const make = as(root, "c");
  const path = { path: "/f" };
  const options = { createMode: 0o644, isExclusive: true };
  const first = await meta.open(make, path, options);
  assert.deepEqual(await another().open(make, path, options), first);
  const remove = as(root, "c");
  await meta.remove(remove, path);
  await another().remove(remove, path);
  const second = await meta.open(as(root, "c"), path, { ...options, write: true, sessionId: "s" });
  assert.notEqual(second.id, first.id);
  const cut = as(root, "c");
  await meta.truncate(cut, second.id, 0);
  storage.write(second, 0, 10);
  await another().truncate(cut, second.id, 0);
  assert.equal((await meta.sync(root, second.id)).length, 10, "a late copy of a truncation");
  while (nextRequest % 64 !== 0) nextRequest++;
  await meta.mkdir(as(root, "c"), { path: "/d" }, 0o755);
  await refuses(meta.truncate(cut, second.id, 0), "EIO", /answered long ago/);
  assert.equal((await meta.sync(root, second.id)).length, 10);
});

test("a tree goes by one call, the collector brings its space back, the trash keeps what was asked", async () => {
  let nowMs = 1e12;
  const { meta, storage, collectAll } = await openWorld(undefined, { wallMs: () => nowMs });
  const files: Inode[] = [];
  for (const directory of ["t/a", "t/a/deep", "t/b"]) {
    await meta.mkdir(root, { path: directory }, 0o755, { isRecursive: true });
    for (let i = 0; i < 250; i++) {
      const file = await meta.open(root, { path: `${directory}/${i}` }, { createMode: 0o644 });
      storage.write(file, 0, 1);
      files.push(file);
    }
  }
  const inside = await meta.lookup(root, { path: "/t/a" });
  const keep = await meta.lookup(root, { path: "/t/b/7" });
  await meta.link(root, keep.id, { path: "/kept" });
  const top = await meta.lookup(root, { path: "/t" });
  await meta.remove(root, { path: "/t" }, { isRecursive: true });
  await refuses(meta.lookup(root, { path: "/t" }), "ENOENT");
  await refuses(meta.mkdir(root, { directory: top.id, path: "late" }, 0o755), "ENOENT");
  await collectAll();
  assert.deepEqual([...storage.chunks.keys()], [keep.id]);
  assert.deepEqual(await meta.batchStat(root, [inside.id, files[0].id]), [null, null]);
  assert.equal((await meta.lookup(root, { path: "/kept" })).links, 1);
  await meta.remove(root, { path: "/kept" }, { trashMs: 60_000 });
  const trash = await meta.lookup(root, { path: "/.trash" });
  const [entry] = (await meta.readdir(root, trash.id)).entries;
  assert.match(entry.name, /^\d{12}\.\d+\.kept$/);
  await meta.rename(root, { path: `/.trash/${entry.name}` }, { path: "/back" });
  await meta.remove(root, { path: "/back" }, { trashMs: 60_000 });
  nowMs += 30_000;
  await collectAll();
  assert.equal((await meta.readdir(root, trash.id)).entries.length, 1);
  nowMs += 40_000;
  await collectAll();
  assert.equal((await meta.readdir(root, trash.id)).entries.length, 0);
  assert.equal(storage.chunks.size, 0);
  await refuses(meta.remove(root, { path: "/.trash" }, { isRecursive: true }), "EPERM");
});

test("layouts are the directory's or the file's, quotas limit files and bytes and are given back", async () => {
  const { meta, storage, collectAll } = await openWorld();
  const directory = await meta.mkdir(root, { path: "/big" }, 0o777);
  await meta.setAttributes(root, directory.id, { defaults: { chunkBytes: 1 << 20, stripe: 4 } });
  const file = await meta.open(root, { path: "/big/f" }, { createMode: 0o644 });
  assert.deepEqual(
    [file.layout?.chunkBytes, file.layout?.stripe, file.usedStripe],
    [1 << 20, 4, 4],
  );
  const own = await meta.open(
    root,
    { path: "/big/g" },
    { createMode: 0o644, layout: { stripe: 100 } },
  );
  assert.equal(own.layout?.stripe, 40);
  const bad = meta.setAttributes(root, directory.id, { defaults: { chunkBytes: 1000 } });
  await refuses(bad, "EINVAL", /chunkBytes is 1000/);
  await refuses(meta.setQuota(root, directory.id, { files: 9 }), "ENOTEMPTY");
  const small = await meta.mkdir(root, { path: "/small" }, 0o777);
  await meta.setQuota(root, small.id, { files: 4, bytes: 1000 });
  await meta.mkdir(ann, { path: "/small/d" }, 0o755);
  const writing = { createMode: 0o644, write: true, sessionId: "s" };
  const a = await meta.open(as(ann, "q"), { path: "/small/d/a" }, writing);
  await meta.open(ann, { path: "/small/d/b" }, { createMode: 0o644 });
  const third = meta.open(ann, { path: "/small/d/c" }, { createMode: 0o644 });
  await refuses(third, "EDQUOT", /directory \d+/);
  storage.write(a, 0, 900);
  await meta.close(as(ann, "q"), a.id, "s");
  assert.deepEqual(await meta.quota(root, small.id), {
    limit: { files: 4, bytes: 1000 },
    files: 4,
    bytes: 900,
  });
  await refuses(meta.truncate(ann, a.id, 1001), "EDQUOT");
  await refuses(meta.rename(ann, { path: "/small/d/a" }, { path: "/big/a" }), "EXDEV");
  await refuses(meta.rename(root, { path: "/big/f" }, { path: "/small/f" }), "EXDEV");
  await meta.remove(ann, { path: "/small/d" }, { isRecursive: true });
  await collectAll();
  assert.deepEqual((await meta.quota(root, small.id))?.files, 1);
  assert.deepEqual((await meta.quota(root, small.id))?.bytes, 0);
  await refuses(meta.setQuota(ann, small.id, {}), "EPERM");
});

test("rename: replacing or not, exchanging, never into itself, with both ways at once", async () => {
  const { meta, another } = await openWorld();
  for (const path of ["/a/x", "/b/y"])
    await meta.mkdir(root, { path }, 0o755, { isRecursive: true });
  const at = (path: string) => ({ path });
  await refuses(meta.rename(root, at("/a"), at("/a/x/z")), "EINVAL", /into itself/);
  await refuses(meta.rename(root, at("/a"), at("/b"), { noReplace: true }), "EEXIST");
  await refuses(meta.rename(root, at("/a"), at("/b")), "ENOTEMPTY");
  await refuses(meta.rename(root, at("/a"), at("/c"), { exchange: true }), "ENOENT");
  await meta.rename(root, at("/a"), at("/b"), { exchange: true });
  assert.equal((await meta.lookup(root, at("/b/x"))).kind, "directory");
  await refuses(meta.rename(root, at("/b"), at("/b/x"), { exchange: true }), "EINVAL");
  // Each alone is allowed, both together would cut the two directories off.
  for (let round = 0; round < 20; round++) {
    const results = await Promise.allSettled([
      meta.rename(root, at("/a"), at("/b/x/a")),
      another().rename(root, at("/b"), at("/a/y/b")),
    ]);
    assert.equal(results.filter(({ status }) => status === "fulfilled").length, 1);
    if (results[0].status === "fulfilled") await meta.rename(root, at("/b/x/a"), at("/a"));
    else await meta.rename(root, at("/a/y/b"), at("/b"));
  }
});

test("extended attributes and locks", async () => {
  const { meta } = await openWorld();
  const { id } = await meta.open(ann, { path: "/.trash/f" }, { createMode: 0o644 });
  const value = Uint8Array.of(0, 255, 7);
  await meta.setXattr(ann, id, "user.color", value);
  await refuses(meta.setXattr(ann, id, "user.color", value, "create"), "EEXIST");
  await refuses(meta.setXattr(ann, id, "user.size", value, "replace"), "ENODATA");
  await refuses(meta.setXattr(bob, id, "user.color", value), "EACCES");
  await refuses(meta.setXattr(ann, id, "system.posix_acl_access", value), "EOPNOTSUPP");
  await refuses(meta.setXattr(ann, id, "user.x", new Uint8Array(65_537)), "EINVAL");
  await meta.setXattr(ann, id, "user.large", new Uint8Array(65_536).fill(9));
  assert.deepEqual([...(await meta.getXattr(bob, id, "user.color"))], [...value]);
  assert.equal((await meta.getXattr(ann, id, "user.large")).length, 65_536);
  assert.deepEqual(await meta.listXattr(ann, id), ["user.color", "user.large"]);
  await meta.removeXattr(ann, id, "user.color");
  await refuses(meta.getXattr(ann, id, "user.color"), "ENODATA");
  await meta.lock(as(ann, "one"), id, "h1", false);
  await meta.lock(as(bob, "two"), id, "h1", false);
  await refuses(meta.lock(as(bob, "two"), id, "h1", true), "EAGAIN", /client one/);
  await meta.unlock(as(ann, "one"), id, "h1");
  await meta.lock(as(bob, "two"), id, "h1", true);
  await refuses(meta.lock(as(ann, "one"), id, "h1", false), "EAGAIN");
  await meta.pruneClient(root, "two");
  await meta.lock(as(ann, "one"), id, "h1", true);
});

test("where tokens are asked for, callers without a fitting one are refused", async () => {
  const { meta, another } = await openWorld();
  const user = (uid: number, isAdmin: boolean) => ({
    uid,
    gid: uid,
    name: `u${uid}`,
    groups: [50],
    isAdmin,
  });
  await meta.putUser(root, user(100, false));
  await meta.putUser(root, user(1, true));
  const token = await meta.makeToken(root, 100);
  const adminToken = await meta.makeToken(root, 1);
  const strict = another({ requireTokens: true });
  await refuses(strict.lookup(root, { path: "/" }), "EACCES", /token/);
  await refuses(strict.lookup({ ...root, token }, { path: "/" }), "EACCES", /user 100/);
  await refuses(strict.lookup({ ...ann, groups: [51], token }, { path: "/" }), "EACCES");
  await refuses(strict.lookup({ ...ann, token: `${token}x` }, { path: "/" }), "EACCES");
  await strict.lookup({ ...ann, token }, { path: "/" });
  await strict.mkdir({ ...root, token: adminToken }, { path: "/made" }, 0o755);
  await refuses(strict.putUser({ ...ann, token }, user(5, true)), "EPERM");
  await refuses(strict.truncate(root, 5, 0), "EACCES");
  const fresh = await meta.makeToken(root, 100, true);
  const later = another({ requireTokens: true });
  await refuses(later.lookup({ ...ann, token }, { path: "/" }), "EACCES");
  assert.equal((await later.authenticate(fresh)).name, "u100");
  await meta.removeUser(root, 100);
  await refuses(another().authenticate(fresh), "EACCES");
  assert.deepEqual(
    (await meta.users(root)).map(({ uid }) => uid),
    [1],
  );
});

test("input that can't work is refused in a sentence that names it", async () => {
  const { meta } = await openWorld();
  const make = (path: string) => meta.open(root, { path }, { createMode: 0o644 });
  await refuses(make(`/${"x".repeat(256)}`), "ENAMETOOLONG", /256 bytes/);
  await refuses(make(`/${"é".repeat(128)}`), "ENAMETOOLONG");
  await refuses(make(`/${"a/".repeat(2100)}`), "ENAMETOOLONG");
  await refuses(make("/a\0b"), "EINVAL");
  await refuses(make("/missing/f"), "ENOENT");
  await refuses(make("/new/"), "EISDIR");
  await make("/f");
  await refuses(make("/f/g"), "ENOTDIR");
  await refuses(meta.lookup(root, { path: "/f/" }), "ENOTDIR");
  await refuses(meta.lookup(root, { directory: 12345, path: "x" }), "ESTALE");
  await refuses(meta.open(root, { path: "/f" }, { write: true }), "EINVAL", /sessionId/);
  await refuses(meta.open(root, { path: "/" }, { write: true, sessionId: "s" }), "EISDIR");
  await assert.rejects(meta.mkdir(root, { path: "/d" }, 0o10000), /mode is 4096/);
  const forged = { clientId: "a\0b", requestId: 1, ackedBelow: 1 };
  await refuses(meta.remove({ ...root, request: forged }, { path: "/f" }), "EINVAL");
});

/** A pass through every kind of record, for engines that the tests above do not use. */
async function smoke(store: KvStore): Promise<void> {
  const { meta, storage, collectAll, another } = await openWorld(store);
  await meta.mkdir(root, { path: "/a/b" }, 0o755, { isRecursive: true });
  const makers = [meta, another(), another()].map(async (instance, i) => {
    for (let k = 0; k < 15; k++) {
      const options = { createMode: 0o644, write: true, sessionId: "s" };
      const caller = as(root, `client${i}`);
      const file = await instance.open(caller, { path: `/a/b/${i}-${k}` }, options);
      storage.write(file, 0, k);
      await instance.close(as(root, `client${i}`), file.id, "s");
    }
  });
  await Promise.all(makers);
  const { id } = await meta.lookup(root, { path: "/a/b" });
  const page = await meta.readdir(root, id, { withInodes: true });
  assert.equal(page.entries.length, 45);
  assert.equal(
    page.entries.reduce((sum, { inode }) => sum + (inode?.length ?? 0), 0),
    3 * 105,
  );
  await meta.rename(root, { path: "/a/b" }, { path: "/c" });
  await meta.setXattr(root, id, "user.x", Uint8Array.of(1));
  await meta.remove(root, { path: "/c" }, { isRecursive: true });
  await collectAll();
  assert.equal(storage.chunks.size, 0);
  await store.close();
}

const scratch = mkdtempSync(join(tmpdir(), "meta-test-"));
after(() => rmSync(scratch, { recursive: true, force: true }));

test("lmdb: all of it works there", () => smoke(openLmdbKv(scratch)));

test("postgres: all of it works there", async (context) => {
  const url = process.env.BALEEN_POSTGRES ?? "postgresql://postgres@127.0.0.1:5432/postgres";
  const table = `meta_test_${process.pid}`;
  const store = await openPostgresKv({ url, table }).catch(() => undefined);
  if (!store) return context.skip(`no PostgreSQL at ${url}`);
  try {
    await smoke(store);
  } finally {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.query(`DROP TABLE ${table}`);
    await client.end();
  }
});
