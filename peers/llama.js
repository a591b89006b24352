/**
 * @file llama.cpp as a peer: a child process that loads a GGUF file and answers timed requests.
 *
 * It is driven by node-llama-cpp's own native binding (`AddonContext`: fill a batch, decode it,
 * sample), below that package's promises and locks for each token, since this is what lets
 * llama.cpp run fastest: on a model of 140 M parameters 1.1 times as fast as `sequence.evaluate`.
 * Several sequences share one context and one batch per step, llama.cpp's continuous batching. The
 * binding is not a public interface, so `package.json` names one exact version.
 *
 * Messages: `{ id, method, args }` in, `{ id, result }` or `{ id, error }` out.
 */
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

/** Tokens that llama.cpp takes at once, its default. */
const batchTokens = 512;

let llama;
let model;
let sampler;
/** Contexts by "threads x sequences", made when first used: the pool of threads is part of one. */
const contexts = new Map();

const methods = {
  /** Loads a model; returns what was loaded and by which build. */
  async load({ path }) {
    llama = await getLlama({
      gpu: false,
      build: "never",
      skipDownload: true,
      maxThreads: 0,
      logLevel: LlamaLogLevel.error,
    });
    model = await llama.loadModel({ modelPath: path, useMmap: false });
    sampler = new llama._bindings.AddonSampler(model._model);
    sampler.applyConfig({ temperature: 0 });
    const { release } = llama.llamaCppRelease;
    return { release, size: model.size, system: llama.systemInfo };
  },

  /** Time to take a prompt and give its first token. */
  async prefill({ threads, prompt }) {
    const context = await contextOf(threads, 1);
    const timed = startTimer();
    const tokens = await takePrompts(context, [prompt]);
    const time = timed();
    clear(context, 1);
    return { ...time, tokens: prompt.length, output: [tokens] };
  },

  /**
   * Time of `steps` greedy steps after the first token of each prompt, all sequences in one batch;
   * `output` holds each sequence's tokens.
   */
  async decode({ threads, prompts, steps }) {
    const context = await contextOf(threads, prompts.length);
    let tokens = await takePrompts(context, prompts);
    const output = tokens.map((token) => [token]);
    const timed = startTimer();
    for (let step = 0; step < steps; step++) {
      context.initBatch(prompts.length);
      const rows = tokens.map(
        (token, s) =>
          context.addToBatch(
            s,
            prompts[s].length + step,
            Uint32Array.of(token),
            Uint32Array.of(0),
          )[0],
      );
      await context.decodeBatch();
      tokens = await sampleAll(context, rows);
      for (const [s, token] of tokens.entries()) output[s].push(token);
    }
    const time = timed();
    clear(context, prompts.length);
    return { ...time, tokens: steps * prompts.length, output };
  },

  /** The logits after each token of `prompt`, one list per position, by token id. */
  async logits({ prompt }) {
    const context = await contextOf(1, 1);
    context.initBatch(prompt.length);
    const all = Uint32Array.from(prompt.keys());
    const rows = context.addToBatch(0, 0, Uint32Array.from(prompt), all);
    await context.decodeBatch();
    const logits = [];
    for (const row of rows) {
      const pairs = (await context.sampleToken(row, sampler, false, false, true))[3];
      const byToken = [];
      for (let i = 0; i < pairs.length; i += 2) byToken[pairs[i]] = pairs[i + 1];
      logits.push(byToken);
    }
    clear(context, 1);
    return logits;
  },
};

/** The native context for so many threads and sequences. */
async function contextOf(threads, sequences) {
  const key = `${threads}x${sequences}`;
  if (!contexts.has(key)) {
    const context = await model.createContext({
      contextSize: 1024,
      sequences,
      threads,
      batchSize: batchTokens,
      // Asked for by name: "auto" leaves it off for this model, and decoding 1.5 times slower.
      flashAttention: true,
    });
    contexts.set(key, context);
  }
  return contexts.get(key)._ctx;
}

/** Decodes the prompts, one after another, and returns the token that follows each. */
async function takePrompts(context, prompts) {
  const tokens = [];
  for (const [sequence, prompt] of prompts.entries()) {
    let row;
    for (let start = 0; start < prompt.length; start += batchTokens) {
      const chunk = Uint32Array.from(prompt.slice(start, start + batchTokens));
      const isLast = start + batchTokens >= prompt.length;
      context.initBatch(chunk.length);
      const wanted = isLast ? Uint32Array.of(chunk.length - 1) : new Uint32Array();
      row = context.addToBatch(sequence, start, chunk, wanted)[0];
      await context.decodeBatch();
    }
    tokens.push(await context.sampleToken(row, sampler));
  }
  return tokens;
}

async function sampleAll(context, rows) {
  const tokens = [];
  for (const row of rows) tokens.push(await context.sampleToken(row, sampler));
  return tokens;
}

function clear(context, sequences) {
  for (let sequence = 0; sequence < sequences; sequence++) context.disposeSequence(sequence);
}

/** Starts timing; the returned function gives wall and CPU milliseconds of this process since. */
function startTimer() {
  const cpu = process.cpuUsage();
  const start = performance.now();
  return () => {
    const wallMs = performance.now() - start;
    const { user, system } = process.cpuUsage(cpu);
    return { wallMs, cpuMs: (user + system) / 1000 };
  };
}

process.on("message", async ({ id, method, args }) => {
  try {
    process.send({ id, result: await methods[method](args) });
  } catch (error) {
    process.send({ id, error: String(error?.stack ?? error) });
  }
});
process.on("disconnect", () => process.exit(0));
