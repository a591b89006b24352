/** @file Sorting files: two phases, workers, interruption, skew, and what may not be published. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  appendFile,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Random } from "../../base/index.ts";
import { generateFile, type KeySpread, sortFiles, tallyFiles } from "./index.ts";
import { recordBytes } from "./record.ts";

const seed = Number(process.env.BALEEN_SEED ?? Date.now() % 2 ** 31);
const note = `seed ${seed}: BALEEN_SEED=${seed} repeats it`;
const smallMemory = 100 * 2 ** 20;
let folder = "";

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "graysort-"));
});
after(() => rm(folder, { recursive: true }));

async function generated(name: string, records: number, keys?: KeySpread): Promise<string> {
  const path = join(folder, name);
  await generateFile({ path, records, keys, firstRow: BigInt(seed) });
  return path;
}

async function assertSorted(input: readonly string[], output: string): Promise<void> {
  const wanted = await tallyFiles(input);
  const got = await tallyFiles([output]);
  assert.equal(got.unordered, 0, "no record sorts before its predecessor");
  assert.equal(got.records, wanted.records);
  assert.equal(got.checksum, wanted.checksum, "the same records");
}

test("an empty file and a single record sort", async () => {
  for (const records of [0, 1]) {
    const input = await generated(`tiny-${records}`, records);
    const output = join(folder, `tiny-${records}-out`);
    const report = await sortFiles({ inputs: [input], output });
    assert.equal(report.records, records);
    await assertSorted([input], output);
  }
});

test(`every spread of keys sorts in memory and in two phases (${note})`, async () => {
  for (const keys of ["uniform", "skewed", "few"] as const) {
    const input = await generated(`${keys}`, 1_500_000, keys);
    for (const memoryBytes of [2 ** 30, smallMemory]) {
      const output = join(folder, `${keys}-${memoryBytes}-out`);
      const report = await sortFiles({ inputs: [input], output, memoryBytes });
      assert.equal(report.parts.length > 1, memoryBytes === smallMemory, "phases");
      await assertSorted([input], output);
      await rm(output, { recursive: true });
    }
    await rm(input);
  }
});

test("more equal records than memory holds still sort, and keep their order", async () => {
  const input = join(folder, "equal");
  const records = 1_200_000;
  await generateFile({ path: input, records });
  const data = await readFile(input);
  for (let i = 0; i < records; i++) {
    data.fill(7, i * recordBytes, i * recordBytes + 8);
    data.writeUInt16BE(i % 10 === 0 ? i % 50 : 500, i * recordBytes + 8);
  }
  await writeFile(input, data);
  const output = join(folder, "equal-out");
  const report = await sortFiles({ inputs: [input], output, memoryBytes: smallMemory });
  await assertSorted([input], output);
  const sorted = Buffer.concat(await Promise.all(report.parts.map((part) => readFile(part))));
  let key = -1;
  let row = "";
  for (let at = 0; at < sorted.length; at += recordBytes) {
    const [rest, digits] = [
      sorted.readUInt16BE(at + 8),
      sorted.toString("latin1", at + 12, at + 44),
    ];
    assert.ok(rest > key || digits > row, `record ${at / recordBytes} keeps its order`);
    [key, row] = [rest, digits];
  }
});

test("two workers sort what one does, and a second run does nothing", async () => {
  const input = await generated("two", 1_500_000);
  const output = join(folder, "two-out");
  const options = { inputs: [input], output, memoryBytes: 2 * smallMemory, workers: 2 };
  const first = await sortFiles(options);
  assert.ok(first.executed > 2);
  await assertSorted([input], output);
  const again = await sortFiles(options);
  assert.deepEqual(again, { ...first, executed: 0, reused: 0 });
  assert.deepEqual(
    (await readdir(output)).filter((name) => name.startsWith("_")),
    ["_manifest.json"],
    "nothing is left over",
  );
});

test(`killed anywhere, a sort goes on where it was and publishes once (${note})`, async () => {
  const random = new Random(seed);
  const input = await generated("killed", 1_000_000);
  const output = join(folder, "killed-out");
  const script = fileURLToPath(new URL("./testing/sort-process.js", import.meta.url));
  let kills = 0;
  let reused = 0;
  for (;;) {
    const child = spawn(process.execPath, [script, input, output, String(smallMemory)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let said = "";
    child.stdout.on("data", (chunk) => {
      said += chunk;
    });
    const timer =
      kills < 4 ? setTimeout(() => child.kill("SIGKILL"), 80 + random.below(500)) : undefined;
    const [code] = await once(child, "close");
    clearTimeout(timer);
    const published = (await readdir(output).catch((): string[] => [])).includes("_manifest.json");
    if (code === 0) {
      assert.ok(published);
      reused = JSON.parse(said).reused;
      break;
    }
    assert.equal(code, null, said);
    kills++;
    if (published) break;
  }
  await assertSorted([input], output);
  assert.ok(kills >= 1 && reused >= 0);
});

test("a worker that is killed costs an attempt, not the sort", async () => {
  const input = await generated("lost", 1_500_000);
  const output = join(folder, "lost-out");
  let killed = 0;
  const report = await sortFiles({
    inputs: [input],
    output,
    memoryBytes: 2 * smallMemory,
    workers: 2,
    onProgress: ({ phase, done }) => {
      if (phase === "scatter" && done === 1) killed = killWorkers();
    },
  });
  assert.ok(killed > 0, "there was a worker to kill");
  assert.equal(report.records, 1_500_000);
  await assertSorted([input], output);
});

/** Kills the children of this process that sort. */
function killWorkers(): number {
  const handles = (process as unknown as { _getActiveHandles(): unknown[] })._getActiveHandles();
  const children = handles.filter((handle): handle is { pid: number; spawnargs: string[] } =>
    Array.isArray((handle as { spawnargs?: unknown }).spawnargs),
  );
  const workers = children.filter(({ spawnargs }) =>
    spawnargs.some((arg) => arg.includes("worker")),
  );
  for (const { pid } of workers) process.kill(pid, "SIGKILL");
  return workers.length;
}

test("an aborted sort publishes nothing", async () => {
  const input = await generated("aborted", 1_000_000);
  for (const workers of [1, 2]) {
    const output = join(folder, `aborted-${workers}-out`);
    const abort = new AbortController();
    const memoryBytes = smallMemory * workers;
    const onProgress = (): void => abort.abort();
    const options = {
      inputs: [input],
      output,
      memoryBytes,
      workers,
      signal: abort.signal,
      onProgress,
    };
    await assert.rejects(sortFiles(options), { name: "AbortError" });
    assert.ok(!(await readdir(output)).includes("_manifest.json"));
  }
});

test("bad input gets one sentence, and nothing is published", async () => {
  const input = await generated("good", 10);
  const output = join(folder, "bad-out");
  const missing = join(folder, "missing");
  await assert.rejects(sortFiles({ inputs: [missing], output }), /does not exist: check the path/);
  await assert.rejects(sortFiles({ inputs: [folder], output }), /is no file: name a file/);
  await assert.rejects(sortFiles({ inputs: [], output }), /there is no input: name a file/);
  await assert.rejects(
    sortFiles({ inputs: [input], output, memoryBytes: 1000 }),
    /too little for 1 workers: give at least/,
  );
  const torn = await generated("torn", 3);
  await truncate(torn, 250);
  await assert.rejects(
    sortFiles({ inputs: [torn], output }),
    /no multiple of 100: it is cut short/,
  );
  await assert.rejects(tallyFiles([folder]), /has no _manifest.json: the sort has not finished/);
  await assert.rejects(
    sortFiles({ inputs: [input], output: input }),
    /good/,
    "an output that is a file names it",
  );
  await sortFiles({ inputs: [input], output });
  const other = await generated("other", 11);
  await assert.rejects(
    sortFiles({ inputs: [other], output }),
    /holds another result: choose another/,
  );
  const [part] = (await readdir(output)).filter((name) => name.startsWith("part-"));
  await appendFile(join(output, part), Buffer.alloc(recordBytes));
  await assert.rejects(tallyFiles([output]), /the manifest says 1000: sort again/);
  await writeFile(join(output, "_manifest.json"), "{");
  await assert.rejects(tallyFiles([output]), /is no manifest of a sort: remove the folder/);
});

test("a folder that holds something else is refused, and nothing in it is touched", async () => {
  const output = join(folder, "taken");
  await mkdir(output);
  const input = join(output, "part-00000.12345678"); // as a part of a sort would be called
  await generateFile({ path: input, records: 5 });
  const before = await readFile(input);
  await assert.rejects(sortFiles({ inputs: [input], output }), {
    code: "output-taken",
    message: /holds part-00000.12345678, which this sort did not make: choose an empty folder/,
  });
  assert.deepEqual(await readdir(output), ["part-00000.12345678"]);
  assert.deepEqual(await readFile(input), before);
  await rm(output, { recursive: true });
  await mkdir(output);
  const outside = await generated("outside", 5);
  await sortFiles({ inputs: [outside], output });
  await assertSorted([outside], output);
});

test("a full disk is said so, and nothing is published", async (t) => {
  const input = await generated("large", 1_000_000);
  const output = join(folder, "full-out");
  const script = fileURLToPath(new URL("./testing/sort-process.js", import.meta.url));
  // A limit on file size stands for the disk's; the signal it raises is ignored, as on a full disk.
  const command = `trap '' XFSZ; ulimit -f 20000; exec "${process.execPath}" "${script}" "${input}" "${output}" ${2 ** 30}`;
  const child = spawn("bash", ["-c", command], { stdio: ["ignore", "ignore", "pipe"] });
  child.on("error", () => t.skip("bash, which sets the limit, is not there"));
  let said = "";
  child.stderr.on("data", (chunk) => {
    said += chunk;
  });
  const [code] = await once(child, "close");
  assert.equal(code, 1, said);
  assert.match(said, /exceeds the file size limit: raise it/);
  assert.deepEqual(
    (await readdir(output)).filter((name) => !name.startsWith("_staging")),
    [],
  );
});
