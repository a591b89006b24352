import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  alignUp,
  BoundedQueue,
  formatBytes,
  formatCount,
  isLinearizable,
  medianOf,
  nearestName,
  Random,
  VirtualClock,
} from "./index.ts";

test("alignUp gives the least multiple at or above", () => {
  fc.assert(
    fc.property(fc.nat(1e9), fc.integer({ min: 1, max: 4096 }), (value, alignment) => {
      const got = alignUp(value, alignment);
      assert.equal(got % alignment, 0);
      assert.ok(got >= value && got - value < alignment);
    }),
  );
});

test("sizes are written with three significant digits and a unit", () => {
  assert.equal(formatBytes(0), "0 B");
  assert.equal(formatBytes(1536), "1.5 KiB");
  assert.equal(formatBytes(1_567_000_000), "1.46 GiB");
  assert.equal(formatCount(6_180_000), "6.18 M");
  assert.equal(formatCount(100_000), "100 k");
});

test("a bounded queue keeps order and refuses beyond its capacity", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 40 }), fc.array(fc.boolean()), (capacity, pushes) => {
      const queue = new BoundedQueue<number>(capacity);
      const model: number[] = [];
      pushes.forEach((push, i) => {
        if (push) {
          assert.equal(queue.push(i), model.length < capacity);
          if (model.length < capacity) model.push(i);
        } else {
          assert.equal(queue.shift(), model.shift());
        }
        assert.equal(queue.size, model.length);
      });
    }),
  );
});

test("a virtual clock runs timers in order of time, then of setting, and honours cancels", () => {
  const clock = new VirtualClock();
  const seen: string[] = [];
  clock.after(20, () => seen.push(`b@${clock.now()}`));
  clock.after(10, () => {
    seen.push(`a@${clock.now()}`);
    clock.after(5, () => seen.push(`nested@${clock.now()}`));
  });
  clock.after(20, () => seen.push("c"));
  clock.after(15, () => seen.push("cancelled"))();
  clock.advance(30);
  assert.deepEqual(seen, ["a@10", "nested@15", "b@20", "c"]);
  assert.equal(clock.now(), 30);
});

test("a virtual clock runs any number of timers as a sorted list would", () => {
  const delays = fc.array(fc.tuple(fc.nat(50), fc.boolean()));
  fc.assert(
    fc.property(delays, (timers) => {
      const clock = new VirtualClock();
      const seen: number[] = [];
      timers.forEach(([delayMs, isCancelled], i) => {
        const cancel = clock.after(delayMs, () => seen.push(i));
        if (isCancelled) cancel();
      });
      while (clock.runNext(40));
      const wanted = timers
        .map(([delayMs, isCancelled], i) => ({ delayMs, isCancelled, i }))
        .filter(({ delayMs, isCancelled }) => !isCancelled && delayMs <= 40)
        .toSorted((x, y) => x.delayMs - y.delayMs || x.i - y.i);
      assert.deepEqual(
        seen,
        wanted.map(({ i }) => i),
      );
    }),
  );
});

test("a seed replays the same numbers, and they are uniform and normal enough", () => {
  const [x, y] = [new Random(7), new Random(7)];
  for (let i = 0; i < 100; i++) assert.equal(x.uint32(), y.uint32());
  let [sum, squares] = [0, 0];
  for (let i = 0; i < 20_000; i++) {
    const value = x.normal();
    sum += value;
    squares += value * value;
  }
  assert.ok(Math.abs(sum / 20_000) < 0.03 && Math.abs(squares / 20_000 - 1) < 0.05);
  const counts = new Array<number>(10).fill(0);
  for (let i = 0; i < 20_000; i++) counts[x.below(10)]++;
  for (const count of counts) assert.ok(count > 1800 && count < 2200, `count ${count}`);
});

test("the median ignores one outlier", () => {
  assert.equal(medianOf([3, 1, 1000]), 3);
  assert.equal(medianOf([4, 1, 3, 2]), 2.5);
});

test("a mistyped name finds its nearest, and a foreign one none", () => {
  const names = ["temperature", "top_p", "top_k", "max_tokens"];
  assert.equal(nearestName("temprature", names), "temperature");
  assert.equal(nearestName("max_token", names), "max_tokens");
  assert.equal(nearestName("otp_p", names), "top_p");
  assert.equal(nearestName("metadata", names), undefined);
  assert.equal(nearestName("n", names), undefined);
});

test("a history is linearisable if, and only if, some order explains its answers", () => {
  type Call = [startedAt: number, endedAt: number, kind: "read" | "write", value: number];
  const judge = (calls: Call[]): boolean =>
    isLinearizable(
      0,
      calls.map(([startedAt, endedAt, kind, value]) => ({
        startedAt,
        endedAt,
        step: (state: number) => (kind === "write" ? value : state === value ? state : undefined),
      })),
      String,
    );
  const reads = (first: number, second: number): Call[] => [
    [0, 10, "write", 1],
    [1, 2, "read", first],
    [3, 4, "read", second],
  ];
  assert.ok(judge(reads(0, 0)) && judge(reads(0, 1)) && judge(reads(1, 1)));
  assert.ok(!judge(reads(1, 0)), "a later read must not be older");
  assert.ok(!judge([...reads(1, 1), [11, 12, "read", 0]]));
  const lost: Call = [0, Infinity, "write", 5];
  assert.ok(judge([lost, [1, 2, "read", 0], [30, 40, "read", 5]]), "a lost write may act late");
  assert.ok(judge([lost, [1, 2, "read", 0]]), "or never");
  assert.ok(!judge([lost, [1, 2, "read", 5], [3, 4, "read", 0]]), "but not be undone");
});
