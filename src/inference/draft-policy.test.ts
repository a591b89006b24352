import assert from "node:assert/strict";
import { test } from "node:test";
import { Random, VirtualClock } from "../base/index.ts";
import { DraftPolicy } from "./draft-policy.ts";
import { Engine } from "./engine.ts";
import { NullModel, nullDetokenizer } from "./null-model.ts";
import { answersOf, plainAnswer, requestOf } from "./testing/answers.ts";

/** Steps that guess of `steps` with `sequences`, where a step costs and brings what is given. */
function guessedOf(
  policy: DraftPolicy,
  sequences: number,
  steps: number,
  cost: { guessing: number; plain: number; accepted: number },
): number {
  const random = new Random(sequences);
  let guessed = 0;
  for (let i = 0; i < steps; i++) {
    const guess = policy.shouldGuess(sequences);
    const noise = 0.8 + 0.4 * random.uniform();
    const tokens = sequences * (1 + (guess ? cost.accepted : 0));
    policy.observe(sequences, guess, tokens, (guess ? cost.guessing : cost.plain) * noise);
    guessed += Number(guess);
  }
  return guessed;
}

test("guessing goes on where it is faster, and stops where it is slower", () => {
  const policy = new DraftPolicy();
  const pays = { guessing: 1.3, plain: 1, accepted: 0.6 };
  const costs = { guessing: 2, plain: 1, accepted: 0.6 };
  // One stream and many are judged each on their own.
  assert.ok(guessedOf(policy, 1, 2000, pays) > 1900);
  assert.ok(guessedOf(policy, 16, 2000, costs) < 100);
  assert.ok(guessedOf(policy, 1, 2000, pays) > 1900);
});

test("when times change, the policy finds out", () => {
  const policy = new DraftPolicy();
  guessedOf(policy, 4, 2000, { guessing: 2, plain: 1, accepted: 0.5 });
  guessedOf(policy, 4, 2000, { guessing: 1.1, plain: 1, accepted: 0.9 });
  assert.ok(guessedOf(policy, 4, 2000, { guessing: 1.1, plain: 1, accepted: 0.9 }) > 1800);
});

test("an engine stops guessing where its model makes that slow; the answers stay", () => {
  const options = { vocabSize: 97, maxContext: 1024, draftAccuracy: 0.5 };
  const drafted = [0.1, 5].map((draftMs) => {
    const clock = new VirtualClock();
    const model = new NullModel(options);
    const { forward, draft } = model;
    model.forward = (cache, calls) => {
      clock.advance(1);
      return forward.call(model, cache, calls);
    };
    model.draft = (cache, calls) => {
      if (calls.some(({ guess }) => guess)) clock.advance(draftMs);
      return draft.call(model, cache, calls);
    };
    const engine = new Engine(model, nullDetokenizer, { blocks: 40, clock });
    const requests = [1, 2].map((i) => requestOf(`r${i}`, [i], { maxTokens: 600 }));
    const answers = answersOf(engine, requests);
    for (const request of requests) {
      const wanted = plainAnswer(new NullModel(options), nullDetokenizer, request, 1024);
      assert.deepEqual(answers.get(request.id)?.tokenIds, wanted.tokenIds);
    }
    const { draftedTokens, generatedTokens } = engine.stats();
    return draftedTokens / generatedTokens;
  });
  assert.ok(drafted[0] > 0.6 && drafted[1] < 0.1, `${drafted} drafts a token`);
});
