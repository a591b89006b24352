/**
 * @file Times the Hopper products on a GPU: `npm run gpu`. The cache is flushed before each run;
 * medians. Shapes are those of DeepGEMM's tests; the geometric mean is over the dense FP8 ones.
 */
import { randomFillSync } from "node:crypto";
import { alignUp, ceilDiv, medianOf } from "../base/index.ts";
import type { Kernel, TensorView } from "../codegen/index.ts";
import { type CudaBuffer, type CudaDevice, openCuda, prepareStaged } from "../device/index.ts";
import { bf16Arguments, bf16GemmKernel } from "./ptx-bf16.ts";
import { fp8Arguments, fp8GemmKernel } from "./ptx-fp8.ts";
import { hopperFp8Card, planGemm } from "./ptx-heuristics.ts";

const runs = 20;
const flushBytes = 256 * 2 ** 20;
const weightShapes = [
  [2112, 7168],
  [576, 7168],
  [24576, 1536],
  [32768, 512],
  [7168, 16384],
  [4096, 7168],
  [7168, 2048],
] as const;

/** Buffers of one measurement, freed together. */
class Arena {
  private readonly device: CudaDevice;
  private readonly buffers: CudaBuffer[] = [];

  constructor(device: CudaDevice) {
    this.device = device;
  }

  /** Memory whose bytes `make` fills, or that is left as it is. */
  place(bytes: number, make?: (bytes: Uint8Array) => ArrayBufferView): number {
    const buffer = this.device.allocate(alignUp(bytes, 256));
    this.buffers.push(buffer);
    if (make) this.device.upload(buffer, make(new Uint8Array(bytes)));
    return buffer.address;
  }

  free(): void {
    for (const buffer of this.buffers) this.device.free(buffer);
  }
}

/** Random codes of e4m3 or bf16 below 2 in magnitude: the second highest exponent bit is clear. */
const randomCodes = (highByte: number) => (bytes: Uint8Array) => {
  randomFillSync(bytes);
  for (let i = highByte - 1; i < bytes.length; i += highByte) bytes[i] &= 0xbf;
  return bytes;
};
const ones = (bytes: Uint8Array) => new Float32Array(bytes.length / 4).fill(1);

/** Microseconds of a launch, and of its first one. */
function timesOf(
  device: CudaDevice,
  flush: CudaBuffer,
  kernel: Kernel,
  blocks: number,
  args: readonly (number | TensorView)[],
): { us: number; firstMs: number } {
  const start = performance.now();
  const launch = prepareStaged(device, kernel, [blocks, 1, 1], args);
  launch.run(device.stream.handle);
  device.stream.synchronize();
  const firstMs = performance.now() - start;
  const times = Array.from({ length: runs }, () => {
    device.fill(flush, 0);
    return device.time(() => launch.run(device.stream.handle));
  });
  return { us: medianOf(times), firstMs };
}

function report(name: string, us: number, firstMs: number, flops: number, bytes: number): number {
  const tflops = flops / us / 1e6;
  const numbers = [
    us.toFixed(1),
    tflops.toFixed(0),
    (bytes / us / 1e3).toFixed(0),
    firstMs.toFixed(0),
  ];
  console.log(`| ${name.padEnd(44)} | ${numbers.map((text) => text.padStart(8)).join(" | ")} |`);
  return tflops;
}

type Shape = readonly [m: number, n: number, k: number];

function timeFp8(device: CudaDevice, flush: CudaBuffer, [m, n, k]: Shape, groups: number): number {
  const grouping = groups > 1 ? "masked" : "dense";
  const card = { ...hopperFp8Card, numSms: device.multiprocessors };
  const plan = planGemm({ m: m * groups, n }, card);
  const multicast = grouping === "masked" && plan.multicast === "b" ? "none" : plan.multicast;
  const arena = new Arena(device);
  const blocks = ceilDiv(k, 128);
  const maxM = groups > 1 ? 4096 : m;
  const at = {
    a: arena.place(groups * maxM * k, randomCodes(1)),
    b: arena.place(groups * n * k, randomCodes(1)),
    scaleA: arena.place(groups * blocks * alignUp(maxM, 4) * 4, ones),
    scaleB: arena.place(groups * ceilDiv(n, 128) * blocks * 4, ones),
    d: arena.place(groups * maxM * n * 2),
    layout: arena.place(4 * groups, (bytes) => new Int32Array(bytes.length / 4).fill(m)),
  };
  const args = fp8Arguments(at, { m: maxM, n, k, groups }, grouping);
  const kernel = fp8GemmKernel({ ...plan, multicast, grouping });
  const { us, firstMs } = timesOf(device, flush, kernel, plan.blocks, args);
  arena.free();
  const name = `FP8 ${grouping} ${groups > 1 ? `${groups} x ` : ""}${m} x ${n} x ${k}`;
  const bytes = groups * (m * k + n * k + 2 * m * n);
  return report(name, us, firstMs, 2 * groups * m * n * k, bytes);
}

function timeBf16(device: CudaDevice, flush: CudaBuffer, [m, n, k]: Shape): void {
  const card = { ...hopperFp8Card, numSms: device.multiprocessors, macsPerClock: 2048 };
  const plan = planGemm({ m, n }, card);
  const layout = {
    aTransposed: false,
    bTransposed: false,
    output: "bf16",
    accumulate: false,
  } as const;
  const arena = new Arena(device);
  const at = {
    a: arena.place(2 * m * k, randomCodes(2)),
    b: arena.place(2 * n * k, randomCodes(2)),
    d: arena.place(2 * m * n),
  };
  const config = { ...plan, ...layout, grouping: "dense" } as const;
  const args = bf16Arguments(at, { m, n, k, groups: 1 }, config);
  const { us, firstMs } = timesOf(device, flush, bf16GemmKernel(config), plan.blocks, args);
  arena.free();
  report(`bf16 dense ${m} x ${n} x ${k}`, us, firstMs, 2 * m * n * k, 2 * (m * k + n * k + m * n));
}

const device = openCuda();
const flush = device.allocate(flushBytes);
console.log(`\n${device.description}; medians of ${runs} runs, cache flushed before each\n`);
console.log(`| ${"product".padEnd(44)} |       us |   TFLOPS |     GB/s | first ms |`);
console.log(`| ${"-".repeat(44)} | -------: | -------: | -------: | -------: |`);
const dense = [64, 128, 4096].flatMap((m) =>
  weightShapes.map(([n, k]) => timeFp8(device, flush, [m, n, k], 1)),
);
timeFp8(device, flush, [256, 4096, 7168], 4);
timeFp8(device, flush, [256, 7168, 2048], 4);
for (const [n, k] of weightShapes) timeBf16(device, flush, [4096, n, k]);
const mean = Math.exp(dense.reduce((sum, value) => sum + Math.log(value), 0) / dense.length);
console.log(`\nFP8 dense, geometric mean: ${mean.toFixed(0)} TFLOPS`);
device.free(flush);
device.close();
