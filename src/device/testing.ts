/**
 * @file Puts a device's pool to the test, for this room's tests and the programs they start: random
 * jobs of a kernel that takes random time and leaves evidence of every run.
 */

import { assert, Random } from "../base/index.ts";
import { Assembler, mem, r8, r9, r10, r11, rax, rcx, rdi, rdx, rsi } from "../codegen/index.ts";
import { addressOf } from "../native/index.ts";
import { ArgumentBlock } from "./argument-block.ts";
import type { Device } from "./device.ts";

/** Where the evidence of task i lies in its record, in 32-bit words. */
const recordWords = 8;
const delayWord = 0;
const countWord = 1;
const markWord = 2;
const faultWord = 3;
const scratchWord = 4;

/**
 * `kernel(args, task, scratch)` with args {records, mark}: counts its run, delays by some pauses
 * during which nobody else may touch its scratch, and leaves the mark and its scratch's address.
 */
function emitEvidence(): Uint8Array {
  const asm = new Assembler();
  const field = (word: number) => mem(r8, { disp: 4 * word });
  const ready = asm.label("ready");
  asm.mov(r8, mem(rdi));
  asm.mov(r9, rsi);
  asm.shl(r9, Math.log2(4 * recordWords));
  asm.add(r8, r9);
  asm.mov(rax.d, 1);
  asm.lock().xadd(field(countWord), rax.d);
  asm.mov(mem(rdx), rsi.d);
  asm.mov(rcx.d, field(delayWord));
  const delay = asm.here("delay");
  asm.dec(rcx.d);
  asm.js(ready);
  asm.pause();
  asm.jmp(delay);
  asm.bind(ready);
  asm.cmp(mem(rdx), rsi.d);
  asm.setne(rax.b);
  asm.movzx(rax.d, rax.b);
  asm.add(field(faultWord), rax.d);
  asm.mov(rax.d, mem(rdi, { disp: 8 }));
  asm.mov(field(markWord), rax.d);
  asm.mov(field(scratchWord), rdx.d);
  // What the calling convention lets a kernel overwrite, this one does.
  for (const register of [rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11]) asm.mov(register, -1);
  asm.ret();
  return asm.finish();
}

/**
 * `kernel(args)` with args {arrived, wanted} as 32-bit words: returns when `wanted` tasks have
 * arrived, so that a launch of as many tasks as threads takes every thread.
 */
export function emitMeeting(): Uint8Array {
  const asm = new Assembler();
  const end = asm.label("end");
  asm.lock().inc(mem(rdi).d);
  asm.mov(rcx.d, mem(rdi, { disp: 4 }));
  const wait = asm.here("wait");
  asm.cmp(mem(rdi), rcx.d);
  asm.jae(end);
  asm.pause();
  asm.jmp(wait);
  asm.bind(end);
  asm.ret();
  return asm.finish();
}

/** How to exercise. */
export interface Exercise {
  readonly launches: number;
  readonly seed: number;
  /** Tasks of a launch: 1 to this; default 40. */
  readonly tasksMax?: number;
  /** A task takes up to so many `pause` instructions (some 20 ns each); default 50. */
  readonly pausesMax?: number;
  /** Milliseconds of sleep between launches; default none. */
  readonly restMs?: number;
}

/** A job's memory, and what it must hold since its last launch. */
interface Job {
  readonly words: Uint32Array;
  readonly args: ArgumentBlock;
  mark: number;
  tasks: number;
}

function checkEvidence({ words, mark, tasks }: Job, seed: number): void {
  for (let at = 0, task = 0; at < words.length; at += recordWords, task++) {
    const [count, fault] = [words[at + countWord], words[at + faultWord]];
    const ran = task < tasks;
    if (count !== Number(ran) || fault !== 0 || (ran && words[at + markWord] !== mark)) {
      assert(
        false,
        `seed ${seed}, launch ${mark} of ${tasks} tasks: task ${task} ran ${count} times, ` +
          `left mark ${words[at + markWord]}, found its scratch disturbed ${fault} times`,
      );
    }
  }
}

/**
 * Runs random jobs and throws at the first task that did not run exactly once, with its own job's
 * arguments and a scratch of its own. Returns over how many threads the tasks were spread.
 */
export function exercise(device: Device, options: Exercise): { threadsSeen: number } {
  const { launches, seed, tasksMax = 40, pausesMax = 50, restMs = 0 } = options;
  const random = new Random(seed);
  const kernel = device.load(emitEvidence(), "evidence");
  // Two jobs by turns, both checked after each launch: a late helper would write to the other one.
  const jobs: Job[] = [0, 1].map(() => {
    const words = new Uint32Array(device.allocate(tasksMax * recordWords * 4));
    const args = new ArgumentBlock(device, 16);
    args.setAddress(0, addressOf(words));
    return { words, args, mark: 0, tasks: 0 };
  });
  const scratches = new Set<number>();
  const bell = new Int32Array(new SharedArrayBuffer(4));
  for (let mark = 1; mark <= launches; mark++) {
    const job = jobs[mark & 1];
    const { words, args } = job;
    job.mark = mark;
    job.tasks = 1 + random.below(tasksMax);
    words.fill(0);
    for (let at = 0; at < words.length; at += recordWords) {
      words[at + delayWord] = random.below(pausesMax + 1);
    }
    args.setInt32(8, mark);
    device.launch(kernel, args.address, job.tasks);
    for (const one of jobs) checkEvidence(one, seed);
    for (let task = 0; task < job.tasks; task++) {
      scratches.add(words[task * recordWords + scratchWord]);
    }
    if (restMs > 0) Atomics.wait(bell, 0, 0, restMs);
  }
  return { threadsSeen: scratches.size };
}
