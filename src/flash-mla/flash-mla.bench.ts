/**
 * @file Rates of the attention kernel on one thread, by its processor time: what share of the
 * float32 peak it reaches. `--large` runs DeepSeek's shapes; without it a small one, which the
 * tests run, too. No peer computes paged latent attention alone on a processor, so the machine is
 * the yardstick.
 */
import { fileURLToPath } from "node:url";
import { ceilDiv, Random } from "../base/index.ts";
import { type Device, measureFmaRate, openDevice, timeRuns } from "../device/index.ts";
import { zeros } from "../tensor/index.ts";
import { type MlaCall, mlaAttention, pageTokens } from "./index.ts";

/** One line of the benchmark. */
interface Shape {
  readonly name: string;
  readonly heads: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly sequences: number;
  readonly queryCount: number;
  readonly contextLength: number;
}

const widths = { dimQk: 576, headDimV: 512 };
const large: readonly Shape[] = [
  { name: "V2-Lite decode, 1 stream", heads: 16, ...widths, ...lengths(1, 1, 4096) },
  { name: "V2-Lite decode, 16 streams", heads: 16, ...widths, ...lengths(16, 1, 1024) },
  { name: "V2-Lite prefill", heads: 16, ...widths, ...lengths(1, 256, 256) },
  { name: "V2-Lite chunk of 64", heads: 16, ...widths, ...lengths(1, 64, 2048) },
  { name: "V3 decode, 1 stream", heads: 128, ...widths, ...lengths(1, 1, 2048) },
  { name: "small model, prefill", heads: 4, dimQk: 160, headDimV: 128, ...lengths(1, 512, 512) },
  { name: "small model, decode", heads: 4, dimQk: 160, headDimV: 128, ...lengths(1, 1, 512) },
];
const small: readonly Shape[] = [
  { name: "small model, chunk", heads: 4, dimQk: 96, headDimV: 64, ...lengths(2, 8, 100) },
];

function lengths(
  sequences: number,
  queryCount: number,
  contextLength: number,
): Pick<Shape, "sequences" | "queryCount" | "contextLength"> {
  return { sequences, queryCount, contextLength };
}

function makeCall(device: Device, shape: Shape, dtype: "f32" | "bf16"): MlaCall {
  const random = new Random(1);
  const { heads, dimQk, headDimV, queryCount, contextLength } = shape;
  const tokens = shape.sequences * queryCount;
  const pages = ceilDiv(contextLength, pageTokens);
  const order = random.shuffle(Array.from({ length: shape.sequences * pages }, (_, i) => i));
  const cacheShape = [order.length, pageTokens, dimQk];
  const kvCache =
    dtype === "f32"
      ? zeros(dtype, cacheShape, device.allocate)
      : zeros(dtype, cacheShape, device.allocate);
  const q = zeros("f32", [tokens, heads, dimQk], device.allocate);
  for (let i = 0; i < q.data.length; i++) q.data[i] = random.uniform() - 0.5;
  for (let i = 0; i < kvCache.data.length; i++) {
    kvCache.data[i] = dtype === "f32" ? random.uniform() - 0.5 : 0x3e00 + random.below(256);
  }
  return {
    q,
    kvCache,
    sequences: Array.from({ length: shape.sequences }, (_, i) => ({
      queryStart: i * queryCount,
      queryCount,
      contextLength,
      blockTable: Int32Array.from(order.slice(i * pages, (i + 1) * pages)),
    })),
    headDimV,
    softmaxScale: 1 / Math.sqrt(dimQk),
    out: zeros("f32", [tokens, heads, headDimV], device.allocate),
  };
}

/** Operations of a call that the causal mask leaves: two per multiplication. */
function operationsOf({ sequences, queryCount, contextLength, heads, ...shape }: Shape): number {
  let keys = 0;
  for (let i = 0; i < queryCount; i++) keys += contextLength - queryCount + i + 1;
  return 2 * sequences * keys * heads * (shape.dimQk + shape.headDimV);
}

/** Runs the benchmark, one line of text at a time. */
export function benchMla(isLarge: boolean, print: (line: string) => void): void {
  const device = openDevice({ threads: 1 });
  if (device.rung === "reference") {
    print(`not measured: ${device.description}`);
    return;
  }
  const runs = isLarge ? 25 : 2;
  const peak = measureFmaRate(device, runs);
  print(`${device.description}; float32 peak ${(peak / 1e9).toFixed(0)} GFLOP/s`);
  for (const shape of isLarge ? large : small) {
    for (const dtype of ["f32", "bf16"] as const) {
      const call = makeCall(device, shape, dtype);
      const { threadCpuUs } = timeRuns(() => mlaAttention(device, call), { runs });
      const rate = operationsOf(shape) / (threadCpuUs / 1e6);
      const bytes = shape.sequences * shape.contextLength * shape.dimQk * (dtype === "f32" ? 4 : 2);
      print(
        `${shape.name.padEnd(28)} ${dtype.padEnd(5)} ` +
          `${(threadCpuUs / 1e3).toFixed(3).padStart(8)} ms ` +
          `${(rate / 1e9).toFixed(1).padStart(6)} GFLOP/s ` +
          `${((100 * rate) / peak).toFixed(0).padStart(3)} % of peak ` +
          `${(bytes / threadCpuUs / 1e3).toFixed(2).padStart(6)} GB/s of cache`,
      );
    }
  }
  device.close();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  benchMla(process.argv.includes("--large"), console.log);
}
