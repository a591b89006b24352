/** @file `baleen bench`: puts a load on an engine or a server, prints latencies and rates. */
import { Random } from "../base/index.ts";
import { startEngine } from "../inference/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { engineFlags, startOptions } from "./engine-flags.ts";
import { UsageError } from "./flags.ts";
import { figuresOf, type LoadResult, renderReport, type Sample } from "./load-report.ts";
import { engineTarget, type LoadRequest, type LoadTarget, urlTarget } from "./load-target.ts";

/** Measures a closed loop of `--streams`, or an open one of `--rate` requests a second. */
export const bench: Command = defineCommand({
  name: "bench",
  summary: "Measure latency and throughput of an engine here or of a server at a URL.",
  flags: {
    url: { type: "text", value: "URL", help: "Server to measure; an engine in this process else." },
    "api-key": { type: "text", value: "KEY", help: "Key that the server asks for." },
    streams: {
      type: "whole",
      value: "N",
      min: 1,
      max: 10_000,
      default: 16,
      help: "Closed loop: requests kept open at a time.",
    },
    rate: {
      type: "number",
      value: "R",
      min: 0.001,
      max: 100_000,
      help: "Open loop instead: R requests a second at random times (Poisson).",
    },
    requests: {
      type: "whole",
      value: "N",
      min: 1,
      max: 1_000_000,
      default: 64,
      help: "Requests in all.",
    },
    "prompt-tokens": {
      type: "whole",
      value: "N",
      min: 1,
      default: 64,
      help: "Tokens of each prompt, random ids.",
    },
    "shared-prefix": {
      type: "whole",
      value: "N",
      min: 0,
      default: 0,
      help: "The first N of them are the same in every prompt.",
    },
    "output-tokens": {
      type: "whole",
      value: "N",
      min: 1,
      default: 64,
      help: "Tokens of each answer; the model's end token is ignored.",
    },
    warmup: {
      type: "whole",
      value: "N",
      min: 0,
      default: 2,
      help: "Requests before those that count.",
    },
    seed: { type: "whole", value: "N", min: 0, default: 1, help: "Of prompts and times." },
    json: { type: "switch", help: "Print JSON, with the keys of other engines' benchmarks." },
    ...engineFlags,
  },
  examples: [
    "baleen bench --streams 16 --output-tokens 128",
    "baleen bench --url http://localhost:8000 --rate 5 --requests 100",
  ],
  async run({ flags, operands }) {
    if (operands.length > 0) throw new UsageError(`bench takes no operand "${operands[0]}".`);
    const target =
      flags.url === undefined
        ? engineTarget(await startEngine(startOptions(flags)))
        : await urlTarget(flags.url, flags["api-key"]);
    try {
      const random = new Random(flags.seed);
      const requests = requestsOf(flags, target.vocabSize, random);
      for (const request of requests.slice(0, flags.warmup)) await sampleOf(target, request);
      const result =
        flags.rate === undefined
          ? await closedLoop(target, requests, flags.streams)
          : await openLoop(target, requests, flags.rate, random);
      if (flags.json) console.log(JSON.stringify(figuresOf(result), undefined, 2));
      else console.log(`${target.description}\n${renderReport(result)}`);
      if (result.samples.length === 0) throw new Error(`All failed: ${result.failures[0]}`);
    } finally {
      await target.close();
    }
  },
});

function requestsOf(
  flags: {
    readonly requests: number;
    readonly "prompt-tokens": number;
    readonly "shared-prefix": number;
    readonly "output-tokens": number;
  },
  vocabSize: number,
  random: Random,
): LoadRequest[] {
  const length = flags["prompt-tokens"];
  const idsOf = (count: number): number[] =>
    Array.from({ length: count }, () => random.below(vocabSize));
  const prefix = idsOf(Math.min(flags["shared-prefix"], length));
  return Array.from({ length: flags.requests }, (_, seed) => ({
    prompt: [...prefix, ...idsOf(length - prefix.length)],
    outputTokens: flags["output-tokens"],
    seed,
  }));
}

async function sampleOf(target: LoadTarget, request: LoadRequest): Promise<Sample> {
  const begunMs = performance.now();
  let [firstTokenMs, lastMs, outputTokens] = [0, 0, 0];
  const interTokenMs: number[] = [];
  for await (const tokens of target.answer(request)) {
    const nowMs = performance.now() - begunMs;
    if (outputTokens === 0) firstTokenMs = nowMs;
    else interTokenMs.push(nowMs - lastMs);
    outputTokens += tokens;
    lastMs = nowMs;
  }
  if (outputTokens === 0) throw new Error("an answer had no token");
  const inputTokens = request.prompt.length;
  return { inputTokens, outputTokens, firstTokenMs, interTokenMs, totalMs: lastMs };
}

/** Collects samples and failures of requests that are started elsewhere. */
class Collector {
  readonly samples: Sample[] = [];
  readonly failures: string[] = [];
  private readonly target: LoadTarget;
  private readonly begunMs: number = performance.now();

  constructor(target: LoadTarget) {
    this.target = target;
  }

  async run(request: LoadRequest): Promise<void> {
    try {
      this.samples.push(await sampleOf(this.target, request));
    } catch (error) {
      this.failures.push((error as Error).message.slice(0, 200));
    }
  }

  result(): LoadResult {
    const { samples, failures } = this;
    return { samples, failures, durationMs: performance.now() - this.begunMs };
  }
}

/** `streams` requests are open at any time until there are no more. */
async function closedLoop(
  target: LoadTarget,
  requests: readonly LoadRequest[],
  streams: number,
): Promise<LoadResult> {
  const collector = new Collector(target);
  let next = 0;
  const stream = async (): Promise<void> => {
    while (next < requests.length) await collector.run(requests[next++]);
  };
  await Promise.all(Array.from({ length: streams }, stream));
  return collector.result();
}

/** Requests start at exponential intervals, whatever has become of the earlier ones. */
async function openLoop(
  target: LoadTarget,
  requests: readonly LoadRequest[],
  rate: number,
  random: Random,
): Promise<LoadResult> {
  const collector = new Collector(target);
  const begunMs = performance.now();
  let dueMs = 0;
  const running: Promise<void>[] = [];
  for (const request of requests) {
    const waitMs = begunMs + dueMs - performance.now();
    if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs));
    running.push(collector.run(request));
    dueMs += (-Math.log(1 - random.uniform()) * 1000) / rate;
  }
  await Promise.all(running);
  return collector.result();
}
