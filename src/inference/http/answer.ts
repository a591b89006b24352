/**
 * @file One answer, whole or as an event stream. The first event is awaited before the response
 * begins, so that a failure before it still has its own HTTP status.
 */
import { setMaxListeners } from "node:events";
import type { FinishReason, GenerationEvent, GenerationRequest } from "../types.ts";
import type { Admission } from "./admission.ts";
import { type ApiError, toApiError } from "./errors.ts";
import { EventStream, eventStreamHeaders } from "./event-stream.ts";
import { ClientGone, type Generation, runChoices, type TotalUsage } from "./generation.ts";
import type { Metrics } from "./metrics.ts";
import type { HttpOptions, Served } from "./options.ts";
import type { ServerState } from "./state.ts";

/** What the routes share. */
export interface ServerContext {
  readonly state: ServerState;
  readonly options: HttpOptions;
  readonly admission: Admission;
  readonly metrics: Metrics;
}

/** One finished choice of an answer. */
export interface WholeChoice {
  text: string;
  logprobs: NonNullable<GenerationEvent["logprobs"]>[number][];
  finish: FinishReason;
}

/** How an endpoint spells an answer. */
export interface AnswerForm {
  /** The JSON of the whole answer. */
  whole(choices: readonly WholeChoice[], usage: TotalUsage): string;
  /** The stream's events for one event of the engine; empty where there is nothing to show. */
  piece(index: number, event: GenerationEvent): string;
  /** The stream's last event before `[DONE]`, with the token counts. */
  usage(usage: TotalUsage): string;
}

/** A request, ready for the engine. */
export interface Job {
  /** The answer's id, also the response's `x-request-id`. */
  readonly id: string;
  readonly served: Served;
  readonly requests: readonly GenerationRequest[];
  /** Choices for each prompt. */
  readonly n: number;
  readonly form: AnswerForm;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly arrivedMs: number;
}

/**
 * Admits and runs `job` and returns the response. `signal` is aborted when the client leaves; `end`
 * is called when nothing more will be added to the response.
 */
export async function answer(
  context: ServerContext,
  job: Job,
  signal: AbortSignal,
  end: () => void,
): Promise<Response> {
  const cancel = new AbortController();
  // Every choice listens to it.
  setMaxListeners(job.requests.length + 8, cancel.signal);
  const onGone = (): void => cancel.abort();
  signal.addEventListener("abort", onGone);
  if (signal.aborted) cancel.abort();
  let leave: (() => void) | undefined;
  const done = (): void => {
    signal.removeEventListener("abort", onGone);
    leave?.();
    end();
  };
  try {
    leave = await enter(context, job, cancel.signal);
    const generation: Generation = {
      engine: job.served.engine,
      metrics: context.metrics,
      requests: job.requests,
      n: job.n,
      arrivedMs: job.arrivedMs,
      admittedMs: performance.now(),
      cancel,
    };
    if (job.stream) return await streamed(context, job, generation, done);
    const response = await whole(job, generation);
    done();
    return response;
  } catch (error) {
    done();
    if (error instanceof ClientGone) context.metrics.aborted.inc();
    throw error;
  }
}

async function enter(
  { admission }: ServerContext,
  job: Job,
  signal: AbortSignal,
): Promise<() => void> {
  try {
    return await admission.enter(job.requests.length, signal);
  } catch (error) {
    throw signal.aborted ? new ClientGone() : error;
  }
}

async function whole(job: Job, generation: Generation): Promise<Response> {
  const choices = job.requests.map(
    (): WholeChoice => ({ text: "", logprobs: [], finish: "length" }),
  );
  const usage = await runChoices(generation, (index, event) => {
    const choice = choices[index];
    choice.text += event.text;
    if (event.logprobs) choice.logprobs.push(...event.logprobs);
    if (event.finish) choice.finish = event.finish.reason;
    return undefined;
  });
  return new Response(job.form.whole(choices, usage), {
    headers: { "content-type": "application/json", "x-request-id": job.id },
  });
}

/** Returns as soon as there is something to send; what fails later is an event of the stream. */
async function streamed(
  { options, metrics }: ServerContext,
  job: Job,
  generation: Generation,
  done: () => void,
): Promise<Response> {
  const { form } = job;
  const events = new EventStream(options.stallMs, () => generation.cancel.abort());
  let begun = false;
  const begin = new Promise<void>((resolve, reject) => {
    runChoices(generation, (index, event) => {
      const text = form.piece(index, event);
      if (text === "") return undefined;
      if (!begun) {
        begun = true;
        resolve();
      }
      return events.write(text);
    })
      .then((usage) => {
        events.write(`${job.includeUsage ? form.usage(usage) : ""}data: [DONE]\n\n`);
        events.end();
        resolve();
        done();
      })
      .catch((error: unknown) => {
        if (!begun) return reject(error);
        if (error instanceof ClientGone) metrics.aborted.inc();
        else events.write(`data: ${JSON.stringify(failureOf(error, options).body)}\n\n`);
        events.end();
        done();
      });
  });
  await begin;
  return new Response(events.readable, {
    headers: { ...eventStreamHeaders, "x-request-id": job.id },
  });
}

function failureOf(error: unknown, { log }: HttpOptions): ApiError {
  const failure = toApiError(error);
  if (failure.code === "internal_error") log((error as Error)?.stack ?? String(error));
  return failure;
}

/** Token counts as the OpenAI API and DeepSeek's spell them. */
export function usageBody(usage: TotalUsage): object {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
    prompt_cache_hit_tokens: usage.cachedTokens,
    prompt_cache_miss_tokens: usage.promptTokens - usage.cachedTokens,
  };
}
