/** @file Runs the choices of one request through the engine, and times them. */
import type { EngineService, FinishReason, GenerationEvent, GenerationRequest } from "../types.ts";
import { draining, engineFailure } from "./errors.ts";
import type { Metrics } from "./metrics.ts";

/** Thrown where the client has left: nobody waits for an answer. */
export class ClientGone extends Error {
  constructor() {
    super("the client left");
    this.name = "ClientGone";
  }
}

/** Token counts over the choices of a request; each prompt counts once. */
export interface TotalUsage {
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}

/** What a request asks of the engine. */
export interface Generation {
  readonly engine: EngineService;
  readonly metrics: Metrics;
  /** One for each choice: `n` for the first prompt, then for the second. */
  readonly requests: readonly GenerationRequest[];
  readonly n: number;
  /** `performance.now()` when the request came. */
  readonly arrivedMs: number;
  /** `performance.now()` when it was admitted. */
  readonly admittedMs: number;
  /** Aborts all choices. */
  readonly cancel: AbortController;
}

/** Takes the events of choice `index`; may return a promise to wait for before the next. */
export type EventSink = (index: number, event: GenerationEvent) => Promise<void> | undefined;

/**
 * Runs all choices at once and resolves to the token counts when each has ended well. If one fails,
 * the others are cancelled and its `ApiError` is thrown; `ClientGone` where `cancel` was aborted.
 */
export async function runChoices(generation: Generation, sink: EventSink): Promise<TotalUsage> {
  const usage: TotalUsage = { promptTokens: 0, cachedTokens: 0, completionTokens: 0 };
  let failure: unknown;
  await Promise.all(
    generation.requests.map(async (_, index) => {
      try {
        await runChoice(generation, index, sink, usage);
      } catch (error) {
        failure ??= error;
        generation.cancel.abort();
      }
    }),
  );
  if (failure !== undefined) throw failure;
  return usage;
}

async function runChoice(
  generation: Generation,
  index: number,
  sink: EventSink,
  usage: TotalUsage,
): Promise<void> {
  const { engine, metrics, requests, n, arrivedMs, cancel } = generation;
  let lastMs = 0;
  let finish: GenerationEvent["finish"];
  for await (const event of engine.generate(requests[index], cancel.signal)) {
    const nowMs = performance.now();
    if (lastMs !== 0) metrics.interToken.observe((nowMs - lastMs) / 1000);
    else if (event.tokenIds.length > 0) {
      metrics.timeToFirstToken.observe((nowMs - arrivedMs) / 1000);
    }
    lastMs = nowMs;
    finish = event.finish;
    if (finish && isFailure(finish.reason)) break;
    const behind = sink(index, event);
    if (behind) await behind;
  }
  if (!finish || isFailure(finish.reason)) throw failureOf(finish, cancel.signal);
  metrics.endToEnd.observe((lastMs - arrivedMs) / 1000);
  const queueMs = generation.admittedMs - arrivedMs + (finish.queueMs ?? 0);
  metrics.queueTime.observe(queueMs / 1000);
  usage.completionTokens += finish.usage.completionTokens;
  if (index % n === 0) {
    usage.promptTokens += finish.usage.promptTokens;
    usage.cachedTokens += finish.usage.cachedTokens;
  }
}

function isFailure(reason: FinishReason): boolean {
  return reason === "error" || reason === "cancelled";
}

function failureOf(finish: GenerationEvent["finish"], signal: AbortSignal): Error {
  if (signal.aborted) return new ClientGone();
  if (finish?.reason === "cancelled") return draining();
  return engineFailure(
    finish?.code ?? "model-failed",
    finish?.message ?? "The engine ended the answer without a reason. Send the request again.",
  );
}
