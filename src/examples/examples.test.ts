import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const folder = dirname(fileURLToPath(import.meta.url));

/** What each example must print, line by line. */
const wanted: Readonly<Record<string, readonly RegExp[]>> = {
  "deep-gemm": [
    /^device: (x86$|reference: )/,
    /^FP8 beside bf16: within 1e-3$/,
    /^packed weights: 524288 bytes, read once a product$/,
    /^experts: row 3 is padding and was left alone$/,
    /^gradients: some, zero, some$/,
    /^query 0: key \d+ of 300$/,
    /^query 1: key \d+ of 150$/,
  ],
  eplb: [
    ...[0, 1].map(
      (n) => new RegExp(`^layer ${n}: busiest GPU 1\\.\\d+ of the mean \\(exact mode 1`),
    ),
    /^without group affinity: 1\.0\d\d, 1\.0\d\d$/,
    ...[0, 1].map((n) => new RegExp(`^batch, layer ${n}: at most \\d+ tokens a GPU; \\d+ experts`)),
    ...[0, 1].map(
      (n) => new RegExp(`^migration, layer ${n}: \\d\\.\\d+ to 1\\.\\d+ with \\d+ moves`),
    ),
  ],
  planner: [
    /^6 published throughputs that took no part in the fit: off by at most [0-7]\.\d %$/,
    /^the article's day: 5442 node-hours, \$87072$/,
    /^32 nodes: \d+ prefill units of \d+ and \d+ decode units of \d+ nodes, \d+k tokens\/s at \d\d ms$/,
    /^\d+ of 32 nodes in use; the (prefill|decode) pool is full/,
    /^a simulated day: 2\d\d nodes on average, 2\d tokens\/s a user$/,
  ],
  "profile-data": [
    /^rank 0: 900 us, communication 400 us, overlapped 150 us, exposed 250 us$/,
    /^rank 1: 900 us, communication 200 us, overlapped 150 us, exposed 50 us$/,
    /^rank 0 came last 0 times, others waited 0 us for it$/,
    /^rank 1 came last 1 times, others waited 200 us for it$/,
  ],
  dualpipe: [
    /^dualpipe {5}8 ranks: time [\d.]+, bubble [\d.]+ %, 9 chunks held$/,
    /^dualpipev {4}4 ranks: time [\d.]+, bubble [\d.]+ %, 9 chunks held$/,
    /^1f1b {9}8 ranks: time 69\.0, bubble 30\.4 %, 8 chunks held$/,
    /^interleaved {2}4 ranks/,
    /^zb-h1 {8}8 ranks: time 55\.0, bubble 12\.7 %, 8 chunks held$/,
    /^zb-h2 {8}8 ranks/,
    /^zb-v {9}4 ranks/,
    /^search: 248 before, 2[34]\d after, shorter$/,
  ],
  smallpond: [/^DEEP: 100 to 104$/, /^POND: 300 to 304$/, /^SEEK: 200 to 204$/],
};

const examples = readdirSync(folder)
  .filter((file) => file.endsWith(".js") && !file.endsWith(".test.js"))
  .map((file) => file.replace(/\.js$/, ""));

test("every example has its expected output, and every expected output its example", () => {
  assert.deepEqual(examples.sort(), Object.keys(wanted).sort());
});

for (const [name, lines] of Object.entries(wanted)) {
  test(`the example ${name} runs and prints what it should`, () => {
    const run = spawnSync(process.execPath, [join(folder, `${name}.js`)], { encoding: "utf8" });
    assert.equal(run.status, 0, run.stderr);
    assert.equal(run.stderr, "");
    const printed = run.stdout.trimEnd().split("\n");
    assert.equal(printed.length, lines.length, run.stdout);
    for (const [i, line] of lines.entries()) assert.match(printed[i], line);
  });
}
