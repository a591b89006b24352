/** @file The shape of answers: whole and streamed, one and many, usage and log probabilities. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { readEvents, withServer } from "./testing.ts";

// biome-ignore lint/suspicious/noExplicitAny: JSON under test.
type Json = any;

const chat = { model: "scripted", messages: [{ role: "user", content: "hi" }], max_tokens: 6 };
const usage = (prompt: number, completion: number): object => ({
  prompt_tokens: prompt,
  completion_tokens: completion,
  total_tokens: prompt + completion,
  prompt_tokens_details: { cached_tokens: prompt >> 1 },
  prompt_cache_hit_tokens: prompt >> 1,
  prompt_cache_miss_tokens: prompt - (prompt >> 1),
});

test("a chat answer has the OpenAI shape and counts its tokens", async () => {
  await withServer({}, {}, async ({ post, engine }) => {
    const response = await post("/v1/chat/completions", chat);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("content-type"), "application/json");
    const { id, created, ...rest } = (await response.json()) as Json;
    assert.match(id, /^chatcmpl-[0-9a-f]{32}$/);
    assert.ok(Math.abs(created - Date.now() / 1000) < 10);
    assert.deepEqual(rest, {
      object: "chat.completion",
      model: "scripted",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "hello ", refusal: null },
          logprobs: null,
          finish_reason: "length",
        },
      ],
      usage: usage("user: hi\n".length, 6),
    });
    assert.equal(Buffer.from(engine.requests[0].prompt).toString(), "user: hi\n");
  });
});

test("a chat stream names the role first, then text, finish, usage and [DONE]", async () => {
  await withServer({}, {}, async ({ post }) => {
    const body = { ...chat, stream: true, stream_options: { include_usage: true } };
    const response = await post("/v1/chat/completions", body);
    assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
    const events = (await readEvents(response)) as Json[];
    assert.equal(events.pop(), "[DONE]");
    const last = events.pop();
    assert.deepEqual([last.choices, last.usage], [[], usage(9, 6)]);
    assert.ok(events.every((event) => event.usage === null));
    assert.ok(events.every((event) => event.object === "chat.completion.chunk"));
    assert.equal(new Set([...events, last].map((event) => event.id)).size, 1);
    const choices = events.map((event) => event.choices[0]);
    assert.deepEqual(choices[0].delta, { role: "assistant", content: "" });
    assert.equal(choices.map((choice) => choice.delta.content ?? "").join(""), "hello ");
    const reasons = choices.map((choice) => choice.finish_reason);
    assert.deepEqual([reasons.pop(), new Set(reasons)], ["length", new Set([null])]);
  });
});

test("streams say nothing of usage unless asked", async () => {
  await withServer({}, {}, async ({ post }) => {
    for (const path of ["/v1/chat/completions", "/v1/completions"]) {
      const body = { ...chat, prompt: "x", stream: true };
      if (path === "/v1/completions") Reflect.deleteProperty(body, "messages");
      const events = (await readEvents(await post(path, body))) as Json[];
      assert.ok(events.slice(0, -1).every((event) => !("usage" in event)));
    }
  });
});

test("n answers share a prompt, differ in seed, and count the prompt once", async () => {
  await withServer({}, {}, async ({ post, engine }) => {
    const body = (await (
      await post("/v1/chat/completions", { ...chat, n: 3, seed: 7 })
    ).json()) as Json;
    assert.deepEqual(
      body.choices.map((choice: Json) => [choice.index, choice.message.content]),
      [0, 1, 2].map((index) => [index, "hello "]),
    );
    assert.deepEqual(body.usage, usage(9, 18));
    const seeds = engine.requests.map((request) => request.sampling.seed);
    assert.deepEqual(seeds, [7, 8, 9]);
    assert.equal(new Set(engine.requests.map((request) => request.id)).size, 3);
    const events = (await readEvents(
      await post("/v1/chat/completions", { ...chat, n: 2, stream: true }),
    )) as Json[];
    for (const index of [0, 1]) {
      const mine = events.flatMap((event) => event.choices ?? []).filter((c) => c.index === index);
      assert.equal(mine[0].delta.role, "assistant");
      assert.equal(mine.map((choice) => choice.delta.content ?? "").join(""), "hello ");
      assert.equal(mine.at(-1).finish_reason, "length");
    }
  });
});

test("a completion takes a text, texts, ids or lists of ids", async () => {
  await withServer({}, {}, async ({ post, engine }) => {
    const prompts = ["ab", ["ab", "c"], [97, 98], [[97, 98], [99]]];
    for (const prompt of prompts) {
      engine.requests.length = 0;
      const body = (await (
        await post("/v1/completions", { prompt, max_tokens: 4, n: 2 })
      ).json()) as Json;
      const asked = engine.requests.map((request) => Buffer.from(request.prompt).toString());
      const many = Array.isArray(prompt) && typeof prompt[0] !== "number";
      assert.deepEqual(asked, many ? ["ab", "ab", "c", "c"] : ["ab", "ab"]);
      assert.equal(body.object, "text_completion");
      assert.deepEqual(
        body.choices.map((choice: Json) => [choice.index, choice.text, choice.finish_reason]),
        asked.map((_, index) => [index, "hell", "length"]),
      );
      assert.equal(body.usage.prompt_tokens, many ? 3 : 2);
    }
  });
});

test("without max_tokens a completion has 16 tokens, a chat the whole context", async () => {
  await withServer({ maxContext: 100 }, {}, async ({ post, engine }) => {
    await post("/v1/completions", { prompt: "ab" });
    await post("/v1/completions", { prompt: "ab", max_tokens: 1e6 });
    await post("/v1/chat/completions", { ...chat, max_tokens: null });
    await post("/v1/chat/completions", { ...chat, max_tokens: null, max_completion_tokens: 3 });
    const limits = engine.requests.map((request) => request.maxTokens);
    assert.deepEqual(limits, [16, 98, 91, 3]);
  });
});

test("all sampling fields reach the engine, and the model's defaults fill the rest", async () => {
  await withServer({}, {}, async ({ post, engine }) => {
    await post("/v1/completions", {
      prompt: "a",
      temperature: 0.5,
      top_p: 0,
      top_k: -1,
      min_p: 0.1,
      presence_penalty: -1,
      frequency_penalty: 2,
      repetition_penalty: 1.5,
      seed: -3,
      logit_bias: { 5: -100, 6: 1.5 },
      stop: ["x", "yz"],
      stop_token_ids: [9],
      ignore_eos: true,
      max_tokens: 2,
      user: "someone",
    });
    const { sampling, ...rest } = engine.requests[0];
    assert.deepEqual(sampling, {
      temperature: 0.5,
      topP: 1e-6,
      topK: 0,
      minP: 0.1,
      presencePenalty: -1,
      frequencyPenalty: 2,
      repetitionPenalty: 1.5,
      seed: -3,
      logitBias: [
        [5, -100],
        [6, 1.5],
      ],
    });
    const { stop, stopTokenIds, ignoreEos, maxTokens, logprobs } = rest;
    assert.deepEqual([stop, stopTokenIds, ignoreEos], [["x", "yz"], [9], true]);
    assert.deepEqual([maxTokens, logprobs], [2, undefined]);
  });
});

test("chat log probabilities carry text and bytes, of half a character too", async () => {
  await withServer({ text: "é" }, {}, async ({ post }) => {
    const asked = { ...chat, max_tokens: 2, logprobs: true, top_logprobs: 2 };
    const body = (await (await post("/v1/chat/completions", asked)).json()) as Json;
    const { content } = body.choices[0].logprobs;
    assert.equal(content.length, 2);
    assert.deepEqual(content[0], {
      token: "\ufffd",
      logprob: -0.5,
      bytes: [0xc3],
      top_logprobs: [
        { token: "\ufffd", logprob: -0.5, bytes: [0xc3] },
        { token: "\u0001", logprob: -9999, bytes: [1] },
      ],
    });
    const events = (await readEvents(
      await post("/v1/chat/completions", { ...asked, stream: true }),
    )) as Json[];
    const streamed = events.flatMap((event) => event.choices?.[0]?.logprobs?.content ?? []);
    assert.deepEqual(streamed, content);
    const plain = { ...asked, top_logprobs: null };
    const without = (await (await post("/v1/chat/completions", plain)).json()) as Json;
    assert.deepEqual(without.choices[0].logprobs.content[0].top_logprobs, []);
  });
});

test("completion log probabilities are parallel lists whose offsets count characters", async () => {
  await withServer({ text: "aé" }, {}, async ({ post }) => {
    const asked = { prompt: "x", max_tokens: 4, logprobs: 1 };
    const body = (await (await post("/v1/completions", asked)).json()) as Json;
    assert.deepEqual(body.choices[0].logprobs, {
      tokens: ["a", "bytes:\\xc3", "bytes:\\xa9", "a"],
      token_logprobs: [-0.5, -0.5, -0.5, -0.5],
      top_logprobs: [{ a: -0.5 }, { "bytes:\\xc3": -0.5 }, { "bytes:\\xa9": -0.5 }, { a: -0.5 }],
      text_offset: [0, 1, 2, 2],
    });
    const events = (await readEvents(
      await post("/v1/completions", { ...asked, stream: true }),
    )) as Json[];
    const pieces = events.flatMap((event) => event.choices?.[0]?.logprobs ?? []);
    assert.deepEqual(
      pieces.flatMap((piece) => piece.text_offset),
      [0, 1, 2, 2],
    );
  });
});

test("message content may be a list of text parts, and developer means system", async () => {
  await withServer({}, {}, async ({ post, engine }) => {
    const content = [
      { type: "text", text: "one" },
      { type: "text", text: "two" },
    ];
    const messages = [
      { role: "developer", content: "be brief" },
      { role: "user", content },
    ];
    assert.equal((await post("/v1/chat/completions", { ...chat, messages })).status, 200);
    const prompt = Buffer.from(engine.requests[0].prompt).toString();
    assert.equal(prompt, "system: be brief\nuser: one\ntwo\n");
  });
});

test("a stop string ends the answer with reason stop", async () => {
  await withServer({}, {}, async ({ post }) => {
    const body = (await (
      await post("/v1/chat/completions", { ...chat, stop: "ll" })
    ).json()) as Json;
    assert.equal(body.choices[0].finish_reason, "stop");
  });
});

test("a failure before the first token has its status, one after it is an event", async () => {
  const fail = { code: "bad-logits", message: "The logits are not numbers. Try f32." };
  await withServer({ fail }, {}, async ({ post }) => {
    for (const stream of [false, true]) {
      const response = await post("/v1/chat/completions", { ...chat, stream });
      assert.equal(response.status, 500);
      assert.deepEqual(await response.json(), {
        error: { message: fail.message, type: "server_error", param: null, code: "bad_logits" },
      });
    }
  });
  await withServer({ fail, failAfter: 2 }, {}, async ({ post }) => {
    const response = await post("/v1/chat/completions", { ...chat, n: 2, stream: true });
    assert.equal(response.status, 200);
    const events = (await readEvents(response)) as Json[];
    assert.equal(events.at(-1).error.code, "bad_logits");
    assert.ok(!events.includes("[DONE]"));
  });
  const busy = { code: "queue-full", message: "Many wait. Try again." };
  await withServer({ fail: busy }, {}, async ({ post }) => {
    const response = await post("/v1/chat/completions", chat);
    assert.deepEqual([response.status, response.headers.get("retry-after")], [429, "1"]);
  });
});
