/**
 * @file From a row of logits to the next token. In this order: repetition penalty, frequency and
 * presence penalties, logit bias (computed in float64, rounded once to float32), temperature,
 * top-k, top-p over what top-k left, min-p, draw. With temperature 0 the greatest logit wins, the
 * lowest id among equals.
 */
import { BaleenError } from "../base/index.ts";
import { drawToken } from "./random-draw.ts";
import { TokenFilter } from "./token-filter.ts";
import type { Sampling, TokenLogprob } from "./types.ts";

/** What a sequence has said so far, where a penalty needs it. */
export interface TokenHistory {
  /** The prompt's distinct ids. */
  readonly prompt: ReadonlySet<number>;
  /** How often each id occurs in the answer. */
  readonly answer: ReadonlyMap<number, number>;
}

/** Whether `sampling` looks at the tokens so far. */
export function usesHistory(sampling: Sampling): boolean {
  const { presencePenalty, frequencyPenalty, repetitionPenalty } = sampling;
  return presencePenalty !== 0 || frequencyPenalty !== 0 || repetitionPenalty !== 1;
}

/** Draws tokens from rows of logits, one row after another; one thread uses it. */
export class Sampler {
  /** Ids from here on are never drawn: rows of a model's output may outnumber a tokenizer's ids. */
  readonly vocabSize: number;
  private readonly adjusted: Float32Array;
  private readonly filter: TokenFilter;

  constructor(vocabSize: number) {
    this.vocabSize = vocabSize;
    this.adjusted = new Float32Array(vocabSize);
    this.filter = new TokenFilter(vocabSize);
  }

  /**
   * The token at position `index` of an answer. A function of its arguments alone.
   * Errors: BaleenError `bad-logits` where a logit is not a number, infinite, or all are -Infinity.
   */
  draw(logits: Float32Array, sampling: Sampling, index: number, history?: TokenHistory): number {
    const row = this.adjust(logits.subarray(0, this.vocabSize), sampling, history);
    const { max, argmax } = scan(row);
    const { temperature, topK, topP, minP, seed } = sampling;
    if (temperature === 0 || topK === 1) return argmax;
    const filters = topK > 0 || topP < 1 || minP > 0;
    const cut = filters ? this.filter.cut(row, max, sampling) : undefined;
    return drawToken(row, max, argmax, temperature, seed, index, cut);
  }

  /**
   * The log probability of `tokenId` and the `top` likeliest tokens, under the softmax of the
   * model's own logits: before penalties, bias, temperature and filters. Float64.
   */
  logprobs(
    logits: Float32Array,
    tokenId: number,
    top: number,
  ): TokenLogprob & { top: TokenLogprob[] } {
    const row = logits.subarray(0, this.vocabSize);
    const { max } = scan(row);
    let sum = 0;
    for (let i = 0; i < row.length; i++) sum += Math.exp(row[i] - max);
    const normaliser = max + Math.log(sum);
    const logprobOf = (id: number) => ({ tokenId: id, logprob: row[id] - normaliser });
    return { ...logprobOf(tokenId), top: likeliest(row, top).map(logprobOf) };
  }

  /** `row` with penalties and bias, in a copy; or `row` itself where there are none. */
  private adjust(row: Float32Array, sampling: Sampling, history?: TokenHistory): Float32Array {
    const { presencePenalty, frequencyPenalty, repetitionPenalty, logitBias } = sampling;
    const penalise = history !== undefined && usesHistory(sampling);
    if (!penalise && logitBias.length === 0) return row;
    const { adjusted } = this;
    adjusted.set(row);
    const bias = new Map<number, number>();
    for (const [tokenId, amount] of logitBias) {
      if (tokenId < row.length) bias.set(tokenId, (bias.get(tokenId) ?? 0) + amount);
    }
    const touched = new Set(bias.keys());
    if (penalise) for (const tokenId of history.answer.keys()) touched.add(tokenId);
    if (penalise && repetitionPenalty !== 1) {
      for (const tokenId of history.prompt) touched.add(tokenId);
    }
    for (const tokenId of touched) {
      if (tokenId >= row.length) continue;
      let logit = row[tokenId];
      if (penalise) {
        const count = history.answer.get(tokenId) ?? 0;
        if (count > 0 || history.prompt.has(tokenId)) {
          logit = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
        }
        logit -= frequencyPenalty * count + (count > 0 ? presencePenalty : 0);
      }
      adjusted[tokenId] = logit + (bias.get(tokenId) ?? 0);
    }
    return adjusted;
  }
}

/** The greatest logit and the lowest id that has it. */
function scan(row: Float32Array): { max: number; argmax: number } {
  let [max, argmax] = [-Infinity, -1];
  for (let i = 0; i < row.length; i++) {
    // One comparison for nearly all: it fails for a greater logit, and for what is no number.
    if (row[i] <= max) continue;
    if (Number.isNaN(row[i])) throw badLogits(`the logit of token ${i} is not a number`);
    max = row[i];
    argmax = i;
  }
  if (max === Infinity) throw badLogits(`the logit of token ${argmax} is infinite`);
  if (argmax < 0) throw badLogits("no token has a finite logit");
  return { max, argmax };
}

function badLogits(what: string): BaleenError {
  const advice = "check the checkpoint's weights, or run it with f32 precision";
  return new BaleenError("bad-logits", `The model's output is unusable: ${what}; ${advice}.`);
}

/** The ids of the `count` greatest logits, greatest first, equal ones by id. */
function likeliest(row: Float32Array, count: number): number[] {
  const ids: number[] = [];
  if (count === 0) return ids;
  for (let i = 0; i < row.length; i++) {
    if (ids.length === count && !(row[i] > row[ids[count - 1]])) continue;
    let at = ids.length;
    while (at > 0 && row[i] > row[ids[at - 1]]) at--;
    ids.splice(at, 0, i);
    if (ids.length > count) ids.pop();
  }
  return ids;
}
