/**
 * @file The two requests as zod schemas, which also make `/openapi.json`. A schema's message is
 * what is wanted (see `validate`). Null stands for absent, as in the OpenAI API.
 */
import { z } from "@hono/zod-openapi";
import { refuseUnsupported } from "./unsupported.ts";
import { validate } from "./validate.ts";

/** Most choices (prompts times n) of one request. */
export const maxChoices = 128;
/** Most likeliest tokens reported beside each drawn one. */
const maxTopLogprobs = 20;
/** Most characters of one stop string. */
const maxStopChars = 256;

function real(min: number, max: number): z.ZodNumber {
  const wanted = `a number from ${min} to ${max}`;
  return z.number(wanted).min(min, wanted).max(max, wanted);
}

function whole(min: number, max: number = Number.MAX_SAFE_INTEGER): z.ZodNumber {
  const wanted =
    max < Number.MAX_SAFE_INTEGER
      ? `a whole number from ${min} to ${max}`
      : min > 0
        ? `a whole number, at least ${min}`
        : "a whole number";
  return z.number(wanted).int(wanted).min(min, wanted).max(max, wanted);
}

function flag(): z.ZodBoolean {
  return z.boolean("true or false");
}

const stopString = z
  .string("a text")
  .min(1, "a text of at least one character")
  .max(maxStopChars, `a text of at most ${maxStopChars} characters`);

const stopList = "a text or a list of at most 4 texts";

const tokenId = whole(0, 2 ** 31 - 1);

const shared = {
  model: z
    .string("the name of a served model (/v1/models lists them)")
    .nullish()
    .openapi({ description: "A name that /v1/models lists; absent: the served model." }),
  stream: flag().nullish(),
  stream_options: z
    .looseObject({ include_usage: flag().nullish() }, "an object such as {include_usage: true}")
    .nullish(),
  max_tokens: whole(1)
    .nullish()
    .openapi({ description: "Most tokens to generate; the context's end may come before." }),
  max_completion_tokens: whole(1).nullish().openapi({ description: "Same as max_tokens." }),
  n: whole(1, maxChoices).nullish(),
  temperature: real(0, 2).nullish(),
  top_p: real(0, 1).nullish(),
  top_k: whole(-1, 2 ** 31 - 1)
    .nullish()
    .openapi({ description: "Keep the k likeliest tokens; 0 and -1 keep all." }),
  min_p: real(0, 1).nullish(),
  presence_penalty: real(-2, 2).nullish(),
  frequency_penalty: real(-2, 2).nullish(),
  repetition_penalty: real(0.01, 10).nullish(),
  seed: whole(Number.MIN_SAFE_INTEGER)
    .nullish()
    .openapi({ description: "Same seed and request, same answer; choice i uses seed + i." }),
  logit_bias: z
    .record(z.string(), real(-100, 100), "an object of token ids and numbers")
    .refine((bias) => Object.keys(bias).length <= 1024, "at most 1024 entries")
    .nullish(),
  stop: z.union([stopString, z.array(stopString, stopList).max(4, stopList)], stopList).nullish(),
  stop_token_ids: z
    .array(tokenId, "a list of token ids")
    .max(64, "a list of at most 64 token ids")
    .nullish(),
  ignore_eos: flag().nullish().openapi({ description: "Go on after the model's end token." }),
  user: z.string("a text").max(1024, "a text of at most 1024 characters").nullish(),
};

const textPart = z.looseObject(
  { type: z.literal("text", '"text" (other content is not supported)'), text: z.string("a text") },
  "an object {type, text}",
);

const message = z
  .looseObject(
    {
      role: z.enum(
        ["system", "developer", "user", "assistant"],
        "system, developer, user or assistant (tools are not supported)",
      ),
      content: z.union(
        [z.string("a text"), z.array(textPart, "a list")],
        "a text or a list of parts {type: text, text}",
      ),
      name: z.string("a text").nullish(),
    },
    "an object {role, content}",
  )
  .openapi("ChatMessage");

const chatSchema = z
  .looseObject({
    ...shared,
    messages: z.array(message, "a list of messages").min(1, "at least one message"),
    logprobs: flag().nullish(),
    top_logprobs: whole(0, maxTopLogprobs).nullish(),
  })
  .openapi("ChatCompletionRequest");

const completionSchema = z
  .looseObject({
    ...shared,
    prompt: z
      .union(
        [
          z.string("a text"),
          z.array(z.string("a text"), "a list of texts"),
          z.array(tokenId, "a list of token ids"),
          z.array(z.array(tokenId, "a list of token ids"), "a list of lists of token ids"),
        ],
        "a text, a list of texts, a list of token ids or a list of such lists",
      )
      .openapi({ description: "Each text or list of ids gets n answers." }),
    logprobs: whole(0, maxTopLogprobs).nullish(),
  })
  .openapi("CompletionRequest");

/** The body of `POST /v1/chat/completions`, for the OpenAPI document. */
export const chatRequestSchema: z.ZodObject = chatSchema;
/** The body of `POST /v1/completions`, for the OpenAPI document. */
export const completionRequestSchema: z.ZodObject = completionSchema;

type Optional<T> = T | null | undefined;

/** What both requests share, checked. */
export interface SharedRequest {
  readonly model?: Optional<string>;
  readonly stream?: Optional<boolean>;
  readonly stream_options?: Optional<{ readonly include_usage?: Optional<boolean> }>;
  readonly max_tokens?: Optional<number>;
  readonly max_completion_tokens?: Optional<number>;
  readonly n?: Optional<number>;
  readonly temperature?: Optional<number>;
  readonly top_p?: Optional<number>;
  readonly top_k?: Optional<number>;
  readonly min_p?: Optional<number>;
  readonly presence_penalty?: Optional<number>;
  readonly frequency_penalty?: Optional<number>;
  readonly repetition_penalty?: Optional<number>;
  readonly seed?: Optional<number>;
  readonly logit_bias?: Optional<Readonly<Record<string, number>>>;
  readonly stop?: Optional<string | readonly string[]>;
  readonly stop_token_ids?: Optional<readonly number[]>;
  readonly ignore_eos?: Optional<boolean>;
}

/** A checked chat request. */
export interface ChatRequest extends SharedRequest {
  readonly messages: readonly {
    readonly role: string;
    readonly content: string | readonly { readonly text: string }[];
  }[];
  readonly logprobs?: Optional<boolean>;
  readonly top_logprobs?: Optional<number>;
}

/** A checked completion request. */
export interface CompletionRequest extends SharedRequest {
  readonly prompt: string | readonly string[] | readonly number[] | readonly (readonly number[])[];
  readonly logprobs?: Optional<number>;
}

/** `body` as a chat request, or a 400 for its first fault. */
export function parseChatRequest(body: Readonly<Record<string, unknown>>): ChatRequest {
  refuseUnsupported(body, chatSchema.shape);
  return validate(chatSchema, body);
}

/** `body` as a completion request, or a 400 for its first fault. */
export function parseCompletionRequest(body: Readonly<Record<string, unknown>>): CompletionRequest {
  refuseUnsupported(body, completionSchema.shape);
  return validate(completionSchema, body);
}
