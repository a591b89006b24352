/** @file The recorder by a virtual clock, and the written file parsed again. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { VirtualClock } from "../base/index.ts";
import { type TraceEvent, TraceRecorder, writeTrace } from "./index.ts";

const lane = { pid: 1, tid: "main" };

function written(events: Iterable<TraceEvent>, metadata?: Record<string, unknown>): unknown {
  return JSON.parse([...writeTrace(events, metadata)].join(""));
}

test("spans have the clock's times, in microseconds", () => {
  const clock = new VirtualClock();
  const recorder = new TraceRecorder({ clock });
  clock.advance(2);
  const end = recorder.begin({ name: "step", cat: "engine", ...lane, args: { tokens: 3 } });
  clock.advance(0.25);
  recorder.instant({ name: "hit", cat: "cache", ...lane });
  clock.advance(0.5);
  end({ kept: 2 });
  recorder.counter("queue", 1, { waiting: 4 });
  assert.deepEqual(recorder.events, [
    { ph: "i", name: "hit", cat: "cache", ...lane, ts: 2250, s: "t" },
    {
      ph: "X",
      name: "step",
      cat: "engine",
      ...lane,
      ts: 2000,
      dur: 750,
      args: { tokens: 3, kept: 2 },
    },
    { ph: "C", name: "queue", pid: 1, tid: 0, ts: 2750, args: { waiting: 4 } },
  ]);
});

test("a span ends once, and takes no negative time", () => {
  const recorder = new TraceRecorder();
  const end = recorder.begin({ name: "once", cat: "a", ...lane });
  end();
  assert.throws(() => end(), /span once: ended twice/);
  assert.throws(() => recorder.span({ name: "x", cat: "a", ...lane }, 0, -1), /got -1/);
});

test("flows, names and places become the events that viewers know", () => {
  const recorder = new TraceRecorder();
  recorder.nameProcess(7, "rank 7", 2);
  recorder.nameThread({ pid: 7, tid: 0 }, "compute");
  recorder.flow("message", { pid: 7, tid: 0, atUs: 1 }, { pid: 8, tid: 1, atUs: 5 });
  assert.deepEqual(recorder.events, [
    { ph: "M", name: "process_name", pid: 7, tid: 0, args: { name: "rank 7" } },
    { ph: "M", name: "process_sort_index", pid: 7, tid: 0, args: { sort_index: 2 } },
    { ph: "M", name: "thread_name", pid: 7, tid: 0, args: { name: "compute" } },
    { ph: "s", name: "message", cat: "flow", id: 1, pid: 7, tid: 0, ts: 1 },
    { ph: "f", name: "message", cat: "flow", id: 1, pid: 8, tid: 1, ts: 5, bp: "e" },
  ]);
});

test("a full recorder counts what it drops", () => {
  const recorder = new TraceRecorder({ capacity: 2 });
  for (let i = 0; i < 5; i++) recorder.span({ name: `${i}`, cat: "a", ...lane }, i, 1);
  assert.deepEqual([recorder.events.length, recorder.dropped], [2, 3]);
});

test("the written file is JSON that holds every event, whatever the names", () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          name: fc.string({ unit: "binary" }),
          ts: fc.double({ noNaN: true, min: -1e15, max: 1e15 }),
        }),
        { maxLength: 60 },
      ),
      fc.dictionary(fc.string(), fc.jsonValue(), { maxKeys: 3 }),
      (parts, metadata) => {
        const recorder = new TraceRecorder();
        for (const { name, ts } of parts) recorder.span({ name, cat: "a", ...lane }, ts, 1.5);
        const { traceEvents, ...rest } = written(recorder.events, metadata) as {
          traceEvents: unknown;
        };
        const expected = JSON.parse(JSON.stringify(recorder.events));
        assert.deepEqual(traceEvents, expected);
        const { traceEvents: _, ...kept } = JSON.parse(JSON.stringify(metadata));
        assert.deepEqual({ ...rest }, { ...kept });
      },
    ),
  );
});

test("the file comes in pieces of about 64 KiB", () => {
  const recorder = new TraceRecorder();
  for (let i = 0; i < 5000; i++) recorder.span({ name: "kernel", cat: "a", ...lane }, i, 1);
  const pieces = [...writeTrace(recorder.events)];
  assert.ok(pieces.length >= 5, `got ${pieces.length} pieces`);
  assert.ok(pieces.every((piece) => piece.length < 2 * 65536));
});

test("a time that is no number is refused by name", () => {
  const event = { ph: "X", name: "bad", cat: "a", ...lane, ts: Number.NaN, dur: 1 } as const;
  assert.throws(() => written([event]), /times of the event bad/);
});
