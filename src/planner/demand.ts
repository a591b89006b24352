/**
 * @file A day of requests: how many come when, and how long they are. Prompts and answers are lognormal.
 *
 * The article gives token counts of the day, the mean cache length of a sequence that gets a token
 * (4,989), and nodes over time, but no demand. So the curve here is inferred: it follows the published
 * nodes, smoothed. With answers of squared variation 0.5 (a choice), 4,989 = prompt + 0.75 answer and
 * prompt / answer = 608 / 168 give answers of 1,142 tokens, prompts of 4,133, and 147 million requests.
 */
import type { Random } from "../base/index.ts";
import { articleFigures } from "./article.ts";
import { checkNumber, refuse } from "./errors.ts";

/** A day's demand. */
export interface Demand {
  readonly requestsPerDay: number;
  /** Relative demand at equal distances over 24 hours, from midnight; any unit. */
  readonly curve: readonly number[];
  readonly promptTokens: number;
  readonly outputTokens: number;
  /** Standard deviations of the logarithms. */
  readonly promptSigma: number;
  readonly outputSigma: number;
  /** Share of the prompts' tokens that the cache knows. */
  readonly hitRate: number;
}

/** One request. */
export interface DayRequest {
  readonly promptTokens: number;
  /** Leading tokens of the prompt in the cache, whole blocks. */
  readonly cachedTokens: number;
  readonly outputTokens: number;
}

/** By half hours from midnight, Beijing time. */
const articleCurve: readonly number[] = [
  0.84, 0.76, 0.7, 0.64, 0.56, 0.44, 0.34, 0.24, 0.21, 0.2, 0.2, 0.21, 0.23, 0.3, 0.42, 0.6, 0.74,
  0.9, 0.97, 1.0, 1.02, 1.02, 1.0, 0.97, 0.95, 0.96, 0.98, 1.0, 1.02, 1.03, 1.03, 1.02, 1.01, 1.0,
  0.98, 0.96, 0.95, 0.95, 0.97, 0.99, 1.01, 1.02, 1.03, 1.02, 1.01, 1.0, 0.97, 0.92,
];

const outputVariation = 0.5;
/** A choice, and a tender one: ranks step together, so long prompts cost capacity of all. */
const promptSigma = 0.5;

/** The day of the article. */
export const articleDemand: Demand = demandOfArticle();

function demandOfArticle(): Demand {
  const { inputTokens, hitTokens, outputTokens, kvTokensMean } = articleFigures;
  const ratio = inputTokens / outputTokens;
  const answer = kvTokensMean / (ratio + (1 + outputVariation) / 2);
  return {
    requestsPerDay: outputTokens / answer,
    curve: articleCurve,
    promptTokens: answer * ratio,
    outputTokens: answer,
    promptSigma,
    outputSigma: Math.sqrt(Math.log(1 + outputVariation)),
    hitRate: hitTokens / inputTokens,
  };
}

/** `demand` itself; `plan-input-invalid` names the first field that is wrong. */
export function checkDemand(demand: Demand): Demand {
  checkNumber("requestsPerDay", demand.requestsPerDay, { min: 1 });
  checkNumber("promptTokens", demand.promptTokens, { min: 1 });
  checkNumber("outputTokens", demand.outputTokens, { min: 1 });
  checkNumber("promptSigma", demand.promptSigma, { max: 3 });
  checkNumber("outputSigma", demand.outputSigma, { max: 3 });
  checkNumber("hitRate", demand.hitRate, { max: 0.95 });
  if (!Array.isArray(demand.curve) || demand.curve.length === 0) {
    throw refuse("curve", "is no list", "give demand at equal distances over 24 hours");
  }
  for (const [i, value] of demand.curve.entries()) checkNumber(`curve[${i}]`, value);
  if (demand.curve.every((value) => value === 0)) {
    throw refuse("curve", "is 0 throughout", "give some demand");
  }
  return demand;
}

/** Requests a second at `hour`, linear between the curve's points, the day's total as given. */
export function rateAt(demand: Demand, hour: number): number {
  const { curve, requestsPerDay } = demand;
  const mean = curve.reduce((sum, value) => sum + value, 0) / curve.length;
  const place = ((hour % 24) / 24) * curve.length;
  const index = Math.floor(place);
  const next = curve[(index + 1) % curve.length];
  const value = curve[index] + (place - index) * (next - curve[index]);
  return ((value / mean) * requestsPerDay) / 86_400;
}

const block = 64;
/** Share of requests that find anything in the cache. */
const finders = 0.75;

/** A request; `isRunning` draws one as a glance at running ones finds it, long answers more often. */
export function drawRequest(demand: Demand, random: Random, isRunning = false): DayRequest {
  const { promptTokens, outputTokens, promptSigma, outputSigma, hitRate } = demand;
  const prompt = Math.max(2, Math.round(lognormal(random, promptTokens, promptSigma)));
  const bias = isRunning ? Math.exp(outputSigma ** 2) : 1;
  const answer = Math.max(1, Math.round(lognormal(random, outputTokens * bias, outputSigma)));
  const share = random.uniform() < finders ? Math.min(1, hitRate / finders) : 0;
  // Whole blocks of the prompt without its last token; half a block is lost on average.
  const blocks = Math.floor(
    Math.min(prompt - 1, prompt * share + (share > 0 ? block / 2 : 0)) / block,
  );
  return { promptTokens: prompt, cachedTokens: blocks * block, outputTokens: answer };
}

/** A lognormal variate of this mean. */
function lognormal(random: Random, mean: number, sigma: number): number {
  return mean * Math.exp(sigma * random.normal() - sigma ** 2 / 2);
}
