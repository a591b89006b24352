/** @file For tests: requests, an engine's answers to them, and answers worked out without one. */
import { assert, type Random } from "../../base/index.ts";
import type { LanguageModel } from "../../model/index.ts";
import type { Engine } from "../engine.ts";
import { Sampler } from "../sampler.ts";
import type { Detokenizer } from "../sequence.ts";
import { defaultSampling, type GenerationEvent, type GenerationRequest } from "../types.ts";

/** Everything that one request's events said. */
export interface Answer {
  tokenIds: number[];
  text: string;
  logprobs: NonNullable<GenerationEvent["logprobs"]>[number][];
  finish: GenerationEvent["finish"];
}

/** A greedy request for `maxTokens` tokens, with `changes`. */
export function requestOf(
  id: string,
  prompt: readonly number[],
  changes: Partial<GenerationRequest> = {},
): GenerationRequest {
  return {
    id,
    prompt,
    maxTokens: 20,
    sampling: { ...defaultSampling, temperature: 0 },
    stop: [],
    stopTokenIds: [],
    ignoreEos: false,
    ...changes,
  };
}

/** `length` token ids below `vocabSize`. */
export function randomPrompt(random: Random, length: number, vocabSize: number): number[] {
  return Array.from({ length }, () => random.below(vocabSize));
}

/** Collects events into answers, and throws where an event breaks the engine's promises. */
export class AnswerBook {
  readonly answers: Map<string, Answer> = new Map();

  /** Takes what a step returned: at most one event a request, and none after its finish. */
  take(events: readonly GenerationEvent[]): void {
    const ids = new Set(events.map((event) => event.id));
    assert(ids.size === events.length, "a step returned two events of one request");
    for (const { id, tokenIds, text, logprobs, finish } of events) {
      const answer = this.answers.get(id) ?? {
        tokenIds: [],
        text: "",
        logprobs: [],
        finish: undefined,
      };
      this.answers.set(id, answer);
      assert(!answer.finish, () => `an event of ${id} came after its finish`);
      answer.tokenIds.push(...tokenIds);
      answer.text += text;
      answer.logprobs.push(...(logprobs ?? []));
      answer.finish = finish;
    }
  }
}

/** Runs all of `requests` at once to their ends, checking the engine's books after each step. */
export function answersOf(
  engine: Engine,
  requests: readonly GenerationRequest[],
): Map<string, Answer> {
  const book = new AnswerBook();
  for (const request of requests) engine.add(request);
  for (let steps = 0; engine.hasWork; steps++) {
    assert(steps < 100_000, "the engine does not come to an end");
    book.take(engine.step());
    engine.check();
  }
  return book.answers;
}

/**
 * The answer to `request` straight from the model: whole prompt, then token after token, each
 * with a full search for stops; no engine, no batch, no drafts, no shared pages.
 */
export function plainAnswer(
  model: LanguageModel,
  detokenizer: Detokenizer,
  request: GenerationRequest,
  maxContext: number,
): Omit<Answer, "finish"> & { reason: string } {
  const cache = model.openCache(Math.ceil(maxContext / 64));
  const blockTable = Int32Array.from({ length: cache.pages }, (_, i) => i);
  const sampler = new Sampler(model.vocabSize);
  const { prompt, sampling, stop, maxTokens } = request;
  const stopIds = new Set([
    ...request.stopTokenIds,
    ...(request.ignoreEos ? [] : model.eosTokenIds),
  ]);
  const answer = new Map<number, number>();
  const history = { prompt: new Set(prompt), answer };
  const tokens = [...prompt];
  const logprobs: Answer["logprobs"] = [];
  const decoder = detokenizer.streamDecoder();
  let text = "";
  const result = (reason: string) => ({
    tokenIds: tokens.slice(prompt.length),
    text,
    logprobs,
    reason,
  });
  for (let computed = 0; ; ) {
    const chunk = Int32Array.from(tokens.slice(computed));
    const call = { tokens: chunk, position: computed, blockTable, logitRows: 1 };
    const row = model.forward(cache, [call]).logits.data.subarray(0, model.vocabSize);
    computed = tokens.length;
    const token = sampler.draw(row, sampling, tokens.length - prompt.length, history);
    if (request.logprobs !== undefined) {
      logprobs.push(sampler.logprobs(row, token, request.logprobs));
    }
    tokens.push(token);
    answer.set(token, (answer.get(token) ?? 0) + 1);
    const stops = stopIds.has(token);
    const full = tokens.length - prompt.length === maxTokens || tokens.length === maxContext;
    if (!stops) text += decoder.push(token);
    if (stops || full) text += decoder.end();
    const ends = stop
      .map((s) => text.indexOf(s) + s.length)
      .filter((end, i) => end >= stop[i].length);
    if (ends.length > 0) {
      const end = Math.min(...ends);
      const found = stop.filter((s) => text.slice(0, end).endsWith(s));
      text = text.slice(0, end - Math.max(...found.map((s) => s.length)));
      return result("stop");
    }
    if (stops || full) return result(stops ? "stop" : "length");
  }
}
