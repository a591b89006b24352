/** @file Doors and instruments: keys, CORS, health, readiness, metrics, engine state, page. */
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { routes } from "./openapi.ts";
import type { Served } from "./options.ts";
import { startServer } from "./server.ts";
import { ScriptedEngine, scriptedServed, withServer } from "./testing.ts";

// biome-ignore lint/suspicious/noExplicitAny: JSON under test.
type Json = any;

test("keys guard the API and the metrics, and leave health, readiness and page open", async () => {
  await withServer({}, { apiKeys: ["k1", "k2"] }, async ({ url, post }) => {
    const get = (path: string, authorization?: string): Promise<Response> =>
      fetch(url + path, authorization ? { headers: { authorization } } : {});
    for (const path of ["/health", "/ready", "/", "/openapi.json"]) {
      assert.equal((await get(path)).status, 200, path);
    }
    for (const path of ["/v1/models", "/v1/engine/stats", "/v1/engine/events", "/metrics"]) {
      for (const bad of [undefined, "Bearer", "Bearer k", "Bearer k11", "Basic k1", "k1"]) {
        const response = await get(path, bad);
        assert.equal(response.status, 401, `${path} with ${bad}`);
        assert.equal(response.headers.get("www-authenticate"), "Bearer");
        assert.equal(((await response.json()) as Json).error.type, "authentication_error");
      }
    }
    assert.equal((await get("/v1/models", "Bearer k1")).status, 200);
    assert.equal((await get("/v1/models", "bearer k2")).status, 200);
    assert.equal((await post("/v1/completions", { prompt: "a" })).status, 401);
  });
});

test("pages of other origins may call only where they are named", async () => {
  const origin = { origin: "https://a.example" };
  await withServer({}, {}, async ({ url }) => {
    const response = await fetch(`${url}/v1/models`, { headers: origin });
    assert.equal(response.headers.get("access-control-allow-origin"), null);
  });
  await withServer(
    {},
    { corsOrigins: ["https://a.example"], apiKeys: ["k"] },
    async ({ url, post }) => {
      const preflight = await fetch(`${url}/v1/completions`, {
        method: "OPTIONS",
        headers: {
          ...origin,
          "access-control-request-method": "POST",
          "access-control-request-headers": "authorization,content-type",
        },
      });
      assert.equal(preflight.status, 204);
      assert.equal(preflight.headers.get("access-control-allow-origin"), origin.origin);
      assert.match(preflight.headers.get("access-control-allow-headers")!, /authorization/);
      const key = { authorization: "Bearer k" };
      const named = await post("/v1/completions", { prompt: "a" }, { ...origin, ...key });
      assert.equal(named.headers.get("access-control-allow-origin"), origin.origin);
      assert.equal(named.status, 200);
      const other = await fetch(`${url}/v1/models`, { headers: { origin: "https://b.example" } });
      assert.equal(other.headers.get("access-control-allow-origin"), null);
      const refused = await post("/v1/completions", { prompt: "a" }, origin);
      assert.equal(refused.status, 401);
      assert.equal(refused.headers.get("access-control-allow-origin"), origin.origin);
    },
  );
});

test("while the model loads the server is healthy, not ready, and says so", async () => {
  let loaded: (served: Served) => void = () => {};
  const loading = new Promise<Served>((resolve) => {
    loaded = resolve;
  });
  const server = await startServer(loading);
  try {
    const status = async (path: string): Promise<number> => (await fetch(server.url + path)).status;
    assert.deepEqual([await status("/health"), await status("/ready")], [200, 503]);
    const early = await fetch(`${server.url}/v1/models`);
    assert.deepEqual([early.status, early.headers.get("retry-after")], [503, "1"]);
    assert.equal(((await early.json()) as Json).error.code, "model_loading");
    assert.equal(await status("/metrics"), 200);
    const engine = new ScriptedEngine();
    loaded(scriptedServed(engine));
    await loading;
    assert.deepEqual([await status("/ready"), await status("/v1/models")], [200, 200]);
    engine.failed = new Error("the engine's thread died");
    assert.deepEqual([await status("/health"), await status("/ready")], [503, 503]);
  } finally {
    await server.drain(0);
  }
});

test("a model that can't be loaded makes the server unhealthy", async () => {
  const failing = Promise.reject(new Error("no such file"));
  failing.catch(() => {});
  const server = await startServer(failing);
  try {
    assert.equal((await fetch(`${server.url}/health`)).status, 503);
    assert.equal((await fetch(`${server.url}/ready`)).status, 503);
  } finally {
    await server.drain(0);
  }
});

test("metrics count requests, tokens, times, rejections and expert load", async () => {
  await withServer({}, { maxBodyBytes: 1000 }, async ({ url, post }) => {
    const body = { prompt: "abcd", max_tokens: 5, n: 2 };
    await (await post("/v1/completions", body)).text();
    await (await post("/v1/completions", { ...body, stream: true })).text();
    await post("/v1/completions", { ...body, n: -1 });
    const response = await fetch(`${url}/metrics`);
    assert.match(response.headers.get("content-type")!, /^text\/plain; version=0\.0\.4/);
    const text = await response.text();
    const value = (name: string): number => {
      const line = text.split("\n").find((one) => one.startsWith(`${name} `));
      assert.ok(line, name);
      return Number(line.slice(name.length + 1));
    };
    const expected: Record<string, number> = {
      baleen_requests_running: 0,
      baleen_requests_waiting: 0,
      baleen_kv_use_ratio: 0,
      baleen_kv_blocks_cached: 8,
      baleen_kv_blocks_used: 0,
      baleen_kv_blocks_total: 64,
      baleen_prompt_tokens_total: 16,
      baleen_cached_prompt_tokens_total: 0,
      baleen_generation_tokens_total: 20,
      baleen_time_to_first_token_seconds_count: 4,
      baleen_inter_token_latency_seconds_count: 20,
      baleen_e2e_request_latency_seconds_count: 4,
      baleen_request_queue_time_seconds_count: 4,
      baleen_requests_aborted_total: 0,
      baleen_spec_drafted_tokens_total: 10,
      baleen_spec_accepted_tokens_total: 7,
      'baleen_requests_finished_total{reason="length"}': 4,
      'baleen_http_responses_total{route="/v1/completions",status="200"}': 2,
      'baleen_http_responses_total{route="/v1/completions",status="400"}': 1,
      'baleen_expert_tokens_total{layer="1",expert="0"}': 4,
      'baleen_expert_balancedness{layer="1"}': 1,
    };
    for (const [name, wanted] of Object.entries(expected)) assert.equal(value(name), wanted, name);
    const helped = new Set(Array.from(text.matchAll(/^# HELP (\S+)/gm), ([, name]) => name));
    for (const [, name] of text.matchAll(/^# TYPE (\S+)/gm)) assert.ok(helped.has(name), name);
    assert.equal(new Set(text.match(/^# TYPE .*$/gm)).size, text.match(/^# TYPE /gm)!.length);
  });
});

test("the engine's state is JSON, and a stream of it four times a second", async () => {
  await withServer({}, {}, async ({ url, server }) => {
    const stats = (await (await fetch(`${url}/v1/engine/stats`)).json()) as Json;
    assert.deepEqual(stats.expertLoad, { layers: 2, experts: 3, counts: [1, 2, 3, 4, 4, 4] });
    const info = (await (await fetch(`${url}/v1/engine/info`)).json()) as Json;
    assert.deepEqual(info, new ScriptedEngine().info);
    const reader = (await fetch(`${url}/v1/engine/events`)).body!.getReader();
    const begunMs = performance.now();
    let text = "";
    while (text.split("\n\n").length < 4) {
      text += Buffer.from((await reader.read()).value!).toString();
    }
    const tookMs = performance.now() - begunMs;
    assert.ok(tookMs > 400 && tookMs < 2000, `three events took ${tookMs} ms`);
    for (const block of text.split("\n\n").slice(0, -1)) {
      assert.match(block, /^event: stats\ndata: \{/);
      assert.deepEqual(JSON.parse(block.slice(block.indexOf("{"))), stats);
    }
    // A server that drains ends the stream instead of waiting for it.
    const drained = server.drain(5000);
    while (!(await reader.read()).done);
    assert.equal(await drained, true);
  });
});

test("the OpenAPI document describes every route, and every route answers", async () => {
  await withServer({}, { version: "1.2.3" }, async ({ url }) => {
    const text = await (await fetch(`${url}/openapi.json`)).text();
    const document = JSON.parse(text) as Json;
    assert.equal(document.openapi, "3.1.0");
    assert.equal(document.info.version, "1.2.3");
    for (const [, ref] of text.matchAll(/"\$ref":"#\/([^"]+)"/g)) {
      const target = ref.split("/").reduce((at: Json, key: string) => at?.[key], document);
      assert.ok(target, ref);
    }
    for (const { method, path } of routes) {
      assert.ok(document.paths[path][method].responses["200"], path);
      const abort = new AbortController();
      const response = await fetch(url + path.replace("{id}", "scripted"), {
        method: method.toUpperCase(),
        signal: abort.signal,
      });
      assert.ok(![404, 405].includes(response.status), `${path}: ${response.status}`);
      abort.abort();
    }
    const chat = document.components.schemas.ChatCompletionRequest;
    assert.deepEqual(chat.required, ["messages"]);
    assert.equal(chat.properties.temperature.maximum, 2);
  });
});

test("the page's files are served with their types, and nothing beside them", async () => {
  const folder = mkdtempSync(join(tmpdir(), "baleen-page-"));
  try {
    const pageDir = join(folder, "page");
    mkdirSync(join(pageDir, "assets"), { recursive: true });
    writeFileSync(join(pageDir, "index.html"), "<title>page</title>");
    writeFileSync(join(pageDir, "assets", "app.js"), "1");
    writeFileSync(join(folder, "secret"), "secret");
    await withServer({}, { pageDir, apiKeys: ["k"] }, async ({ url, server }) => {
      const index = await fetch(url);
      assert.equal(await index.text(), "<title>page</title>");
      assert.match(index.headers.get("content-type")!, /^text\/html/);
      assert.match(index.headers.get("content-security-policy")!, /default-src 'self'/);
      const script = await fetch(`${url}/assets/app.js`);
      assert.match(script.headers.get("content-type")!, /^text\/javascript/);
      const again = await fetch(url, { headers: { "if-none-match": index.headers.get("etag")! } });
      assert.equal(again.status, 304);
      for (const path of ["/../secret", "/assets/../../secret", "/%2e%2e/secret", "//secret"]) {
        assert.equal(await rawStatus(server.port, path), 404, path);
      }
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

/** The status of a GET whose path no client has tidied. */
function rawStatus(port: number, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const call = request({ port, host: "127.0.0.1", path }, (response) => {
      response.resume();
      resolve(response.statusCode!);
    });
    call.on("error", reject);
    call.end();
  });
}

test("a taken port is named with its flag", async () => {
  await withServer({}, {}, async ({ server }) => {
    const second = startServer(scriptedServed(new ScriptedEngine()), { port: server.port });
    await assert.rejects(second, {
      code: "address-taken",
      message: new RegExp(
        `^Port ${server.port} on 127\\.0\\.0\\.1 is taken: .* --port, or 0 for any\\.$`,
      ),
    });
  });
});
