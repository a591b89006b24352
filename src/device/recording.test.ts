import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../base/index.ts";
import { Assembler, mem, r8, r9, rax, rdi } from "../codegen/index.ts";
import { addressOf } from "../native/index.ts";
import { ArgumentBlock, type Device, openDevice } from "./index.ts";
import { x86Absence } from "./open.ts";
import { openX86 } from "./x86-device.ts";

const skip = x86Absence() ?? false;
const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`seed ${seed}`);

/**
 * `kernel(args)` with args {counters, first, end}: counters[1] += 1 unless counters[0], the tasks
 * that are done, lies in first..end - 1; then counters[0] += 1. So a fault is counted if a task
 * begins before all of the jobs before it, or after one of those behind it.
 */
function emitStage(): Uint8Array {
  const asm = new Assembler();
  const [fault, end] = [asm.label("fault"), asm.label("end")];
  asm.mov(r8, mem(rdi));
  asm.mov(r9.d, mem(r8));
  asm.cmp(r9.d, mem(rdi, { disp: 8 }));
  asm.jb(fault);
  asm.cmp(r9.d, mem(rdi, { disp: 12 }));
  asm.jb(end);
  asm.bind(fault);
  asm.mov(rax.d, 1);
  asm.lock().xadd(mem(r8, { disp: 4 }), rax.d);
  asm.bind(end);
  asm.mov(rax.d, 1);
  asm.lock().xadd(mem(r8), rax.d);
  asm.ret();
  return asm.finish();
}

/** Launches stages of `tasks` tasks each, all through one argument block. */
function stages(device: Device, kernel: number, counters: Uint32Array) {
  const args = new ArgumentBlock(device, 16);
  return (tasks: readonly number[]): void => {
    let first = 0;
    for (const count of tasks) {
      args.setAddress(0, addressOf(counters));
      args.setInt32(8, first);
      args.setInt32(12, first + count);
      device.launch(kernel, args.address, count);
      first += count;
    }
  };
}

for (const [threads, dawdling] of [
  [1, false],
  [2, false],
  [2, true],
  [3, true],
] as const) {
  const name = `${threads} threads${dawdling ? " that dawdle" : ""}`;
  test(`${name} run recorded launches in order, each task once, again and again`, { skip }, () => {
    const options = { isa: "avx2", threads, spinUs: 5, scratchBytes: 4096, dawdling } as const;
    const device = openX86(options);
    const kernel = device.load(emitStage(), "stage");
    const counters = new Uint32Array(device.allocate(64) as ArrayBuffer);
    const launch = stages(device, kernel, counters);
    const random = new Random(seed);
    for (let round = 0; round < 40; round++) {
      const tasks = Array.from({ length: random.below(20) }, () => random.below(7));
      const all = tasks.reduce((sum, count) => sum + count, 0);
      counters.fill(0);
      const list = device.record(() => launch(tasks));
      assert.equal(list.launches, tasks.filter((count) => count > 0).length);
      assert.equal(counters[0], 0, "nothing runs while it is recorded");
      for (let run = 0; run < 10; run++) {
        // What the block holds now is not what was recorded.
        counters.fill(0);
        launch([1]);
        counters.fill(0);
        list.run();
        assert.deepEqual([...counters.subarray(0, 2)], [all, 0]);
      }
    }
    device.close();
    assert.throws(() => device.record(() => {}).run(), /the device is closed/);
  });
}

test("a recording that throws ends, none begins inside another", { skip }, () => {
  const device = openDevice({ rung: "x86", threads: 1 });
  const fails = () => {
    throw new Error("no");
  };
  assert.throws(() => device.record(fails), /no/);
  assert.throws(() => device.record(() => device.record(() => {})), /inside another/);
  const other = openDevice({ rung: "x86", threads: 1 });
  const kernel = other.load(emitStage(), "stage");
  const counters = new Uint32Array(other.allocate(64) as ArrayBuffer);
  const list = device.record(() => stages(other, kernel, counters)([1]));
  assert.deepEqual([list.launches, counters[0]], [0, 1], "another device launches as ever");
  other.close();
  device.close();
});

test("the reference rung runs the calls themselves", () => {
  const device = openDevice({ rung: "reference" });
  let calls = 0;
  const list = device.record(() => {
    calls++;
  });
  assert.equal(calls, 0);
  list.run();
  list.run();
  assert.equal(calls, 2);
});
