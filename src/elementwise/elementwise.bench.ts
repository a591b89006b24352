/**
 * @file Rates of the element-wise kernels on one thread, by its processor time: bytes read and
 * written against what the thread can read from a buffer of that size. `--large` runs a batch and a
 * single row of DeepSeek-V2-Lite's widths; without it a small batch, which the tests run, too.
 */
import { fileURLToPath } from "node:url";
import { ceilDiv, Random } from "../base/index.ts";
import { type Device, measureReadRate, openDevice, timeRuns } from "../device/index.ts";
import { columnsOf, type Tensor, zeros } from "../tensor/index.ts";
import { Gate } from "./gate.ts";
import {
  adamStep,
  addRows,
  castRows,
  combineExperts,
  gatherRows,
  rmsNorm,
  rotate,
  routeTokens,
  type Sink,
  softmaxCrossEntropy,
  swiglu,
} from "./index.ts";

/** One line of the benchmark: what it runs, and the bytes that this reads and writes. */
interface Line {
  readonly name: string;
  readonly bytes: number;
  readonly run: () => void;
}

const experts = 6;
const heads = 16;
const rotaryDim = 64;

function matrix(device: Device, rows: number, columns: number): Tensor<"f32"> {
  const random = new Random(rows + columns);
  const tensor = zeros("f32", [rows, columns], device.allocate);
  for (let i = 0; i < tensor.data.length; i++) tensor.data[i] = random.uniform() * 4 - 2;
  return tensor;
}

function index(device: Device, shape: readonly number[], bound: number): Tensor<"i32"> {
  const tensor = zeros("i32", shape, device.allocate);
  tensor.data.forEach((_, i) => {
    tensor.data[i] = (i * 7919) % bound;
  });
  return tensor;
}

function sinks(
  device: Device,
  rows: number,
  columns: number,
): [name: string, Sink, bytes: number][] {
  const size = rows * columns;
  const groups = ceilDiv(columns, 128);
  return [
    ["f32", { type: "f32", values: zeros("f32", [rows, columns], device.allocate) }, 4 * size],
    ["bf16", { type: "bf16", values: zeros("bf16", [rows, columns], device.allocate) }, 2 * size],
    [
      "f8e4m3",
      {
        type: "f8e4m3",
        values: zeros("bf16", [rows, 128 * groups], device.allocate),
        scales: zeros("f32", [rows, groups], device.allocate),
      },
      2 * size + 4 * rows * groups,
    ],
  ];
}

function* linesOf(device: Device, rows: number, hidden: number): Generator<Line> {
  const x = matrix(device, rows, hidden);
  const weight = { ...matrix(device, 1, hidden), shape: [hidden] };
  const both = matrix(device, rows, 2 * hidden);
  const [gate, up] = [columnsOf(both, 0, hidden), columnsOf(both, hidden, 2 * hidden)];
  const size = rows * hidden;
  for (const [name, sink, bytes] of sinks(device, rows, hidden)) {
    const line = (what: string, read: number, run: () => void): Line => {
      return { name: `${what} to ${name}`, bytes: read + bytes, run };
    };
    yield line("castRows", 4 * size, () => castRows(device, x, rows, sink));
    yield line("rmsNorm", 4 * size, () => rmsNorm(device, x, weight, 1e-6, rows, sink));
    yield line("swiglu", 8 * size, () => swiglu(device, gate, up, rows, sink));
  }
  const to = matrix(device, rows, hidden);
  const y = matrix(device, rows * experts, hidden);
  const combination = {
    y,
    slotOf: index(device, [rows, experts], rows * experts),
    weights: matrix(device, rows, experts),
    shared: x,
    tokens: rows,
    to,
  };
  const combined = 4 * size * (experts + 3);
  yield { name: "combineExperts", bytes: combined, run: () => combineExperts(device, combination) };
  yield { name: "addRows", bytes: 12 * size, run: () => addRows(device, x, rows, to) };
  const rowOf = index(device, [rows], rows);
  yield { name: "gatherRows", bytes: 8 * size, run: () => gatherRows(device, x, rowOf, rows, to) };
  const q = matrix(device, rows, heads * rotaryDim);
  const rotation = {
    from: q,
    fromHeadStride: rotaryDim,
    to: q,
    toHeadStride: rotaryDim,
    heads,
    dim: rotaryDim,
    cosSin: matrix(device, 512, rotaryDim),
    positions: index(device, [rows], 512),
    tokens: rows,
  };
  yield { name: "rotate", bytes: 8 * q.data.length, run: () => rotate(device, rotation) };
}

/** DeepSeek-V3's gate, beside the plain TypeScript that decides where machine code can't. */
function* gateLines(device: Device, tokens: number): Generator<Line> {
  const [numExperts, topK] = [256, 8];
  const config = {
    numExperts,
    topK,
    numGroups: 8,
    topkGroups: 4,
    scoring: "sigmoid",
    groupScore: "top2-sum",
    normalise: true,
    scale: 2.5,
    correctionBias: { ...matrix(device, 1, numExperts), shape: [numExperts] },
  } as const;
  const ids = zeros("i32", [tokens, topK], device.allocate);
  const weights = zeros("f32", [tokens, topK], device.allocate);
  const call = { config, logits: matrix(device, tokens, numExperts), tokens, ids, weights };
  const bytes = 4 * tokens * (numExperts + 2 * topK);
  yield { name: "routeTokens", bytes, run: () => routeTokens(device, call) };
  const gate = new Gate(config);
  const run = (): void => {
    for (let t = 0; t < tokens; t++) gate.route(call, t);
  };
  yield { name: "without kernel", bytes, run };
}

/** What only training needs. */
function* trainingLines(device: Device, rows: number, classes: number): Generator<Line> {
  const logits = matrix(device, rows, classes);
  const gradient = matrix(device, rows, classes);
  const losses = zeros("f32", [rows], device.allocate);
  const call = { logits, targets: index(device, [rows], classes), rows, losses };
  const bytes = 4 * rows * classes;
  yield { name: "crossEntropy", bytes, run: () => softmaxCrossEntropy(device, call) };
  const both = { ...call, gradient };
  const name = "with gradient";
  yield { name, bytes: 2 * bytes, run: () => softmaxCrossEntropy(device, both) };
  const adam = {
    parameters: logits,
    gradients: gradient,
    firstMoment: matrix(device, rows, classes),
    secondMoment: zeros("f32", [rows, classes], device.allocate),
    step: 10,
    learningRate: 1e-6,
    weightDecay: 0.1,
  };
  yield { name: "adamStep", bytes: 7 * bytes, run: () => adamStep(device, adam) };
}

/** Runs the benchmark, one line of text at a time. */
export function benchElementwise(isLarge: boolean, print: (line: string) => void): void {
  const device = openDevice({ threads: 1 });
  if (device.rung === "reference") {
    print(`not measured: ${device.description}`);
    return;
  }
  print(device.description);
  const runs = isLarge ? 15 : 2;
  for (const [rows, hidden] of isLarge
    ? [
        [256, 2048],
        [1, 2048],
      ]
    : [[5, 96]]) {
    const lines = [
      linesOf(device, rows, hidden),
      gateLines(device, rows),
      trainingLines(device, rows, 16 * hidden),
    ];
    for (const { name, bytes, run } of lines.flatMap((part) => [...part])) {
      const calls = Math.max(1, Math.floor((isLarge ? 2 ** 22 : 1) / bytes));
      const { threadCpuUs } = timeRuns(run, { runs, calls });
      const rate = bytes / (threadCpuUs / 1e6);
      const limit = measureReadRate(device, bytes, runs);
      print(
        `${`${rows} x ${hidden}`.padEnd(11)} ${name.padEnd(18)} ` +
          `${threadCpuUs.toFixed(2).padStart(8)} us ${(rate / 1e9).toFixed(1).padStart(6)} GB/s ` +
          `${((100 * rate) / limit).toFixed(0).padStart(4)} % of the read rate`,
      );
    }
  }
  device.close();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  benchElementwise(process.argv.includes("--large"), console.log);
}
