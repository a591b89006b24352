/** @file `baleen profile`: what traces of PyTorch's profiler say, as text, JSON, page or trace. */
import { createReadStream, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { basename } from "node:path";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { BaleenError } from "../base/index.ts";
import {
  type DeviceProfile,
  diffReports,
  findStragglers,
  type KernelRule,
  type ProfileOptions,
  perfettoEvents,
  profilePage,
  profileTrace,
  readTrace,
} from "../profile-data/index.ts";
import { writeTrace } from "../trace/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { UsageError } from "./flags.ts";
import { readJsonFile } from "./input.ts";
import { renderDiff, renderRanks, renderReport } from "./profile-report.ts";

/** A device of one of the files. */
interface Rank {
  readonly name: string;
  readonly file: string;
  readonly profile: DeviceProfile;
}

/** Prints a report of each device, how ranks keep each other waiting, or what changed. */
export const profile: Command = defineCommand({
  name: "profile",
  summary: "Report overlap, idle time and critical path of profiler traces.",
  flags: {
    json: { type: "switch", help: "Print JSON." },
    html: { type: "text", value: "FILE", help: "Write a page with lanes to zoom in." },
    perfetto: {
      type: "text",
      value: "FILE",
      help: "Write a trace with the analysis for Perfetto.",
    },
    communication: {
      type: "text",
      value: "REGEX",
      help: "Kernels whose name fits are communication, no others.",
      defaultHelp: "a table of rules",
    },
    rules: {
      type: "text",
      value: "FILE",
      help: 'More rules: JSON list of {"category", "pattern", "communication"}.',
    },
    diff: { type: "switch", help: "What changed from the first file to the second." },
  },
  operands: "FILE [FILE...]",
  examples: [
    "baleen profile trace.json.gz --html trace.html",
    "baleen profile rank0.json rank1.json --json",
    "baleen profile before.json after.json --diff",
  ],
  async run({ flags, operands }) {
    if (operands.length === 0) {
      throw new UsageError("profile takes traces: give one or more files (.json or .json.gz).");
    }
    if (flags.diff && operands.length !== 2) {
      throw new UsageError(`--diff: got ${operands.length} files, wanted two.`);
    }
    if (flags.perfetto !== undefined && operands.length > 1) {
      throw new UsageError("--perfetto: got several files, wanted one.");
    }
    const options = optionsOf(flags.communication, flags.rules);
    const ranks: Rank[] = [];
    for (const file of operands) ranks.push(...(await profileFile(file, options)));
    if (flags.html !== undefined) {
      const devices = ranks.map(({ name, profile }) => ({ title: name, profile }));
      writeOut(flags.html, [
        profilePage(devices, operands.map((path) => basename(path)).join(", ")),
      ]);
    }
    if (flags.perfetto !== undefined) {
      const events = perfettoEvents(ranks.map(({ profile }) => profile));
      writeOut(flags.perfetto, writeTrace(events));
    }
    if (flags.diff) printDiff(ranks, operands, flags.json);
    else if (flags.json) console.log(JSON.stringify(jsonOf(ranks)));
    else console.log(renderAll(ranks));
    for (const path of [flags.html, flags.perfetto]) {
      if (path !== undefined) console.error(`wrote ${path}`);
    }
  },
});

function optionsOf(communication: string | undefined, rules: string | undefined): ProfileOptions {
  return {
    ...(communication !== undefined && {
      communication: patternOf(communication, "--communication"),
    }),
    ...(rules !== undefined && { rules: rulesOf(readJsonFile(rules), rules) }),
  };
}

function patternOf(text: string, what: string): RegExp {
  try {
    return new RegExp(text);
  } catch (cause) {
    const message = `${what}: "${text}" is no regular expression (${(cause as Error).message}).`;
    throw new UsageError(`${message.replace(/\.\)\.$/, ").")} Correct it.`);
  }
}

function rulesOf(json: unknown, path: string): KernelRule[] {
  if (!Array.isArray(json)) {
    throw new BaleenError("input-invalid", `${path} is no list: give a list of rules.`);
  }
  return json.map((entry: unknown, index) => {
    const { category, pattern, communication } = Object(entry) as Record<string, unknown>;
    const bad =
      typeof category !== "string" || category === ""
        ? "category"
        : typeof pattern !== "string"
          ? "pattern"
          : communication !== undefined && typeof communication !== "boolean"
            ? "communication"
            : undefined;
    if (bad !== undefined) {
      const wanted = bad === "communication" ? "true or false" : "a text";
      throw new BaleenError("input-invalid", `${path}: ${bad} of rule ${index} must be ${wanted}.`);
    }
    return {
      category: category as string,
      pattern: patternOf(pattern as string, `${path}: pattern of rule ${index}`),
      ...(communication !== undefined && { communication: communication as boolean }),
    };
  });
}

/** The devices of a file; failures name it. */
async function profileFile(file: string, options: ProfileOptions): Promise<Rank[]> {
  try {
    const trace = await readTrace(bytesOf(file));
    const profiles = profileTrace(trace, options);
    const name = basename(file).replace(/(\.pt\.trace)?\.json(\.gz)?$/, "");
    return profiles.map((profile) => {
      const device = profiles.length > 1 ? ` device ${profile.report.device}` : "";
      return { name: name + device, file, profile };
    });
  } catch (error) {
    if (!(error instanceof BaleenError)) throw error;
    if (error.code.startsWith("input-")) throw error;
    const { code, retry, message } = error;
    throw new BaleenError(code, `${file}: ${message}`, { retry, cause: error });
  }
}

/** The bytes of a file, decompressed where it begins as gzip files do. */
async function* bytesOf(path: string): AsyncGenerator<Uint8Array> {
  let compressed = false;
  try {
    const file = await open(path);
    try {
      const { bytesRead, buffer } = await file.read(Buffer.alloc(2), 0, 2, 0);
      compressed = bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
    } finally {
      await file.close();
    }
    const bytes = createReadStream(path, { highWaterMark: 1 << 20 });
    if (!compressed) {
      yield* bytes;
      return;
    }
    const plain = createGunzip({ chunkSize: 1 << 20 });
    // Failures of either stream reach the loop through `plain`.
    pipeline(bytes, plain, () => {});
    yield* plain;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
    if (code.startsWith("Z_")) {
      const message = `${path} is no whole gzip file (${code}): copy or record it again.`;
      throw new BaleenError("input-invalid", message, { cause });
    }
    if (cause instanceof BaleenError || !/^E[A-Z]/.test(code)) throw cause;
    const message = `${path} can't be read (${code}): check the path.`;
    throw new BaleenError("input-unreadable", message, { cause });
  }
}

function writeOut(path: string, pieces: Iterable<string>): void {
  try {
    writeFileSync(path, "");
    for (const piece of pieces) writeFileSync(path, piece, { flag: "a" });
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === undefined) throw cause;
    const message = `${path} can't be written (${code}): check the path.`;
    throw new BaleenError("output-unwritable", message, { cause });
  }
}

function jsonOf(ranks: readonly Rank[]): object {
  const reports = ranks.map(({ name, file, profile }) => ({ name, file, ...profile.report }));
  if (reports.length === 1) return reports[0];
  return { ranks: reports, stragglers: findStragglers(ranks) };
}

function renderAll(ranks: readonly Rank[]): string {
  const reports = ranks.map(({ name, profile }) => renderReport(name, profile));
  if (ranks.length > 1) reports.push(renderRanks(findStragglers(ranks)));
  return reports.join("\n\n");
}

function printDiff(ranks: readonly Rank[], files: readonly string[], json: boolean): void {
  const [before, after] = files.map((file) => ranks.filter((rank) => rank.file === file));
  if (before.length !== 1 || after.length !== 1 || files[0] === files[1]) {
    const message = "--diff compares traces of one device each: give two such files.";
    throw new BaleenError("input-invalid", message);
  }
  const diff = diffReports(before[0].profile.report, after[0].profile.report);
  console.log(json ? JSON.stringify(diff) : renderDiff(diff));
}
