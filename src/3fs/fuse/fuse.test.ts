/** @file The session against the kernel itself: scripts that must end as on the machine's own disk. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { open, readFile, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { nativeAbsence } from "../../native/index.ts";
import { mountFuse, unmountFuse } from "./mount.ts";
import { packDirectory } from "./protocol.ts";
import { FuseSession, type SessionOptions } from "./session.ts";
import { MemoryFileSystem } from "./testing/memory-file-system.ts";

const skip = whyNot();
const base = mkdtempSync(join(tmpdir(), "baleen-fuse-"));
after(() => rmSync(base, { recursive: true }));

/** A session that fails in the midst of a test can leave a mount on which others hang. */
function whyNot(): string | false {
  if (process.env.BALEEN_TEST_MOUNT !== "1") return "mounts only with BALEEN_TEST_MOUNT=1";
  if (nativeAbsence()) return `mounting needs the native layer: ${nativeAbsence()}`;
  if (!existsSync("/dev/fuse")) return "/dev/fuse is not there";
  return process.getuid?.() === 0 ? false : "mounting needs root";
}

interface Mounted {
  readonly folder: string;
  readonly fs: MemoryFileSystem;
  readonly session: FuseSession;
  end(): Promise<void>;
}

let mounts = 0;

async function mounted(options: SessionOptions = {}): Promise<Mounted> {
  const folder = join(base, `mount-${mounts++}`);
  mkdirSync(folder);
  const fs = new MemoryFileSystem();
  const session = new FuseSession(fs, await mountFuse(folder), options);
  const served = session.serve();
  await session.agreed();
  return {
    folder,
    fs,
    session,
    async end() {
      unmountFuse(folder);
      await served;
    },
  };
}

/** Runs a script in `folder`; what it printed, and its exit status. */
function sh(folder: string, script: string): Promise<{ out: string; code: number | null }> {
  // The shell changes folder itself: spawn would have this process, which answers, wait for it.
  const env = { ...process.env, LC_ALL: "C" };
  const child = spawn("bash", ["-c", `cd "${folder}"\n${script}`], { env });
  let out = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk) => {
      out += chunk;
    });
  }
  return new Promise((resolve) => child.once("close", (code) => resolve({ out, code })));
}

const scripts: Record<string, string> = {
  "files and folders": `
    mkdir -p a/b/c && echo one > a/one && echo two >> a/one && cat a/one
    cp a/one a/b/two && mv a/b/two a/b/c/three && ls -1R . && rmdir a 2>&1
    ln a/one hard && stat -c '%h %s %f' hard && ln -s a/one soft && readlink soft && cat soft
    rm a/one && cat hard && cat soft 2>&1; touch -d 2001-02-03T04:05:06Z hard
    stat -c '%Y %a %F' hard && chmod 640 hard && stat -c '%a' hard && chown 7:8 hard && stat -c '%u:%g' hard
    find . -type f | sort && rm -rf a && ls -A`,
  "sizes and holes": `
    truncate -s 100000 f && stat -c %s f && printf x | dd of=f bs=1 seek=99999 conv=notrunc status=none
    md5sum f && truncate -s 10 f && wc -c < f && fallocate -l 5000 f && wc -c < f
    printf 'hello' > f && fallocate -p -o 1 -l 2 f && od -c f
    dd if=/dev/zero of=g bs=1000 count=300 status=none && cmp -n 300000 g /dev/zero && echo same`,
  "what is refused": `
    mkdir d && mkdir d 2>&1; cat missing 2>&1; echo x > d 2>&1; rmdir missing 2>&1; touch d/f
    mv d/f missing/f 2>&1; rm d 2>&1; ln -s loop loop && cat loop 2>&1; ls d/f/g 2>&1
    name=$(printf 'n%.0s' $(seq 300)) && touch $name 2>&1 | grep -o 'File name too long'`,
  "open files outlive their names": `
    echo kept > f && exec 3<f && rm f && cat <&3 && ls -A && exec 3<&-
    exec 4>g && echo a >&4 && mv g h && echo b >&4 && exec 4>&- && cat h`,
  "rename over and exchange nothing": `
    echo 1 > a && echo 2 > b && mv a b && cat b && mkdir x y && touch y/f && mv -T x y 2>&1
    mv -n b y/f && cat b && mv y/f y/g && ls y && mkdir z && mv -T z x && ls`,
};

for (const [name, script] of Object.entries(scripts)) {
  test(`${name}: as on the machine's own disk`, { skip }, async () => {
    const own = join(base, `own-${mounts}`);
    mkdirSync(own);
    const { folder, end } = await mounted();
    try {
      const [wanted, got] = [await sh(own, script), await sh(folder, script)];
      assert.equal(got.out, wanted.out);
      assert.equal(got.code, wanted.code);
    } finally {
      await end();
    }
  });
}

test("data of many sizes at many places comes back as it went", { skip }, async () => {
  const { folder, end } = await mounted();
  try {
    const script = `head -c 20000000 /dev/urandom > f && md5sum < f > sum
      for size in 511 4096 131072 1048577; do dd if=f of=g bs=$size status=none && md5sum < g | cmp - sum; done
      for i in 1 2 3 4; do cp f copy$i & done; wait; for i in 1 2 3 4; do cmp f copy$i || exit 9; done`;
    assert.deepEqual(await sh(folder, script), { out: "", code: 0 });
  } finally {
    await end();
  }
});

test("a folder of thousands of files is listed whole", { skip }, async () => {
  const { folder, end } = await mounted();
  try {
    const script = `for i in $(seq 3000); do echo > a-name-of-some-length-$i; done; ls | wc -l; ls -l | wc -l`;
    assert.equal((await sh(folder, script)).out.trim(), "3000\n3001");
  } finally {
    await end();
  }
});

test("locks exclude, and a waiter that is killed lets go", { skip }, async () => {
  const { folder, end } = await mounted();
  try {
    const script = `touch f; flock f sleep 1 & sleep 0.3; flock -n f echo taken || echo busy
      flock f echo waited & waiter=$!; sleep 0.1; kill -9 $waiter; wait $waiter; echo killed $?
      wait; flock -n f echo free`;
    const { out } = await sh(folder, script);
    assert.equal(out.replace(/.*Killed.*\n/, ""), "busy\nkilled 137\nfree\n");
  } finally {
    await end();
  }
});

test("an operation that fails is an input/output error, and the session goes on", {
  skip,
}, async () => {
  const seen: unknown[] = [];
  const { folder, fs, end } = await mounted({ onError: (error) => seen.push(error) });
  try {
    await writeFile(join(folder, "f"), "data");
    fs.before = (operation) => {
      if (operation === "fsync") throw new TypeError("a bug");
    };
    const file = await open(join(folder, "f"));
    await assert.rejects(file.sync(), { code: "EIO" });
    await file.close();
    assert.match(String(seen[0]), /a bug/);
    assert.equal(await readFile(join(folder, "f"), "utf8"), "data");
  } finally {
    await end();
  }
});

test("what changed behind the kernel's back is seen once it is told", { skip }, async () => {
  const { folder, fs, session, end } = await mounted({ validMs: 3_600_000 });
  try {
    const path = join(folder, "f");
    await writeFile(path, "old");
    const { ino } = await stat(path);
    const who = { uid: 0, gid: 0, pid: 0 };
    await fs.write(who, ino, ino, 0, Buffer.from("newer"));
    assert.equal((await stat(path)).size, 3, "kept");
    await session.invalidateNode(ino);
    assert.equal((await stat(path)).size, 5);
    assert.equal(await readFile(path, "utf8"), "newer");
    await fs.unlink(who, 1, "f");
    await session.invalidateEntry(1, "f");
    await assert.rejects(stat(path), { code: "ENOENT" });
    await session.invalidateEntry(1, "never seen");
  } finally {
    await end();
  }
});

test("slow answers do not hold up the others, and are waited for at the end", {
  skip,
}, async () => {
  const { folder, fs, end } = await mounted();
  await writeFile(join(folder, "slow"), "x".repeat(10));
  await writeFile(join(folder, "fast"), "y");
  fs.before = (operation) => (operation === "read" ? pause(300) : undefined);
  const start = performance.now();
  const slow = readFile(join(folder, "slow"), "utf8");
  await stat(join(folder, "fast"));
  assert.ok(performance.now() - start < 250, "not held up");
  assert.equal(await slow, "x".repeat(10));
  await end();
});

test("a mount point that is none is refused with the next step", { skip }, async () => {
  await assert.rejects(mountFuse(join(base, "missing")), /is no folder: make it first/);
});

test("directory entries are packed up to the last that fits", () => {
  const entry = (name: string, next: number) => ({ name, inode: 9, mode: 0o100644, next });
  const all = [entry("a", 1), entry("eightlen", 2), entry("ninechars", 3)];
  assert.equal(packDirectory(all, 32 + 32 + 40, false, 0).count, 3);
  assert.equal(packDirectory(all, 32 + 32 + 39, false, 0).count, 2);
  assert.equal(packDirectory(all, 31, false, 0).count, 0);
  const { bytes } = packDirectory(all, 4096, false, 0);
  assert.equal(bytes.length, 32 + 32 + 40);
  assert.equal(bytes.readUInt32LE(16), 1);
  assert.equal(bytes.readUInt32LE(20), 8, "a regular file");
  assert.equal(bytes.toString("latin1", 24, 25), "a");
});
