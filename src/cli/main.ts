#!/usr/bin/env node
/** @file The `baleen` command: finds the command, prints help, turns failures into a sentence. */
import { nearestName } from "../base/index.ts";
import { type Command, helpOf } from "./command.ts";
import { UsageError } from "./flags.ts";
import { packageVersion } from "./package.ts";

/** Commands are loaded when named, so that `--help` does not wait for an engine. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  serve: async () => (await import("./serve.ts")).serve,
  generate: async () => (await import("./generate.ts")).generate,
  logits: async () => (await import("./logits.ts")).logits,
  tokenize: async () => (await import("./tokenize.ts")).tokenize,
  inspect: async () => (await import("./inspect.ts")).inspect,
  bench: async () => (await import("./bench.ts")).bench,
  eplb: async () => (await import("./eplb.ts")).eplb,
  dualpipe: async () => (await import("./dualpipe.ts")).dualpipe,
  pond: async () => (await import("./pond.ts")).pond,
  plan: async () => (await import("./plan.ts")).plan,
  graysort: async () => (await import("./graysort.ts")).graysort,
  profile: async () => (await import("./profile.ts")).profile,
};

async function overview(): Promise<string> {
  const all = await Promise.all(Object.values(commands).map((load) => load()));
  return [
    "baleen runs DeepSeek-V3-family models: server, engine and tools.",
    "",
    "Usage: baleen COMMAND [FLAGS]",
    "",
    ...all.map(({ name, summary }) => `  ${name.padEnd(9)}  ${summary}`),
    "",
    "  baleen COMMAND --help says more; baleen --version prints the version.",
  ].join("\n");
}

async function main(argv: readonly string[]): Promise<void> {
  const [name, ...rest] = argv;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    const command = name === "help" && rest[0] !== undefined ? await find(rest[0]) : undefined;
    console.log(command ? helpOf(command) : await overview());
  } else if (name === "--version" || name === "-v") {
    console.log(packageVersion());
  } else {
    const command = await find(name);
    const end = rest.indexOf("--");
    const flags = end < 0 ? rest : rest.slice(0, end);
    if (flags.includes("--help") || flags.includes("-h")) console.log(helpOf(command));
    else await command.run(rest);
  }
}

function find(name: string): Promise<Command> {
  if (Object.hasOwn(commands, name)) return commands[name]();
  const meant = nearestName(name, Object.keys(commands));
  const advice = meant ? `did you mean ${meant}?` : "baleen --help lists the commands.";
  const what = name.startsWith("-") ? "flag" : "command";
  throw new UsageError(`There is no ${what} ${name}: ${advice}`);
}

/** Prints one sentence (with BALEEN_DEBUG the whole failure) and sets the exit status. */
function fail(error: unknown): void {
  const debug = process.env.BALEEN_DEBUG;
  const message = error instanceof Error ? error.message : String(error);
  const known = error instanceof UsageError || (error as { code?: unknown }).code !== undefined;
  const hint = known || debug ? "" : " (BALEEN_DEBUG=1 shows where)";
  process.stderr.write(`baleen: ${message}${hint}\n`);
  if (debug) console.error(error);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}

// A reader that has enough, such as `head`, is no failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});
await main(process.argv.slice(2)).catch(fail);
