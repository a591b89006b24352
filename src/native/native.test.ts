import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Worker } from "node:worker_threads";
import { Random, workerUrl } from "../base/index.ts";
import {
  addressOf,
  allocateMemory,
  callable,
  callableOfThree,
  freeCode,
  joinThread,
  loadCode,
  mapFile,
  nativeAbsence,
  processCpuTimeUs,
  startThread,
  threadCpuTimeUs,
  viewAt,
  viewBytesMax,
} from "./index.ts";
import { readPieces } from "./map-file.ts";

const skip = nativeAbsence() ?? false;
const door = workerUrl(import.meta.url, "./index").href;
setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/**
 * The rights of the mapping that holds `address`, such as `r-xp`; undefined when nothing is mapped.
 */
function rightsAt(address: number): string | undefined {
  for (const line of readFileSync("/proc/self/maps", "utf8").split("\n")) {
    const match = /^([\da-f]+)-([\da-f]+) (\S+)/.exec(line);
    if (!match) continue;
    const [from, to] = [Number.parseInt(match[1], 16), Number.parseInt(match[2], 16)];
    if (from <= address && address < to) return match[3];
  }
  return undefined;
}

/** Collects garbage and lets finalizers run until `condition` holds; false after a second. */
async function eventually(condition: () => boolean): Promise<boolean> {
  for (let i = 0; i < 50 && !condition(); i++) {
    collect();
    await sleep(20);
  }
  return condition();
}

/** `*rdi = rsi + rdx` as a kernel, and `*rdi += 1`. */
const addThem = new Uint8Array([0x48, 0x01, 0xd6, 0x48, 0x89, 0x37, 0xc3]);
const increment = new Uint8Array([0x48, 0xff, 0x07, 0xc3]);

test("the address of an array is that of its first byte, small arrays included", { skip }, () => {
  const arrays = Array.from({ length: 200 }, (_, i) => new Uint8Array([i, 1, 2]));
  const addresses = arrays.map(addressOf);
  collect(); // would move them, had their buffers not been asked for
  addresses.forEach((address, i) => {
    arrays[i][1] = 7;
    assert.deepEqual([...new Uint8Array(viewAt(address, 3))], [i, 7, 2]);
  });
  const buffer = new ArrayBuffer(64);
  assert.equal(addressOf(new Float64Array(buffer, 24)) - addressOf(new Uint8Array(buffer)), 24);
  assert.equal(addressOf(new DataView(buffer, 3)) - addressOf(new Uint8Array(buffer)), 3);
  const shared = new Int32Array(new SharedArrayBuffer(16), 8);
  shared[0] = 42;
  assert.equal(new Int32Array(viewAt(addressOf(shared), 4))[0], 42);
});

test("allocated memory is zeroed, aligned, its own, and refused beyond 4 GiB", { skip }, () => {
  for (const bytes of [1, 64, 4096, 4097, 5 * 2 ** 20]) {
    const [one, other] = [allocateMemory(bytes), allocateMemory(bytes)];
    const data = new Uint8Array(one);
    assert.equal(data.length, bytes);
    assert.ok(data.every((byte) => byte === 0));
    assert.equal(addressOf(data) % 4096, 0);
    data.fill(255);
    assert.ok(new Uint8Array(other).every((byte) => byte === 0));
  }
  assert.equal(allocateMemory(0).byteLength, 0);
  assert.throws(() => allocateMemory(viewBytesMax + 1), /wanted 0 to 4 GiB; use several/);
  assert.throws(() => allocateMemory(-1), /got -1/);
  assert.throws(() => viewAt(4096, viewBytesMax + 1), /wanted 0 to 4 GiB/);
  assert.throws(() => viewAt(0, 16), /address of a view: got 0/);
});

test("4 GiB can be allocated and written at both ends", { skip }, () => {
  const data = new Uint8Array(allocateMemory(viewBytesMax));
  [data[0], data[viewBytesMax - 1]] = [1, 2];
  assert.deepEqual([data[0], data[1], data[viewBytesMax - 1]], [1, 0, 2]);
});

test("memory is freed when nothing refers to it, and not while a view of it lives", {
  skip,
}, async () => {
  let buffer: ArrayBuffer | undefined = allocateMemory(3 * 2 ** 20);
  let part: Uint8Array | undefined = new Uint8Array(buffer, 4096, 16);
  const address = addressOf(part);
  buffer = undefined;
  collect();
  await sleep(30);
  collect();
  await sleep(30);
  assert.equal(rightsAt(address), "rw-p");
  assert.equal(part[0], 0);
  part = undefined;
  assert.ok(await eventually(() => rightsAt(address) === undefined));
});

test("a worker sees the same memory through its address", { skip }, async () => {
  const data = new Float64Array(allocateMemory(8192));
  data[3] = 1.5;
  const program = `
    const { workerData } = require("node:worker_threads");
    import(workerData.door).then(({ viewAt }) => {
      const data = new Float64Array(viewAt(workerData.address, 8192));
      data[1000] = data[3] * 2;
    });`;
  const workerData = { door, address: addressOf(data) };
  const worker = new Worker(program, { eval: true, workerData });
  await new Promise((resolve, reject) => {
    worker.once("exit", resolve);
    worker.once("error", reject);
  });
  assert.equal(data[1000], 3);
});

test("code is executable and not writable, runs, and is gone when freed", { skip }, () => {
  const [add, bump] = [loadCode(addThem), loadCode(increment)];
  assert.deepEqual([rightsAt(add), rightsAt(bump)], ["r-xp", "r-xp"]);
  const out = new Uint32Array(2);
  callableOfThree(add)(addressOf(out), 2 ** 40, 5);
  assert.deepEqual([...out], [5, 256]);
  const call = callable(bump);
  for (let i = 0; i < 1000; i++) call(addressOf(out));
  assert.deepEqual([...out], [1005, 256]);
  freeCode(add, addThem.length);
  assert.equal(rightsAt(add), undefined);
  assert.throws(() => loadCode(new Uint8Array()), /got no bytes/);
});

test("a bare thread runs its code and is joined", { skip }, () => {
  const start = loadCode(increment);
  const counter = new Uint32Array(2);
  for (let i = 0; i < 20; i++) {
    const handle = startThread(start, addressOf(counter));
    assert.ok(handle !== undefined);
    joinThread(handle);
  }
  assert.equal(counter[0], 20);
});

test("processor time counts work and leaves out sleep", { skip }, async () => {
  const start = threadCpuTimeUs();
  await sleep(60);
  const slept = threadCpuTimeUs() - start;
  assert.ok(slept < 30_000, `${slept} us while asleep`);
  const processStart = processCpuTimeUs();
  while (threadCpuTimeUs() < start + slept + 20_000);
  assert.ok(processCpuTimeUs() - processStart >= 19_000);
});

/**
 * Runs `use` on the path of a new file; its content is `head`, then a hole up to `bytes`, then
 * `tail`.
 */
async function withFile(
  { head, tail, bytes }: { head: Uint8Array; tail: Uint8Array; bytes: number },
  use: (path: string) => void | Promise<void>,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "baleen-native-"));
  try {
    const path = join(folder, "file");
    const file = openSync(path, "w");
    writeSync(file, head);
    writeSync(file, tail, 0, tail.length, bytes - tail.length);
    closeSync(file);
    await use(path);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("a range is read in pieces of a limited size, to the end of the file", () => {
  for (const [length, there, piece, shortest] of [
    [1000, 1000, 1000, 1000],
    [1000, 1000, 64, 64],
    [100, 100, 7, 3],
    [98, 98, 7, 7],
    [1, 1, 1, 1],
    [0, 0, 7, 7],
    [50, 10, 7, 2],
    [10, 0, 7, 7],
    [5 * 2 ** 30, 5 * 2 ** 30, 2 ** 30, 2 ** 30],
  ]) {
    let end = 0;
    const done = readPieces(length, piece, (start, count) => {
      assert.equal(start, end);
      assert.ok(count > 0 && count <= piece && start + count <= length);
      const read = Math.min(count, shortest, there - end);
      end += read;
      return read;
    });
    assert.deepEqual([done, end], [there, there]);
  }
});

test("a mapped file gives its bytes at any offset, beyond 4 GiB too", { skip }, async () => {
  const random = new Random(1);
  const head = Uint8Array.from({ length: 10_000 }, () => random.uint32());
  const tail = Uint8Array.from([1, 2, 3, 4, 5]);
  const bytes = 5 * 2 ** 30 + 3;
  await withFile({ head, tail, bytes }, (path) => {
    const file = mapFile(path);
    assert.deepEqual([file.bytes, file.mapped, file.path], [bytes, true, path]);
    for (const [offset, length] of [
      [0, 10_000],
      [1, 8],
      [4095, 2],
      [9_999, 1],
      [77, 0],
    ]) {
      assert.deepEqual(file.view(offset, length), head.slice(offset, offset + length));
    }
    assert.deepEqual([...file.view(bytes - 5, 5)], [...tail]);
    assert.deepEqual([...file.view(2 ** 32 - 2, 4)], [0, 0, 0, 0]);
    assert.throws(() => file.view(bytes - 5, 6), /wanted within/);
    assert.throws(() => file.view(-1, 2), /wanted within/);
    assert.throws(() => file.view(0.5, 1), /wanted within/);
    assert.throws(() => file.view(0, 2 ** 32 + 1), /4 GiB at most/);
  });
});

test("a mapping lasts while a view of it does, whatever becomes of the reader", {
  skip,
}, async () => {
  const head = Uint8Array.from({ length: 9000 }, (_, i) => i);
  await withFile({ head, tail: new Uint8Array([9]), bytes: 9001 }, async (path) => {
    let view: Uint8Array | undefined = mapFile(path).view(5000, 100);
    const address = addressOf(view);
    collect();
    await sleep(30);
    collect();
    await sleep(30);
    assert.equal(view[3], 5003 & 255);
    view = undefined;
    assert.ok(await eventually(() => rightsAt(address) === undefined));
  });
});

test("files that cannot be read are refused with their path", () => {
  assert.throws(() => mapFile("/nonexistent/x"), {
    code: "file-unreadable",
    message: /nonexistent/,
  });
  assert.throws(() => mapFile("/"), /it is not a regular file/);
});

test("an empty file has no bytes", async () => {
  await withFile({ head: new Uint8Array(), tail: new Uint8Array(), bytes: 0 }, (path) => {
    assert.equal(mapFile(path).bytes, 0);
    assert.equal(mapFile(path).view(0, 0).length, 0);
  });
});

test("without a native layer addresses are 0, files are read, and one line says why", async () => {
  const head = Uint8Array.from({ length: 300 }, (_, i) => i);
  await withFile({ head, tail: new Uint8Array([7]), bytes: 301 }, (path) => {
    const program = `
      import { readdirSync } from "node:fs";
      import { setFlagsFromString } from "node:v8";
      import { runInNewContext } from "node:vm";
      import { addressOf, mapFile, nativeAbsence, nativeLayer, threadCpuTimeUs, allocateMemory }
        from ${JSON.stringify(door)};
      const file = mapFile(${JSON.stringify(path)});
      setFlagsFromString("--expose-gc");
      const descriptors = () => readdirSync("/proc/self/fd").length;
      const before = descriptors();
      (() => mapFile(${JSON.stringify(path)}).view(0, 1))();
      for (let i = 0; i < 50 && descriptors() > before; i++) {
        runInNewContext("gc")();
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      let refusal;
      try { allocateMemory(64); } catch (error) { refusal = error.message; }
      console.log(JSON.stringify([nativeAbsence(), nativeLayer() === undefined,
        addressOf(new Uint8Array(100)), file.mapped, file.bytes, [...file.view(254, 4)],
        [...file.view(300, 1)], threadCpuTimeUs() > 0, descriptors() - before, refusal]));`;
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
      env: { ...process.env, BALEEN_NO_NATIVE: "1" },
      encoding: "utf8",
    });
    assert.equal(run.status, 0, run.stderr);
    const absence = "BALEEN_NO_NATIVE=1 forbids it";
    const refusal = `assertion failed: the native layer is needed: ${absence}`;
    assert.deepEqual(JSON.parse(run.stdout), [
      ...[absence, true, 0, false, 301, [254, 255, 0, 1], [7], true, 0, refusal],
    ]);
  });
});
