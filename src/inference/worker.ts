/**
 * @file The thread that a model and its engine live in. It steps while there is work and lets the
 * event loop turn between steps, so that a new request or a cancel is seen by the next one. Each
 * step's events go out as one message, with the statistics when they are due.
 */
import { parentPort, workerData } from "node:worker_threads";
import { assert, BaleenError } from "../base/index.ts";
import type { LanguageModel } from "../model/index.ts";
import { Engine } from "./engine.ts";
import { engineErrors } from "./errors.ts";
import { NullModel, nullDetokenizer } from "./null-model.ts";
import { type Command, type Report, refusalOf, type StartOptions } from "./protocol.ts";
import type { Detokenizer } from "./sequence.ts";
import type { GenerationEvent } from "./types.ts";

/** The least time between two publications of the statistics while the engine is busy. */
const statsIntervalMs = 50;

assert(parentPort, "worker.ts: wanted a worker thread, use startEngine");
const port = parentPort;

function post(report: Report): void {
  port.postMessage(report);
}

/** Steps an engine for as long as it has work, and obeys the commands that come between. */
class EngineLoop {
  private readonly engine: Engine;
  private readonly model: LanguageModel;
  private refusals: GenerationEvent[] = [];
  private scheduled = false;
  private closed = false;
  private publishedMs = 0;

  constructor(engine: Engine, model: LanguageModel) {
    this.engine = engine;
    this.model = model;
    port.on("message", (commands: readonly Command[]) => {
      for (const command of commands) this.obey(command);
      this.schedule();
    });
  }

  private obey(command: Command): void {
    if (command.type === "add") this.add(command);
    else if (command.type === "cancel") this.engine.cancel(command.id);
    else {
      this.closed = true;
      this.model.close();
      port.close();
    }
  }

  private add({ request }: Command & { type: "add" }): void {
    try {
      this.engine.add(request);
    } catch (error) {
      // A refusal is the request's own fault; anything else is this thread's.
      if (!(error instanceof BaleenError && error.code in engineErrors)) throw error;
      this.refusals.push(refusalOf(request, error));
    }
  }

  private schedule(): void {
    if (this.scheduled || !(this.engine.hasWork || this.refusals.length > 0)) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      if (this.closed) return;
      this.turn();
      this.schedule();
    });
  }

  private turn(): void {
    const events = [...this.refusals, ...this.engine.step()];
    this.refusals = [];
    const nowMs = performance.now();
    const due = !this.engine.hasWork || nowMs - this.publishedMs >= statsIntervalMs;
    if (events.length === 0 && !due) return;
    if (due) this.publishedMs = nowMs;
    post({ type: "events", events, stats: due ? this.engine.stats() : undefined });
  }
}

async function openModel(options: StartOptions, vocabSize?: number): Promise<LanguageModel> {
  const { nullModel, modelModule, modelDir } = options;
  if (nullModel) return new NullModel({ vocabSize, ...nullModel });
  if (modelModule !== undefined) return (await import(modelModule)).loadModel(modelDir, options);
  assert(modelDir !== undefined, "startEngine: wanted modelDir, modelModule or nullModel");
  const { loadModel } = await import("../model/index.ts");
  return loadModel(modelDir, options);
}

/** A checkpoint's detokenizer, and how many ids it has. */
async function openDetokenizer(dir: string): Promise<Detokenizer & { vocabSize: number }> {
  const { Tokenizer } = await import("../model/index.ts");
  const tokenizer = Tokenizer.fromDirectory(dir);
  const { vocabSize } = tokenizer;
  return { vocabSize, streamDecoder: () => tokenizer.streamDecoder({ skipSpecial: true }) };
}

async function start(options: StartOptions): Promise<void> {
  const dir = options.modelDir;
  const tokenizer = dir === undefined ? undefined : await openDetokenizer(dir);
  const vocabSize = options.vocabSize ?? tokenizer?.vocabSize;
  const model = await openModel(options, tokenizer?.vocabSize);
  try {
    const engine = new Engine(model, tokenizer ?? nullDetokenizer, { ...options, vocabSize });
    new EngineLoop(engine, model);
    const { maxContext, blocksTotal } = engine;
    const info = {
      description: model.description,
      maxContext,
      vocabSize: model.vocabSize,
      blocksTotal,
    };
    post({ type: "ready", info, stats: engine.stats() });
  } catch (error) {
    model.close();
    throw error;
  }
}

start(workerData as StartOptions).catch((error: unknown) => {
  const known = error instanceof BaleenError;
  post({
    type: "failed",
    code: known ? error.code : undefined,
    retry: known ? error.retry : "never",
    message: error instanceof Error ? (known ? error.message : String(error.stack)) : String(error),
  });
  port.close();
});
