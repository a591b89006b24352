/** @file Figures against a count of every microsecond, and the paths and phases of small traces. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Random } from "../base/index.ts";
import { writeTrace } from "../trace/index.ts";
import {
  type DeviceProfile,
  diffReports,
  findStragglers,
  type ProfileOptions,
  perfettoEvents,
  profileTrace,
  readTrace,
} from "./index.ts";
import { type MadeOperation, madeEvents, madeKernels, madeOperations } from "./testing.ts";

async function profilesOf(json: unknown, options: ProfileOptions = {}): Promise<DeviceProfile[]> {
  const bytes = new TextEncoder().encode(typeof json === "string" ? json : JSON.stringify(json));
  return profileTrace(await readTrace([bytes]), options);
}

async function profileOf(json: unknown, options: ProfileOptions = {}): Promise<DeviceProfile> {
  const [profile, ...more] = await profilesOf(json, options);
  assert.equal(more.length, 0);
  return profile;
}

const talks = new Map(madeKernels);
const microseconds = 600;

/** Which microseconds some operations fill. */
function filled(operations: readonly MadeOperation[]): boolean[] {
  const cells = new Array<boolean>(microseconds).fill(false);
  for (const { ts, dur } of operations) cells.fill(true, ts, ts + dur);
  return cells;
}

const countOf = (cells: readonly boolean[]): number => cells.filter(Boolean).length;
const both = (a: readonly boolean[], b: readonly boolean[]): boolean[] =>
  a.map((x, i) => x && b[i]);

/** Figures of made operations, by counting. */
function counted(operations: readonly MadeOperation[]): Record<string, unknown> {
  const kernels = operations.filter(({ cat }) => cat === "kernel");
  const talking = kernels.filter(({ name }) => talks.get(name));
  const computing = kernels.filter(({ name }) => !talks.get(name));
  const sum = (list: readonly MadeOperation[]): number =>
    list.reduce((total, { dur }) => total + dur, 0);
  const first = Math.min(...operations.map(({ ts }) => ts));
  const last = Math.max(...operations.map(({ ts, dur }) => ts + dur));
  const busyUs = countOf(filled(operations));
  const communicationUs = countOf(filled(talking));
  const overlappedUs = countOf(both(filled(talking), filled(computing)));
  const ids = [...new Set(operations.map(({ stream }) => stream))].sort((a, b) => a - b);
  const on = (id: number): MadeOperation[] => operations.filter(({ stream }) => stream === id);
  const pairs = ids.flatMap((a) => ids.filter((b) => b > a).map((b) => [a, b]));
  return {
    spanUs: last - first,
    busyUs,
    idleUs: last - first - busyUs,
    communicationUs,
    communicationSumUs: sum(talking),
    computationUs: countOf(filled(computing)),
    computationSumUs: sum(computing),
    overlappedUs,
    exposedUs: communicationUs - overlappedUs,
    streams: Object.fromEntries(
      ids.map((id) => [id, { operations: on(id).length, busyUs: countOf(filled(on(id))) }]),
    ),
    streamOverlapsUs: Object.fromEntries(
      pairs.map(([a, b]) => [`${a}&${b}`, countOf(both(filled(on(a)), filled(on(b))))]),
    ),
    queueMax: Object.fromEntries(ids.map((id) => [id, longestQueue(on(id))])),
  };
}

function longestQueue(operations: readonly MadeOperation[]): number {
  const known = operations.filter(({ launchTs }) => launchTs !== undefined);
  const waiting = Array.from(
    { length: microseconds },
    (_, at) => known.filter(({ ts, launchTs = 0 }) => launchTs <= at && ts > at).length,
  );
  return Math.max(0, ...waiting);
}

/** The same keys of a report. */
function figuresOf({ report }: DeviceProfile, wanted: Record<string, unknown>): unknown {
  const figures = Object.fromEntries(
    Object.entries(report).filter(([key]) => Object.hasOwn(wanted, key)),
  );
  const streams = Object.entries(report.streams).map(([id, { operations, busyUs }]) => [
    id,
    { operations, busyUs },
  ]);
  return { ...figures, streams: Object.fromEntries(streams) };
}

test("figures are those that counting every microsecond gives, whatever the trace", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 1e9 }),
      fc.integer({ min: 1, max: 60 }),
      fc.constantFrom(0, 1740461679470692),
      async (seed, count, origin) => {
        const random = new Random(seed);
        const operations = madeOperations(random, count, 400);
        const events = random.shuffle(madeEvents(operations, origin));
        const profile = await profileOf({ traceEvents: events });
        const wanted = counted(operations);
        assert.deepEqual(figuresOf(profile, wanted), wanted);
        const { report, criticalPath } = profile;
        const path = report.criticalPath;
        const parts = ["computationUs", "communicationUs", "memoryUs", "hostUs", "waitUs"] as const;
        assert.equal(
          parts.reduce((total, part) => total + path[part], 0),
          report.spanUs,
        );
        criticalPath.forEach(({ start }, i) => {
          if (i > 0) assert.equal(start, criticalPath[i - 1].end, "the path has no gaps");
        });
        for (const { idle, busyUs } of Object.values(report.streams)) {
          assert.ok(idle.hostWaitUs + idle.kernelWaitUs + idle.otherUs + busyUs <= report.spanUs);
        }
        const { hostWaitUs, kernelWaitUs, otherUs } = report.idle;
        const emptyEdges = report.idleUs - hostWaitUs - kernelWaitUs - otherUs;
        assert.ok(emptyEdges >= 0, "only empty operations at an end lie outside of the gaps");
      },
    ),
  );
});

const kernel = (
  name: string,
  stream: number,
  ts: number,
  dur: number,
  correlation = 0,
): Record<string, unknown> => ({
  ph: "X",
  cat: "kernel",
  name,
  pid: 0,
  tid: stream,
  ts,
  dur,
  args: { stream, correlation },
});
const call = (name: string, ts: number, dur: number, correlation: number, tid = 1): object => ({
  ph: "X",
  cat: "cuda_runtime",
  name,
  pid: 9,
  tid,
  ts,
  dur,
  args: { correlation },
});
const annotation = (name: string, ts: number, dur: number, tid = 1): object => ({
  ph: "X",
  cat: "user_annotation",
  name,
  pid: 9,
  tid,
  ts,
  dur,
});

test("nanoseconds survive times since 1970", async () => {
  const events = `[{"ph":"X","cat":"kernel","name":"a","pid":0,"tid":7,
    "ts":1740461679470692.123,"dur":10.001,"args":{"stream":7}},
    {"ph":"X","cat":"kernel","name":"a","pid":0,"tid":7,
    "ts":1740461679470703.125,"dur":"0.250","args":{"stream":7}}`;
  const { report } = await profileOf(`${events}]`);
  assert.deepEqual([report.spanUs, report.busyUs, report.idleUs], [11.252, 10.251, 1.001]);
});

test("gaps are the host's, the device's or something else's", async () => {
  const { report } = await profileOf([
    kernel("a", 7, 0, 10, 1),
    call("cudaLaunchKernel", 0, 2, 1),
    kernel("a", 7, 100, 10, 2),
    call("cudaLaunchKernel", 50, 2, 2),
    kernel("a", 7, 139, 1, 3),
    call("cudaLaunchKernel", 60, 2, 3),
    kernel("a", 7, 170, 1, 4),
    call("cudaLaunchKernel", 60, 2, 4),
  ]);
  const wanted = { hostWaitUs: 90, kernelWaitUs: 29, otherUs: 30 };
  assert.deepEqual(report.idle, wanted);
  assert.deepEqual(report.streams["7"].idle, wanted);
});

test("phases are those at launch, layers count or are named", async () => {
  const { report } = await profileOf([
    annotation("step#1", 0, 1000),
    annotation("attn(F)", 10, 20),
    annotation("attn(F)", 40, 20),
    annotation("layer 7", 100, 90),
    annotation("mlp", 110, 40),
    call("cudaLaunchKernel", 12, 2, 1),
    kernel("gemm", 7, 300, 10, 1),
    // From another thread of the process, while the first one annotates.
    call("cudaLaunchKernel", 45, 2, 2, 2),
    kernel("deep_ep::intranode::dispatch", 8, 305, 20, 2),
    call("cudaLaunchKernel", 120, 2, 3),
    kernel("gemm", 7, 400, 30, 3),
    call("cudaLaunchKernel", 500, 2, 4),
    kernel("gemm", 7, 600, 5, 4),
    call("cudaLaunchKernel", 5000, 2, 5),
    kernel("gemm", 7, 6000, 5, 5),
  ]);
  const phases = report.phases.map(({ name, instances, operations, busyUs, exposedUs }) => {
    return [name, instances, operations, busyUs, exposedUs];
  });
  assert.deepEqual(phases, [
    ["step", 1, 1, 5, 0],
    ["attn(F)", 2, 2, 25, 15],
    ["mlp", 1, 1, 30, 0],
  ]);
  const layers = report.layers.map(({ layer, operations }) => [layer, operations]);
  assert.deepEqual(layers, [
    [0, 1],
    [1, 1],
    [7, 1],
  ]);
});

test("the critical path goes through streams, recorded events, launches and waits", async () => {
  const { criticalPath, trace, operations } = await profileOf([
    call("cudaLaunchKernel", 0, 5, 1),
    kernel("a", 7, 20, 100, 1),
    call("cudaEventRecord", 6, 1, 100),
    call("cudaStreamWaitEvent", 8, 1, 101),
    {
      ph: "X",
      cat: "cuda_sync",
      name: "Stream Wait Event",
      pid: 0,
      tid: 8,
      ts: 20,
      dur: 100,
      args: {
        stream: 8,
        correlation: 101,
        wait_on_stream: 7,
        wait_on_cuda_event_record_corr_id: 100,
      },
    },
    call("cudaLaunchKernel", 10, 5, 2),
    kernel("b", 8, 125, 75, 2),
    call("cudaLaunchKernel", 16, 1, 3),
    kernel("unrelated", 9, 20, 90, 3),
    call("cudaDeviceSynchronize", 20, 182, 4),
    call("cudaLaunchKernel", 230, 5, 5),
    kernel("c", 7, 240, 10, 5),
  ]);
  const path = criticalPath.map(({ what, index, start, end }) => {
    const name = trace.strings.text(trace.name[operations.row[index]]);
    return [what, name, start / 1000 + 20, end / 1000 + 20];
  });
  const shift = operations.start[0] / 1000;
  assert.equal(shift, 0);
  assert.deepEqual(path, [
    ["operation", "a", 20, 120],
    ["wait", "b", 120, 125],
    ["operation", "b", 125, 200],
    ["host", "c", 200, 230],
    ["wait", "c", 230, 240],
    ["operation", "c", 240, 250],
  ]);
});

test("without recorded events a wait is inferred from who had just ended", async () => {
  const { criticalPath } = await profileOf([
    call("cudaLaunchKernel", 0, 5, 1),
    kernel("a", 7, 20, 100, 1),
    call("cudaStreamWaitEvent", 8, 1, 101),
    call("cudaLaunchKernel", 10, 5, 2),
    kernel("b", 8, 125, 75, 2),
  ]);
  assert.deepEqual(
    criticalPath.map(({ what, index }) => [what, index]),
    [
      ["operation", 0],
      ["wait", 1],
      ["operation", 1],
    ],
  );
});

test("a host that polls for what a kernel writes is on the path as waiting for it", async () => {
  const { report } = await profileOf([
    call("cudaLaunchKernel", 0, 5, 1),
    kernel("deep_ep::internode::notify_dispatch", 7, 20, 4000, 1),
    call("cudaLaunchKernel", 4010, 5, 2),
    kernel("b", 8, 4100, 75, 2),
  ]);
  const { communicationUs, computationUs, hostUs, waitUs } = report.criticalPath;
  assert.deepEqual([communicationUs, computationUs, hostUs, waitUs], [3990, 75, 0, 90]);
});

test("users say what is communication: by rules, or by one pattern", async () => {
  const events = [kernel("my_exchange", 7, 0, 10), kernel("deep_ep::x::combine", 8, 0, 5)];
  const rule = { category: "mine", pattern: /my_ex/g, communication: true };
  const [plain, ruled, only] = await Promise.all([
    profileOf(events),
    profileOf(events, { rules: [rule] }),
    profileOf(events, { communication: /exchange/ }),
  ]);
  const of = ({ report }: DeviceProfile): unknown => [
    report.communicationUs,
    report.computationUs,
    Object.keys(report.categories),
  ];
  assert.deepEqual(of(plain), [5, 10, ["other", "ep.combine"]]);
  assert.deepEqual(of(ruled), [10, 0, ["mine", "ep.combine"]]);
  assert.deepEqual(of(only), [10, 5, ["other", "ep.combine"]]);
});

test("published names of communication kernels are known", async () => {
  const names = [
    "void dpsk::ep::internode::cached_notify<false>(int)",
    "void deep_ep::internode_ll::combine<true, 7168>(void*)",
    "ncclKernel_AllReduce_RING_LL_Sum_float(ncclWork*)",
    "ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "nvshmemi_proxy_quiet",
    "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 8>(vllm::RankData*)",
    "void pplx::internode::dispatchKernel<1>(int)",
  ];
  const { report } = await profileOf(names.map((name, i) => kernel(name, 7, i * 10, 5)));
  assert.equal(report.communicationKernels, names.length);
  assert.equal(report.categories.other, undefined);
});

test("the rank that spends least in a collective keeps the others waiting", async () => {
  const rank = (durations: readonly number[]): Promise<DeviceProfile> =>
    profileOf(durations.map((dur, i) => kernel("ncclDevKernel_AllGather", 7, i * 100, dur)));
  const profiles = await Promise.all([rank([10, 50, 9]), rank([30, 20, 9, 4]), rank([25, 45, 9])]);
  const result = findStragglers(profiles.map((profile, i) => ({ name: `rank ${i}`, profile })));
  assert.deepEqual([result.matched, result.unmatched], [3, 1]);
  assert.deepEqual(
    result.ranks.map(({ waitUs, timesLast, causedUs }) => [waitUs, timesLast, causedUs]),
    [
      [30, 1, 35],
      [20, 1, 55],
      [40, 0, 0],
    ],
  );
});

test("a diff begins with what changed most", async () => {
  const [before, after] = await Promise.all([
    profileOf([kernel("a", 7, 0, 10), kernel("b", 7, 10, 10), kernel("gone", 7, 30, 1)]),
    profileOf([kernel("a", 7, 0, 12), kernel("b", 7, 12, 30), kernel("b", 7, 60, 5)]),
  ]);
  const { kernels, figures } = diffReports(before.report, after.report);
  assert.deepEqual(
    kernels.map(({ name, beforeCount, afterCount, changeUs }) => {
      return [name, beforeCount, afterCount, changeUs];
    }),
    [
      ["b", 1, 2, 25],
      ["a", 1, 1, 2],
      ["gone", 1, 0, -1],
    ],
  );
  assert.deepEqual(figures[0], { name: "span", beforeUs: 31, afterUs: 65, changeUs: 34 });
});

test("a written trace reads as what it was made of", async () => {
  const random = new Random(5);
  const operations = madeOperations(random, 200, 4000);
  const events = [...madeEvents(operations, 1740461679470692), annotation("x(F)", 0, 100)];
  const profile = await profileOf({ traceEvents: events });
  const again = await profileOf([...writeTrace(perfettoEvents([profile]))].join(""));
  assert.deepEqual(again.report, profile.report);
});

test("several devices in one trace are several reports, in the order of their numbers", async () => {
  const of = (pid: number): object => ({ ...kernel("a", 0, pid, 5), pid });
  const profiles = await profilesOf([of(10), of(2), of(0)]);
  assert.deepEqual(
    profiles.map(({ report }) => report.device),
    ["0", "2", "10"],
  );
});

test("options that make no sense are refused by name", async () => {
  const events = [kernel("a", 7, 0, 1)];
  await assert.rejects(
    profileOf(events, { kernelWaitUs: Number.NaN }),
    /kernelWaitUs is NaN: give/,
  );
  const rules = [{ category: "", pattern: /a/ }];
  await assert.rejects(profileOf(events, { rules }), /rules\[0\] has no category: give it a name/);
  await assert.rejects(profileOf([]), { code: "trace-empty" });
});
