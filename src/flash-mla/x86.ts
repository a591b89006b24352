/** @file The machine-code rung: plans tasks, writes their records, launches the kernel. */
import { assert, ceilDiv } from "../base/index.ts";
import { ArgumentBlock, type Device } from "../device/index.ts";
import { type Tensor, zeros } from "../tensor/index.ts";
import type { MlaShape } from "./checks.ts";
import { type MlaTask, planTasks } from "./heuristics.ts";
import { type MlaCall, pageTokens } from "./types.ts";
import { argumentLayout, emitMlaKernel, groupBytes, taskLayout } from "./x86-kernel.ts";
import { groupRowsOf, type MlaKernelSpec } from "./x86-tiles.ts";

/**
 * The most groups of a task: with 4 rows each, their queries and results and one block of keys of
 * DeepSeek's widths fill about half of a second-level cache of 1 MiB.
 */
const groupsMax = 16;

/** What this room keeps on a device. */
interface Workshop {
  readonly kernels: Map<string, number>;
  readonly args: ArgumentBlock;
  readonly tasks: ArgumentBlock;
  /** Page ids of the call's sequences, one after another. */
  tables: Tensor<"i32">;
}

const workshops = new WeakMap<Device, Workshop>();

function workshopOf(device: Device): Workshop {
  let workshop = workshops.get(device);
  if (workshop === undefined) {
    workshop = {
      kernels: new Map(),
      args: new ArgumentBlock(device, argumentLayout.bytes),
      tasks: new ArgumentBlock(device, 64 * taskLayout.bytes),
      tables: zeros("i32", [1024], device.allocate),
    };
    workshops.set(device, workshop);
  }
  return workshop;
}

function kernelOf(device: Device, kernels: Map<string, number>, spec: MlaKernelSpec): number {
  const key = Object.values(spec).join(" ");
  let kernel = kernels.get(key);
  if (kernel === undefined) {
    kernel = device.load(emitMlaKernel(spec, device.isa!), `mla-${key.replaceAll(" ", "-")}`);
    kernels.set(key, kernel);
  }
  return kernel;
}

/**
 * Copies the page ids where the kernel can read them; gives the address of each sequence's first.
 */
function writeTables(device: Device, workshop: Workshop, call: MlaCall): number[] {
  const counts = call.sequences.map(({ contextLength }) => ceilDiv(contextLength, pageTokens));
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total > workshop.tables.data.length) {
    workshop.tables = zeros("i32", [2 * total], device.allocate);
  }
  const { data, address } = workshop.tables;
  let start = 0;
  return call.sequences.map(({ blockTable }, i) => {
    data.set(blockTable.subarray(0, counts[i]), start);
    start += counts[i];
    return address + 4 * (start - counts[i]);
  });
}

function writeTask(
  tasks: ArgumentBlock,
  index: number,
  task: MlaTask,
  table: number,
  call: MlaCall,
  rowsOfGroup: number,
): void {
  const { q, out, lse } = call;
  const heads = q.shape[1];
  const parts = ceilDiv(heads, rowsOfGroup);
  const { queryStart, queryCount, contextLength } = call.sequences[task.sequence];
  const query = Math.floor(task.firstGroup / parts);
  const part = task.firstGroup % parts;
  const token = queryStart + query;
  const head = part * rowsOfGroup;
  const at = index * taskLayout.bytes;
  tasks.setAddress(at + taskLayout.blockTable, table);
  tasks.setAddress(at + taskLayout.q, q.address + 4 * (token * heads + head) * q.stride);
  tasks.setAddress(at + taskLayout.out, out.address + 4 * (token * heads + head) * out.stride);
  tasks.setInt64(at + taskLayout.lse, lse ? lse.address + 4 * (token * lse.stride + head) : 0);
  tasks.setInt64(at + taskLayout.visible, contextLength - queryCount + query + 1);
  tasks.setInt64(at + taskLayout.part, part);
  tasks.setInt64(at + taskLayout.groups, task.groups);
  tasks.setInt64(at + taskLayout.blocks, task.blocks);
}

/** See `mlaAttention` of the door; the call is checked. */
export function mlaAttention(device: Device, call: MlaCall, shape: MlaShape): void {
  const { q, kvCache, out, lse } = call;
  const rowsOfGroup = groupRowsOf(device.isa!);
  const groupsFit = Math.floor(device.scratchBytes / groupBytes);
  assert(groupsFit > 0, () => `scratchBytes: got ${device.scratchBytes}, wanted ${groupBytes}`);
  const tasks = planTasks(call.sequences, {
    threads: device.threads,
    groupsPerQuery: ceilDiv(shape.heads, rowsOfGroup),
    groupsMax: Math.min(groupsMax, groupsFit),
  });
  if (tasks.length === 0) return;
  const workshop = workshopOf(device);
  const kernel = kernelOf(device, workshop.kernels, {
    dtype: kvCache.dtype,
    heads: shape.heads,
    dimQk: shape.dimQk,
    headDimV: shape.headDimV,
    qStride: q.stride,
    outStride: out.stride,
    kvStride: kvCache.stride,
    lseStride: lse?.stride ?? 0,
  });
  const tables = writeTables(device, workshop, call);
  workshop.tasks.reserve(tasks.length * taskLayout.bytes);
  tasks.forEach((task, i) => {
    writeTask(workshop.tasks, i, task, tables[task.sequence], call, rowsOfGroup);
  });
  workshop.args.setAddress(argumentLayout.tasks, workshop.tasks.address);
  workshop.args.setInt64(argumentLayout.kvCache, kvCache.address);
  workshop.args.setFloat32(argumentLayout.softmaxScale, call.softmaxScale);
  device.launch(kernel, workshop.args.address, tasks.length);
}
