/**
 * @file Rates of the GEMM kernels against this machine's limits, measured in turn with them since
 * machines are noisy: arithmetic between registers, and reading memory. Weights are cold: several
 * copies take turns, more than caches hold. One thread is timed by its processor time, several by
 * the wall. `--large` runs a square and DeepSeek-V2-Lite's shapes; without it one small shape,
 * which the tests run, too.
 */
import { fileURLToPath } from "node:url";
import { ceilDiv, medianOf } from "../base/index.ts";
import { type Device, openDevice } from "../device/index.ts";
import { processCpuTimeUs } from "../native/index.ts";
import { type Tensor, zeros } from "../tensor/index.ts";
import { type Activations, type GemmGroup, gemm, packWeights } from "./index.ts";
import type { Combination } from "./testing.ts";
import {
  arithmeticLimit,
  type Limit,
  limitTasks,
  readLimit,
  timeOf,
  timeOfLimit,
} from "./testing-limits.ts";

/** A shape of D's columns and the depth, with what multiplies it. */
interface Shape extends Combination {
  readonly name: string;
  readonly n: number;
  readonly k: number;
  /** More than one: so many experts in one launch, each with its own `m` rows. */
  readonly experts: number;
}

function shape(name: string, combination: string, n: number, k: number, experts = 1): Shape {
  const [activation, weights] = combination.split(" x ") as [never, never];
  return { name, activation, weights, n, k, experts };
}

const largeShapes: readonly Shape[] = [
  shape("square", "bf16 x bf16", 4096, 4096),
  shape("square", "f8e4m3 x f8e4m3", 4096, 4096),
  shape("square", "f32 x f32", 4096, 4096),
  shape("square", "f32 x bf16", 4096, 4096),
  shape("square", "f32 x f8e4m3", 4096, 4096),
  shape("query", "f8e4m3 x f8e4m3", 3072, 2048),
  shape("expert up", "f8e4m3 x f8e4m3", 2816, 2048),
  shape("expert down", "f8e4m3 x f8e4m3", 2048, 1408),
  shape("32 experts", "f8e4m3 x f8e4m3", 2816, 2048, 32),
  shape("head", "f32 x bf16", 102400, 2048),
];
const largeRows = [1, 4, 16, 32, 128, 512];
/** Bytes of weights that take turns: several times what caches hold. */
const coldBytes = 192 * 2 ** 20;

/** Launches that do the same work on different weights, so that none finds its own in a cache. */
function copiesOf(device: Device, { activation, weights, n, k, experts }: Shape, isLarge: boolean) {
  const allocate = (bytes: number) => device.allocate(bytes);
  const weight = zeros(weights, [n, k], allocate) as Tensor<"f32">;
  // 1 in f32 and bf16; codes of 1.
  weight.data.fill({ f32: 1, bf16: 0x3f80, f8e4m3: 0x38 }[weights]);
  const scales = zeros("f32", [ceilDiv(n, 128), ceilDiv(k, 128)], allocate);
  scales.data.fill(1);
  const matrix = weights === "f8e4m3" ? { weight, scales } : { weight };
  const pack = () => packWeights(device, [matrix as never], activation);
  const { bytes } = pack();
  const launches = isLarge ? Math.max(1, ceilDiv(coldBytes, bytes * experts)) : 1;
  const packed = Array.from({ length: launches }, () => Array.from({ length: experts }, pack));
  const launchesFor = (m: number): GemmGroup[][] => {
    const a = onesOf(device, activation, m * experts, k);
    const d = zeros("f32", [m * experts, n], allocate);
    return packed.map((all) =>
      all.map((b, i) => ({ a: slice(a, i * m, m), m, b, d: rows(d, i * m, m) })),
    );
  };
  return { bytes: bytes * experts, launchesFor };
}

function rows<D extends "f32" | "bf16">(tensor: Tensor<D>, from: number, m: number): Tensor<D> {
  const start = from * tensor.stride;
  const data = tensor.data.subarray(start) as Tensor<D>["data"];
  const address = tensor.address + start * data.BYTES_PER_ELEMENT;
  return { ...tensor, shape: [m, tensor.shape[1]], data, address };
}

function slice(a: Activations, from: number, m: number): Activations {
  if (a.type === "f32") return { type: a.type, values: rows(a.values, from, m) };
  const values = rows(a.values, from, m);
  if (a.type === "bf16") return { type: a.type, values };
  return { type: a.type, values, scales: rows(a.scales, from, m) };
}

function onesOf(device: Device, type: Activations["type"], m: number, k: number): Activations {
  const allocate = (bytes: number) => device.allocate(bytes);
  if (type === "f32") {
    const values = zeros("f32", [m, k], allocate);
    values.data.fill(1);
    return { type, values };
  }
  const values = zeros("bf16", [m, k], allocate);
  values.data.fill(0x3f80);
  if (type === "bf16") return { type, values };
  const scales = zeros("f32", [m, ceilDiv(k, 128)], allocate);
  scales.data.fill(1);
  return { type, values, scales };
}

/** One line: a shape at `m` rows (of each expert), beside both limits. */
function lineOf(
  device: Device,
  { name, activation, weights, n, k, experts }: Shape,
  m: number,
  { bytes, launchesFor }: ReturnType<typeof copiesOf>,
  limits: { arithmetic: Limit; read: Limit },
  runs: number,
): string {
  const launches = launchesFor(m);
  const [ours, arithmetic, read, cpu]: number[][] = [[], [], [], []];
  for (let run = -launches.length; run < runs; run++) {
    arithmetic.push(timeOfLimit(device, limits.arithmetic));
    read.push(timeOfLimit(device, limits.read));
    const launch = launches[(run + launches.length) % launches.length];
    const before = processCpuTimeUs();
    const us = timeOf(device, () => gemm(device, launch));
    if (run < 0) continue;
    ours.push(us);
    cpu.push(processCpuTimeUs() - before);
  }
  const us = medianOf(ours);
  const rate = (2 * m * experts * n * k) / us;
  const peak = (limits.arithmetic.amount * limitTasks * device.threads) / medianOf(arithmetic);
  const speed = bytes / us;
  const memory = (limits.read.amount * limitTasks * device.threads) / medianOf(read);
  // What the slower of the two limits would take, as a share of what it took.
  const roof = Math.max(rate / peak, speed / memory);
  const number = (value: number, digits: number, width: number) =>
    value.toFixed(digits).padStart(width);
  return [
    `${device.threads}T ${name.padEnd(11)} ${`${activation} x ${weights}`.padEnd(15)}`,
    `${n} x ${k}`.padStart(13),
    `m${number(m, 0, 4)}`,
    `${number(us, 0, 8)} us (cpu ${number(medianOf(cpu), 0, 7)})`,
    `${number(rate / 1e3, 0, 5)} GFLOP/s ${number((100 * rate) / peak, 0, 3)} % of peak`,
    `${number(speed / 1e3, 1, 5)} GB/s ${number((100 * speed) / memory, 0, 3)} % of memory`,
    `${number(100 * roof, 0, 4)} % of the roof`,
  ].join("  ");
}

/** Runs the benchmark, one line of text at a time. */
export function benchGemm(isLarge: boolean, print: (line: string) => void): void {
  const shapes = isLarge ? largeShapes : [shape("small", "f8e4m3 x f8e4m3", 192, 256, 2)];
  const threadCounts = isLarge ? [1, openDevice().threads] : [1];
  for (const threads of new Set(threadCounts)) {
    const device = openDevice({ threads });
    if (device.isa === undefined) {
      print(`not measured: ${device.description}`);
      return;
    }
    const read = readLimit(device);
    print(`${device.description}; limits are measured in turn with every line`);
    for (const one of shapes) {
      const arithmetic = arithmeticLimit(device, one.activation !== "f32");
      const copies = copiesOf(device, one, isLarge);
      for (const m of isLarge ? largeRows : [1, 7]) {
        if (one.experts > 1 && m > 128) continue;
        const runs = isLarge ? (m > 100 ? 7 : 15) : 1;
        print(lineOf(device, one, m, copies, { arithmetic, read }, runs));
      }
    }
    device.close();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  benchGemm(process.argv.includes("--large"), console.log);
}
