import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { test } from "node:test";
import { workerUrl } from "../base/index.ts";
import { x86Absence } from "./open.ts";

const skip = x86Absence() ?? false;
const [door, exercise] = ["./index", "./testing"].map(
  (name) => workerUrl(import.meta.url, name).href,
);

/** What every program starts with: a device with helpers, which have worked. Nobody closes it. */
const opening = `
  import { readdirSync } from "node:fs";
  import { Worker, isMainThread } from "node:worker_threads";
  import { setTimeout as sleep } from "node:timers/promises";
  import { openDevice } from ${JSON.stringify(door)};
  import { exercise } from ${JSON.stringify(exercise)};
  const open = (spinUs) => {
    const device = openDevice({ rung: "x86", threads: 4, spinUs });
    exercise(device, { launches: 20, seed: 1 });
    return device;
  };`;

/** A worker that opens a device and launches for ever, as a URL, from inside a program. */
const launchingWorker = `
  const loop = "import { openDevice } from ${door}; import { exercise } from ${exercise};" +
    "import { parentPort } from 'node:worker_threads';" +
    "const device = openDevice({ rung: 'x86', threads: 2 });" +
    "parentPort.postMessage('ready');" +
    "for (;;) exercise(device, { launches: 20, seed: 1 });";
  const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(loop)));
  await new Promise((resolve) => worker.once("message", resolve));`
  .replace(door, `'${door}'`)
  .replace(exercise, `'${exercise}'`);

interface Ending {
  code: number | null;
  signal: string | null;
  output: string;
  ms: number;
}

/** Runs a program; kills it, and says so, if it has not ended after 10 s. */
function endingOf(
  program: string,
  signalOn?: { text: string; signal: NodeJS.Signals },
): Promise<Ending> {
  return new Promise((resolve) => {
    const startMs = performance.now();
    const child = spawn(process.execPath, ["--input-type=module", "-e", opening + program]);
    let output = "";
    const read = (data: Buffer): void => {
      output += data;
      if (signalOn && output.includes(signalOn.text)) child.kill(signalOn.signal);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    const timer = setTimeout(() => child.kill("SIGKILL"), 10_000);
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      resolve({ code, signal, output, ms: performance.now() - startMs });
    });
  });
}

async function assertEnds(program: string, wantedCode: number): Promise<void> {
  const ending = await endingOf(program);
  const wanted = { code: wantedCode, signal: null };
  assert.deepEqual({ code: ending.code, signal: ending.signal }, wanted, ending.output);
}

test("a process with an unclosed device ends by itself, helpers asleep", { skip }, async () => {
  await assertEnds(`open(0); await sleep(30);`, 0);
});

test("a process with an unclosed device ends by itself, helpers spinning", { skip }, async () => {
  await assertEnds(`open(1e7);`, 0);
});

test("process.exit and an uncaught exception end the process at once", { skip }, async () => {
  await assertEnds(`open(50); process.exit(3);`, 3);
  await assertEnds(`open(50); throw new Error("uncaught");`, 1);
});

test("SIGTERM ends the process, asleep or while launching", { skip }, async () => {
  const idle = `open(50); console.log("ready"); setInterval(() => {}, 1000);`;
  const busy = `const device = open(50); console.log("ready");
    for (;;) exercise(device, { launches: 20, seed: 1 });`;
  for (const program of [idle, busy]) {
    const ending = await endingOf(program, { text: "ready", signal: "SIGTERM" });
    assert.deepEqual([ending.code, ending.signal], [null, "SIGTERM"], ending.output);
  }
});

test("a worker that launches can be terminated, and its helpers end within 3 s", {
  skip,
}, async () => {
  await assertEnds(
    `const threads = () => readdirSync("/proc/self/task").length;
    const before = threads();
    ${launchingWorker}
    const during = threads();
    await worker.terminate();
    if (during - before < 2) throw new Error("no helper seen: " + before + ", " + during);
    for (let i = 0; i < 60 && threads() > before; i++) await sleep(50);
    process.exitCode = threads() > before ? 9 : 5;`,
    5,
  );
});

test("the process can exit while a worker launches", { skip }, async () => {
  await assertEnds(`${launchingWorker} process.exit(4);`, 4);
});

test("a worker that exits closes its devices, and the main thread goes on", { skip }, async () => {
  await assertEnds(
    `const threads = () => readdirSync("/proc/self/task").length;
    const device = open(50);
    const before = threads();
    const program = "import { openDevice } from '${door}';" +
      "openDevice({ rung: 'x86', threads: 3 }); process.exit(0);";
    const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(program)));
    await new Promise((resolve) => worker.once("exit", resolve));
    for (let i = 0; i < 10 && threads() > before; i++) await sleep(20);
    exercise(device, { launches: 20, seed: 2 });
    process.exitCode = threads() > before ? 9 : 5;`,
    5,
  );
});

test("a device that nobody refers to any more ends its helpers", { skip }, async () => {
  await assertEnds(
    `const { setFlagsFromString } = await import("node:v8");
    const { runInNewContext } = await import("node:vm");
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc");
    const threads = () => readdirSync("/proc/self/task").length;
    const before = threads();
    open(50);
    const during = threads();
    for (let i = 0; i < 50 && threads() > before; i++) { collect(); await sleep(20); }
    process.exitCode = during === before + 3 && threads() === before ? 5 : 9;`,
    5,
  );
});
