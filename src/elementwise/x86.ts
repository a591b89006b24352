/**
 * @file The machine-code rung: kernels made on demand, arguments written, rows split over the pool.
 */
import { assert } from "../base/index.ts";
import { ArgumentBlock, type Device } from "../device/index.ts";
import { bytesPerElement, type Tensor, zeros } from "../tensor/index.ts";
import { adamFactors } from "./adam.ts";
import { firstStep } from "./checks.ts";
import { finishRow, targetLogits } from "./cross-entropy.ts";
import { Gate, type Routing } from "./gate.ts";
import * as reference from "./reference.ts";
import type { AdamStep, Combination, CrossEntropy, Rotation, Sink } from "./types.ts";
import { adamArguments, adamFactorNames, emitAdam } from "./x86-adam.ts";
import { CrossEntropyRow, lossBytes } from "./x86-cross-entropy.ts";
import { emitGate, gateArguments, gateFits, gateScratchBytes } from "./x86-gate.ts";
import { add, Combine, copy, RmsNorm, swiglu as swigluOperation, widen } from "./x86-operations.ts";
import {
  emitGather,
  emitRotate,
  gatherArguments,
  rotateArguments,
  rotateScratchBytes,
} from "./x86-rotate.ts";
import {
  RowKernel,
  type RowOperation,
  type RowSpec,
  rowArguments,
  rowScratch,
} from "./x86-rows.ts";

/** What this room keeps on a device. */
interface Workshop {
  readonly kernels: Map<string, number>;
  readonly args: ArgumentBlock;
  /** What kernels find out about rows; grows. */
  results: Tensor<"f32">;
}

const workshops = new WeakMap<Device, Workshop>();

function workshopOf(device: Device): Workshop {
  let workshop = workshops.get(device);
  if (workshop === undefined) {
    const args = new ArgumentBlock(device, rowArguments.bytes);
    workshop = { kernels: new Map(), args, results: zeros("f32", [16], device.allocate) };
    workshops.set(device, workshop);
  }
  return workshop;
}

function kernelOf(device: Device, key: string, emit: () => Uint8Array): number {
  const { kernels } = workshopOf(device);
  let kernel = kernels.get(key);
  if (kernel === undefined) {
    kernel = device.load(emit(), key.replaceAll(" ", "-"));
    kernels.set(key, kernel);
  }
  return kernel;
}

/** Elements below which a task is not worth another thread: a few microseconds of work. */
const taskElements = 16384;

/** Rows of a task: all of them where there is little to do. */
function rowsPerTask(device: Device, rows: number, elements: number): number {
  const tasks = Math.min(4 * device.threads, rows, Math.floor((rows * elements) / taskElements));
  return Math.ceil(rows / Math.max(1, tasks));
}

/**
 * Launches a kernel whose first two arguments are rows and rows per task; `elements` is a row's.
 */
function launch(device: Device, kernel: number, rows: number, elements: number): void {
  const { args } = workshopOf(device);
  const perTask = rowsPerTask(device, rows, elements);
  args.setInt64(rowArguments.rows, rows);
  args.setInt64(rowArguments.rowsPerTask, perTask);
  device.launch(kernel, args.address, Math.ceil(rows / perTask));
}

function checkScratch(device: Device, bytes: number): void {
  const got = device.scratchBytes;
  assert(got >= bytes, () => `scratchBytes of the device: got ${got}, wanted at least ${bytes}`);
}

function strideBytes(tensor: Tensor): number {
  return tensor.stride * bytesPerElement[tensor.dtype];
}

interface RowCall {
  readonly name: string;
  /** Makes the operation, when a kernel is needed. */
  readonly operation: () => RowOperation;
  readonly columns: number;
  readonly rows: number;
  readonly sources: readonly Tensor[];
  readonly sink: Sink | { readonly type: "none" };
  readonly indexed?: RowSpec["indexed"];
  readonly rowIndex?: Tensor<"i32"> | undefined;
}

function launchRows(device: Device, call: RowCall): void {
  const { name, columns, rows, sources, sink, rowIndex } = call;
  checkScratch(device, rowScratch.bytes);
  if (rows === 0 || columns === 0) return;
  const indexed = rowIndex === undefined ? "no" : (call.indexed ?? "sink");
  const powers = sink.type === "f8e4m3" && sink.powerOfTwoScales === true;
  const sinkType = sink.type === "f8e4m3" && powers ? "f8e4m3 powers" : sink.type;
  const kernel = kernelOf(device, `${name} ${columns} ${sinkType} ${indexed}`, () => {
    const spec = { columns, sink: sinkType, indexed } as const;
    return new RowKernel(device.isa!, spec, call.operation()).emit();
  });
  const { args } = workshopOf(device);
  const at = rowArguments;
  sources.forEach((source, i) => {
    args.setAddress(i === 0 ? at.source0 : at.source1, source.address);
    // A vector serves all rows alike.
    const stride = source.shape.length === 1 ? 0 : strideBytes(source);
    args.setInt64(i === 0 ? at.stride0 : at.stride1, stride);
  });
  if (sink.type !== "none") {
    args.setAddress(at.values, sink.values.address);
    args.setInt64(at.valuesStride, strideBytes(sink.values));
  }
  if (sink.type === "f8e4m3") {
    args.setAddress(at.scales, sink.scales.address);
    args.setInt64(at.scalesStride, strideBytes(sink.scales));
  }
  if (rowIndex !== undefined) args.setAddress(at.rowIndex, rowIndex.address);
  launch(device, kernel, rows, columns);
}

/** See `castRows` of the door; here and below the operands are checked. */
export function castRows(device: Device, x: Tensor<"f32">, rows: number, sink: Sink): void {
  const columns = x.shape.at(-1) ?? 0;
  launchRows(device, { name: "cast", operation: () => copy, columns, rows, sources: [x], sink });
}

/** See `rmsNorm` of the door. */
export function rmsNorm(
  device: Device,
  x: Tensor<"f32">,
  weight: Tensor<"f32">,
  eps: number,
  rows: number,
  sink: Sink,
  toRows?: Tensor<"i32">,
): void {
  launchRows(device, {
    name: `rms-norm ${eps}`,
    operation: () => new RmsNorm(eps),
    columns: weight.shape[0],
    rows,
    sources: [x, weight],
    sink,
    rowIndex: toRows,
  });
}

/** See `swiglu` of the door. */
export function swiglu(
  device: Device,
  gate: Tensor<"f32">,
  up: Tensor<"f32">,
  rows: number,
  sink: Sink,
): void {
  launchRows(device, {
    name: "swiglu",
    operation: () => swigluOperation,
    columns: gate.shape.at(-1) ?? 0,
    rows,
    sources: [gate, up],
    sink,
  });
}

/** See `addRows` of the door. */
export function addRows(device: Device, x: Tensor<"f32">, rows: number, to: Tensor<"f32">): void {
  launchRows(device, {
    name: "add",
    operation: () => add,
    columns: x.shape.at(-1) ?? 0,
    rows,
    sources: [to, x],
    sink: { type: "f32", values: to },
  });
}

/** See `combineExperts` of the door. */
export function combineExperts(device: Device, call: Combination): void {
  const { y, slotOf, weights, shared, tokens, to } = call;
  const k = slotOf.shape[1];
  assert(8 * k <= rowScratch.keptBytes, () => `experts of a token: got ${k}, wanted at most 512`);
  const { args } = workshopOf(device);
  const at = rowArguments;
  args.setInt64(at.experts, y.address);
  args.setInt64(at.expertsStride, strideBytes(y));
  args.setInt64(at.slots, slotOf.address);
  args.setInt64(at.slotsStride, strideBytes(slotOf));
  args.setInt64(at.weights, weights.address);
  args.setInt64(at.weightsStride, strideBytes(weights));
  launchRows(device, {
    name: `combine ${k} ${shared === undefined ? "alone" : "shared"}`,
    operation: () => new Combine(k, shared !== undefined),
    columns: y.shape.at(-1) ?? 0,
    rows: tokens,
    sources: shared === undefined ? [to] : [to, shared],
    sink: { type: "f32", values: to },
  });
}

/** See `gatherRows` of the door. */
export function gatherRows(
  device: Device,
  from: Tensor<"f32"> | Tensor<"bf16">,
  index: Tensor<"i32">,
  rows: number,
  to: Tensor<"f32"> | Tensor<"bf16">,
): void {
  const columns = from.shape.at(-1) ?? 0;
  if (rows === 0 || columns === 0) return;
  if (from.dtype !== to.dtype && to.dtype === "f32") {
    launchRows(device, {
      name: "widen",
      operation: () => widen,
      columns,
      rows,
      sources: [from],
      sink: { type: "f32", values: to },
      indexed: "source",
      rowIndex: index,
    });
    return;
  }
  const kernel = kernelOf(device, "gather", () => emitGather(device.isa!));
  const { args } = workshopOf(device);
  const at = gatherArguments;
  args.setAddress(at.from, from.address);
  args.setInt64(at.fromStride, strideBytes(from));
  args.setAddress(at.to, to.address);
  args.setInt64(at.toStride, strideBytes(to));
  args.setAddress(at.index, index.address);
  args.setInt64(at.rowBytes, columns * bytesPerElement[from.dtype]);
  launch(device, kernel, rows, columns);
}

/** See `rotate` of the door. */
export function rotate(device: Device, call: Rotation): void {
  const { from, to, heads, dim, cosSin, positions, tokens, toRows } = call;
  if (tokens === 0 || heads === 0 || dim === 0) return;
  const scattered = toRows !== undefined;
  checkScratch(device, rotateScratchBytes(dim));
  const key = `rotate ${dim} ${to.dtype} ${scattered ? "scattered" : "in order"}`;
  const kernel = kernelOf(device, key, () => {
    return emitRotate({ dim, to: to.dtype, scattered }, device.isa!);
  });
  const { args } = workshopOf(device);
  const at = rotateArguments;
  args.setAddress(at.from, from.address);
  args.setInt64(at.fromStride, 4 * firstStep(from));
  args.setInt64(at.fromHeadStride, 4 * call.fromHeadStride);
  args.setAddress(at.to, to.address);
  args.setInt64(at.toStride, firstStep(to) * bytesPerElement[to.dtype]);
  args.setInt64(at.toHeadStride, call.toHeadStride * bytesPerElement[to.dtype]);
  args.setInt64(at.heads, heads);
  args.setAddress(at.cosSin, cosSin.address);
  args.setInt64(at.cosSinStride, strideBytes(cosSin));
  args.setAddress(at.positions, positions.address);
  if (toRows !== undefined) args.setAddress(at.toRows, toRows.address);
  launch(device, kernel, tokens, heads * dim);
}

/** See `adamStep` of the door. */
export function adamStep(device: Device, call: AdamStep): void {
  const { count, factors } = adamFactors(call);
  if (count === 0) return;
  const decay = call.decay ?? "decoupled";
  const kernel = kernelOf(device, `adam ${decay}`, () => emitAdam(decay, device.isa!));
  const { args } = workshopOf(device);
  for (const what of ["parameters", "gradients", "firstMoment", "secondMoment"] as const) {
    args.setAddress(adamArguments[what], call[what].address);
  }
  adamFactorNames.forEach((name, i) => {
    args.setFloat32(adamArguments.factors + 4 * i, factors[name]);
  });
  launch(device, kernel, count, 1);
}

/** Memory for what a kernel finds out, of at least `words` floats. */
function resultsOf(device: Device, words: number): Tensor<"f32"> {
  const workshop = workshopOf(device);
  if (workshop.results.data.length < words) {
    workshop.results = zeros("f32", [2 * words], device.allocate);
  }
  return workshop.results;
}

/** See `routeTokens` of the door. */
export function routeTokens(device: Device, call: Routing): void {
  const { config, logits, tokens, ids, weights } = call;
  if (tokens === 0) return;
  if (!gateFits(config) || device.scratchBytes < gateScratchBytes(config)) {
    reference.routeTokens(call);
    return;
  }
  const { numExperts, topK, numGroups, topkGroups, scoring, groupScore, correctionBias } = config;
  const sizes = `${numExperts} ${topK} ${numGroups} ${topkGroups} ${config.scale}`;
  const words = `${scoring} ${groupScore} ${config.normalise ? "normalised" : "as is"}`;
  const key = `gate ${sizes} ${words} ${correctionBias ? "biased" : "plain"}`;
  const kernel = kernelOf(device, key, () => emitGate(config, device.isa!));
  const { args } = workshopOf(device);
  const marks = resultsOf(device, tokens);
  const at = gateArguments;
  args.setAddress(at.logits, logits.address);
  args.setInt64(at.logitsStride, strideBytes(logits));
  if (correctionBias) args.setAddress(at.bias, correctionBias.address);
  args.setAddress(at.ids, ids.address);
  args.setInt64(at.idsStride, strideBytes(ids));
  args.setAddress(at.weights, weights.address);
  args.setInt64(at.weightsStride, strideBytes(weights));
  args.setAddress(at.marks, marks.address);
  // A gate's element costs several times what an element of a row kernel does.
  launch(device, kernel, tokens, 8 * config.numExperts);
  const marked = new Int32Array(marks.data.buffer, marks.data.byteOffset, tokens);
  let gate: Gate | undefined;
  for (let t = 0; t < tokens; t++) {
    if (marked[t] === 0) continue;
    gate ??= new Gate(config);
    gate.route(call, t);
  }
}

/** See `softmaxCrossEntropy` of the door. */
export function softmaxCrossEntropy(device: Device, call: CrossEntropy): void {
  const { logits, rows, gradient, scale = 1 } = call;
  const { args } = workshopOf(device);
  const results = resultsOf(device, (rows * lossBytes) / 4);
  const atTargets = targetLogits(call);
  args.setInt64(rowArguments.results, results.address);
  args.setFloat32(rowArguments.scale, scale);
  launchRows(device, {
    name: gradient === undefined ? "cross-entropy" : "cross-entropy-gradient",
    operation: () => new CrossEntropyRow(gradient !== undefined),
    columns: logits.shape.at(-1) ?? 0,
    rows,
    sources: [logits],
    sink: gradient === undefined ? { type: "none" } : { type: "f32", values: gradient },
  });
  const { buffer, byteOffset } = results.data;
  const sums = new Float64Array(buffer, byteOffset, (rows * lossBytes) / 8);
  for (let r = 0; r < rows; r++) {
    finishRow(
      call,
      r,
      atTargets[r],
      results.data[(r * lossBytes + 8) / 4],
      sums[(r * lossBytes) / 8],
    );
  }
}
