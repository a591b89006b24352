import assert from "node:assert/strict";
import { test } from "node:test";
import { Random, VirtualClock } from "../base/index.ts";
import { Engine } from "./engine.ts";
import { NullModel, nullDetokenizer } from "./null-model.ts";
import { AnswerBook, plainAnswer, randomPrompt, requestOf } from "./testing/answers.ts";
import { defaultSampling, type GenerationRequest } from "./types.ts";

const vocabSize = 61;
const maxContext = 400;

/** A request as some user might send it, often with a prefix that others have too. */
function randomRequest(random: Random, id: string, prefixes: readonly number[][]) {
  const prefix = prefixes[random.below(prefixes.length)];
  const own = randomPrompt(random, random.below(50), vocabSize);
  const shared = random.below(2) * random.below(prefix.length + 1);
  const prompt = [...prefix.slice(0, shared), ...own, random.below(vocabSize)];
  return requestOf(id, prompt, {
    maxTokens: 1 + random.below(random.below(2) === 0 ? 350 : 40),
    sampling: {
      ...defaultSampling,
      temperature: [0, 1][random.below(2)],
      topK: [0, 3][random.below(2)],
      frequencyPenalty: [0, 0.5][random.below(2)],
      seed: random.uint32(),
    },
    stop: random.below(4) === 0 ? [nullText(random, 2)] : [],
    stopTokenIds: random.below(6) === 0 ? [random.below(vocabSize)] : [],
    logprobs: random.below(5) === 0 ? random.below(4) : undefined,
  });
}

function nullText(random: Random, length: number): string {
  return Array.from({ length }, () => String.fromCharCode(97 + random.below(26))).join("");
}

function eosTokenIdsOf(seed: number): number[] {
  return seed % 4 === 0 ? [7] : [];
}

/** What happened in one history. */
interface History {
  readonly engine: Engine;
  readonly book: AnswerBook;
  readonly requests: GenerationRequest[];
  readonly cancelled: Set<string>;
}

/** `steps` steps under random arrivals and cancels, then as many as the rest takes. */
function simulate(seed: number, steps: number): History {
  const random = new Random(seed);
  const model = new NullModel({
    vocabSize,
    maxContext,
    choices: 4,
    draftAccuracy: [undefined, 0.3, 0.8][seed % 3],
    eosTokenIds: eosTokenIdsOf(seed),
  });
  const clock = new VirtualClock();
  const engine = new Engine(model, nullDetokenizer, {
    clock,
    blocks: 7 + random.below(7),
    maxSequences: 1 + random.below(12),
    tokenBudget: 16 + random.below(200),
    maxWaiting: 20,
    prefixCache: seed % 5 !== 0,
  });
  const prefixes = [1, 2, 3].map(() => randomPrompt(random, 200, vocabSize));
  const history: History = {
    engine,
    book: new AnswerBook(),
    requests: [],
    cancelled: new Set(),
  };
  const { book, requests, cancelled } = history;
  for (let step = 0; step < steps || engine.hasWork; step++) {
    assert.ok(step < steps + 20_000, `seed ${seed}: no end`);
    // Arrivals come in bursts; between them the engine may run empty.
    const busy = step < steps && step % 200 < 120;
    while (busy && engine.stats().waiting < 20 && random.below(5) === 0) {
      const request = randomRequest(random, `r${requests.length}`, prefixes);
      requests.push(request);
      engine.add(request);
    }
    if (requests.length > 0 && random.below(20) === 0) {
      const { id } = requests[Math.max(0, requests.length - 1 - random.below(12))];
      if (!book.answers.get(id)?.finish) cancelled.add(id);
      engine.cancel(id);
    }
    book.take(engine.step());
    engine.check();
    clock.advance(1);
  }
  return history;
}

/** Asserts that every request ended once, as the model alone would have had it. */
function checkHistory({ engine, book, requests, cancelled }: History, seed: number): void {
  const stats = engine.stats();
  assert.deepEqual([stats.blocksUsed, stats.running, stats.waiting], [0, 0, 0]);
  assert.equal(book.answers.size, requests.length);
  const eosTokenIds = eosTokenIdsOf(seed);
  const plainModel = new NullModel({ vocabSize, maxContext, choices: 4, eosTokenIds });
  for (const request of requests) {
    const { finish, ...got } = book.answers.get(request.id)!;
    const { reason, ...wanted } = plainAnswer(
      plainModel,
      nullDetokenizer,
      request,
      engine.maxContext,
    );
    if (finish?.reason === "cancelled") {
      assert.ok(cancelled.has(request.id));
      assert.deepEqual(got.tokenIds, wanted.tokenIds.slice(0, got.tokenIds.length));
      assert.ok(wanted.text.startsWith(got.text));
    } else {
      assert.equal(finish?.reason, reason, `seed ${seed}, ${request.id}`);
      assert.deepEqual(got, wanted, `seed ${seed}, ${request.id}`);
    }
  }
  const finished = Object.values(stats.finished).reduce((sum, count) => sum + count, 0);
  assert.equal(finished, requests.length);
  assert.equal(stats.finished.cancelled, cancelled.size);
  const generated = [...book.answers.values()].reduce((sum, a) => sum + a.tokenIds.length, 0);
  assert.equal(stats.generatedTokens, generated);
}

test("under random load in a tiny cache every answer is right and no block is lost", () => {
  const base = Number(process.env.BALEEN_SEED ?? Math.floor(Math.random() * 1e6));
  console.log(`seeds from ${base}; BALEEN_SEED replays them`);
  let [preemptions, cached, accepted, steps] = [0, 0, 0, 0];
  for (let seed = base; seed < base + 40; seed++) {
    const history = simulate(seed, 400);
    checkHistory(history, seed);
    const stats = history.engine.stats();
    preemptions += stats.preemptions;
    cached += stats.cachedPromptTokens;
    accepted += stats.acceptedTokens;
    steps += stats.steps;
  }
  // The load must reach what it is meant to try.
  assert.ok(preemptions > 10 && cached > 4000 && accepted > 4000 && steps > 8000);
});

test("one seed replays one history", () => {
  const [first, second] = [simulate(12, 200), simulate(12, 200)];
  assert.deepEqual(first.book.answers, second.book.answers);
  assert.deepEqual(first.engine.stats(), second.engine.stats());
});
