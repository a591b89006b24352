/**
 * @file What the engine itself costs, with a null model in the model's place: CPU time of a step,
 * of a token and of a draw, and the way through the thread. No peer: these are costs beside a
 * model's own, which has to be large against them.
 */
import { fileURLToPath } from "node:url";
import { medianOf, Random } from "../base/index.ts";
import { Engine } from "./engine.ts";
import { NullModel, nullDetokenizer } from "./null-model.ts";
import { Sampler } from "./sampler.ts";
import { startEngine } from "./service.ts";
import { requestOf } from "./testing/answers.ts";
import { defaultSampling, type EngineService, type Sampling } from "./types.ts";

/** Microseconds of CPU time that `run` took, all threads of the process. */
function cpuUsOf(run: () => void): number {
  const before = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(before);
  return user + system;
}

const samplings: Record<string, Partial<Sampling>> = {
  greedy: { temperature: 0 },
  "temperature 1": {},
  "top-p 0.95": { topP: 0.95 },
  "top-k 50, top-p 0.9": { topK: 50, topP: 0.9 },
  "min-p 0.05": { minP: 0.05 },
};

function benchSampler(vocabSize: number, draws: number, print: (line: string) => void): void {
  const random = new Random(1);
  const logits = Float32Array.from({ length: vocabSize }, () => 3 * random.normal());
  const sampler = new Sampler(vocabSize);
  const costs = Object.entries(samplings).map(([name, changes]) => {
    const sampling = { ...defaultSampling, ...changes };
    const runs = [1, 2, 3, 4, 5].map(() =>
      cpuUsOf(() => {
        for (let i = 0; i < draws; i++) sampler.draw(logits, sampling, i);
      }),
    );
    return `${name} ${(medianOf(runs) / draws).toFixed(1)}`;
  });
  print(`draw from ${vocabSize} logits, us: ${costs.join("; ")}`);
}

function benchSteps(sequences: number, tokens: number, print: (line: string) => void): void {
  const costs = [undefined, 0.8].map((draftAccuracy) => {
    const model = new NullModel({ draftAccuracy });
    const engine = new Engine(model, nullDetokenizer, { blocks: sequences * 20, mtp: "always" });
    const run = (): number => {
      const before = engine.stats();
      for (let i = 0; i < sequences; i++) {
        engine.add(requestOf(`r${i}`, [i, 1, 2], { maxTokens: tokens }));
      }
      const us = cpuUsOf(() => {
        while (engine.hasWork) engine.step();
      });
      return us / (engine.stats().generatedTokens - before.generatedTokens);
    };
    // The first runs are slow: V8 has not compiled the loop yet.
    return medianOf([1, 2, 3, 4, 5, 6, 7, 8].map(run).slice(3)).toFixed(2);
  });
  print(`${sequences} sequences, us a token: ${costs[0]}; with drafts ${costs[1]}`);
}

async function drain(engine: EngineService, id: string, maxTokens: number): Promise<void> {
  for await (const _ of engine.generate(requestOf(id, [1, 2, 3], { maxTokens }))) {
    // Only the way here is measured.
  }
}

async function benchThread(
  streams: number,
  tokens: number,
  print: (line: string) => void,
): Promise<void> {
  const engine = await startEngine({ nullModel: {}, blocks: streams * 20 });
  const latencies: number[] = [];
  for (let i = 0; i < streams; i++) {
    const started = performance.now();
    await drain(engine, `a${i}`, 1);
    latencies.push(performance.now() - started);
  }
  const [before, started] = [process.cpuUsage(), performance.now()];
  await Promise.all(Array.from({ length: streams }, (_, i) => drain(engine, `b${i}`, tokens)));
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(before);
  const total = streams * tokens;
  print(
    `through the thread: first event after ${medianOf(latencies).toFixed(3)} ms (median); ` +
      `${streams} streams ${Math.round(total / seconds)} tokens/s, ` +
      `${((user + system) / total).toFixed(1)} us CPU a token, both threads`,
  );
  await engine.close();
}

/** Runs the benchmark, one line of text at a time. */
export async function benchEngine(isLarge: boolean, print: (line: string) => void): Promise<void> {
  for (const vocabSize of isLarge ? [2048, 129_280] : [512]) {
    benchSampler(vocabSize, isLarge ? 200 : 5, print);
  }
  for (const sequences of isLarge ? [1, 16, 200] : [2]) {
    benchSteps(sequences, isLarge ? 1200 : 10, print);
  }
  await benchThread(isLarge ? 200 : 5, isLarge ? 300 : 5, print);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await benchEngine(process.argv.includes("--large"), console.log);
}
