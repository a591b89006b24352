/** @file The CUDA device against a stand-in driver that the toolkit's header checks. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import type { CudaDevice } from "./cuda-device.ts";
import { openCuda } from "./cuda-device.ts";
import type { KernelArgument } from "./launch.ts";
import { buildFakeDriver } from "./testing/fake-driver.ts";
import { Words } from "./words.ts";

const folder = mkdtempSync(join(tmpdir(), "baleen-cuda-"));
after(() => rmSync(folder, { recursive: true }));
const built = buildFakeDriver(folder);
const skip = "absence" in built ? built.absence : false;
const cacheFolder = join(folder, "cache");

function open(): CudaDevice {
  assert.ok("library" in built);
  return openCuda({ library: built.library, cacheFolder });
}

/** Runs `body` with variables set that make the driver fail. */
function under(variables: Record<string, string>, body: () => void): void {
  Object.assign(process.env, variables);
  try {
    body();
  } finally {
    for (const name of Object.keys(variables)) delete process.env[name];
  }
}

const ptx = ".version 8.0 record trap";

function recordArguments(device: CudaDevice, address: number): KernelArgument[] {
  const map = device.tensorMap({
    type: "bf16",
    address: 0x10000,
    shape: [4096, 300],
    strides: [8192],
    box: [64, 128],
  });
  return [
    { kind: "pointer", value: address },
    { kind: "u32", value: 0xfffffffe },
    { kind: "f32", value: 0.5 },
    { kind: "u64", value: 2 ** 40 + 3 },
    { kind: "tensor-map", value: map },
  ];
}

test("without a driver, opening says what to do", () => {
  assert.throws(() => openCuda({ library: "libno-such-driver.so.9" }), {
    code: "no-cuda-driver",
    message: /could not be loaded .*install NVIDIA's driver, or in a container pass it in/,
  });
});

test("the device's facts are read", { skip }, () => {
  const device = open();
  assert.equal(device.name, "Fake GPU");
  assert.equal(device.architecture, 90);
  assert.equal(device.multiprocessors, 132);
  assert.equal(device.memoryBytes, 80 * 2 ** 30);
  assert.equal(device.freeBytes, 70 * 2 ** 30);
  assert.equal(device.memoryBytesPerSecond, 2 * 2619000 * 1000 * 640);
  assert.equal(device.description, "cuda (Fake GPU, 80 GiB, driver for CUDA 12.4)");
  device.close();
});

test("each usual failure of opening says what to do", { skip }, () => {
  const cases: [Record<string, string>, string, RegExp][] = [
    [{ FAKE_CUDA_INIT: "100" }, "no-cuda-device", /no device .*check nvidia-smi/],
    [{ FAKE_CUDA_INIT: "803" }, "no-cuda-driver", /driver and library differ .*reload/],
    [{ FAKE_CUDA_INIT: "802" }, "no-cuda-device", /nvidia-fabricmanager/],
    [{ FAKE_CUDA_INIT: "34" }, "no-cuda-driver", /stub/],
    [{ FAKE_CUDA_INIT: "12345" }, "cuda-failed", /CUDA 12345.*look the number up/],
    [{ FAKE_CUDA_VERSION: "11080" }, "cuda-driver-too-old", /speaks CUDA 11.8.* need 12.0/],
    [{ FAKE_CUDA_COUNT: "0" }, "no-cuda-device", /GPU 0 is not there: 0 are visible/],
  ];
  for (const [variables, code, message] of cases) {
    under(variables, () => assert.throws(open, { code, message }));
  }
});

test("memory goes there and back, and ranges are checked", { skip }, () => {
  const device = open();
  const buffer = device.allocate(64);
  const sent = Uint8Array.from({ length: 40 }, (_, i) => i * 3);
  device.upload(buffer, sent, 8);
  const got = new Uint8Array(40);
  device.download(got, buffer, 8);
  assert.deepEqual(got, sent);
  device.fill(buffer, 9);
  device.download(got, buffer);
  assert.deepEqual(got, new Uint8Array(40).fill(9));
  assert.throws(() => device.upload(buffer, sent, 32), /got 40 bytes at 32, and the buffer has 64/);
  assert.throws(() => device.allocate(2 ** 40), {
    code: "cuda-out-of-memory",
    message: /allocating 1 TiB of GPU memory failed: out of memory/,
  });
  device.free(buffer);
  device.close();
});

test("a launch carries its shape, attributes and arguments", { skip }, () => {
  const device = open();
  const out = device.allocate(256);
  device.fill(out, 0);
  const kernel = device.kernel(ptx, "record");
  assert.deepEqual(kernel.facts, { registers: 168, localBytes: 16 });
  assert.equal(kernel.blocksPerMultiprocessor(384, 100_000), 2);
  const launch = kernel.prepare(
    {
      grid: [132, 2, 3],
      block: [128, 3],
      sharedBytes: 200_000,
      cluster: [2],
      overlapsPrevious: true,
    },
    recordArguments(device, out.address),
  );
  launch.run(device.stream.handle);
  launch.set(1, { kind: "u32", value: 7 });
  launch.run(device.stream.handle);
  const words = new Uint32Array(64);
  device.download(words, out);
  assert.deepEqual([...words.subarray(0, 13)], [2, 132, 2, 3, 128, 3, 1, 200_000, 1, 2, 2, 1, 7]);
  assert.equal(new Float32Array(words.buffer)[13], 0.5);
  const longs = new BigUint64Array(words.buffer);
  assert.equal(longs[7], 2n ** 40n + 3n);
  // Type bf16, rank, address, dimensions, stride, box, steps, interleave, swizzle 128, L2 256, fill.
  assert.deepEqual(
    [...longs.subarray(8, 22)].map(Number),
    [9, 2, 0x10000, 4096, 300, 8192, 64, 128, 1, 1, 0, 3, 3, 0],
  );
  assert.throws(() => launch.set(1, { kind: "f32", value: 1 }), /got f32, wanted u32/);
  assert.throws(() => kernel.prepare({ grid: [1], block: [1025] }, []), /wanted at most 1024/);
  assert.throws(() => kernel.prepare({ grid: [3], block: [32], cluster: [2] }, []), /multiple of/);
  assert.throws(() => kernel.prepare({ grid: [0], block: [32] }, []), /wanted a positive integer/);
  const clusters = kernel.prepare({ grid: [4], block: [32], cluster: [2] }, []);
  assert.equal(clusters.clustersAtOnce(), 66);
  device.close();
});

test("a captured graph runs its launches each time it is launched, and not before", {
  skip,
}, () => {
  const device = open();
  const out = device.allocate(256);
  device.fill(out, 0);
  const options = { grid: [1], block: [32] } as const;
  const launch = device
    .kernel(ptx, "record")
    .prepare(options, recordArguments(device, out.address));
  const graph = device.stream.capture(() => {
    launch.run(device.stream.handle);
    launch.run(device.stream.handle);
  });
  const words = new Uint32Array(64);
  device.download(words, out);
  assert.equal(words[0], 0);
  graph.launch(device.stream);
  graph.launch(device.stream);
  device.download(words, out);
  assert.equal(words[0], 4);
  assert.throws(
    () =>
      device.stream.capture(() => {
        throw new Error("mid-capture");
      }),
    /mid-capture/,
  );
  launch.run(device.stream.handle);
  device.download(words, out);
  assert.equal(words[0], 5, "the stream runs again after a failed capture");
  assert.equal(
    device.time(() => launch.run(device.stream.handle)),
    1500,
  );
  graph.close();
  device.close();
});

test("machine code is kept, used again, and made anew when torn", { skip }, () => {
  rmSync(cacheFolder, { recursive: true, force: true });
  const first = open();
  first.kernel(ptx, "record");
  const [name] = readdirSync(cacheFolder);
  assert.match(name, /^sm90-12040-[0-9a-f]{32}\.cubin$/);
  under({ FAKE_CUDA_NO_JIT: "1" }, () => {
    open().kernel(ptx, "record");
    assert.throws(() => open().kernel(`${ptx} other`, "record"), {
      code: "no-jit-compiler",
      message: /libnvidia-ptxjitcompiler.so.1 is missing/,
    });
  });
  writeFileSync(join(cacheFolder, name), "torn");
  open().kernel(ptx, "record");
  assert.equal(readdirSync(cacheFolder).length, 1);
  under({ FAKE_CUDA_VERSION: "13000" }, () => open().kernel(ptx, "record"));
  assert.equal(readdirSync(cacheFolder).length, 2, "another driver, another file");
});

test("a cache folder that cannot be written costs nothing but time", { skip }, () => {
  assert.ok("library" in built);
  const blocked = join(folder, "blocked");
  writeFileSync(blocked, "a file where the folder should be");
  openCuda({ library: built.library, cacheFolder: blocked }).kernel(ptx, "record");
});

test("bad PTX shows the compiler's log; PTX too new names the driver", { skip }, () => {
  const device = open();
  assert.throws(() => device.kernel("BAD", "record"), {
    code: "bad-ptx",
    message: /CUDA 218[\s\S]*line 7: unknown opcode BAD/,
  });
  assert.throws(() => device.kernel(".version 99", "record"), {
    code: "cuda-driver-too-old",
    message: /PTX newer than the driver .*install a newer driver/,
  });
  assert.throws(() => device.kernel(ptx, "missing"), { message: /finding kernel missing failed/ });
  device.close();
});

test("tensor maps that the driver would refuse without a word are refused with one", {
  skip,
}, () => {
  const device = open();
  const good = { type: "u8", address: 0, shape: [256, 8], strides: [256], box: [128, 8] } as const;
  device.tensorMap(good);
  assert.throws(() => device.tensorMap({ ...good, address: 8 }), /wanted 16 to divide it/);
  assert.throws(() => device.tensorMap({ ...good, strides: [250] }), /multiple of 16/);
  assert.throws(() => device.tensorMap({ ...good, strides: [] }), /got 0 strides/);
  assert.throws(() => device.tensorMap({ ...good, box: [256, 8] }), /at most the swizzle's 128/);
  assert.throws(() => device.tensorMap({ ...good, box: [128, 257] }), /wanted 1 to 256/);
  device.close();
});

test("memory is shared by handle and by descriptor", { skip }, () => {
  const device = open();
  const buffer = device.allocate(64);
  const opened = device.openShared(device.share(buffer));
  assert.equal(opened, buffer.address);
  device.closeShared(opened);
  const mapped = device.mapMemory(5);
  assert.equal(mapped.bytes, 2 * 2 ** 20);
  const imported = device.mapImported(mapped.export(), mapped.bytes);
  imported.free();
  mapped.free();
  device.close();
});

test("words lie where they are told to", () => {
  for (const alignment of [8, 64, 128])
    assert.equal(new Words(4, alignment).address % alignment, 0);
});

test("a kernel that traps is reported when the GPU is waited for", { skip }, () => {
  const device = open();
  device
    .kernel(ptx, "trap")
    .prepare({ grid: [1], block: [32] }, [])
    .run(device.stream.handle);
  assert.throws(() => device.stream.synchronize(), {
    code: "cuda-device-lost",
    message: /illegal address .*start it again, and run the kernel in the emulator/,
  });
});
