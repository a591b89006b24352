/** @file Measures what one thread of this machine can do at most: the yardstick of benchmarks. */
import { assert } from "../base/index.ts";
import { Assembler, mem, rax, rdi, VectorBuilder } from "../codegen/index.ts";
import { addressOf } from "../native/index.ts";
import { ArgumentBlock } from "./argument-block.ts";
import type { Device } from "./device.ts";
import { timeRuns } from "./timing.ts";

/** Processor time of one task of `kernel`, the best of several, in microseconds. */
function bestUs(device: Device, kernel: number, address: number, runs: number): number {
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < runs; run++) {
    const { threadCpuUs } = timeRuns(() => device.launch(kernel, address, 1), {
      warmups: 0,
      runs: 1,
    });
    best = Math.min(best, threadCpuUs);
  }
  return best;
}

/**
 * Float32 operations per second of one thread in fused multiply-adds between registers, two
 * operations each, on the device's widest vectors: what no kernel of float32 can exceed.
 */
export function measureFmaRate(device: Device, runs: number = 15): number {
  assert(device.isa !== undefined, "the rate of machine code: wanted a device that runs it");
  const turns = 20_000;
  const v = new VectorBuilder(new Assembler(), device.isa);
  const count = v.registers - 4;
  v.kernel([], () => {
    const factor = v.take("factor");
    v.fill(factor, 1);
    const sums = v.take("sums", count);
    for (const sum of sums) v.zero(sum);
    v.asm.mov(rax.d, turns);
    v.loop(rax.d, () => {
      for (const sum of sums) v.fma(sum, factor, factor);
    });
  });
  const kernel = device.load(v.asm.finish(), "fma-rate");
  const block = new ArgumentBlock(device, 64);
  const us = bestUs(device, kernel, block.address, runs);
  return (2 * turns * count * v.lanes) / (us / 1e6);
}

/**
 * Bytes per second that one thread reads from a buffer of `bytes` over and over: from the cache
 * that holds it, or from memory where none does.
 */
export function measureReadRate(device: Device, bytes: number, runs: number = 15): number {
  assert(device.isa !== undefined, "the rate of machine code: wanted a device that runs it");
  const v = new VectorBuilder(new Assembler(), device.isa);
  const step = 8 * v.vectorBytes;
  const passes = Math.max(1, Math.floor(2 ** 24 / bytes));
  const steps = Math.max(1, Math.floor(bytes / step));
  v.kernel([], () => {
    const sums = v.take("sums", 8);
    for (const sum of sums) v.zero(sum);
    v.asm.mov(rax, mem(rdi, { disp: 8 }));
    v.asm.mov(rdi, mem(rdi));
    v.loop(rax, () => {
      sums.forEach((sum, i) => {
        v.asm.vaddps(sum, sum, mem(rdi, { disp: i * v.vectorBytes }));
      });
      v.asm.add(rdi, step);
    });
  });
  const kernel = device.load(v.asm.finish(), "read-rate");
  const buffer = new Float32Array(device.allocate(steps * step) as ArrayBuffer).fill(1);
  const block = new ArgumentBlock(device, 64);
  block.setAddress(0, addressOf(buffer));
  block.setInt64(8, steps);
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < runs; run++) {
    const { threadCpuUs } = timeRuns(() => device.launch(kernel, block.address, 1), {
      warmups: 1,
      runs: 1,
      calls: passes,
    });
    best = Math.min(best, threadCpuUs);
  }
  assert(buffer[0] === 1, "the buffer that is read: wanted it kept");
  return (steps * step) / (best / 1e6);
}
