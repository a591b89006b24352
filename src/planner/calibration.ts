/**
 * @file The three fitted numbers of the cost model, and what it predicts for every published point.
 *
 * `prefillEfficiency` and `decodeEfficiency` are what a real unit reaches of what its kernels alone
 * would (one point each, so those two errors are 0 by construction); `prefillSkew` is the Zipf
 * exponent of the experts' popularity within a batch of users' prompts (one point, by bisection).
 * Nothing is fitted by row, nor again for SGLang or H100: rows without a role in the fit are the
 * evidence.
 *
 * A prefill batch holds some hundred prompts, each of one subject, so that its popularity is steeper
 * than that of the thousands of sequences in a decode batch. The latter is the long run's, which EPLB
 * evens out: `longRunSkew`, chosen so that under it alone prefill would be 1.49 times slower without
 * EPLB than with it, the gain that LMSYS reports.
 */
import { architectureOf, deepSeekV3 } from "./architecture.ts";
import { decodeStep } from "./decode.ts";
import type { Deployment, FittedNumbers } from "./deployment.ts";
import { hardwareOf } from "./hardware.ts";
import { type PublishedPoint, publishedPoints } from "./points.ts";
import { prefillLoad, prefillStep } from "./prefill.ts";

/** Zipf exponent of the experts' popularity over many sequences; see the top of this file. */
const longRunSkew = 0.55;

/** A point beside its prediction. */
export interface CheckedPoint {
  readonly point: PublishedPoint;
  readonly role: "fitted" | "held out";
  /** Tokens a second and node. */
  readonly predicted: number;
  /** predicted / published - 1. */
  readonly error: number;
  /** The same with efficiencies of 1 and even popularity: kernels and nothing else. */
  readonly unfittedError: number;
}

/** The fit and its test. */
export interface Calibration extends FittedNumbers {
  readonly points: readonly CheckedPoint[];
  /** Largest absolute error of the points held out. */
  readonly worstHeldOut: number;
}

const nothingFitted: FittedNumbers = {
  prefillEfficiency: 1,
  decodeEfficiency: 1,
  prefillSkew: 0,
  decodeSkew: 0,
};
let known: Calibration | undefined;

/** The fit; made at the first call (a fraction of a second), the same ever after. */
export function calibration(): Calibration {
  known ??= calibrate(publishedPoints);
  return known;
}

/** Fits to those of `points` that say so, and predicts all of them. */
export function calibrate(points: readonly PublishedPoint[]): Calibration {
  const fitted = { ...nothingFitted, decodeSkew: longRunSkew };
  for (const name of ["prefillEfficiency", "decodeEfficiency"] as const) {
    const point = points.find(({ fits }) => fits === name);
    if (point) fitted[name] = point.perNode / predict(point, nothingFitted);
  }
  const skewed = points.find(({ fits }) => fits === "prefillSkew");
  if (skewed) fitted.prefillSkew = skewOf(skewed, fitted);
  const checked = points.map((point): CheckedPoint => {
    const predicted = predict(point, fitted);
    return {
      point,
      role: point.fits ? "fitted" : "held out",
      predicted,
      error: predicted / point.perNode - 1,
      unfittedError: predict(point, nothingFitted) / point.perNode - 1,
    };
  });
  const heldOut = checked.filter(({ role }) => role === "held out");
  const worstHeldOut = Math.max(0, ...heldOut.map(({ error }) => Math.abs(error)));
  return { ...fitted, points: checked, worstHeldOut };
}

/** The unit that a point was measured on. */
function deploymentOf(point: PublishedPoint, fitted: FittedNumbers): Deployment {
  const isPrefill = point.phase === "prefill";
  return {
    hw: hardwareOf(point.hw),
    arch: architectureOf(deepSeekV3),
    ranks: point.ranks,
    slotsPerGpu: point.slotsPerGpu,
    skew: point.isBalanced ? 0 : isPrefill ? fitted.prefillSkew : fitted.decodeSkew,
    placement: "exact",
    overlap: true,
    drafts: point.drafts,
    efficiency: isPrefill ? fitted.prefillEfficiency : fitted.decodeEfficiency,
  };
}

/** Tokens a second and node that the model gives for a point. */
function predict(point: PublishedPoint, fitted: FittedNumbers): number {
  const { phase, batch, context, tokensPerStep } = point;
  const deployment = deploymentOf(point, fitted);
  const { us } =
    phase === "prefill"
      ? prefillStep(deployment, prefillLoad(batch, context))
      : decodeStep(deployment, { sequences: batch, kvTokens: batch * context });
  return (batch * tokensPerStep * 8 * 1e6) / us;
}

/** The skew at which the prediction meets `point`; more skew is always slower. */
function skewOf(point: PublishedPoint, fitted: FittedNumbers): number {
  let [low, high] = [0.3, 2];
  for (let i = 0; i < 18; i++) {
    const skew = (low + high) / 2;
    if (predict(point, { ...fitted, prefillSkew: skew }) > point.perNode) low = skew;
    else high = skew;
  }
  return Math.round(((low + high) / 2) * 1e4) / 1e4;
}
