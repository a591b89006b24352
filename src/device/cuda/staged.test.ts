import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { GlobalMemory, stageKernel, TensorMap } from "../../codegen/index.ts";
import { openCuda } from "./cuda-device.ts";
import { kernelRunner, prepareStaged, runOnGpu } from "./staged.ts";
import { buildFakeDriver } from "./testing/fake-driver.ts";

const folder = mkdtempSync(join(tmpdir(), "baleen-staged-"));
after(() => rmSync(folder, { recursive: true }));
const built = buildFakeDriver(folder);
const skip = "absence" in built ? built.absence : false;

/** The stand-in driver's `record` writes down how it was launched. */
const kernel = stageKernel("record", { threads: 96, clusterSize: 2 }, (k) => {
  k.paramPointer("out");
  k.paramU32("count");
  k.paramF32("factor");
  k.paramPointer("other");
  new TensorMap(k, "tensor", { type: "e4m3", box: [64, 16], swizzle: 64 });
  k.shared(5000, 16);
});

test("a staged kernel's launch carries its shape, arguments and maps, and buffers come back", {
  skip,
}, () => {
  assert.ok("library" in built);
  const device = openCuda({ library: built.library, cacheFolder: join(folder, "cache") });
  const memory = new GlobalMemory();
  const out = memory.inout("out", new Uint32Array(64));
  const tensor = memory.input("tensor", new Uint8Array(4096));
  const view = { address: tensor.address, dims: [128, 32], strideBytes: [128] };
  const args = [out.address, 7, 0.5, tensor.address, view];
  runOnGpu(device, kernel, { grid: [4, 2, 1], memory, args });
  const words = out.u32;
  assert.deepEqual([...words.subarray(0, 13)], [1, 4, 2, 1, 96, 1, 1, 5000, 1, 1, 2, 0, 7]);
  assert.equal(out.f32[13], 0.5);
  const longs = new BigUint64Array(words.buffer, 64, 14);
  // Type u8, rank, address, dimensions, stride, box, steps, interleave, swizzle 64, L2 256, fill.
  assert.deepEqual(
    [...longs].map(Number).map((value, i) => (i === 2 ? 0 : value)),
    [0, 2, 0, 128, 32, 128, 64, 16, 1, 1, 0, 2, 3, 0],
  );
  assert.ok(
    longs[2] !== 0n && Number(longs[2]) !== tensor.address,
    "the map names the GPU's memory",
  );
  assert.throws(() => prepareStaged(device, kernel, [2, 1, 1], []), /got 0 arguments, wanted 5/);
  assert.throws(
    () => runOnGpu(device, kernel, { grid: [2, 1, 1], memory, args: [12345, 7, 0.5, 0, view] }),
    /address 12345 is that of no buffer/,
  );
  device.close();
});

test("tests run in the emulator unless they are told otherwise", {
  skip: process.env.BALEEN_GPU ? "they were" : false,
}, () => {
  assert.equal(kernelRunner().onGpu, false);
});
