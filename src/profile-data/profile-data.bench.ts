/**
 * @file Speed and memory of reading and reporting: a trace of 3 MB, cold and warm, and (`--large`) one
 * of 1 GB that is made as it is read, so that no disk is measured. The peer is Node's `JSON.parse`,
 * which takes no text longer than 512 MB.
 */
import { medianOf, Random } from "../base/index.ts";
import { profileTrace, readTrace } from "./index.ts";
import { madeEvents, madeOperations } from "./testing.ts";

/** A piece of a trace as PyTorch writes it: launches, kernels, and twice as much of what is skipped. */
function block(random: Random, turn: number, operations: number): string {
  const spanUs = operations * 12;
  const originUs = 1740461679470692 + turn * spanUs;
  const events = madeEvents(madeOperations(random, operations, spanUs), originUs).flatMap(
    (event, i) => {
      const { ts } = event as { ts: number };
      const args = { "External id": i, "Record function id": 0, "Ev Idx": i };
      const host = { pid: 1166, tid: 1166, ts };
      return [
        { ph: "X", cat: "cpu_op", name: "aten::empty_strided", ...host, dur: 3, args },
        event,
        { ph: "s", id: i, ...host, cat: "ac2g", name: "ac2g" },
        { ph: "f", id: i, ...host, cat: "ac2g", name: "ac2g", bp: "e" },
      ];
    },
  );
  return events.map((event) => JSON.stringify(event)).join(",\n  ");
}

const encoder = new TextEncoder();

/** About `bytes` of a trace, in pieces of 1 MiB or less; the same blocks over and over, later. */
function* made(bytes: number): Generator<Uint8Array> {
  const random = new Random(1);
  yield encoder.encode('{"schemaVersion": 1, "traceEvents": [\n  ');
  let sent = 0;
  const blocks = Array.from({ length: 16 }, (_, turn) => encoder.encode(block(random, turn, 1500)));
  for (let turn = 0; sent < bytes; turn++) {
    // Correlations repeat from block to block of the large trace: the first call stands for them.
    if (turn > 0) yield encoder.encode(",\n  ");
    yield blocks[turn % blocks.length];
    sent += blocks[turn % blocks.length].length;
  }
  yield encoder.encode("\n  ]}\n");
}

interface Times {
  readonly wallMs: number;
  /** Of all threads, the garbage collector's included. */
  readonly cpuMs: number;
}

/** Reads and reports, each timed. */
async function timed(
  chunks: Iterable<Uint8Array>,
): Promise<{ read: Times; report: Times; operations: number }> {
  let [wall, cpu] = [performance.now(), process.cpuUsage()];
  const lap = (): Times => {
    const { user, system } = process.cpuUsage(cpu);
    const times = { wallMs: performance.now() - wall, cpuMs: (user + system) / 1000 };
    [wall, cpu] = [performance.now(), process.cpuUsage()];
    return times;
  };
  const trace = await readTrace(chunks);
  const read = lap();
  const [{ report }] = profileTrace(trace);
  return { read, report: lap(), operations: report.operations };
}

const ms = (value: number): string => `${value.toFixed(0)} ms`;

const small = [...made(3e6)];
const smallBytes = small.reduce((sum, { length }) => sum + length, 0);
const text = new TextDecoder().decode(Buffer.concat(small));
const cold = await timed(small);
const warm: { ours: number; parse: number }[] = [];
for (let i = 0; i < 5; i++) {
  const { read, report } = await timed(small);
  const started = process.cpuUsage();
  JSON.parse(text);
  const parse = process.cpuUsage(started).user / 1000;
  warm.push({ ours: read.cpuMs + report.cpuMs, parse });
}
const both = (times: Times): string => `${ms(times.wallMs)} (cpu ${ms(times.cpuMs)})`;
console.log(
  `${(smallBytes / 1e6).toFixed(1)} MB, ${cold.operations} operations: at first read in ` +
    `${both(cold.read)}, reported in ${both(cold.report)}; then, cpu, ` +
    `${ms(medianOf(warm.map(({ ours }) => ours)))} in all; ` +
    `JSON.parse alone ${ms(medianOf(warm.map(({ parse }) => parse)))}`,
);

const largeBytes = process.argv.includes("--large") ? 1e9 : 1e7;
const { read, report, operations } = await timed(made(largeBytes));
const rate = (time: number): string => `${(largeBytes / 1e3 / time).toFixed(0)} MB/s`;
const peakMb = process.resourceUsage().maxRSS / 1024;
console.log(
  `${(largeBytes / 1e6).toFixed(0)} MB, ${operations} operations: read in ${both(read)}, ` +
    `reported in ${both(report)}: ${rate(read.wallMs)} and ${rate(read.wallMs + report.wallMs)} ` +
    `with the report; by processor time ${rate(read.cpuMs)} and ` +
    `${rate(read.cpuMs + report.cpuMs)}; peak memory ${peakMb.toFixed(0)} MiB`,
);
