/** @file The reader: pieces of any size, exact times, strange texts, damaged and hostile files. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { BaleenError, Random } from "../base/index.ts";
import { profileTrace, readTrace, type Trace } from "./index.ts";
import { inPieces, madeEvents, madeOperations } from "./testing.ts";
import { readTime } from "./time.ts";

/** A trace as plain data: what must not depend on how the bytes came. */
function plain(trace: Trace): unknown {
  const { strings, processNames, waits, ...columns } = trace;
  const rows = Array.from({ length: trace.count }, (_, row) =>
    Object.fromEntries(
      Object.entries(columns).flatMap(([name, column]) =>
        ArrayBuffer.isView(column) ? [[name, (column as Float64Array)[row]]] : [],
      ),
    ),
  );
  const texts = Array.from({ length: strings.size }, (_, id) => strings.text(id));
  return { rows, texts, processNames: [...processNames], waits, numEvents: trace.numEvents };
}

function read(text: string): Promise<Trace> {
  return readTrace([new TextEncoder().encode(text)]);
}

/** A trace with everything that files have: escapes, other values, nested arguments. */
function sample(random: Random): string {
  const events = madeEvents(madeOperations(random, 12, 1000), 1740461679470692);
  const odd = [
    {
      ph: "M",
      name: "process_name",
      pid: 0,
      tid: 0,
      args: { name: 'Ärger "quoted" 🐋 \\ \u0001' },
    },
    { ph: "X", cat: "kernel", name: "名前🐋<é>", pid: 0, tid: "7", ts: 5.125, dur: 0, args: {} },
    {
      ph: "X",
      cat: "cpu_op",
      name: "skipped",
      pid: 1,
      tid: 1,
      ts: 1,
      dur: 1,
      args: { a: [[{}], "]}"] },
    },
    { name: "no phase", args: null },
    { ph: "i", s: "g", name: "end", pid: "", tid: "", ts: 3 },
    { ph: "B", cat: "user_annotation", name: "outer", pid: 1, tid: 1, ts: 10 },
    { ph: "E", pid: 1, tid: 1, ts: 30 },
    { ph: "E", pid: 1, tid: 1, ts: 31 },
    {},
  ];
  return JSON.stringify(
    {
      schemaVersion: 1,
      deviceProperties: [{ name: 'a \\ ] } " b', list: [1, [2]] }],
      distributedInfo: { rank: 3, world_size: 8 },
      traceEvents: random.shuffle([...events, ...odd]),
      traceName: "x/ü.json",
    },
    null,
    random.below(2) * 2,
  );
}

test("pieces of any size give the same trace", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 1e9 }),
      fc.constantFrom(1, 2, 7, 100, 4096),
      async (seed, longest) => {
        const random = new Random(seed);
        const text = sample(random);
        const [whole, pieces] = await Promise.all([
          read(text),
          readTrace(inPieces(text, random, longest)),
        ]);
        assert.deepEqual(plain(pieces), plain(whole));
        assert.deepEqual(pieces.metadata, {
          schemaVersion: 1,
          distributedInfo: { rank: 3, world_size: 8 },
          traceName: "x/ü.json",
        });
        assert.equal(
          whole.processNames.get(whole.strings.idOf("0")),
          'Ärger "quoted" 🐋 \\ \u0001',
        );
        assert.ok(plainNames(whole).includes("名前🐋<é>"));
      },
    ),
    { numRuns: 40 },
  );
});

function plainNames(trace: Trace): string[] {
  return Array.from(trace.name, (id) => trace.strings.text(id));
}

test("one name written in two ways is one name", async () => {
  const trace = await read(
    '[{"ph":"X","cat":"kernel","name":"a/b","ts":0},' +
      String.raw`{"ph":"X","cat":"kernel","name":"a\/\u0062","ts":1}]`,
  );
  assert.equal(trace.name[0], trace.name[1]);
});

test("a span of two events has the time between them", async () => {
  const trace = await read(
    `[{"ph":"B","cat":"user_annotation","name":"outer","pid":1,"tid":1,"ts":1740461679470692.5},
      {"ph":"B","cat":"none","name":"inner","pid":1,"tid":1,"ts":1740461679470693},
      {"ph":"B","cat":"user_annotation","name":"other","pid":1,"tid":2,"ts":1740461679470693},
      {"ph":"E","pid":1,"tid":1,"ts":1740461679470694},
      {"ph":"E","pid":1,"tid":1,"ts":1740461679470700.001}]`,
  );
  assert.deepEqual(plainNames(trace), ["outer", "other"]);
  assert.deepEqual([...trace.durationNs], [7501, 0]);
});

test("times are exact to the nanosecond, however they are written", () => {
  const encoder = new TextEncoder();
  const into = { us: 0, ns: 0 };
  const parse = (text: string): bigint | undefined => {
    const bytes = encoder.encode(text);
    if (!readTime(bytes, 0, bytes.length, into)) return undefined;
    return BigInt(into.us) * 1000n + BigInt(into.ns);
  };
  fc.assert(
    fc.property(
      fc.bigInt({ min: -(2n ** 53n) + 1n, max: 2n ** 53n - 1n }),
      fc.integer({ min: 0, max: 999999 }),
      fc.integer({ min: -6, max: 6 }),
      (whole, millionths, exponent) => {
        const negative = whole < 0n;
        const size = negative ? -whole : whole;
        const fraction = String(millionths).padStart(6, "0");
        const sign = negative ? "-" : "";
        // Nanoseconds rounded, halves up: floor((2 x + 1) / 2) of picoseconds over 1000.
        const exact = (negative ? -1n : 1n) * (size * 1_000_000n + BigInt(millionths));
        const shifted = exact + 500n;
        const floor = shifted / 1000n - (shifted % 1000n < 0n ? 1n : 0n);
        if (size < 2n ** 53n - 2n) assert.equal(parse(`${sign}${size}.${fraction}`), floor);
        // The same number with its point elsewhere.
        const digits = `${size}${fraction}`;
        const power = exponent - 6;
        if (exponent === 0 && size < 2n ** 53n - 2n) {
          assert.equal(parse(`${sign}${digits}e${power}`), floor);
        }
      },
    ),
  );
  assert.equal(parse("1.7404616794706921e15"), 1740461679470692100n);
  assert.equal(parse("0.0005"), 1n);
  assert.equal(parse("-0.0005"), 0n);
  for (const text of ["", "-", "1.", ".5", "1e", "0x1", "1e99", "9007199254740993", "NaN", "1_0"]) {
    assert.equal(parse(text), undefined, text);
  }
});

/** What reading and reporting of some bytes comes to: nothing, or a typed error. */
async function outcome(bytes: Uint8Array): Promise<string> {
  try {
    profileTrace(await readTrace([bytes]));
    return "read";
  } catch (error) {
    if (error instanceof BaleenError) {
      assert.match(error.message, /^.+: .+\.$/, "one sentence with advice");
      return error.code;
    }
    throw error;
  }
}

test("a file cut anywhere is said to be cut", async () => {
  const bytes = new TextEncoder().encode(sample(new Random(11)));
  const codes = new Set<string>();
  for (let length = 1; length < bytes.length; length++) {
    codes.add(await outcome(bytes.subarray(0, length)));
  }
  assert.deepEqual([...codes], ["trace-truncated"]);
});

test("the sample is read where it is whole", async () => {
  assert.equal(await outcome(new TextEncoder().encode(sample(new Random(3)))), "read");
});

test("damaged files are refused or read, and nothing worse", async () => {
  const seen = new Map<string, number>();
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 1e9 }),
      fc.array(fc.tuple(fc.nat(999_999), fc.nat(255)), {
        minLength: 1,
        maxLength: 6,
      }),
      fc.boolean(),
      async (seed, changes, cut) => {
        const bytes = new TextEncoder().encode(sample(new Random(seed)));
        for (const [place, byte] of changes) {
          bytes[Math.floor((place / 1e6) * bytes.length)] = byte;
        }
        const length = cut ? Math.floor((changes[0][0] / 1e6) * bytes.length) : bytes.length;
        const code = await outcome(bytes.subarray(0, length));
        seen.set(code, (seen.get(code) ?? 0) + 1);
      },
    ),
    { numRuns: 1500 },
  );
  assert.ok(seen.size >= 3, `got only ${[...seen.keys()].join(", ")}`);
});

test("bytes that are no JSON at all are refused", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (bytes) => {
      const code = await outcome(bytes);
      assert.ok(code === "trace-invalid" || code === "trace-truncated" || code === "trace-empty");
    }),
    { numRuns: 500 },
  );
});

test("what is no trace is refused in a sentence", async () => {
  const cases: readonly (readonly [text: string, message: RegExp])[] = [
    ["", /^The trace is empty \(at byte 0\): give a trace as JSON\.$/],
    ["hello", /^The trace is no JSON object or array \(at byte 0\): /],
    ['{"a": 1}', /^The trace has no "traceEvents": give a trace/],
    ["[1]", /^The trace has no event as traceEvents\[0\] \(at byte 1\): /],
    ['{"traceEvents": {}}', /the list of events is missing \(at byte 16\)/],
    ['[{"ph":"X","cat":"kernel","dur":1}]', /^traceEvents\[0\] has no ts: /],
    ['[{},{"ph":"X","cat":"kernel","ts":1,"dur":-1}]', /^traceEvents\[1\] has a negative dur/],
    ['[{"ts":"x"}]', /no number of microseconds as ts of traceEvents\[0\] \(at byte 7\)/],
    ['[{"ts" 1}]', /a colon is missing/],
    ["[{} {}]", /a comma is missing/],
    ["[] []", /goes on after its end/],
    ['[{"ph":"X","cat":"kernel","ts":0,"name":"\\u12"}]', /is no valid JSON/],
  ];
  for (const [text, message] of cases) {
    await assert.rejects(read(text), { name: "BaleenError", message }, text);
  }
});

test("a list may lack its bracket, as Chrome allows, but not half an event", async () => {
  const event = '{"ph":"X","cat":"kernel","name":"a","ts":1,"dur":1}';
  for (const text of [`[${event}`, `[${event},\n`, `[${event}]`, `\ufeff[${event}] \n`]) {
    assert.equal((await read(text)).count, 1, text);
  }
  await assert.rejects(read(`[${event},{"ph"`), { code: "trace-truncated" });
  await assert.rejects(read(`{"traceEvents":[${event},`), { code: "trace-truncated" });
});

test("a value without end is refused before it fills the memory", async () => {
  function* endless(): Generator<Uint8Array> {
    yield new TextEncoder().encode('[{"name":"');
    for (;;) yield new Uint8Array(1 << 20).fill(0x61);
  }
  await assert.rejects(readTrace(endless()), /has a value of more than 64 MiB/);
});

const golden = fileURLToPath(new URL("../../../shared/golden/trace/train.json", import.meta.url));
const skip = existsSync(golden) ? false : `no trace at ${golden}`;

test("DeepSeek's published training trace gives its reference figures", { skip }, async () => {
  const bytes = readFileSync(golden);
  const [{ report }] = profileTrace(await readTrace([bytes]));
  const { spanUs, busyUs, idleUs, communicationUs, communicationKernels } = report;
  assert.deepEqual([spanUs, busyUs, idleUs], [129012, 128515, 497]);
  assert.deepEqual([communicationUs, communicationKernels], [113440, 36]);
  const { computationUs, computationSumUs, overlappedUs, exposedUs } = report;
  const figures = [computationUs, computationSumUs, overlappedUs, exposedUs];
  assert.deepEqual(figures, [124310, 130601, 109250, 4190]);
  assert.equal(report.overlappedPercentOfCommunication.toFixed(3), "96.306");
  assert.deepEqual(report.categories["fp8 GEMM"], { count: 140, sumUs: 74520 });
  const { meanUs, medianUs, maxUs } = report.launchToStart;
  assert.deepEqual([Math.round(meanUs), medianUs, maxUs], [13602, 15496, 24349]);
  const phases = report.phases.map(({ instances }) => instances);
  assert.deepEqual(phases, new Array(10).fill(4));
});
