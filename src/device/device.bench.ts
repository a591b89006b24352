/**
 * @file What a launch costs: an empty kernel alone, over the pool with helpers that spin and with
 * helpers that sleep, and beside it the same fork and join by `Atomics` between JavaScript threads.
 */
import { Worker } from "node:worker_threads";
import { medianOf } from "../base/index.ts";
import { type Device, openDevice, timeRuns } from "./index.ts";

const large = process.argv.includes("--large");
const runs = large ? 101 : 15;
const calls = large ? 2000 : 200;

/** Code that returns at once. */
const nothing = new Uint8Array([0xc3]);

function print(what: string, medianUs: number, ratio?: number): void {
  const beside = ratio === undefined ? "" : `   ${ratio.toFixed(1)} times as fast as Atomics`;
  console.log(`${what.padEnd(52)} ${medianUs.toFixed(3).padStart(9)} us${beside}`);
}

/** Median wall time of one launch after `restMs` of sleep, when every helper has gone to sleep too. */
function launchAfterRest(device: Device, kernel: number, restMs: number): number {
  const bell = new Int32Array(new SharedArrayBuffer(4));
  const took: number[] = [];
  for (let i = 0; i < runs; i++) {
    Atomics.wait(bell, 0, 0, restMs);
    const startMs = performance.now();
    device.launch(kernel, 0, device.threads);
    took.push((performance.now() - startMs) * 1e3);
  }
  return medianOf(took);
}

/** Median wall time of waking one worker by `Atomics.notify` and waiting for its answer. */
async function atomicsRoundTripUs(): Promise<number> {
  const words = new Int32Array(new SharedArrayBuffer(8));
  const program = `
    const { parentPort, workerData: words } = require("node:worker_threads");
    parentPort.postMessage("ready");
    for (let job = 0; ; job++) {
      while (Atomics.load(words, 0) === job) Atomics.wait(words, 0, job);
      if (Atomics.load(words, 0) < 0) break;
      Atomics.store(words, 1, job + 1);
      Atomics.notify(words, 1);
    }`;
  const worker = new Worker(program, { eval: true, workerData: words });
  await new Promise((resolve) => worker.once("message", resolve));
  let job = 0;
  const { wallUs } = timeRuns(
    () => {
      Atomics.store(words, 0, ++job);
      Atomics.notify(words, 0);
      while (Atomics.load(words, 1) !== job) Atomics.wait(words, 1, job - 1);
    },
    { runs, calls: Math.ceil(calls / 10) },
  );
  Atomics.store(words, 0, -1);
  Atomics.notify(words, 0);
  await worker.terminate();
  return wallUs;
}

const device = openDevice({ threads: Math.max(2, openDevice().threads) });
if (device.rung !== "x86") {
  console.log(`nothing to measure: ${device.description}`);
} else {
  console.log(`empty launches, medians of wall time; ${device.description}`);
  const kernel = device.load(nothing, "nothing");
  const peerUs = await atomicsRoundTripUs();
  const launchUs = (tasks: number): number =>
    timeRuns(() => device.launch(kernel, 0, tasks), { runs, calls }).wallUs;
  print("Atomics.notify to a worker and back", peerUs);
  print("1 task, on the calling thread", launchUs(1));
  const spinning = launchUs(device.threads);
  print(`${device.threads} tasks, helpers spinning`, spinning, peerUs / spinning);
  const many = launchUs(256);
  print("256 tasks, helpers spinning", many, peerUs / many);
  const asleep = launchAfterRest(device, kernel, 2);
  print(`${device.threads} tasks, helpers asleep`, asleep, peerUs / asleep);
}
device.close();
