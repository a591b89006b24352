/** @file Every bad request gets its own clear error, and the server answers the next one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type TestServer, withServer } from "./testing.ts";

const chatPath = "/v1/chat/completions";
const path = "/v1/completions";
const messages = [{ role: "user", content: "hi" }];

/** What goes wrong, and what the error must hold. */
interface Case {
  readonly name: string;
  readonly path?: string;
  readonly body: unknown;
  readonly headers?: Record<string, string>;
  readonly status?: number;
  readonly param?: string | null;
  readonly code?: string;
  readonly says: RegExp;
}

const inRange = (field: string, value: unknown, says: RegExp): Case => ({
  name: `${field} ${JSON.stringify(value) ?? value}`,
  body: { prompt: "a", [field]: value },
  param: field,
  says,
});

const cases: readonly Case[] = [
  { name: "truncated JSON", body: '{"prompt": "a', code: "invalid_json", says: /not valid JSON/ },
  { name: "no body", body: "", code: "invalid_json", says: /empty/ },
  {
    name: "NaN",
    body: '{"prompt": "a", "temperature": NaN}',
    code: "invalid_json",
    says: /JSON has no NaN/,
  },
  {
    name: "a number beyond JSON's",
    body: '{"prompt": "a", "temperature": 1e999}',
    param: "temperature",
    says: /got Infinity, wanted a number from 0 to 2/,
  },
  { name: "a list", body: [], code: "invalid_type", says: /an array: send a JSON object/ },
  { name: "null", body: "null", code: "invalid_type", says: /null: send a JSON object/ },
  { name: "deep nesting", body: "[".repeat(200_000), says: /JSON/ },
  {
    name: "invalid UTF-8",
    body: Buffer.from([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]),
    code: "invalid_utf8",
    says: /UTF-8/,
  },
  {
    name: "a 10 MB prompt",
    body: JSON.stringify({ prompt: "a".repeat(10_000_000) }),
    status: 413,
    code: "request_too_large",
    says: /larger than 2 MiB/,
  },
  {
    name: "wrong content type",
    body: "prompt=a",
    headers: { "content-type": "application/x-www-form-urlencoded" },
    status: 415,
    says: /wanted application\/json/,
  },
  {
    name: "a foreign charset",
    body: "{}",
    headers: { "content-type": "application/json; charset=utf-16" },
    status: 415,
    says: /UTF-8/,
  },
  {
    name: "a compressed body",
    body: "{}",
    headers: { "content-encoding": "gzip" },
    status: 415,
    says: /uncompressed/,
  },
  {
    name: "an unknown model",
    body: { model: "gpt-9", prompt: "a" },
    status: 404,
    param: "model",
    code: "model_not_found",
    says: /no "gpt-9" here. Use "scripted"/,
  },
  { name: "no prompt", body: {}, param: "prompt", says: /prompt is missing/ },
  { name: "an empty prompt", body: { prompt: "" }, param: "prompt", says: /empty/ },
  { name: "no ids", body: { prompt: [] }, param: "prompt", says: /empty/ },
  { name: "an empty list", body: { prompt: ["a", ""] }, param: "prompt[1]", says: /empty/ },
  {
    name: "foreign ids",
    body: { prompt: [1, 999_999] },
    param: "prompt",
    says: /token id 999999, wanted ids below 256/,
  },
  { name: "negative ids", body: { prompt: [1, -1] }, param: "prompt[1]", says: /got -1/ },
  { name: "mixed prompts", body: { prompt: ["a", 1] }, param: "prompt[1]", says: /got 1/ },
  {
    name: "a prompt beyond the context",
    body: { prompt: "a".repeat(5000) },
    param: "prompt",
    code: "context_length_exceeded",
    says: /has 5000 tokens, and this model's context holds 4096/,
  },
  {
    name: "a conversation beyond the context",
    path: chatPath,
    body: { messages: [{ role: "user", content: "a".repeat(5000) }] },
    param: "messages",
    code: "context_length_exceeded",
    says: /Shorten the prompt/,
  },
  inRange("temperature", "hot", /got "hot", wanted a number from 0 to 2/),
  inRange("temperature", -1, /got -1, wanted a number from 0 to 2/),
  inRange("temperature", 2.1, /wanted a number from 0 to 2/),
  inRange("top_p", 1.5, /wanted a number from 0 to 1/),
  inRange("top_k", 1.5, /wanted a whole number/),
  inRange("min_p", -0.1, /wanted a number from 0 to 1/),
  inRange("presence_penalty", 3, /wanted a number from -2 to 2/),
  inRange("frequency_penalty", -3, /wanted a number from -2 to 2/),
  inRange("repetition_penalty", 0, /wanted a number from 0.01 to 10/),
  inRange("seed", 1.5, /wanted a whole number/),
  inRange("n", 1e9, /got 1000000000, wanted a whole number from 1 to 128/),
  inRange("n", 0, /wanted a whole number from 1 to 128/),
  inRange("max_tokens", -5, /got -5, wanted a whole number, at least 1/),
  inRange("max_tokens", 0, /wanted a whole number, at least 1/),
  inRange("stream", "yes", /wanted true or false/),
  inRange("stop", "x".repeat(10_000), /a text of 10000 characters, wanted .* at most 256/),
  inRange("stop", ["a", "b", "c", "d", "e"], /wanted a text or a list of at most 4 texts/),
  inRange("stop", "", /at least one character/),
  inRange("stop", 7, /wanted a text or a list of at most 4 texts/),
  inRange("logprobs", true, /wanted a whole number from 0 to 20/),
  inRange("logit_bias", { word: 1 }, /got the key "word", wanted a token id below 256/),
  inRange("logit_bias", { 300: 1 }, /got the key "300"/),
  { ...inRange("logit_bias", { 3: 101 }, /from -100 to 100/), param: "logit_bias.3" },
  inRange("stream_options", { include_usage: true }, /only with stream: true/),
  inRange("suffix", "after", /not supported/),
  inRange("echo", true, /not supported/),
  inRange("best_of", 3, /not supported/),
  inRange("temprature", 1, /did you mean temperature/),
  {
    name: "too many answers",
    body: { prompt: ["a", "b"], n: 100 },
    param: "n",
    says: /more than 128 answers/,
  },
  { name: "no messages", path: chatPath, body: {}, param: "messages", says: /missing/ },
  {
    name: "empty messages",
    path: chatPath,
    body: { messages: [] },
    param: "messages",
    says: /at least one message/,
  },
  {
    name: "a foreign role",
    path: chatPath,
    body: { messages: [{ role: "tool", content: "a" }] },
    param: "messages[0].role",
    says: /got "tool", wanted system, developer, user or assistant/,
  },
  {
    name: "null content",
    path: chatPath,
    body: { messages: [{ role: "user", content: null }] },
    param: "messages[0].content",
    says: /got null, wanted a text or a list of parts/,
  },
  {
    name: "an image",
    path: chatPath,
    body: { messages: [{ role: "user", content: [{ type: "image_url", image_url: {} }] }] },
    param: "messages[0].content[0].type",
    says: /got "image_url", wanted "text"/,
  },
  {
    name: "an order the template refuses",
    path: chatPath,
    body: { messages: [...messages, ...messages] },
    param: "messages",
    says: /roles must alternate/,
  },
  {
    name: "tools",
    path: chatPath,
    body: { messages, tools: [{ type: "function" }] },
    param: "tools",
    code: "unsupported_parameter",
    says: /Leave it out/,
  },
  {
    name: "a JSON schema",
    path: chatPath,
    body: { messages, response_format: { type: "json_schema" } },
    param: "response_format",
    says: /not supported/,
  },
  {
    name: "a prefix message",
    path: chatPath,
    body: { messages: [...messages, { role: "assistant", content: "a", prefix: true }] },
    param: "messages[1].prefix",
    says: /not supported/,
  },
  {
    name: "top_logprobs alone",
    path: chatPath,
    body: { messages, top_logprobs: 2 },
    param: "top_logprobs",
    says: /only with logprobs: true/,
  },
  {
    name: "two limits",
    path: chatPath,
    body: { messages, max_tokens: 2, max_completion_tokens: 3 },
    param: "max_tokens",
    says: /differ/,
  },
];

async function answersStill({ post }: TestServer): Promise<void> {
  const response = await post(path, { prompt: "a", max_tokens: 2 });
  assert.equal(response.status, 200);
  await response.json();
}

test("a bad request gets an error that names its field, and the next one an answer", async () => {
  await withServer({}, {}, async (server) => {
    for (const { name, body, headers, says, ...wanted } of cases) {
      const response = await server.post(wanted.path ?? path, body, headers);
      const { error } = (await response.json()) as { error: Record<string, unknown> };
      assert.equal(response.status, wanted.status ?? 400, `${name}: ${error.message}`);
      assert.equal(error.type, "invalid_request_error", name);
      assert.match(String(error.message), says, name);
      assert.match(String(error.message), /\.$/, `${name}: a sentence`);
      if (wanted.param !== undefined) assert.equal(error.param, wanted.param, name);
      if (wanted.code !== undefined) assert.equal(error.code, wanted.code, name);
      assert.deepEqual(Object.keys(error), ["message", "type", "param", "code"], name);
    }
    await answersStill(server);
  });
});

test("a body sent in chunks is held to the same limit", async () => {
  await withServer({}, { maxBodyBytes: 1000 }, async (server) => {
    const send = (size: number): Promise<Response> =>
      fetch(server.url + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: new ReadableStream({
          start(controller) {
            controller.enqueue(Buffer.from('{"prompt": "'));
            controller.enqueue(Buffer.from("a".repeat(size)));
            controller.enqueue(Buffer.from('", "max_tokens": 2}'));
            controller.close();
          },
        }),
        duplex: "half",
      } as RequestInit);
    assert.equal((await send(500)).status, 200);
    assert.equal((await send(1000)).status, 413);
    await answersStill(server);
  });
});

test("hints of other servers are accepted", async () => {
  await withServer({}, {}, async ({ post }) => {
    const hints = {
      metadata: { a: "b" },
      store: false,
      service_tier: "auto",
      parallel_tool_calls: false,
      prompt_cache_key: "k",
      safety_identifier: "s",
      reasoning_effort: "low",
      verbosity: "low",
      user: "u",
      tools: [],
      tool_choice: "none",
      response_format: { type: "text" },
      modalities: ["text"],
      audio: null,
      an_extension_of_tomorrow: 1,
    };
    const response = await post(chatPath, { messages, max_tokens: 2, ...hints });
    assert.equal(response.status, 200, await response.text());
  });
});

test("no JSON value in any field gets another status than 200 or 400", async () => {
  const fields = ["prompt", "temperature", "top_p", "n", "stop", "logit_bias", "logprobs", "seed"];
  await withServer({}, {}, async (server) => {
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...fields), fc.jsonValue(), async (field, value) => {
        const body = { prompt: "a", max_tokens: 1, [field]: value };
        const response = await server.post(path, body);
        const text = await response.text();
        assert.ok([200, 400].includes(response.status), text);
        JSON.parse(text);
      }),
      { numRuns: 150 },
    );
    await answersStill(server);
  });
});

test("wrong paths and methods are told what there is", async () => {
  await withServer({}, {}, async ({ url, post }) => {
    const unknown = await post("/v1/embeddings", {});
    assert.equal(unknown.status, 404);
    assert.match(((await unknown.json()) as { error: { code: string } }).error.code, /unknown_url/);
    const wrong = await fetch(url + path);
    assert.deepEqual([wrong.status, wrong.headers.get("allow")], [405, "POST"]);
    for (const name of ["other/one", "%ff", "a%2fb", "%"]) {
      assert.equal((await fetch(`${url}/v1/models/${name}`)).status, 404, name);
    }
    const put = await fetch(`${url}/health`, { method: "PUT" });
    assert.deepEqual([put.status, put.headers.get("allow")], [405, "GET"]);
  });
});
