/**
 * @file The record sort beside DuckDB, GNU sort and a bare copy: whole processes, strictly in turn,
 * processor and wall seconds, medians. All sort the same file of text records (100 bytes with the
 * newline, keys of 10 printable bytes), since the peers read lines. Files lie in memory where /dev/shm
 * is there, else in the temporary folder. Flags: --large (1 GB in memory; 4 times the memory in two
 * phases), --rounds N.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { formatBytes, medianOf } from "../../base/index.ts";
import { blockBytes, readBlocks, wholeFile } from "./blocks.ts";
import { generateFile, type KeySpread, tallyFiles } from "./index.ts";
import { recordBytes } from "./record.ts";

const large = process.argv.includes("--large");
const roundsAt = process.argv.indexOf("--rounds");
const rounds = roundsAt > 0 ? Number(process.argv[roundsAt + 1]) : large ? 3 : 1;
const baleen = fileURLToPath(new URL("../../cli/main.js", import.meta.url));
const duckdb = fileURLToPath(new URL("./testing/duckdb-sort.js", import.meta.url));
const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "graysort-"));

interface Took {
  readonly cpu: number;
  readonly wall: number;
}

/** Runs a command in the shell, and takes its processor time and that of all it waited for. */
function timed(command: string): Took | undefined {
  const script = `TIMEFORMAT='%U %S %R'; time { ${command} > /dev/null; }`;
  const { status, stderr } = spawnSync("bash", ["-c", script], { encoding: "utf8" });
  if (status !== 0) {
    console.log(`  failed: ${command}\n${stderr}`);
    return undefined;
  }
  const [user, system, wall] = stderr.trim().split("\n").at(-1)!.split(" ").map(Number);
  return { cpu: user + system, wall };
}

/** Makes a file of records that are lines of text: keys, digits and fillers printable. */
async function generateText(path: string, records: number, keys: KeySpread): Promise<void> {
  const binary = `${path}.bin`;
  await generateFile({ path: binary, records, keys });
  const file = await open(path, "w");
  for await (const block of readBlocks([await wholeFile(binary)])) {
    for (let at = 0; at < block.length; at += recordBytes) {
      for (let i = 0; i < 10; i++) block[at + i] = printable(block[at + i]);
      block.fill(0x20, at + 10, at + 12);
      block.fill(0x20, at + 44, at + 48);
      block.fill(0x20, at + 96, at + 99);
      block[at + 99] = 0x0a;
    }
    await file.writeFile(block);
  }
  await file.close();
  rmSync(binary);
}

/** A byte as a printable one, in the same order: neither space nor what a CSV reader may quote. */
function printable(byte: number): number {
  return 0x30 + ((byte * 78) >> 8);
}

interface Rival {
  readonly name: string;
  readonly command: (input: string, output: string) => string;
}

const node = `"${process.execPath}"`;
const ours = (memory: number, workers: number): Rival => ({
  name: `baleen, ${workers} worker${workers > 1 ? "s" : ""}`,
  command: (input, output) =>
    `${node} ${baleen} graysort sort ${input} --out ${output} --memory ${memory} --workers ${workers}`,
});
const duck = (memory: number): Rival => ({
  name: "DuckDB, 2 threads",
  command: (input, output) => `${node} ${duckdb} ${input} ${output} ${memory} 2`,
});
const gnu = (memory: number): Rival => ({
  name: "GNU sort, 2 threads",
  command: (input, output) =>
    `LC_ALL=C sort --parallel=2 -S ${Math.floor(memory / 1024)}K -T ${folder} -o ${output} ${input}`,
});
const copy: Rival = { name: "cp", command: (input, output) => `cp ${input} ${output}` };

/** Runs the rivals in turn, and prints medians and what they are of the first. */
async function compare(title: string, input: string, rivals: readonly Rival[]): Promise<void> {
  console.log(`\n${title}, ${formatBytes(statSync(input).size)}, medians of ${rounds}`);
  const took = new Map<string, Took[]>(rivals.map(({ name }) => [name, []]));
  const wanted = await tallyFiles([input]);
  for (let round = 0; round < rounds; round++) {
    for (const { name, command } of rivals) {
      const output = join(folder, "out");
      const result = timed(command(input, output));
      if (result) took.get(name)!.push(result);
      const tally = result && (await tallyFiles([output]));
      if (tally && (tally.checksum !== wanted.checksum || (name !== "cp" && tally.unordered > 0))) {
        throw new Error(`${name} did not sort: ${tally.unordered} out of order`);
      }
      rmSync(output, { recursive: true, force: true });
    }
  }
  console.log("                         CPU s   wall s   CPU and wall, relative to ours");
  const medians = [...took].flatMap(([name, all]) =>
    all.length === 0
      ? []
      : [
          {
            name,
            cpu: medianOf(all.map(({ cpu }) => cpu)),
            wall: medianOf(all.map((t) => t.wall)),
          },
        ],
  );
  const [first] = medians;
  for (const { name, cpu, wall } of medians) {
    const cells = [cpu, wall].map((seconds) => seconds.toFixed(2).padStart(7)).join("  ");
    const ratios = [cpu / first.cpu, wall / first.wall].map((ratio) => `${ratio.toFixed(2)}x`);
    console.log(`  ${name.padEnd(22)}${cells}   ${ratios.join("  ")}`);
  }
}

try {
  const records = large ? 10_000_000 : 200_000;
  const input = join(folder, "data");
  await generateText(input, records, "uniform");
  const bytes = records * recordBytes;
  const ample = Math.max(4 * bytes, 2 ** 29);
  await compare("in memory", input, [ours(ample, 1), duck(ample), gnu(ample), copy]);
  const budget = Math.max(bytes / 4, 50 * blockBytes);
  await compare(`two phases, memory of ${formatBytes(budget)}`, input, [
    ours(budget, 1),
    ours(budget, 2),
    duck(budget),
    gnu(budget),
  ]);
  for (const keys of ["skewed", "few"] as const) {
    const other = join(folder, keys);
    await generateText(other, records, keys);
    await compare(`two phases, ${keys} keys`, other, [ours(budget, 1)]);
    rmSync(other);
  }
} finally {
  rmSync(folder, { recursive: true });
}
