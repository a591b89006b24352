/** @file The official client of the OpenAI API works against this server. */
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { eventually, withServer } from "./testing.ts";

const model = "scripted";
const messages = [{ role: "user" as const, content: "hi" }];

function clientOf(url: string, apiKey = "none"): OpenAI {
  return new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
}

test("models are listed and found", async () => {
  await withServer({}, {}, async ({ url }) => {
    const client = clientOf(url);
    const ids: string[] = [];
    for await (const one of client.models.list()) ids.push(one.id);
    assert.deepEqual(ids, [model]);
    assert.equal((await client.models.retrieve(model)).owned_by, "baleen");
    await assert.rejects(client.models.retrieve("other"), OpenAI.NotFoundError);
  });
});

test("chat and completions answer, with n and log probabilities", async () => {
  await withServer({}, {}, async ({ url }) => {
    const client = clientOf(url);
    const chat = await client.chat.completions.create({
      model,
      messages,
      max_completion_tokens: 6,
      n: 2,
      logprobs: true,
      top_logprobs: 1,
    });
    assert.deepEqual(
      chat.choices.map((choice) => choice.message.content),
      ["hello ", "hello "],
    );
    assert.equal(chat.choices[1].logprobs?.content?.[0].top_logprobs[0].token, "h");
    assert.equal(chat._request_id, chat.id);
    assert.equal(chat.usage?.prompt_tokens_details?.cached_tokens, 4);
    const text = await client.completions.create({
      model,
      prompt: ["a", "b"],
      max_tokens: 3,
      logprobs: 1,
    });
    assert.deepEqual(
      text.choices.map((choice) => choice.text),
      ["hel", "hel"],
    );
    assert.deepEqual(text.choices[0].logprobs?.tokens, ["h", "e", "l"]);
  });
});

test("streams arrive piece by piece and end with usage", async () => {
  await withServer({}, {}, async ({ url }) => {
    const client = clientOf(url);
    const stream = await client.chat.completions.create({
      model,
      messages,
      max_tokens: 12,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage: OpenAI.CompletionUsage | null | undefined;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, "hello hello ");
    assert.equal(usage?.completion_tokens, 12);
    const helper = client.chat.completions.stream({ model, messages, max_tokens: 6 });
    const final = await helper.finalChatCompletion();
    assert.equal(final.choices[0].message.content, "hello ");
    const plain = await client.completions.create({
      model,
      prompt: "a",
      max_tokens: 6,
      stream: true,
    });
    let completed = "";
    for await (const chunk of plain) completed += chunk.choices[0].text;
    assert.equal(completed, "hello ");
  });
});

test("errors arrive as the client's own classes, with param and code", async () => {
  await withServer({}, { apiKeys: ["secret-1", "secret-2"] }, async ({ url }) => {
    await assert.rejects(clientOf(url, "wrong").models.list(), OpenAI.AuthenticationError);
    const client = clientOf(url, "secret-2");
    await assert.rejects(
      client.chat.completions.create({ model, messages, temperature: 9 }),
      (error: unknown) => {
        assert.ok(error instanceof OpenAI.BadRequestError);
        assert.deepEqual([error.param, error.code], ["temperature", "invalid_value"]);
        assert.match(error.message, /got 9, wanted a number from 0 to 2/);
        return true;
      },
    );
    await assert.rejects(
      client.chat.completions.create({ model: "other", messages }),
      OpenAI.NotFoundError,
    );
  });
  await withServer({ tokenMs: 20 }, { maxConcurrent: 1, maxQueue: 0 }, async ({ url, engine }) => {
    const client = clientOf(url);
    const first = client.chat.completions.create({ model, messages, max_tokens: 3 });
    await eventually(() => engine.running === 1);
    await assert.rejects(
      client.chat.completions.create({ model, messages, max_tokens: 1 }),
      OpenAI.RateLimitError,
    );
    await first;
  });
});

test("a failure in mid-stream is thrown from the loop", async () => {
  const fail = { code: "model-failed", message: "The model failed. Send it again." };
  await withServer({ fail, failAfter: 3 }, {}, async ({ url }) => {
    const stream = await clientOf(url).chat.completions.create({ model, messages, stream: true });
    let text = "";
    await assert.rejects(async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    }, OpenAI.APIError);
    assert.equal(text, "hel");
  });
});

test("aborting a stream cancels its sequence in the engine", async () => {
  await withServer({ tokenMs: 1 }, {}, async ({ url, engine }) => {
    const stream = await clientOf(url).chat.completions.create({ model, messages, stream: true });
    for await (const _ of stream) break;
    await eventually(() => engine.running === 0);
    assert.equal(engine.cancelled.length, 1);
  });
});
