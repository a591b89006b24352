/** @file The server over the real engine (with a model that computes nothing), through sockets. */
import assert from "node:assert/strict";
import { request } from "node:http";
import { test } from "node:test";
import { startEngine } from "../service.ts";
import type { EngineService } from "../types.ts";
import { type RunningServer, startServer } from "./server.ts";
import { byteCodec, eventually, readEvents } from "./testing.ts";

async function withEngine(
  use: (engine: EngineService, server: RunningServer) => Promise<void>,
): Promise<void> {
  const nullModel = { vocabSize: 256, maxContext: 1_000_000 };
  const engine = await startEngine({ nullModel, kvBytes: 64 * 1024 * 1024 });
  const server = await startServer({ engine, tokenizer: byteCodec });
  try {
    await use(engine, server);
  } finally {
    await server.drain(0);
  }
}

const ask = (url: string, body: object, signal?: AbortSignal): Promise<Response> =>
  fetch(`${url}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal && { signal }),
  });

test("whole and streamed answers are the same, and a repeated prompt is cached", async () => {
  await withEngine(async (_, { url }) => {
    const body = { prompt: "x".repeat(200), max_tokens: 40, seed: 3 };
    const whole = (await (await ask(url, body)).json()) as {
      choices: { text: string; finish_reason: string }[];
    };
    assert.equal(whole.choices[0].text.length, 40);
    assert.equal(whole.choices[0].finish_reason, "length");
    const events = (await readEvents(
      await ask(url, { ...body, stream: true, stream_options: { include_usage: true } }),
    )) as { choices: { text: string }[]; usage: { prompt_cache_hit_tokens: number } | null }[];
    const text = events.map((event) => event.choices?.[0]?.text ?? "").join("");
    assert.equal(text, whole.choices[0].text);
    assert.equal(events.at(-2)!.usage!.prompt_cache_hit_tokens, 192);
  });
});

test("a client that disconnects gives its blocks back at once, and others run on", async () => {
  await withEngine(async (engine, { url, port }) => {
    const other = ask(url, { prompt: "other", max_tokens: 1000 });
    const body = JSON.stringify({ prompt: "y".repeat(1000), max_tokens: 900_000, stream: true });
    const call = request({
      port,
      path: "/v1/completions",
      method: "POST",
      headers: { "content-type": "application/json", "content-length": body.length },
    });
    call.on("error", () => {});
    call.on("response", (response) => response.resume());
    call.end(body);
    await eventually(() => engine.stats().generatedTokens > 500 && engine.stats().running >= 1);
    assert.ok(engine.stats().blocksUsed > 0);
    const stepsBefore = engine.stats().steps;
    call.destroy();
    await eventually(() => engine.stats().finished.cancelled === 1);
    assert.equal((await other).status, 200);
    await eventually(() => engine.stats().running === 0);
    const { blocksUsed, steps, finished } = engine.stats();
    assert.equal(blocksUsed, 0);
    assert.deepEqual(finished, { stop: 0, length: 1, cancelled: 1, error: 0 });
    assert.ok(steps < stepsBefore + 20_000, `${steps - stepsBefore} steps after the disconnect`);
  });
});

test("200 streams over the engine end without an error", async () => {
  await withEngine(async (engine, { url }) => {
    const answers = Array.from({ length: 200 }, async (_, index) => {
      const response = await ask(url, { prompt: [index, 7], max_tokens: 20, stream: true });
      assert.match(await response.text(), /data: \[DONE\]\n\n$/);
    });
    await Promise.all(answers);
    assert.equal(engine.stats().finished.length, 200);
  });
});

test("a hundred choices listen to one client's leaving without a warning", async () => {
  const warnings: Error[] = [];
  const onWarning = (warning: Error): void => void warnings.push(warning);
  process.on("warning", onWarning);
  await withEngine(async (engine, { url }) => {
    const response = await ask(url, { prompt: "a", n: 100, max_tokens: 3 });
    assert.equal(((await response.json()) as { choices: unknown[] }).choices.length, 100);
    assert.equal(engine.stats().finished.length, 100);
  });
  process.off("warning", onWarning);
  assert.deepEqual(warnings, []);
});

test("what the engine refuses is a client's error where it is one", async () => {
  await withEngine(async (_, { url }) => {
    const chat = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ messages: [{ role: "user", content: "a" }] }),
    });
    assert.equal(chat.status, 400);
    assert.match(await chat.text(), /no_chat_template/);
  });
});
