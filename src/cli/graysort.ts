/** @file `baleen graysort`: the sort benchmark's records, generated, sorted and validated. */
import { BaleenError, formatBytes, formatCount } from "../base/index.ts";
import { generateFile, type SortProgress, sortFiles, tallyFiles } from "../smallpond/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { UsageError } from "./flags.ts";

/** Prints what was written, sorted or found, and what it took; exit status 1 where order fails. */
export const graysort: Command = defineCommand({
  name: "graysort",
  summary: "Generate, sort and validate the sort benchmark's 100-byte records.",
  flags: {
    records: { type: "whole", value: "N", min: 0, help: "generate: how many records." },
    "first-row": {
      type: "whole",
      value: "N",
      min: 0,
      default: 0,
      help: "generate: its first row.",
    },
    keys: {
      type: "choice",
      choices: ["uniform", "skewed", "few"],
      default: "uniform",
      help: "generate: how keys are spread; uniform are the benchmark's.",
    },
    out: { type: "text", value: "DIR", help: "sort: the folder of the result." },
    memory: {
      type: "bytes",
      value: "SIZE",
      min: 1,
      default: 2 ** 30,
      help: "sort: memory for records, of all workers together.",
    },
    workers: { type: "whole", value: "N", min: 1, max: 256, default: 1, help: "sort: processes." },
    against: {
      type: "list",
      value: "FILE",
      help: "validate: also that these hold the same records.",
    },
    json: { type: "switch", help: "Print JSON." },
  },
  operands: "generate|sort|validate PATH...",
  examples: [
    "baleen graysort generate --records 10000000 data",
    "baleen graysort sort data --out sorted --memory 512MiB --workers 2",
    "baleen graysort validate sorted --against data",
  ],
  async run({ flags, operands }) {
    const [step, ...paths] = operands;
    const start = startMeter();
    if (step === "generate") {
      const [path, ...more] = paths;
      if (path === undefined || more.length > 0 || flags.records === undefined) {
        throw new UsageError("graysort generate takes --records N and one file to write.");
      }
      const { records, keys } = flags;
      await generateFile({ path, records, keys, firstRow: BigInt(flags["first-row"]) });
      print(flags.json, { path, records }, start, `wrote ${formatCount(records)} records`, records);
    } else if (step === "sort") {
      if (paths.length === 0 || flags.out === undefined) {
        throw new UsageError("graysort sort takes files to sort and --out DIR.");
      }
      const { out: output, memory: memoryBytes, workers } = flags;
      const onProgress = process.stderr.isTTY ? showProgress : undefined;
      const report = await sortFiles({ inputs: paths, output, memoryBytes, workers, onProgress });
      const line = `sorted ${formatCount(report.records)} records into ${report.parts.length} parts (${report.executed} tasks run, ${report.reused} found done)`;
      print(flags.json, report, start, line, report.records);
    } else if (step === "validate") {
      if (paths.length === 0) throw new UsageError("graysort validate takes files or a folder.");
      await validate(paths, flags.against, flags.json, start);
    } else {
      throw new UsageError(
        `graysort takes generate, sort or validate first, and got ${step ?? "nothing"}.`,
      );
    }
  },
});

async function validate(
  paths: readonly string[],
  against: readonly string[],
  json: boolean,
  start: () => Meter,
): Promise<void> {
  const tally = await tallyFiles(paths);
  const { records, unordered, duplicates } = tally;
  const checksum = tally.checksum.toString(16);
  const line = `${formatCount(records)} records, ${unordered} out of order, ${duplicates} duplicate keys, checksum ${checksum}`;
  print(json, { records, unordered, duplicates, checksum }, start, line, records);
  if (unordered > 0) {
    throw new BaleenError("not-sorted", `${unordered} records are out of order: sort again.`);
  }
  if (against.length === 0) return;
  const wanted = await tallyFiles(against);
  if (wanted.records === records && wanted.checksum === tally.checksum) {
    if (!json) console.log("the same records as in --against");
    return;
  }
  throw new BaleenError(
    "not-the-same",
    `--against holds other records: ${formatCount(wanted.records)} with checksum ` +
      `${wanted.checksum.toString(16)}; sort again.`,
  );
}

interface Meter {
  readonly wallSeconds: number;
  readonly cpuSeconds: number;
}

/** What has passed since; the processor time is this process's, without its workers'. */
function startMeter(): () => Meter {
  const wall = performance.now();
  const cpu = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    return { wallSeconds: (performance.now() - wall) / 1e3, cpuSeconds: (user + system) / 1e6 };
  };
}

function print(
  json: boolean,
  result: object,
  meter: () => Meter,
  line: string,
  records: number,
): void {
  const took = meter();
  if (json) {
    console.log(JSON.stringify({ ...result, ...took }));
    return;
  }
  const rate = formatBytes((records * 100) / took.wallSeconds);
  console.log(`${line} in ${took.wallSeconds.toFixed(2)} s, ${rate}/s`);
}

function showProgress({ phase, done, tasks }: SortProgress): void {
  process.stderr.write(`\r${phase} ${done} of ${tasks}${done === tasks ? "\n" : ""}`);
}
