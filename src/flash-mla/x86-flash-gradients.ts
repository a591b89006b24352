/**
 * @file The machine-code rung of the backward pass: a task is one sequence and key head, so that
 * sums are made in one order whatever the number of threads.
 */
import { ceilDiv } from "../base/index.ts";
import { ArgumentBlock, type Device } from "../device/index.ts";
import { addressOf } from "../native/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { firstVisible, type VarlenSequence } from "./prefill.ts";
import type { BackwardCall } from "./prefill-backward.ts";
import {
  type GradientShape,
  gradientArguments,
  gradientShapeOf,
  gradientTask,
  spanKeys,
} from "./x86-flash-gradient-layout.ts";
import { emitGradientProgram } from "./x86-flash-gradient-program.ts";

interface Workshop {
  readonly programs: Map<string, { readonly shape: GradientShape; readonly kernel: number }>;
  readonly args: ArgumentBlock;
  readonly tasks: ArgumentBlock;
  /** Sums of dk and dv of the tasks of a launch. */
  sums: Float32Array;
}

const workshops = new WeakMap<Device, Workshop>();

function workshopOf(device: Device): Workshop {
  let workshop = workshops.get(device);
  if (workshop === undefined) {
    workshop = {
      programs: new Map(),
      args: new ArgumentBlock(device, gradientArguments.bytes),
      tasks: new ArgumentBlock(device, 16 * gradientTask.bytes),
      sums: new Float32Array(0),
    };
    workshops.set(device, workshop);
  }
  return workshop;
}

/** Float32 sums that a launch keeps at most (256 MiB), unless one task for each thread needs more. */
const sumsMax = 2 ** 26;

/** One sequence and key head. */
interface GradientTask {
  readonly sequence: VarlenSequence;
  readonly headK: number;
  /** Sums of its keys. */
  readonly floats: number;
}

/** Computes the gradients of a checked call. */
export function runBackward(device: Device, call: BackwardCall): void {
  const { headsK, group, dimQk, headDimV } = call;
  const workshop = workshopOf(device);
  const key = `${dimQk} ${headDimV}`;
  let program = workshop.programs.get(key);
  if (program === undefined) {
    const shape = gradientShapeOf(device.isa!, dimQk, headDimV, device.scratchBytes);
    const { code, entry } = emitGradientProgram(shape);
    program = { shape, kernel: device.load(code, "flash-mla gradients") + entry };
    workshop.programs.set(key, program);
  }
  const { shape, kernel } = program;
  const keyFloats = ((shape.slabsK + shape.slabsV) * shape.slabBytes) / 4;
  const tasks: GradientTask[] = [];
  for (const sequence of call.sequences) {
    const floats = ceilDiv(sequence.keys, spanKeys) * spanKeys * keyFloats;
    for (let headK = 0; headK < headsK; headK++) {
      if (group > 0 && sequence.queries + sequence.keys > 0)
        tasks.push({ sequence, headK, floats });
    }
  }
  tasks.sort((x, y) => y.sequence.keys * y.sequence.queries - x.sequence.keys * x.sequence.queries);
  writeArguments(workshop.args, call);
  for (let first = 0; first < tasks.length; ) {
    let [count, floats] = [0, 0];
    while (first + count < tasks.length) {
      const more = tasks[first + count].floats;
      if (count >= device.threads && floats + more > sumsMax) break;
      floats += more;
      count++;
    }
    launch(device, workshop, kernel, call, tasks.slice(first, first + count), floats);
    first += count;
  }
}

/** Runs some tasks with memory for `floats` sums. */
function launch(
  device: Device,
  workshop: Workshop,
  kernel: number,
  call: BackwardCall,
  tasks: readonly GradientTask[],
  floats: number,
): void {
  if (floats > workshop.sums.length || workshop.sums.length === 0) {
    workshop.sums = new Float32Array(device.allocate(4 * Math.max(64, floats)) as ArrayBuffer);
  }
  workshop.tasks.reserve(tasks.length * gradientTask.bytes);
  let sums = addressOf(workshop.sums);
  tasks.forEach((task, i) => {
    writeTask(workshop.tasks, i * gradientTask.bytes, call, task, sums);
    sums += 4 * task.floats;
  });
  workshop.args.setAddress(gradientArguments.tasks, workshop.tasks.address);
  device.launch(kernel, workshop.args.address, tasks.length);
}

function writeArguments(args: ArgumentBlock, call: BackwardCall): void {
  const { group, headsQ, headsK, softmaxScale } = call;
  const at = gradientArguments;
  args.setInt64(at.group, group);
  args.setInt64(at.causal, Number(call.causal));
  const strides = (stride: number, jump: number, tensor: Tensor<"bf16">) => {
    args.setInt64(stride, 2 * tensor.stride);
    args.setInt64(jump, 2 * (headsQ - group) * tensor.stride);
  };
  strides(at.qStride, at.qJump, call.q);
  strides(at.dOutStride, at.dOutJump, call.dOut);
  strides(at.outStride, at.outJump, call.out);
  strides(at.dqStride, at.dqJump, call.dq);
  args.setInt64(at.lseStride, 4);
  args.setInt64(at.lseJump, 4 * (call.lse.stride - group));
  for (const name of ["k", "v", "dk", "dv"] as const) {
    args.setInt64(at[`${name}Stride`], 2 * headsK * call[name].stride);
  }
  args.setFloat32(at.scale, softmaxScale);
  args.setFloat32(at.scale2, softmaxScale * Math.LOG2E);
}

function writeTask(
  tasks: ArgumentBlock,
  at: number,
  call: BackwardCall,
  { sequence, headK }: GradientTask,
  sums: number,
): void {
  const { headsQ, headsK, group } = call;
  const { queryStart, queries, keyStart, keys } = sequence;
  const row = queryStart * headsQ + headK * group;
  for (const name of ["q", "dOut", "out", "dq"] as const) {
    const tensor: Tensor<"bf16"> = call[name];
    tasks.setInt64(at + gradientTask[name], tensor.address + 2 * row * tensor.stride);
  }
  const lse = call.lse.address + 4 * (queryStart * call.lse.stride + headK * group);
  tasks.setInt64(at + gradientTask.lse, lse);
  const keyRow = keyStart * headsK + headK;
  for (const name of ["k", "v", "dk", "dv"] as const) {
    const tensor: Tensor<"bf16"> = call[name];
    tasks.setInt64(at + gradientTask[name], tensor.address + 2 * keyRow * tensor.stride);
  }
  tasks.setInt64(at + gradientTask.rows, queries * group);
  tasks.setInt64(at + gradientTask.keys, keys);
  tasks.setInt64(at + gradientTask.visible, firstVisible(call, sequence));
  tasks.setAddress(at + gradientTask.sums, sums);
}
