/**
 * @file What a launch costs: alone, over the pool with helpers that spin and with helpers that
 * sleep, and beside it the same fork and join by `Atomics` between JavaScript threads.
 */
import { Worker } from "node:worker_threads";
import { medianOf } from "../base/index.ts";
import { ArgumentBlock, type Device, openDevice, timeRuns } from "./index.ts";
import { emitMeeting } from "./testing.ts";

const large = process.argv.includes("--large");
const runs = large ? 101 : 15;
const calls = large ? 2000 : 200;

function print(what: string, medianUs: number, ratio?: number): void {
  const beside = ratio === undefined ? "" : `   ${ratio.toFixed(1)} times as fast as Atomics`;
  console.log(`${what.padEnd(52)} ${medianUs.toFixed(3).padStart(9)} us${beside}`);
}

/**
 * Median wall time of `launch` after `restMs` of sleep, when every helper has gone to sleep too.
 */
function afterRestUs(launch: () => void, restMs: number): number {
  const bell = new Int32Array(new SharedArrayBuffer(4));
  const took: number[] = [];
  for (let i = 0; i < runs; i++) {
    Atomics.wait(bell, 0, 0, restMs);
    const startMs = performance.now();
    launch();
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

/** Prints the costs of launches on a device that runs machine code. */
async function measure(device: Device): Promise<void> {
  const { threads } = device;
  const peerUs = await atomicsRoundTripUs();
  print("Atomics.notify to a worker and back", peerUs);
  const nothing = device.load(new Uint8Array([0xc3]), "nothing");
  const emptyUs = (tasks: number): number =>
    timeRuns(() => device.launch(nothing, 0, tasks), { runs, calls }).wallUs;
  print("1 empty task, on the calling thread", emptyUs(1));
  print(`${threads} empty tasks, helpers spinning`, emptyUs(threads));
  print("256 empty tasks, helpers spinning", emptyUs(256));
  const recorded = (tasks: number): number => {
    const list = device.record(() => {
      for (let i = 0; i < 100; i++) device.launch(nothing, 0, tasks);
    });
    return timeRuns(() => list.run(), { runs, calls: Math.ceil(calls / 10) }).wallUs / 100;
  };
  print("1 empty task, one of 100 recorded launches", recorded(1));
  print(`${threads} empty tasks, one of 100 recorded launches`, recorded(threads));
  // Empty tasks may all be done before a helper comes; these wait for each other.
  const meeting = device.load(emitMeeting(), "meeting");
  const args = new ArgumentBlock(device, 8);
  args.setInt32(4, threads);
  const meet = (): void => {
    args.setInt32(0, 0);
    device.launch(meeting, args.address, threads);
  };
  const spinning = timeRuns(meet, { runs, calls }).wallUs;
  print(`${threads} tasks that meet, helpers spinning`, spinning, peerUs / spinning);
  const asleep = afterRestUs(meet, 2);
  print(`${threads} tasks that meet, helpers asleep`, asleep, peerUs / asleep);
}

const device = openDevice({ threads: Math.max(2, openDevice().threads) });
if (device.rung === "x86") {
  console.log(`cost of a launch, medians of wall time; ${device.description}`);
  await measure(device);
} else {
  console.log(`nothing to measure: ${device.description}`);
}
device.close();
