import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { Random, workerUrl } from "../base/index.ts";
import { Assembler, mem, rax, rdi, rsi } from "../codegen/index.ts";
import { viewAt } from "../native/index.ts";
import { ArgumentBlock, openDevice } from "./index.ts";
import { x86Absence } from "./open.ts";
import { numbersIn, usableProcessors } from "./processors.ts";
import { emitMeeting, exercise } from "./testing.ts";
import { openX86 } from "./x86-device.ts";

const skip = x86Absence() ?? false;
const seed = Number(process.env.SEED ?? Date.now() % 1e9);
console.log(`seed ${seed}`);

for (const threads of [1, 2, 3, 16]) {
  for (const spinUs of [0, 5, 500]) {
    const name = `${threads} threads that spin ${spinUs} us run each task exactly once`;
    test(name, { skip }, () => {
      const device = openDevice({ rung: "x86", threads, spinUs, scratchBytes: 4096 });
      exercise(device, { launches: threads > 3 ? 150 : 1500, seed });
      device.close();
    });
  }
}

for (const [threads, spinUs] of [
  [2, 0],
  [2, 3],
  [3, 10],
]) {
  const name = `${threads} threads that spin ${spinUs} us and dawdle keep the protocol`;
  test(name, { skip }, () => {
    const device = openX86({ isa: "avx2", threads, spinUs, scratchBytes: 4096, dawdling: true });
    exercise(device, { launches: 2500, seed, tasksMax: 4, pausesMax: 100 });
    device.close();
  });
}

test("helpers that sleep between launches are woken and take part", { skip }, () => {
  const device = openDevice({ rung: "x86", threads: 2, spinUs: 20 });
  const options = { launches: 150, seed, restMs: 1, tasksMax: 10, pausesMax: 4000 };
  assert.equal(exercise(device, options).threadsSeen, 2);
  device.close();
});

test("no wake-up is lost: every thread comes to a meeting, whatever the rest before it", {
  skip,
}, () => {
  const device = openX86({ isa: "avx2", threads: 2, spinUs: 5, scratchBytes: 64, dawdling: true });
  const kernel = device.load(emitMeeting(), "meeting");
  const args = new ArgumentBlock(device, 8);
  args.setInt32(4, 2);
  const random = new Random(seed);
  for (let i = 0; i < 1500; i++) {
    args.setInt32(0, 0);
    const startMs = performance.now();
    device.launch(kernel, args.address, 2);
    // A helper that slept through the call would come by itself a second later.
    const tookMs = performance.now() - startMs;
    assert.ok(tookMs < 900, `seed ${seed}, launch ${i}: ${tookMs} ms`);
    const untilMs = performance.now() + random.uniform() * 0.3;
    while (performance.now() < untilMs);
  }
  device.close();
});

test("helpers keep off one processor, the launcher's when it last woke them", {
  skip,
}, async (t) => {
  const allowed = (task: string | number): number[] => {
    const status = readFileSync(`/proc/self/task/${task}/status`, "utf8");
    return numbersIn(/^Cpus_allowed_list:\s*(.*)$/m.exec(status)![1]);
  };
  const mine = allowed(process.pid);
  if (usableProcessors() < 2 || mine.length < 2) return t.skip("there is one processor only");
  const before = new Set(readdirSync("/proc/self/task"));
  const device = openDevice({ rung: "x86", threads: 2, spinUs: 1 });
  const helper = readdirSync("/proc/self/task").find((task) => !before.has(task))!;
  for (let round = 0; round < 5; round++) {
    exercise(device, { launches: 20, seed, restMs: 1 });
    await setTimeout(5);
    assert.equal(allowed(helper).length, mine.length - 1);
    assert.ok(allowed(helper).every((processor) => mine.includes(processor)));
  }
  assert.deepEqual(allowed(process.pid), mine);
  device.close();
});

test("several devices in one thread do not disturb each other", { skip }, () => {
  const devices = [1, 2, 3].map((threads) => openDevice({ rung: "x86", threads }));
  for (let round = 0; round < 5; round++) {
    for (const device of devices) exercise(device, { launches: 40, seed: seed + round });
  }
  devices[1].close();
  exercise(devices[2], { launches: 40, seed });
  for (const device of devices) device.close();
});

test("workers open devices of their own and launch at the same time", { skip }, async () => {
  const program = `
    const { parentPort, workerData } = require("node:worker_threads");
    (async () => {
      const { openDevice } = await import(workerData.door);
      const { exercise } = await import(workerData.exercise);
      const device = openDevice({ rung: "x86", threads: 2 });
      exercise(device, { launches: 400, seed: workerData.seed });
      parentPort.postMessage("done");
    })();`;
  const [door, exerciseUrl] = ["./index", "./testing"].map(
    (name) => workerUrl(import.meta.url, name).href,
  );
  const runs = [1, 2, 3].map(
    (i) =>
      new Promise<unknown>((resolve, reject) => {
        const workerData = { door, exercise: exerciseUrl, seed: seed + i };
        const worker = new Worker(program, { eval: true, workerData });
        let answer: unknown;
        worker.on("message", (message) => {
          answer = message;
        });
        worker.on("error", reject);
        worker.on("exit", () => resolve(answer));
      }),
  );
  const device = openDevice({ rung: "x86", threads: 2 });
  exercise(device, { launches: 200, seed });
  assert.deepEqual(await Promise.all(runs), ["done", "done", "done"]);
  device.close();
});

test("a kernel's task indices come in order when one thread takes them", { skip }, () => {
  const device = openDevice({ rung: "x86", threads: 1 });
  const asm = new Assembler();
  // args {next}: out[next++] = index
  asm.mov(rax, mem(rdi));
  asm.mov(mem(rdi, { index: rax, scale: 4, disp: 8 }), rsi.d);
  asm.inc(mem(rdi).q);
  asm.ret();
  const args = new ArgumentBlock(device, 64);
  device.launch(device.load(asm.finish(), "order"), args.address, 9);
  device.launch(device.load(new Uint8Array([0xc3]), "nothing"), args.address, 0);
  const words = new Uint32Array(viewAt(args.address, 64));
  assert.deepEqual([...words.subarray(0, 11)], [9, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
  device.close();
});

test("launching on a closed device, at no address or a wrong count of tasks is refused", {
  skip,
}, () => {
  const device = openDevice({ rung: "x86", threads: 2 });
  const kernel = device.load(new Uint8Array([0xc3]), "nothing");
  assert.throws(() => device.launch(0, 0, 1), /kernel of a launch: got address 0/);
  assert.throws(() => device.launch(Number.NaN, 0, 1), /got address NaN/);
  assert.throws(() => device.launch(kernel, 0, -1), /tasks of a launch: got -1/);
  assert.throws(() => device.load(new Uint8Array(0), "empty"), /load of empty: got no code/);
  device.close();
  device.close();
  assert.throws(() => device.launch(kernel, 0, 1), /the device is closed/);
});
