import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { dirname, resolve } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Random } from "../base/index.ts";
import {
  type ForwardResult,
  type ForwardSequence,
  type KvCache,
  type LanguageModel,
  loadModel,
} from "../model/index.ts";
import { Engine, type EngineOptions } from "./engine.ts";
import { nullDetokenizer } from "./null-model.ts";
import { type Answer, answersOf, randomPrompt, requestOf } from "./testing/answers.ts";
import { defaultSampling, type GenerationRequest } from "./types.ts";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const model = await loadModel(resolve(root, "models/austen-6m"));
after(() => model.close());

/**
 * A model that notes a digest of every row of logits under a digest of the tokens before it, and
 * throws when one context has logits of other bits than before, in whatever run.
 */
function witnessed(logitsOf: Map<string, string>): LanguageModel {
  let contexts: string[] = [];
  const openCache = (pages: number) => {
    contexts = new Array(pages * 64).fill("unwritten");
    return model.openCache(pages);
  };
  const forward = (cache: KvCache, calls: readonly ForwardSequence[]): ForwardResult => {
    const result = model.forward(cache, calls);
    const { data, stride } = result.logits;
    let row = 0;
    for (const { tokens, position, blockTable, logitRows } of calls) {
      for (let i = 0; i < tokens.length; i++) {
        const at = (p: number) => blockTable[Math.floor(p / 64)] * 64 + (p % 64);
        const before = position + i === 0 ? "" : contexts[at(position + i - 1)];
        const context = digest(`${before} ${tokens[i]}`);
        contexts[at(position + i)] = context;
        if (i < tokens.length - logitRows) continue;
        const bits = digest(data.slice(row * stride, row * stride + model.vocabSize));
        row++;
        assert.equal(logitsOf.get(context) ?? bits, bits, "one context, two rows of logits");
        logitsOf.set(context, bits);
      }
    }
    return result;
  };
  return new Proxy(model, {
    get: (target, name) => {
      if (name === "forward") return forward;
      if (name === "openCache") return openCache;
      const value = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

function digest(data: string | Float32Array): string {
  return createHash("sha1").update(data).digest("base64");
}

const random = new Random(1813);
const shared = randomPrompt(random, 150, model.vocabSize);
const requests: GenerationRequest[] = Array.from({ length: 8 }, (_, i) => {
  const own = randomPrompt(random, 1 + random.below(60), model.vocabSize);
  const sampling = { ...defaultSampling, temperature: i % 3 === 0 ? 0.8 : 0, topP: 0.95, seed: i };
  const prompt = [...shared.slice(0, random.below(151)), ...own];
  return requestOf(`r${i}`, prompt, { maxTokens: 70, sampling, logprobs: 2 });
});

const setups: Record<string, EngineOptions> = {
  "one at a time": { maxSequences: 1, mtp: false, prefixCache: false, tokenBudget: 1024 },
  batched: { mtp: false, prefixCache: false, tokenBudget: 2048 },
  "in small chunks": { mtp: false, prefixCache: false, maxSequences: 7, tokenBudget: 23 },
  "with a prefix cache": { mtp: false },
  "with drafts": { prefixCache: false },
  "with drafts, one at a time": { maxSequences: 1 },
  "with preemption, drafts and a prefix cache": { blocks: 10, tokenBudget: 50, maxSequences: 8 },
};

const rowsOfLogits = new Map<string, string>();
let reference: Map<string, Answer> | undefined;

for (const [name, options] of Object.entries(setups)) {
  test(`the real model's answers and the bits of its logits are the same ${name}`, () => {
    const engine = new Engine(witnessed(rowsOfLogits), nullDetokenizer, {
      blocks: 64,
      mtp: "always",
      ...options,
    });
    const answers = answersOf(engine, requests);
    // The second time round, prompts and answers are found in the cache where there is one.
    const again = answersOf(engine, requests);
    const known = rowsOfLogits.size;
    reference ??= answers;
    for (const { id } of requests) {
      for (const answer of [answers.get(id)!, again.get(id)!]) {
        const { finish, ...got } = answer;
        const { finish: _, ...wanted } = reference.get(id)!;
        assert.equal(finish?.reason, "length");
        assert.deepEqual(got, wanted);
      }
    }
    const stats = engine.stats();
    assert.ok(known >= 500);
    if (options.blocks === 10) assert.ok(stats.preemptions > 0);
    if (options.prefixCache ?? true) assert.ok(stats.cachedPromptTokens > 0);
    if (options.mtp ?? true) assert.ok(stats.acceptedTokens > 0.2 * stats.draftedTokens);
  });
}
