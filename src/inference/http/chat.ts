/** @file `POST /v1/chat/completions`: checks, prompt, and how answers are spelt. */
import { BaleenError } from "../../base/index.ts";
import type { GenerationEvent } from "../types.ts";
import { type AnswerForm, type Job, usageBody, type WholeChoice } from "./answer.ts";
import { ApiError, invalid } from "./errors.ts";
import type { TotalUsage } from "./generation.ts";
import { chatLogprobs } from "./logprobs.ts";
import type { Served, TextCodec } from "./options.ts";
import { checkModel, checkPrompt, checkStreamOptions, engineRequests, newId } from "./prepare.ts";
import { type ChatRequest, parseChatRequest } from "./requests.ts";

/** The job of a chat request's body; an `ApiError` for one that can't be served. */
export function chatJob(body: Record<string, unknown>, served: Served, arrivedMs: number): Job {
  const request = parseChatRequest(body);
  checkModel(request.model, served);
  checkStreamOptions(request);
  const id = newId("chatcmpl");
  const logprobs = logprobsOf(request);
  const prompt = checkPrompt(encodeMessages(request, served), "messages", served);
  const includeUsage = request.stream_options?.include_usage ?? false;
  return {
    id,
    served,
    requests: engineRequests(id, [prompt], request, logprobs, served),
    n: request.n ?? 1,
    form: new ChatForm(id, served, includeUsage),
    stream: request.stream ?? false,
    includeUsage,
    arrivedMs,
  };
}

function logprobsOf(request: ChatRequest): number | undefined {
  if (request.logprobs) return request.top_logprobs ?? 0;
  if (request.top_logprobs === null || request.top_logprobs === undefined) return undefined;
  throw invalid(
    "top_logprobs",
    "invalid_value",
    "top_logprobs: has a meaning only with logprobs: true. Add that or leave it out.",
  );
}

function encodeMessages(request: ChatRequest, served: Served): number[] {
  if (!served.encodeChat) {
    throw new ApiError(
      400,
      "no_chat_template",
      "This model has no chat template. Send the text to /v1/completions.",
    );
  }
  const messages = request.messages.map(({ role, content }) => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map((part) => part.text).join("\n"),
  }));
  try {
    return served.encodeChat(messages);
  } catch (cause) {
    if (!(cause instanceof BaleenError)) throw cause;
    const options = { param: "messages", cause };
    throw new ApiError(400, "invalid_value", `messages: ${cause.message}`, options);
  }
}

/** Spells chat answers; what does not change between pieces is serialised once. */
class ChatForm implements AnswerForm {
  private readonly codec: TextCodec;
  private readonly head: string;
  private readonly wholeHead: string;
  private readonly tail: string;
  /** Choices whose first piece, which names the role, has been sent. */
  private readonly begun = new Set<number>();

  constructor(id: string, served: Served, includeUsage: boolean) {
    this.codec = served.tokenizer;
    const created = Math.floor(Date.now() / 1000);
    const rest = `"created":${created},"model":${JSON.stringify(served.engine.info.id)}`;
    this.head = `data: {"id":"${id}","object":"chat.completion.chunk",${rest},"choices":[`;
    this.wholeHead = `{"id":"${id}","object":"chat.completion",${rest},"choices":`;
    this.tail = includeUsage ? `],"usage":null}\n\n` : "]}\n\n";
  }

  piece(index: number, event: GenerationEvent): string {
    let text = "";
    if (!this.begun.has(index)) {
      this.begun.add(index);
      text = this.chunk(index, '{"role":"assistant","content":""}', "null", "null");
    }
    if (event.text !== "" || event.logprobs?.length) {
      const logprobs = event.logprobs
        ? JSON.stringify({ content: chatLogprobs(event.logprobs, this.codec), refusal: null })
        : "null";
      text += this.chunk(index, `{"content":${JSON.stringify(event.text)}}`, logprobs, "null");
    }
    if (event.finish) text += this.chunk(index, "{}", "null", `"${event.finish.reason}"`);
    return text;
  }

  usage(usage: TotalUsage): string {
    return `${this.head}],"usage":${JSON.stringify(usageBody(usage))}}\n\n`;
  }

  whole(choices: readonly WholeChoice[], usage: TotalUsage): string {
    const spelt = choices.map((choice, index) => ({
      index,
      message: { role: "assistant", content: choice.text, refusal: null },
      logprobs:
        choice.logprobs.length > 0
          ? { content: chatLogprobs(choice.logprobs, this.codec), refusal: null }
          : null,
      finish_reason: choice.finish,
    }));
    return `${this.wholeHead}${JSON.stringify(spelt)},"usage":${JSON.stringify(usageBody(usage))}}`;
  }

  private chunk(index: number, delta: string, logprobs: string, finish: string): string {
    return (
      `${this.head}{"index":${index},"delta":${delta},"logprobs":${logprobs},` +
      `"finish_reason":${finish}}${this.tail}`
    );
  }
}
