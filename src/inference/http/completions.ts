/** @file `POST /v1/completions`: checks, prompts, and how answers are spelt. */
import type { GenerationEvent } from "../types.ts";
import { type AnswerForm, type Job, usageBody, type WholeChoice } from "./answer.ts";
import { invalid } from "./errors.ts";
import type { TotalUsage } from "./generation.ts";
import { CompletionLogprobList } from "./logprobs.ts";
import type { Served, TextCodec } from "./options.ts";
import {
  checkChoices,
  checkModel,
  checkPrompt,
  checkStreamOptions,
  encodePrompt,
  engineRequests,
  newId,
} from "./prepare.ts";
import { type CompletionRequest, parseCompletionRequest } from "./requests.ts";

/** Tokens of an answer whose request names no limit, as in the OpenAI API. */
const defaultMaxTokens = 16;

/** The job of a completion request's body; an `ApiError` for one that can't be served. */
export function completionJob(
  body: Record<string, unknown>,
  served: Served,
  arrivedMs: number,
): Job {
  const request = parseCompletionRequest(body);
  checkModel(request.model, served);
  checkStreamOptions(request);
  const id = newId("cmpl");
  const limit = request.max_completion_tokens ?? request.max_tokens ?? defaultMaxTokens;
  const logprobs = request.logprobs ?? undefined;
  const includeUsage = request.stream_options?.include_usage ?? false;
  return {
    id,
    served,
    requests: engineRequests(
      id,
      promptsOf(request, served),
      { ...request, max_tokens: limit },
      logprobs,
      served,
    ),
    n: request.n ?? 1,
    form: new CompletionForm(id, served, includeUsage),
    stream: request.stream ?? false,
    includeUsage,
    arrivedMs,
  };
}

/** The prompts as token ids: one, or several of a list of texts or of lists. */
function promptsOf({ prompt, n }: CompletionRequest, served: Served): (readonly number[])[] {
  if (typeof prompt === "string") return [encodePrompt(prompt, "prompt", served)];
  if (prompt.length === 0) {
    throw invalid("prompt", "invalid_value", "prompt: is empty, wanted at least one token.");
  }
  if (isIds(prompt)) return [checkPrompt(prompt, "prompt", served)];
  checkChoices(prompt.length, n ?? 1);
  return prompt.map((one, index) =>
    typeof one === "string"
      ? encodePrompt(one, `prompt[${index}]`, served)
      : checkPrompt(one as readonly number[], `prompt[${index}]`, served),
  );
}

function isIds(prompt: readonly unknown[]): prompt is readonly number[] {
  return typeof prompt[0] === "number";
}

/** Spells text completions; what does not change between pieces is serialised once. */
class CompletionForm implements AnswerForm {
  private readonly codec: TextCodec;
  private readonly head: string;
  private readonly wholeHead: string;
  private readonly tail: string;
  private readonly logprobLists = new Map<number, CompletionLogprobList>();

  constructor(id: string, served: Served, includeUsage: boolean) {
    this.codec = served.tokenizer;
    const created = Math.floor(Date.now() / 1000);
    const model = JSON.stringify(served.engine.info.id);
    this.wholeHead =
      `{"id":"${id}","object":"text_completion","created":${created},` +
      `"model":${model},"choices":`;
    this.head = `data: ${this.wholeHead}[`;
    this.tail = includeUsage ? `],"usage":null}\n\n` : "]}\n\n";
  }

  piece(index: number, event: GenerationEvent): string {
    const { finish } = event;
    if (event.text === "" && !event.logprobs?.length && !finish) return "";
    const logprobs = event.logprobs?.length
      ? JSON.stringify(this.listOf(index).next(event.logprobs))
      : "null";
    return (
      `${this.head}{"index":${index},"text":${JSON.stringify(event.text)},"logprobs":${logprobs},` +
      `"finish_reason":${finish ? `"${finish.reason}"` : "null"}}${this.tail}`
    );
  }

  usage(usage: TotalUsage): string {
    return `${this.head}],"usage":${JSON.stringify(usageBody(usage))}}\n\n`;
  }

  whole(choices: readonly WholeChoice[], usage: TotalUsage): string {
    const spelt = choices.map((choice, index) => ({
      index,
      text: choice.text,
      logprobs: choice.logprobs.length > 0 ? this.listOf(index).next(choice.logprobs) : null,
      finish_reason: choice.finish,
    }));
    return `${this.wholeHead}${JSON.stringify(spelt)},"usage":${JSON.stringify(usageBody(usage))}}`;
  }

  private listOf(index: number): CompletionLogprobList {
    let list = this.logprobLists.get(index);
    if (!list) {
      list = new CompletionLogprobList(this.codec);
      this.logprobLists.set(index, list);
    }
    return list;
  }
}
