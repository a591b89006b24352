import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Random } from "../base/index.ts";
import type { ForwardResult, ForwardSequence, KvCache } from "../model/index.ts";
import { Engine, type EngineOptions } from "./engine.ts";
import { NullModel, type NullModelOptions, nullDetokenizer } from "./null-model.ts";
import type { Detokenizer } from "./sequence.ts";
import { AnswerBook, answersOf, plainAnswer, randomPrompt, requestOf } from "./testing/answers.ts";
import { defaultSampling, type GenerationRequest } from "./types.ts";

const vocabSize = 97;

function engineOf(options: EngineOptions = {}, model: NullModelOptions = {}): Engine {
  const bounds = { maxContext: 1024, blocks: 160, mtp: "always", ...options } as const;
  return new Engine(new NullModel({ vocabSize, choices: 6, ...model }), nullDetokenizer, bounds);
}

function plain(request: GenerationRequest, maxContext = 1024) {
  const nullModel = new NullModel({ vocabSize, choices: 6 });
  return plainAnswer(nullModel, nullDetokenizer, request, maxContext);
}

/** Asserts that every answer is what the model alone gives. */
function assertPlain(engine: Engine, requests: readonly GenerationRequest[]): void {
  const answers = answersOf(engine, requests);
  for (const request of requests) {
    const { reason, ...wanted } = plain(request, engine.maxContext);
    const { finish, ...got } = answers.get(request.id)!;
    assert.deepEqual(got, wanted);
    assert.equal(finish?.reason, reason);
    assert.equal(finish?.usage.completionTokens, wanted.tokenIds.length);
  }
  assert.equal(engine.stats().blocksUsed, 0);
}

/** Requests that share prefixes, greedy and sampled. */
function mixedRequests(random: Random, count: number): GenerationRequest[] {
  const prefix = randomPrompt(random, 200, vocabSize);
  return Array.from({ length: count }, (_, i) => {
    const tail = randomPrompt(random, 1 + random.below(150), vocabSize);
    const seed = random.uint32();
    return requestOf(`r${i}`, [...prefix.slice(0, random.below(201)), ...tail], {
      maxTokens: 1 + random.below(100),
      sampling: {
        ...defaultSampling,
        temperature: [0, 0.7, 1.5][i % 3],
        topP: [1, 0.9][i % 2],
        repetitionPenalty: [1, 1.2][i % 2],
        seed,
      },
      logprobs: i % 4 === 0 ? 3 : undefined,
    });
  });
}

const setups: Record<string, [EngineOptions, NullModelOptions?]> = {
  "one at a time": [{ maxSequences: 1 }],
  batched: [{}],
  "in chunks of a few tokens": [{ maxSequences: 4, tokenBudget: 9 }],
  "without a prefix cache": [{ prefixCache: false }],
  "with preemption": [{ blocks: 12 }],
  "with good drafts": [{}, { draftAccuracy: 0.9 }],
  "with bad drafts": [{ maxSequences: 5 }, { draftAccuracy: 0.1 }],
  "with drafts that are switched off": [{ mtp: false }, { draftAccuracy: 0.9 }],
  "with drafts, chunks and preemption": [
    { blocks: 10, maxSequences: 3, tokenBudget: 40 },
    { draftAccuracy: 0.6 },
  ],
};

for (const [name, [options, model]] of Object.entries(setups)) {
  test(`answers are those of the model alone: ${name}`, () => {
    const random = new Random(name.length);
    const engine = engineOf(options, model);
    for (let round = 0; round < 3; round++) assertPlain(engine, mixedRequests(random, 20));
    const stats = engine.stats();
    if (name.includes("preemption")) assert.ok(stats.preemptions > 0);
    if (name.includes("good drafts")) assert.ok(stats.acceptedTokens > 0.8 * stats.draftedTokens);
    if (name.includes("bad drafts")) assert.ok(stats.acceptedTokens < 0.3 * stats.draftedTokens);
    if (name.includes("switched off")) assert.equal(stats.draftedTokens, 0);
  });
}

test("good drafts save nearly half of the steps", () => {
  const request = requestOf("a", [1, 2, 3], { maxTokens: 200 });
  const steps = [undefined, 1].map((draftAccuracy) => {
    const engine = engineOf({}, { draftAccuracy });
    answersOf(engine, [request]);
    return engine.stats().steps;
  });
  assert.equal(steps[0], 200);
  assert.ok(steps[1] <= 102, `${steps[1]} steps`);
});

test("a prompt seen before is taken from the cache, all but its last tokens", () => {
  const engine = engineOf();
  const prompt = randomPrompt(new Random(1), 256, vocabSize);
  const cachedOf = (id: string, length: number) =>
    answersOf(engine, [requestOf(id, prompt.slice(0, length))]).get(id)?.finish?.usage.cachedTokens;
  assert.equal(cachedOf("a", 256), 0);
  assert.equal(cachedOf("b", 256), 192);
  assert.equal(cachedOf("c", 255), 192);
  assert.equal(cachedOf("d", 193), 192);
  assert.equal(cachedOf("e", 192), 128);
  assert.equal(cachedOf("f", 64), 0);
});

test("an answer's own blocks serve the next turn", () => {
  const engine = engineOf({}, { draftAccuracy: 0.7 });
  const first = requestOf("a", randomPrompt(new Random(2), 100, vocabSize), { maxTokens: 100 });
  const { tokenIds } = answersOf(engine, [first]).get("a")!;
  const turn = requestOf("b", [...first.prompt, ...tokenIds, 5, 6, 7]);
  const answer = answersOf(engine, [turn]).get("b")!;
  assert.equal(answer.finish?.usage.cachedTokens, 192);
  assert.deepEqual(answer.tokenIds, plain(turn).tokenIds);
});

test("blocks that a request filled in its last step serve the drafts of others", () => {
  const engine = engineOf({}, { draftAccuracy: 1 });
  const prompt = randomPrompt(new Random(8), 128, vocabSize);
  answersOf(engine, [requestOf("a", prompt, { maxTokens: 1 })]);
  // The null model refuses to draft for a sequence whose earlier rows were never drafted.
  const answer = answersOf(engine, [requestOf("b", [...prompt, 1], { maxTokens: 9 })]).get("b")!;
  assert.deepEqual([answer.finish?.reason, answer.finish?.usage.cachedTokens], ["length", 128]);
  assert.equal(engine.stats().acceptedTokens, 4);
});

test("nothing is drafted for a token that will not be", () => {
  const engine = engineOf({}, { draftAccuracy: 1 });
  answersOf(engine, [requestOf("a", [1], { maxTokens: 2 }), requestOf("b", [2], { maxTokens: 3 })]);
  assert.equal(engine.stats().draftedTokens, 1);
});

test("a preempted request goes on before later ones start", () => {
  const engine = engineOf({ blocks: 4, maxSequences: 2, prefixCache: false });
  // Two sequences of one block cross into a second, then a third, and four is all there is.
  for (const id of ["a", "b", "c", "d"]) {
    engine.add(requestOf(id, randomPrompt(new Random(9), 60, vocabSize), { maxTokens: 150 }));
  }
  const book = new AnswerBook();
  while (engine.stats().preemptions === 0) book.take(engine.step());
  const order: string[] = [];
  while (engine.hasWork) {
    const events = engine.step();
    book.take(events);
    for (const { id, tokenIds } of events) {
      if (tokenIds.length > 0 && !order.includes(id)) order.push(id);
    }
  }
  assert.deepEqual(order, ["a", "b", "c", "d"]);
});

test("requests with one prompt that arrive together compute and hold it once", () => {
  const engine = engineOf({ tokenBudget: 300 });
  const prompt = randomPrompt(new Random(3), 640 + 20, vocabSize);
  const requests = [0, 1, 2, 3].map((seed) =>
    requestOf(`n${seed}`, prompt, { sampling: { ...defaultSampling, seed }, maxTokens: 30 }),
  );
  const book = new AnswerBook();
  for (const request of requests) engine.add(request);
  let most = 0;
  while (engine.hasWork) {
    book.take(engine.step());
    engine.check();
    most = Math.max(most, engine.stats().blocksUsed);
  }
  // Ten shared blocks; each sequence's own is the last of the prompt, and the answer fits into it.
  assert.equal(most, 10 + 4);
  const cached = requests.map(({ id }) => book.answers.get(id)?.finish?.usage.cachedTokens);
  assert.deepEqual(cached, [0, 640, 640, 640]);
  for (const request of requests) {
    assert.deepEqual(book.answers.get(request.id)?.tokenIds, plain(request).tokenIds);
  }
});

test("a stop string ends the answer wherever tokens cut it, and never shows", () => {
  fc.assert(
    fc.property(fc.nat(1e6), fc.constantFrom(undefined, 0.5), (seed, draftAccuracy) => {
      const random = new Random(seed);
      const request = requestOf("a", randomPrompt(random, 5, vocabSize), {
        maxTokens: 60,
        sampling: { ...defaultSampling, seed },
      });
      const { text } = plain(request);
      const [from, length] = [random.below(text.length - 8), 1 + random.below(8)];
      const stop = [text.slice(from, from + length), "no such text"];
      const got = answersOf(engineOf({}, { draftAccuracy }), [{ ...request, stop }]).get("a")!;
      assert.equal(got.text, text.slice(0, text.indexOf(stop[0])));
      assert.equal(got.finish?.reason, "stop");
      assert.equal(got.finish?.stop, stop[0]);
    }),
  );
});

test("text that might have become a stop string is shown when the answer ends otherwise", () => {
  const request = requestOf("a", [1, 2, 3]);
  const { text } = plain(request);
  const stop = [`${text.slice(-5)}!`];
  const got = answersOf(engineOf(), [{ ...request, stop }]).get("a")!;
  assert.equal(got.text, text);
  assert.equal(got.finish?.reason, "length");
});

test("stop ids and the model's end tokens end an answer, and their text does not show", () => {
  const request = requestOf("a", [4, 5, 6], { maxTokens: 50 });
  const { tokenIds, text } = plain(request);
  const [stopId] = tokenIds.slice(10);
  const at = tokenIds.indexOf(stopId);
  const byRequest = answersOf(engineOf(), [{ ...request, stopTokenIds: [stopId] }]).get("a")!;
  const byModel = answersOf(engineOf({}, { eosTokenIds: [stopId] }), [request]).get("a")!;
  for (const answer of [byRequest, byModel]) {
    assert.deepEqual(answer.tokenIds, tokenIds.slice(0, at + 1));
    assert.equal(answer.text, text.slice(0, at));
    assert.deepEqual([answer.finish?.reason, answer.finish?.stop], ["stop", stopId]);
  }
  const onward = engineOf({}, { eosTokenIds: [stopId] });
  const ignoring = answersOf(onward, [{ ...request, ignoreEos: true }]).get("a")!;
  assert.deepEqual(ignoring.tokenIds, tokenIds);
});

test("an answer ends at maxTokens, at the longest context, and at what the cache holds", () => {
  const lengths = (options: EngineOptions, prompt: number, maxTokens: number) => {
    const engine = engineOf(options, { draftAccuracy: 0.8 });
    const request = requestOf("a", randomPrompt(new Random(4), prompt, vocabSize), { maxTokens });
    const { tokenIds, finish } = answersOf(engine, [request]).get("a")!;
    assert.equal(finish?.reason, "length");
    return tokenIds.length;
  };
  assert.equal(lengths({}, 10, 1), 1);
  assert.equal(lengths({}, 10, 2), 2);
  assert.equal(lengths({ maxContext: 100 }, 60, 1000), 40);
  assert.equal(lengths({ maxContext: 128 }, 127, 1000), 1);
  assert.equal(lengths({ blocks: 2 }, 60, 1000), 68);
  assert.equal(lengths({ blocks: 1 }, 63, 1000), 1);
});

test("text waits for the decoder, and what it has left comes at the end", () => {
  // Two tokens make a character: the first waits.
  const detokenizer: Detokenizer = {
    streamDecoder() {
      let first: number | undefined;
      return {
        push(tokenId) {
          if (first === undefined) {
            first = tokenId;
            return "";
          }
          const pair = `(${first},${tokenId})`;
          first = undefined;
          return pair;
        },
        end: () => (first === undefined ? "" : "?"),
      };
    },
  };
  const model = new NullModel({ vocabSize, draftAccuracy: 0.5 });
  const engine = new Engine(model, detokenizer, { blocks: 10, mtp: "always" });
  const answers = answersOf(engine, [
    requestOf("even", [1], { maxTokens: 4 }),
    requestOf("odd", [1], { maxTokens: 3 }),
  ]);
  const [a, b, c, d] = answers.get("even")!.tokenIds;
  assert.equal(answers.get("even")!.text, `(${a},${b})(${c},${d})`);
  assert.equal(answers.get("odd")!.text, `(${a},${b})?`);
});

test("a cancelled request ends at once, and its blocks are free before the next step", () => {
  const engine = engineOf({ maxSequences: 2 });
  const prompt = randomPrompt(new Random(5), 200, vocabSize);
  for (const id of ["a", "b", "c"]) engine.add(requestOf(id, [...prompt, id.charCodeAt(0) % 90]));
  const book = new AnswerBook();
  for (let i = 0; i < 4; i++) book.take(engine.step());
  engine.cancel("a");
  engine.cancel("c");
  engine.cancel("c");
  engine.cancel("unknown");
  engine.check();
  assert.equal(engine.stats().running, 1);
  assert.equal(engine.stats().waiting, 0);
  book.take(engine.step());
  for (const id of ["a", "c"]) assert.equal(book.answers.get(id)?.finish?.reason, "cancelled");
  engine.cancel("b");
  assert.equal(engine.stats().blocksUsed, 0);
  book.take(engine.step());
  assert.ok(!engine.hasWork);
  assert.deepEqual(engine.stats().finished, { stop: 0, length: 0, cancelled: 3, error: 0 });
});

/** A null model whose passes fail, or whose logits are poisoned, on demand. */
class FaultyModel extends NullModel {
  fault: "none" | "forward" | "draft" | "row" = "none";
  poisonedToken = -1;

  override forward(cache: KvCache, sequences: readonly ForwardSequence[]): ForwardResult {
    if (this.fault === "forward") throw new Error("out of order");
    const result = super.forward(cache, sequences);
    const { data } = result.logits;
    let row = 0;
    for (const { tokens, logitRows } of sequences) {
      const poisoned = this.fault === "row" && tokens.includes(this.poisonedToken);
      if (poisoned && logitRows > 0) data[row * this.vocabSize + 3] = NaN;
      row += logitRows;
    }
    return result;
  }

  override draft(...call: Parameters<NullModel["draft"]>): ReturnType<NullModel["draft"]> {
    if (this.fault === "draft") throw new Error("out of order");
    return super.draft(...call);
  }
}

for (const fault of ["forward", "draft"] as const) {
  test(`when a ${fault} pass fails, its requests end with an error and others go on`, () => {
    const model = new FaultyModel({ vocabSize, choices: 6, draftAccuracy: 0.5 });
    const engine = new Engine(model, nullDetokenizer, {
      maxSequences: 2,
      blocks: 40,
      mtp: "always",
    });
    const requests = mixedRequests(new Random(6), 3);
    for (const request of requests) engine.add({ ...request, maxTokens: 50 });
    const book = new AnswerBook();
    for (let i = 0; i < 5; i++) book.take(engine.step());
    model.fault = fault;
    book.take(engine.step());
    model.fault = "none";
    engine.check();
    for (const { id } of requests.slice(0, 2)) {
      const finish = book.answers.get(id)?.finish;
      assert.deepEqual([finish?.reason, finish?.code], ["error", "model-failed"]);
      assert.match(finish?.message ?? "", /out of order/);
    }
    while (engine.hasWork) book.take(engine.step());
    const wanted = plain({ ...requests[2], maxTokens: 50 });
    assert.deepEqual(book.answers.get(requests[2].id)?.tokenIds, wanted.tokenIds);
    assertPlain(engine, mixedRequests(new Random(7), 5));
  });
}

test("logits that are not numbers end their own request only", () => {
  const model = new FaultyModel({ vocabSize, choices: 6 });
  model.fault = "row";
  model.poisonedToken = 96;
  const engine = new Engine(model, nullDetokenizer, { blocks: 10 });
  const good = requestOf("good", [1, 2], { maxTokens: 3 });
  const answers = answersOf(engine, [good, requestOf("bad", [3, 96])]);
  assert.deepEqual(answers.get("good")?.tokenIds, plain(good).tokenIds);
  const finish = answers.get("bad")?.finish;
  assert.deepEqual([finish?.reason, finish?.code], ["error", "bad-logits"]);
  assert.match(finish?.message ?? "", /token 3 is not a number/);
});

test("requests that can not be served are refused with the field and the way out", () => {
  const engine = engineOf({ maxContext: 100, maxWaiting: 2 });
  const refused = (changes: Partial<GenerationRequest>, code: string, message: RegExp) => {
    assert.throws(() => engine.add(requestOf("x", [1], changes)), { code, message });
  };
  const sampling = (changes: object) => ({ sampling: { ...defaultSampling, ...changes } });
  refused({ prompt: [] }, "invalid-request", /prompt is empty/);
  refused({ prompt: [1, 97] }, "invalid-request", /prompt\[1\] is 97, no token id/);
  refused({ prompt: [1.5] }, "invalid-request", /prompt\[0\]/);
  refused({ prompt: new Array(100).fill(1) }, "prompt-too-long", /100 tokens leave no room/);
  refused({ maxTokens: 0 }, "invalid-request", /maxTokens/);
  refused({ maxTokens: NaN }, "invalid-request", /maxTokens/);
  refused({ stop: ["a", ""] }, "invalid-request", /stop\[1\] is empty/);
  refused({ logprobs: -1 }, "invalid-request", /logprobs/);
  refused(sampling({ temperature: NaN }), "invalid-request", /temperature is NaN/);
  refused(sampling({ topP: 1.1 }), "invalid-request", /topP/);
  refused(sampling({ topK: 0.5 }), "invalid-request", /topK is 0.5: give an integer/);
  refused(sampling({ repetitionPenalty: 0 }), "invalid-request", /repetitionPenalty/);
  refused(sampling({ logitBias: [[97, 1]] }), "invalid-request", /logitBias\[0\] names 97/);
  refused(sampling({ logitBias: [[1, Infinity]] }), "invalid-request", /logitBias\[0\]/);
  assert.ok(!engine.hasWork);
  engine.add(requestOf("a", [1]));
  assert.throws(() => engine.add(requestOf("a", [1])), /id a is in use/);
  engine.add(requestOf("b", [1]));
  assert.throws(() => engine.add(requestOf("c", [1])), { code: "queue-full", retry: "same" });
});

test("memory bounds the cache, and a cache without a block is refused", () => {
  const blocksOf = (bounds: EngineOptions) =>
    engineOf({ blocks: undefined, ...bounds }).blocksTotal;
  assert.equal(blocksOf({ kvBytes: 512 * 10 }), 10);
  assert.equal(blocksOf({ maxSequences: 3, maxContext: 100 }), 6);
  assert.throws(() => blocksOf({ kvBytes: 511 }), { code: "cache-too-small" });
});
