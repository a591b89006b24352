/** @file `/openapi.json`: the routes with the very schemas that check the requests. */
import { OpenAPIHono, z } from "@hono/zod-openapi";
import { chatRequestSchema, completionRequestSchema } from "./requests.ts";

const apiError = z
  .object({
    error: z.object({
      message: z.string(),
      type: z.string(),
      param: z.string().nullable(),
      code: z.string(),
    }),
  })
  .openapi("Error");

const usage = z
  .object({
    prompt_tokens: z.int(),
    completion_tokens: z.int(),
    total_tokens: z.int(),
    prompt_tokens_details: z.object({ cached_tokens: z.int() }),
    prompt_cache_hit_tokens: z.int(),
    prompt_cache_miss_tokens: z.int(),
  })
  .openapi("Usage");

const finishReason = z.enum(["stop", "length"]);

const chatToken = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()) });

const answerHead = { id: z.string(), created: z.int(), model: z.string(), usage };

const chatAnswer = z
  .object({
    ...answerHead,
    object: z.literal("chat.completion"),
    choices: z.array(
      z.object({
        index: z.int(),
        message: z.object({
          role: z.literal("assistant"),
          content: z.string(),
          refusal: z.null(),
        }),
        logprobs: z
          .object({
            content: z.array(chatToken.extend({ top_logprobs: z.array(chatToken) })),
            refusal: z.null(),
          })
          .nullable(),
        finish_reason: finishReason,
      }),
    ),
  })
  .openapi("ChatCompletion");

const completionAnswer = z
  .object({
    ...answerHead,
    object: z.literal("text_completion"),
    choices: z.array(
      z.object({
        index: z.int(),
        text: z.string(),
        logprobs: z
          .object({
            tokens: z.array(z.string()),
            token_logprobs: z.array(z.number()),
            top_logprobs: z.array(z.record(z.string(), z.number())),
            text_offset: z.array(z.int()),
          })
          .nullable(),
        finish_reason: finishReason,
      }),
    ),
  })
  .openapi("Completion");

const model = z
  .object({
    id: z.string(),
    object: z.literal("model"),
    created: z.int(),
    owned_by: z.string(),
    description: z.string(),
    max_model_len: z.int(),
  })
  .openapi("Model");

const engineInfo = z
  .object({
    id: z.string(),
    description: z.string(),
    maxContext: z.int(),
    vocabSize: z.int(),
    blocksTotal: z.int(),
  })
  .openapi("EngineInfo");

const counts = z.int().nonnegative();

const engineStats = z
  .object({
    running: counts,
    waiting: counts,
    blocksTotal: counts,
    blocksUsed: counts,
    blocksCached: counts,
    steps: counts,
    promptTokens: counts,
    cachedPromptTokens: counts,
    generatedTokens: counts,
    preemptions: counts,
    draftedTokens: counts,
    acceptedTokens: counts,
    finished: z.object({ stop: counts, length: counts, cancelled: counts, error: counts }),
    busyMs: z.number(),
    expertLoad: z.object({ layers: counts, experts: counts, counts: z.array(counts) }),
  })
  .openapi("EngineStats");

const state = z.object({ status: z.string() });

interface Route {
  readonly method: "get" | "post";
  readonly path: string;
  readonly summary: string;
  readonly request?: z.ZodObject;
  readonly answers: Readonly<Record<string, z.ZodType>>;
  /** Whether an API key is asked for where the server has keys. */
  readonly open?: boolean;
}

const json = "application/json";
const eventStream = "text/event-stream";
const text = "text/plain";

/** Every route but the page's files. */
export const routes: readonly Route[] = [
  {
    method: "post",
    path: "/v1/chat/completions",
    summary: "Answer a conversation, whole or (stream: true) as server-sent events.",
    request: chatRequestSchema,
    answers: { [json]: chatAnswer, [eventStream]: z.string() },
  },
  {
    method: "post",
    path: "/v1/completions",
    summary: "Continue texts or token ids, whole or (stream: true) as server-sent events.",
    request: completionRequestSchema,
    answers: { [json]: completionAnswer, [eventStream]: z.string() },
  },
  {
    method: "get",
    path: "/v1/models",
    summary: "The served models.",
    answers: { [json]: z.object({ object: z.literal("list"), data: z.array(model) }) },
  },
  {
    method: "get",
    path: "/v1/models/{id}",
    summary: "One served model.",
    answers: { [json]: model },
  },
  {
    method: "get",
    path: "/v1/engine/info",
    summary: "The served model and its engine.",
    answers: { [json]: engineInfo },
  },
  {
    method: "get",
    path: "/v1/engine/stats",
    summary: "The engine's state and totals.",
    answers: { [json]: engineStats },
  },
  {
    method: "get",
    path: "/v1/engine/events",
    summary: "The same as `stats` events, four a second.",
    answers: { [eventStream]: engineStats },
  },
  {
    method: "get",
    path: "/metrics",
    summary: "Metrics in Prometheus' text format.",
    answers: { [text]: z.string() },
  },
  {
    method: "get",
    path: "/health",
    summary: "200 while the process and its engine are alive.",
    answers: { [json]: state },
    open: true,
  },
  {
    method: "get",
    path: "/ready",
    summary: "200 while requests are taken: the model is loaded and the server does not drain.",
    answers: { [json]: state },
    open: true,
  },
  {
    method: "get",
    path: "/openapi.json",
    summary: "This document.",
    answers: { [json]: z.looseObject({}) },
    open: true,
  },
  {
    method: "get",
    path: "/",
    summary: "The page.",
    answers: { "text/html": z.string() },
    open: true,
  },
];

/** The OpenAPI 3.1 document as JSON. */
export function openApiJson(version: string): string {
  const app = new OpenAPIHono();
  const registry = app.openAPIRegistry;
  registry.registerComponent("securitySchemes", "apiKey", { type: "http", scheme: "bearer" });
  for (const { method, path, summary, request, answers, open } of routes) {
    const content = Object.fromEntries(
      Object.entries(answers).map(([type, schema]) => [type, { schema }]),
    );
    registry.registerPath({
      method,
      path,
      summary,
      security: open ? [] : [{ apiKey: [] }],
      request: {
        ...(request && { body: { required: true, content: { [json]: { schema: request } } } }),
        ...(path.includes("{id}") && { params: z.object({ id: z.string() }) }),
      },
      responses: {
        200: { description: "As asked.", content },
        default: { description: "A failure.", content: { [json]: { schema: apiError } } },
      },
    });
  }
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "baleen",
      version,
      description: "OpenAI-compatible inference of DeepSeek-V3-family models.",
      license: { name: "MIT" },
    },
  });
  return JSON.stringify(document);
}
