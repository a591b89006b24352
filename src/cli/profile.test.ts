/** @file `baleen profile` as users run it: schedules' traces, gzip, pages, ranks and damaged files. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const main = fileURLToPath(new URL("./main.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "baleen-profile-"));
after(() => rmSync(folder, { recursive: true }));

function baleen(...argv: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...argv], {
    cwd: folder,
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

/** A trace of a product and a dispatch of `dur` microseconds beside it. */
function traceOf(dur: number): string {
  const kernel = (name: string, stream: number, ts: number, length: number): object => {
    return { ph: "X", cat: "kernel", name, pid: 0, tid: stream, ts, dur: length, args: { stream } };
  };
  const traceEvents = [
    kernel("gemm", 7, 100, 50),
    kernel("deep_ep::intranode::dispatch", 20, 120, dur),
  ];
  return JSON.stringify({ traceEvents });
}

writeFileSync(join(folder, "a.json"), traceOf(40));
writeFileSync(join(folder, "b.json"), traceOf(30));
writeFileSync(join(folder, "a.json.gz"), gzipSync(traceOf(40)));
writeFileSync(join(folder, "cut.json.gz"), gzipSync(traceOf(40)).subarray(0, 60));
writeFileSync(join(folder, "cut.json"), traceOf(40).slice(0, 100));
writeFileSync(
  join(folder, "rules.json"),
  JSON.stringify([{ category: "mine", pattern: "^gemm$", communication: true }]),
);

test("figures as JSON, packed or not, by the table, a pattern or rules", () => {
  const plain = JSON.parse(baleen("profile", "a.json", "--json").stdout);
  assert.deepEqual([plain.spanUs, plain.communicationUs, plain.exposedUs], [60, 40, 10]);
  assert.deepEqual(plain.streamOverlapsUs, { "7&20": 30 });
  const packed = JSON.parse(baleen("profile", "a.json.gz", "--json").stdout);
  assert.deepEqual({ ...packed, file: plain.file }, plain);
  const only = baleen("profile", "a.json", "--json", "--communication", "^gemm$");
  const { communicationUs, communicationRule } = JSON.parse(only.stdout);
  assert.deepEqual([communicationUs, communicationRule], [50, "/^gemm$/"]);
  const ruled = JSON.parse(baleen("profile", "a.json", "--json", "--rules", "rules.json").stdout);
  assert.deepEqual([ruled.communicationUs, ruled.computationUs], [60, 0]);
});

test("ranks beside each other, and what changed", () => {
  const { ranks, stragglers } = JSON.parse(baleen("profile", "a.json", "b.json", "--json").stdout);
  assert.deepEqual([ranks.length, stragglers.matched], [2, 1]);
  assert.match(baleen("profile", "a.json", "b.json").stdout, /^b .* 1x +10 us/m);
  const diff = baleen("profile", "a.json", "b.json", "--diff");
  assert.match(diff.stdout, /^communication +40 us +30 us +-10 us +-25\.0 %$/m);
});

test("a page and a trace for Perfetto, which reads as the same", () => {
  const run = baleen("profile", "a.json", "--html", "a.html", "--perfetto", "p.json");
  assert.deepEqual([run.status, run.stderr], [0, "wrote a.html\nwrote p.json\n"]);
  assert.match(run.stdout, /^ {2}exposed +10 us +25\.0 % +of communication, 16\.7 % of the span$/m);
  assert.match(readFileSync(join(folder, "a.html"), "utf8"), /^<!doctype html>/);
  const [before, again] = ["a.json", "p.json"].map((file) => {
    const { name: _, file: __, ...report } = JSON.parse(baleen("profile", file, "--json").stdout);
    return report;
  });
  assert.deepEqual(again, before);
});

test("a simulated schedule's trace: its ranks' bubbles", () => {
  baleen("dualpipe", "simulate", "--trace", "d.json");
  const { ranks } = JSON.parse(baleen("profile", "d.json", "--json").stdout);
  assert.equal(ranks.length, 8);
  assert.deepEqual([ranks[0].spanUs, ranks[0].busyUs], [66_000, 60_000]);
  const kinds = ["backward", "forward", "forward & backward", "weights"];
  assert.deepEqual(Object.keys(ranks[0].categories).sort(), kinds);
});

test("damaged files and wrong calls: one sentence that names the file", () => {
  const cases: readonly (readonly [argv: string[], status: number, says: RegExp])[] = [
    [["cut.json.gz"], 1, /^baleen: cut\.json\.gz is no whole gzip file \(Z_BUF_ERROR\): .*\.\n$/],
    [["cut.json"], 1, /^baleen: cut\.json: The trace ends at byte 100, in the middle .*\.\n$/],
    [["rules.json"], 1, /^baleen: rules\.json: The trace has 1 events but no kernel .*\.\n$/],
    [[folder], 1, /^baleen: .* can't be read \(EISDIR\): check the path\.\n$/],
    [["a.json", "--diff"], 2, /^baleen: --diff: got 1 files, wanted two\.\n$/],
    [
      ["a.json", "--html", "/nowhere/x"],
      1,
      /^baleen: \/nowhere\/x can't be written \(ENOENT\).*\n$/,
    ],
    [["a.json", "--rules", "a.json"], 1, /^baleen: a\.json is no list: give a list of rules\.\n$/],
  ];
  for (const [argv, status, says] of cases) {
    const run = baleen("profile", ...argv);
    assert.match(run.stderr, says);
    assert.deepEqual([run.status, run.stdout], [status, ""]);
  }
});
