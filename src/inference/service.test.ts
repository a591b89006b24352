import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { Tokenizer } from "../model/index.ts";
import { benchEngine } from "./engine.bench.ts";
import { NullModel, nullDetokenizer } from "./null-model.ts";
import type { StartOptions } from "./protocol.ts";
import { startEngine } from "./service.ts";
import { plainAnswer, requestOf } from "./testing/answers.ts";
import type { EngineService, GenerationEvent, GenerationRequest } from "./types.ts";

const nullModel = { vocabSize: 97, choices: 4, draftAccuracy: 0.7, maxContext: 4096 };

async function withEngine(
  options: StartOptions,
  use: (engine: EngineService) => Promise<void>,
): Promise<void> {
  const engine = await startEngine({ blocks: 200, ...options });
  try {
    await use(engine);
  } finally {
    await engine.close(0);
  }
}

/** All events of a request; throws unless exactly the last has a finish. */
async function eventsOf(
  engine: EngineService,
  request: GenerationRequest,
  signal?: AbortSignal,
): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = [];
  for await (const event of engine.generate(request, signal)) events.push(event);
  assert.ok(events.length > 0);
  events.forEach((event, i) => {
    assert.equal(event.finish !== undefined, i === events.length - 1);
  });
  return events;
}

async function finishOf(...call: Parameters<typeof eventsOf>): Promise<GenerationEvent["finish"]> {
  return (await eventsOf(...call)).at(-1)?.finish;
}

/** A file that stands for the model room: it exports a `loadModel` with the given body. */
async function withModelModule(body: string, use: (url: string) => Promise<void>): Promise<void> {
  const dir = mkdtempSync(join(tmpdir(), "baleen-"));
  const file = join(dir, "model.mjs");
  const nullUrl = new URL("./null-model.js", import.meta.url).href;
  writeFileSync(
    file,
    `import { NullModel } from ${JSON.stringify(nullUrl)};
     export function loadModel() { ${body} }`,
  );
  try {
    await use(pathToFileURL(file).href);
  } finally {
    rmSync(dir, { recursive: true });
  }
}

test("many requests at once get the answers of the model alone, through a thread", async () => {
  await withEngine({ nullModel, id: "nothing" }, async (engine) => {
    assert.deepEqual(engine.info, {
      id: "nothing",
      description: "null model, no arithmetic",
      maxContext: 4096,
      vocabSize: 97,
      blocksTotal: 200,
    });
    const requests = Array.from({ length: 50 }, (_, i) => requestOf(`r${i}`, [i, 1, 2]));
    const answers = await Promise.all(requests.map((request) => eventsOf(engine, request)));
    for (const [i, events] of answers.entries()) {
      const wanted = plainAnswer(new NullModel(nullModel), nullDetokenizer, requests[i], 4096);
      assert.deepEqual(
        events.flatMap(({ tokenIds }) => tokenIds),
        wanted.tokenIds,
      );
      assert.equal(events.map(({ text }) => text).join(""), wanted.text);
    }
    const stats = engine.stats();
    assert.equal(stats.finished.length, 50);
    assert.deepEqual([stats.running, stats.waiting, stats.blocksUsed], [0, 0, 0]);
    assert.equal(stats.generatedTokens, 1000);
  });
});

test("aborting, or leaving the loop, cancels a request", async () => {
  await withEngine({ nullModel }, async (engine) => {
    const endless = (id: string) => requestOf(id, [1, 2, 3], { maxTokens: 4000 });
    const abort = new AbortController();
    const aborted = eventsOf(engine, endless("a"), abort.signal);
    for await (const event of engine.generate(endless("b"))) {
      if (event.tokenIds.length > 0) break;
    }
    abort.abort();
    assert.equal((await aborted).at(-1)?.finish?.reason, "cancelled");
    const before = AbortSignal.abort();
    assert.equal((await finishOf(engine, endless("c"), before))?.reason, "cancelled");
    assert.equal((await finishOf(engine, requestOf("d", [1])))?.reason, "length");
    assert.deepEqual(engine.stats().finished, { stop: 0, length: 1, cancelled: 3, error: 0 });
    assert.equal(engine.stats().blocksUsed, 0);
  });
});

test("what can't be served ends with an error that has a code", async () => {
  await withEngine({ nullModel, maxSequences: 1, maxWaiting: 1 }, async (engine) => {
    const refused = await finishOf(engine, requestOf("a", []));
    assert.deepEqual([refused?.reason, refused?.code], ["error", "invalid-request"]);
    const tooLong = requestOf("b", new Array(5000).fill(1));
    assert.equal((await finishOf(engine, tooLong))?.code, "prompt-too-long");
    const ids = ["c", "d", "d", "e", "f"];
    const finishes = await Promise.all(ids.map((id) => finishOf(engine, requestOf(id, [1]))));
    // One waits; the thread had no step between them.
    const codes = finishes.map((finish) => finish?.code ?? finish?.reason);
    assert.deepEqual(codes, [
      "length",
      "queue-full",
      "invalid-request",
      "queue-full",
      "queue-full",
    ]);
    assert.equal(engine.failed, undefined);
  });
});

test("a stream ends for every waiting reader, and stays ended", async () => {
  await withEngine({ nullModel }, async (engine) => {
    const stream = engine.generate(requestOf("a", [1], { maxTokens: 2 }))[Symbol.asyncIterator]();
    const results = await Promise.all([stream.next(), stream.next(), stream.next(), stream.next()]);
    const count = results.filter(({ done }) => !done).length;
    assert.ok(count === 1 || count === 2);
    assert.deepEqual(await stream.next(), { value: undefined, done: true });
  });
});

test("closing lets answers end, refuses new ones, cancels what outlasts the grace", async () => {
  const engine = await startEngine({ nullModel, blocks: 200 });
  const running = finishOf(engine, requestOf("a", [1], { maxTokens: 500 }));
  const closed = engine.close(20_000);
  assert.equal((await finishOf(engine, requestOf("b", [1])))?.code, "engine-closing");
  assert.equal((await running)?.reason, "length");
  await closed;
  await engine.close();
  assert.equal(engine.failed, undefined);

  const other = await startEngine({ nullModel: { ...nullModel, maxContext: 1e6 }, blocks: 16_000 });
  const endless = finishOf(other, requestOf("a", [1], { maxTokens: 1e6 }));
  await other.close(20);
  assert.equal((await endless)?.reason, "cancelled");
});

test("when the thread dies every request ends with an error, and so do later ones", async () => {
  const body = `
    const model = new NullModel({ vocabSize: 97 });
    const forward = model.forward.bind(model);
    let calls = 0;
    model.forward = (...call) => (++calls > 5 ? process.exit(3) : forward(...call));
    return model;`;
  await withModelModule(body, async (modelModule) => {
    await withEngine({ modelModule }, async (engine) => {
      const [a, b] = await Promise.all([
        eventsOf(engine, requestOf("a", [1])),
        eventsOf(engine, requestOf("b", [2])),
      ]);
      for (const events of [a, b]) {
        const finish = events.at(-1)?.finish;
        assert.deepEqual([finish?.reason, finish?.code], ["error", "engine-failed"]);
        assert.match(finish?.message ?? "", /ended with code 3/);
        assert.deepEqual(finish?.usage, { promptTokens: 1, cachedTokens: 0, completionTokens: 5 });
      }
      assert.match(engine.failed?.message ?? "", /ended with code 3/);
      assert.equal((await finishOf(engine, requestOf("c", [1])))?.code, "engine-failed");
    });
  });
});

const austen = fileURLToPath(new URL("../../models/austen-6m", import.meta.url));

test("a directory's model writes text, and a null model speaks with its tokenizer", async () => {
  const tokenizer = Tokenizer.fromDirectory(austen);
  const prompt = tokenizer.encode("It is a truth universally acknowledged,");
  const request = requestOf("a", prompt, { maxTokens: 30 });
  const texts: string[] = [];
  for (const options of [{ mtp: false }, { mtp: "always" }, { nullModel: {} }] as const) {
    await withEngine({ modelDir: austen, ...options }, async (engine) => {
      assert.equal(engine.info.id, "austen-6m");
      assert.equal(engine.info.vocabSize, tokenizer.vocabSize);
      const events = await eventsOf(engine, request);
      const text = events.map((event) => event.text).join("");
      assert.equal(text, tokenizer.decode(events.flatMap(({ tokenIds }) => tokenIds)));
      assert.equal(events.at(-1)?.finish?.usage.completionTokens, 30);
      texts.push(text);
    });
  }
  assert.equal(texts[0], texts[1]);
  assert.notEqual(texts[0], texts[2]);
});

test("an engine that can't start says why, and its thread is gone", async () => {
  await assert.rejects(startEngine({ nullModel, kvBytes: 1 }), { code: "cache-too-small" });
  await assert.rejects(startEngine({}), /wanted modelDir, modelModule or nullModel/);
  await withModelModule("process.exit(4);", async (modelModule) => {
    await assert.rejects(startEngine({ modelModule }), /ended with code 4/);
  });
});

test("the engine's benchmark runs in its quick form", async () => {
  const lines: string[] = [];
  await benchEngine(false, (line) => lines.push(line));
  assert.equal(lines.length, 3);
});
