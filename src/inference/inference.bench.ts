/**
 * @file Tokens per second of engine and model: one stream, sixteen streams, a prompt of 512 tokens.
 *
 * `--large` builds the synthetic models of `peers/` in the temporary folder (8 GB, kept for the
 * next run) and runs ours and llama.cpp strictly in turn, each with one and with two threads; the
 * better number of threads counts for either. Before that both compute the logits of a tiny model,
 * which must agree: they run the same network. Without it, quick figures of the model that ships,
 * which the tests take, too.
 *
 * Rates are medians of wall time; on a busy machine compare the processor time beside them.
 */
import { type ChildProcess, fork } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { BaleenError, medianOf, Random } from "../base/index.ts";
import { type LanguageModel, loadModel } from "../model/index.ts";
import { Engine } from "./engine.ts";
import { randomPrompt, requestOf } from "./testing/answers.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const peers = join(root, "peers");

type Form = "fp8" | "bf16" | "Q8_0" | "BF16" | "F32";
type Size = "tiny" | "small" | "large";

/** What `peers/synthetic-model.js` offers. */
interface SyntheticModels {
  buildSyntheticModel(folder: string, size: Size, forms: readonly Form[]): Record<Form, string>;
}

/** The version of node-llama-cpp in `peers`; undefined where it is not installed. */
export function llamaVersion(): string | undefined {
  const file = join(peers, "node_modules/node-llama-cpp/package.json");
  if (!existsSync(file)) return undefined;
  return (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
}

/** Paths of the synthetic model `size` in `folder`, by form; what is missing is written. */
export async function syntheticModel(
  folder: string,
  size: Size,
  forms: readonly Form[],
): Promise<Record<Form, string>> {
  const url = new URL("../../peers/synthetic-model.js", import.meta.url).href;
  const { buildSyntheticModel } = (await import(url)) as SyntheticModels;
  return buildSyntheticModel(folder, size, forms);
}

/** Tokens, and the wall and processor time that they took. */
interface Timed {
  readonly tokens: number;
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** What is measured: prompts, all of one length, and greedy steps after their first tokens. */
interface Job {
  readonly name: string;
  readonly prompts: readonly (readonly number[])[];
  /** 0: the time to the first token is what counts. */
  readonly steps: number;
}

/** One of the two programs, with a number of threads. */
type Runner = (job: Job, threads: number) => Promise<Timed>;

function jobsOf(vocabSize: number, isQuick: boolean): Job[] {
  const random = new Random(1);
  const prompts = (count: number, length: number): number[][] =>
    Array.from({ length: count }, () => randomPrompt(random, length, vocabSize));
  return [
    { name: "decode, 1 stream", prompts: prompts(1, 32), steps: isQuick ? 24 : 64 },
    { name: "decode, 16 streams", prompts: prompts(16, 32), steps: isQuick ? 8 : 32 },
    { name: "prefill, 512 tokens", prompts: prompts(1, 512), steps: 0 },
  ];
}

/** Runs a job on an engine of `model`, in this thread. */
function runOurs(model: LanguageModel, { prompts, steps }: Job): Timed {
  const engine = new Engine(model, noText, { prefixCache: false, blocks: 64, mtp: false });
  const counts = new Map<string, number>();
  const step = (): void => {
    for (const { id, tokenIds, finish } of engine.step()) {
      if (finish?.message) throw new Error(finish.message);
      counts.set(id, (counts.get(id) ?? 0) + tokenIds.length);
    }
  };
  const total = (): number => Array.from(counts.values()).reduce((sum, n) => sum + n, 0);
  for (const [index, prompt] of prompts.entries()) {
    engine.add(requestOf(String(index), prompt, { maxTokens: steps + 1, ignoreEos: true }));
  }
  let timer = startTimer();
  while (counts.size < prompts.length) step();
  if (steps === 0) return { tokens: prompts[0].length, ...timer() };
  const first = total();
  timer = startTimer();
  while (engine.hasWork) step();
  return { tokens: total() - first, ...timer() };
}

/** No text is asked for: none is made. */
const noText = { streamDecoder: () => ({ push: () => "", end: () => "" }) };

function startTimer(): () => { wallMs: number; cpuMs: number } {
  const cpu = process.cpuUsage();
  const start = performance.now();
  return () => {
    const wallMs = performance.now() - start;
    const { user, system } = process.cpuUsage(cpu);
    return { wallMs, cpuMs: (user + system) / 1000 };
  };
}

/** llama.cpp in a process of its own, `peers/llama.js`. */
class Llama {
  private readonly child: ChildProcess = fork(join(peers, "llama.js"));
  private nextId = 0;

  async run({ prompts, steps }: Job, threads: number): Promise<Timed> {
    return steps === 0
      ? await this.call<Timed>("prefill", { threads, prompt: prompts[0] })
      : await this.call<Timed>("decode", { threads, prompts, steps });
  }

  /** Asks for `method` and resolves to its result. */
  call<T>(method: string, args: object): Promise<T> {
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      const { child } = this;
      const onExit = (code: number | null): void => reject(new Error(`llama.js: exit ${code}`));
      const onMessage = (message: { id: number; result?: T; error?: string }): void => {
        if (message.id !== id) return;
        child.off("message", onMessage).off("exit", onExit);
        if (message.error === undefined) resolve(message.result as T);
        else reject(new Error(message.error));
      };
      child.on("message", onMessage).on("exit", onExit);
      child.send({ id, method, args });
    });
  }

  close(): void {
    this.child.disconnect();
  }
}

/**
 * Throws unless both programs compute the same logits from the tiny model's `bf16` checkpoint and
 * `F32` GGUF file; prints how close they are.
 */
export async function checkAgreement(
  paths: Record<Form, string>,
  print: (line: string) => void,
): Promise<void> {
  const llama = new Llama();
  const model = await loadModel(paths.bf16, { precision: "f32" });
  try {
    await llama.call("load", { path: paths.F32 });
    const prompt = randomPrompt(new Random(2), 60, model.vocabSize);
    const theirs = await llama.call<number[][]>("logits", { prompt });
    const { logits } = model.forward(model.openCache(1), [
      {
        tokens: Int32Array.from(prompt),
        position: 0,
        blockTable: Int32Array.of(0),
        logitRows: prompt.length,
      },
    ]);
    let largest = 0;
    let sameToken = 0;
    for (const [row, their] of theirs.entries()) {
      const our = logits.data.subarray(row * logits.stride, row * logits.stride + model.vocabSize);
      for (const [token, value] of their.entries()) {
        largest = Math.max(largest, Math.abs(our[token] - value));
      }
      if (our.indexOf(Math.max(...our)) === their.indexOf(Math.max(...their))) sameToken++;
    }
    print(
      `same network: ${sameToken} of ${prompt.length} likeliest tokens equal, logits differ by ` +
        `at most ${largest.toFixed(4)} (f32 weights; llama.cpp's cache is f16)`,
    );
    if (!(largest < 0.02)) {
      const message = "llama.cpp and baleen disagree on the tiny model: see peers/README.md.";
      throw new BaleenError("peer-disagrees", message);
    }
  } finally {
    model.close();
    llama.close();
  }
}

/** Medians over `runs` turns, in each of which every runner takes every number of threads. */
async function alternate(
  job: Job,
  runners: readonly Runner[],
  threadCounts: readonly number[],
  runs: number,
): Promise<Timed[][]> {
  const all = runners.map(() => threadCounts.map((): Timed[] => []));
  for (let run = 0; run < runs; run++) {
    for (const [t, threads] of threadCounts.entries()) {
      for (const [r, runner] of runners.entries()) all[r][t].push(await runner(job, threads));
    }
  }
  return all.map((byThreads) =>
    byThreads.map((times) => ({
      tokens: times[0].tokens,
      wallMs: medianOf(times.map((time) => time.wallMs)),
      cpuMs: medianOf(times.map((time) => time.cpuMs)),
    })),
  );
}

function rateOf({ tokens, wallMs }: Timed): number {
  return (1000 * tokens) / wallMs;
}

function fastestOf(times: readonly Timed[]): Timed {
  return times.reduce((best, time) => (rateOf(time) > rateOf(best) ? time : best));
}

/** `1t 212 (4.71 ms CPU a token), 2t 350 (5.60)`. */
function describe(times: readonly Timed[], threadCounts: readonly number[]): string {
  return times
    .map((time, t) => {
      const cpu = (time.cpuMs / time.tokens).toFixed(2);
      return `${threadCounts[t]}t ${rateOf(time).toFixed(1).padStart(7)} (${cpu} ms CPU)`;
    })
    .join(", ");
}

/** Measures one model in one pair of formats; returns our rate over llama.cpp's for each job. */
async function compare(
  size: Size,
  ours: Form,
  theirs: Form,
  paths: Record<Form, string>,
  print: (line: string) => void,
): Promise<number[]> {
  const threadCounts = [1, 2];
  const models = await Promise.all(
    threadCounts.map((threads) => loadModel(paths[ours], { threads })),
  );
  const llama = new Llama();
  const ratios: number[] = [];
  try {
    await llama.call("load", { path: paths[theirs] });
    print(`\n${size} model, our ${ours} against ${theirs}; ${models[1].description} at most`);
    const runners: Runner[] = [
      async (job, threads) => runOurs(models[threadCounts.indexOf(threads)], job),
      (job, threads) => llama.run(job, threads),
    ];
    for (const job of jobsOf(models[0].vocabSize, false)) {
      await alternate(job, runners, threadCounts, 1);
      const [our, their] = await alternate(job, runners, threadCounts, 5);
      const ratio = rateOf(fastestOf(our)) / rateOf(fastestOf(their));
      const cpuRatio = their[0].cpuMs / our[0].cpuMs;
      ratios.push(ratio);
      print(
        `  ${job.name.padEnd(20)} ${ratio.toFixed(2)}x  (1 thread, CPU: ${cpuRatio.toFixed(2)}x)`,
      );
      print(`    baleen     ${describe(our, threadCounts)}`);
      print(`    llama.cpp  ${describe(their, threadCounts)}`);
    }
  } finally {
    for (const model of models) model.close();
    llama.close();
  }
  return ratios;
}

/** Ours against llama.cpp on both synthetic models. */
async function benchLarge(print: (line: string) => void): Promise<void> {
  const version = llamaVersion();
  if (version === undefined) {
    print("llama.cpp is not installed: run npm ci --ignore-scripts --prefix peers.");
    return;
  }
  const folder = join(tmpdir(), "baleen-synthetic-models");
  print(
    `tokens/s against llama.cpp of node-llama-cpp ${version}, medians of 5; models in ${folder}`,
  );
  await checkAgreement(await syntheticModel(folder, "tiny", ["bf16", "F32"]), print);
  const ratios: number[] = [];
  for (const size of ["small", "large"] as const) {
    for (const [ours, theirs] of [
      ["fp8", "Q8_0"],
      ["bf16", "BF16"],
    ] as const) {
      const paths = await syntheticModel(folder, size, [ours, theirs]);
      ratios.push(...(await compare(size, ours, theirs, paths, print)));
    }
  }
  const mean = Math.exp(ratios.reduce((sum, ratio) => sum + Math.log(ratio), 0) / ratios.length);
  print(`\ngeometric mean of ${ratios.length} ratios: ${mean.toFixed(2)}x`);
}

/** Runs the benchmark, one line of text at a time. */
export async function benchInference(
  isLarge: boolean,
  print: (line: string) => void,
): Promise<void> {
  if (isLarge) return benchLarge(print);
  const model = await loadModel(join(root, "models/austen-6m"), { threads: 1 });
  print(`austen-6m, tokens/s, one run; ${model.description}`);
  for (const job of jobsOf(model.vocabSize, true)) {
    runOurs(model, { ...job, steps: Math.min(job.steps, 2) });
    print(`  ${job.name.padEnd(20)} ${describe([runOurs(model, job)], [1])}`);
  }
  model.close();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await benchInference(process.argv.includes("--large"), console.log);
}
