/** @file `baleen serve`: the OpenAI-compatible server, and what it prints when it is ready. */
import { formatBytes } from "../base/index.ts";
import {
  defaultHttpOptions,
  exitOnSignals,
  type LoadedModel,
  loadServed,
  type RunningServer,
  startServer,
} from "../inference/index.ts";
import { pageFolder } from "../web/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { type EngineFlags, engineFlags, samplingOf, startOptions } from "./engine-flags.ts";
import { type NumberFlag, type Parsed, UsageError, type WithDefault } from "./flags.ts";
import { packageVersion, shippedModel } from "./package.ts";

const day = 24 * 3600;

/** A first passage begins so. */
const openingWords = "It is a truth universally acknowledged";

function count(help: string, fallback: number): WithDefault<NumberFlag> {
  return { type: "whole", value: "N", min: 0, max: 1_000_000, default: fallback, help };
}

/** Serves a model until a signal comes. */
export const serve: Command = defineCommand({
  name: "serve",
  summary: "Serve a model by the OpenAI API, with a page to try it and to watch the engine.",
  flags: {
    ...engineFlags,
    host: { type: "text", value: "ADDRESS", default: "127.0.0.1", help: "Address to listen on." },
    port: {
      type: "whole",
      value: "N",
      min: 0,
      max: 65_535,
      default: 8000,
      help: "Port to listen on; 0 takes a free one.",
    },
    name: { type: "text", value: "ID", help: "The model's name for clients; the directory's." },
    "api-key": {
      type: "list",
      value: "KEY",
      help: "Ask for this key; may be repeated. Also BALEEN_API_KEYS, comma-separated.",
    },
    cors: {
      type: "list",
      value: "ORIGIN",
      help: "Let pages of this origin call; may be repeated.",
    },
    "max-body": {
      type: "bytes",
      value: "SIZE",
      min: 1024,
      default: defaultHttpOptions.maxBodyBytes,
      defaultHelp: formatBytes(defaultHttpOptions.maxBodyBytes),
      help: "Largest request body.",
    },
    "max-concurrent": {
      ...count("Most answers in the engine at a time.", defaultHttpOptions.maxConcurrent),
      min: 1,
    },
    "max-queue": count("Most answers that wait for it; more get 429.", defaultHttpOptions.maxQueue),
    grace: {
      type: "number",
      value: "SECONDS",
      min: 0,
      max: day,
      default: 30,
      help: "How long running answers may take after SIGTERM or SIGINT.",
    },
    passage: { type: "switch", default: true, help: "Print no first passage when ready." },
  },
  examples: ["baleen serve", "baleen serve --model DIR --host 0.0.0.0 --api-key KEY"],
  async run({ flags, operands }) {
    if (operands.length > 0) throw new UsageError(`serve takes no operand "${operands[0]}".`);
    const begunMs = performance.now();
    const apiKeys = keysOf(flags["api-key"]);
    const engineOptions = { ...startOptions(flags), id: nameOf(flags.name) };
    let settle: (model: LoadedModel | Promise<LoadedModel>) => void = () => {};
    const loading = new Promise<LoadedModel>((resolve) => {
      settle = resolve;
    });
    // The socket comes first: a taken port should not be found after minutes of loading.
    const server = await startServer(loading, {
      host: flags.host,
      port: flags.port,
      apiKeys,
      corsOrigins: flags.cors,
      maxBodyBytes: flags["max-body"],
      maxConcurrent: flags["max-concurrent"],
      maxQueue: flags["max-queue"],
      pageDir: pageFolder,
      version: packageVersion(),
    });
    const passage = new AbortController();
    const log = (line: string): void => void process.stderr.write(`${line}\n`);
    exitOnSignals(() => {
      passage.abort();
      return server.drain(flags.grace * 1000);
    }, log);
    settle(loadServed(engineOptions));
    try {
      const model = await loading;
      exitOnFailure(model, server, log);
      announce(model, server, flags, apiKeys.length > 0, performance.now() - begunMs);
      if (flags.passage && isShipped(flags)) await firstPassage(model, passage.signal);
    } catch (error) {
      await server.drain(0);
      throw error;
    }
  },
});

function nameOf(name: string | undefined): string | undefined {
  if (name === undefined || /^[\w.:/-]{1,200}$/.test(name)) return name;
  throw new UsageError(`--name: got "${name}", wanted letters, digits and . : / _ -.`);
}

function keysOf(given: readonly string[]): string[] {
  const fromEnvironment = (process.env.BALEEN_API_KEYS ?? "").split(",").map((key) => key.trim());
  const keys = [...given, ...fromEnvironment.filter((key) => key !== "")];
  if (keys.every((key) => /^[\x21-\x7e]+$/.test(key))) return keys;
  throw new UsageError("--api-key: a key is empty or has blanks: use visible ASCII characters.");
}

/** Ends the process with status 1 when the engine dies: whoever watches it starts it anew. */
function exitOnFailure(
  model: LoadedModel,
  server: RunningServer,
  log: (line: string) => void,
): void {
  const timer = setInterval(() => {
    const { failed } = model.engine;
    if (!failed) return;
    clearInterval(timer);
    log(`baleen: the engine died (${failed.message}): start the server again.`);
    server.drain(1000).finally(() => process.exit(1));
  }, 500);
  timer.unref();
}

function isShipped(flags: Parsed<EngineFlags>["flags"]): boolean {
  return flags.model === shippedModel && !flags["null-engine"];
}

function announce(
  model: LoadedModel,
  server: RunningServer,
  flags: Parsed<EngineFlags>["flags"] & { readonly host: string },
  hasKeys: boolean,
  tookMs: number,
): void {
  const { info } = model.engine;
  const url = server.url.replace("//127.0.0.1:", "//localhost:");
  const lines = [
    `baleen ${packageVersion()} serves ${info.id} (${info.description})`,
    `Ready in ${(tookMs / 1000).toFixed(1)} s at ${url} - open it, or paste this:`,
    "",
    curlLine(model, url, isShipped(flags), hasKeys),
    "",
  ];
  if (!hasKeys && flags.host !== "127.0.0.1" && flags.host !== "localhost") {
    lines.push("Whoever reaches this address may use it: --api-key asks for a key.", "");
  }
  process.stdout.write(`${lines.join("\n")}\n`);
}

function curlLine(model: LoadedModel, url: string, continues: boolean, hasKeys: boolean): string {
  const chats = model.encodeChat !== undefined && !continues;
  const path = chats ? "/v1/chat/completions" : "/v1/completions";
  const body = chats
    ? { messages: [{ role: "user", content: "Say something." }], max_tokens: 60 }
    : { prompt: openingWords, max_tokens: 60 };
  const key = hasKeys ? " -H 'authorization: Bearer YOUR_KEY'" : "";
  const json = `-H 'content-type: application/json' -d '${JSON.stringify(body)}'`;
  return `curl ${url}${path}${key} ${json}`;
}

async function firstPassage(
  { engine, tokenizer, defaults = {} }: LoadedModel,
  signal: AbortSignal,
): Promise<void> {
  process.stdout.write(openingWords);
  const request = {
    id: "first-passage",
    prompt: tokenizer.encode(openingWords, { addSpecialTokens: true, allowSpecial: false }),
    maxTokens: 80,
    sampling: samplingOf({ seed: 1 }, defaults),
    stop: ["\n\n"],
    stopTokenIds: [],
    ignoreEos: false,
  };
  for await (const { text, finish } of engine.generate(request, signal)) {
    process.stdout.write(text);
    if (finish?.reason === "error") process.stdout.write(`\n(${finish.message})`);
  }
  process.stdout.write("\n");
}
