/** @file How many units of each pool a load needs: the two pools grow and shrink together, by steps. */

import { decodeStep } from "./decode.ts";
import { steadySequences } from "./decode-unit.ts";
import type { Demand } from "./demand.ts";
import type { Deployment } from "./deployment.ts";
import { checkNumber } from "./errors.ts";
import { estimatePrefill, tokensPerStep } from "./estimate.ts";

/** Sizes of the two pools; `poolScale` has the article's. */
export interface PoolScale {
  readonly prefillNodes: number;
  readonly decodeNodes: number;
  readonly prefillUnitsLeast: number;
  readonly decodeUnitsLeast: number;
  readonly prefillUnitsPerStep: number;
  readonly decodeUnitsPerStep: number;
  readonly stepsMost: number;
}

/** Units in use. */
export interface PoolSize {
  readonly prefillUnits: number;
  readonly decodeUnits: number;
  readonly nodes: number;
  /** Whether the pools are at their largest and still above a target. */
  readonly isShort: boolean;
}

/** When to grow. */
export interface ScaleTargets {
  /** Share of a prefill unit's capacity that may be used. */
  readonly prefillUseMost: number;
  /** Time between tokens. */
  readonly tpotMs: number;
  readonly sequencesMost: number;
  readonly tokenBudget: number;
  /** Share of drafts that are right. */
  readonly accepted: number;
}

/** The pools after `steps` steps. */
export function poolsAt(scale: PoolScale, steps: number): Omit<PoolSize, "isShort"> {
  const prefillUnits = scale.prefillUnitsLeast + steps * scale.prefillUnitsPerStep;
  const decodeUnits = scale.decodeUnitsLeast + steps * scale.decodeUnitsPerStep;
  const nodes = prefillUnits * scale.prefillNodes + decodeUnits * scale.decodeNodes;
  return { prefillUnits, decodeUnits, nodes };
}

/** Tokens that a unit computes in a second where all its ranks have full steps of like prompts. */
export function prefillCapacity(
  prefill: Deployment,
  { promptTokens, outputTokens, hitRate }: Demand,
  tokenBudget: number,
): number {
  const workload = { promptTokens, outputTokens, hitRate };
  return estimatePrefill(prefill, workload, tokenBudget).perGpu * prefill.ranks;
}

/** The fewest steps at which both pools keep their targets under `requestsPerS`. */
export function sizePools(
  scale: PoolScale,
  targets: ScaleTargets,
  prefill: Deployment,
  decode: Deployment,
  demand: Demand,
  requestsPerS: number,
): PoolSize {
  const { promptTokens, outputTokens, hitRate } = demand;
  const capacity = prefillCapacity(prefill, demand, targets.tokenBudget);
  const { sequencesMost, accepted } = targets;
  const perStep = tokensPerStep(decode.drafts, accepted);
  const context = promptTokens + outputTokens / 2;
  for (let steps = 0; steps < scale.stepsMost; steps++) {
    const size = poolsAt(scale, steps);
    const fresh = (requestsPerS / size.prefillUnits) * promptTokens * (1 - hitRate);
    if (fresh > targets.prefillUseMost * capacity) continue;
    const perUnit = requestsPerS / size.decodeUnits;
    const sequences = steadySequences(decode, demand, perUnit, sequencesMost, accepted);
    if (sequences >= sequencesMost) continue;
    const { us } = decodeStep(decode, { sequences, kvTokens: sequences * context });
    if (us / 1e3 / perStep <= targets.tpotMs) return { ...size, isShort: false };
  }
  const size = poolsAt(scale, scale.stepsMost);
  const perUnit = requestsPerS / size.decodeUnits;
  const sequences = steadySequences(decode, demand, perUnit, sequencesMost, accepted);
  return { ...size, isShort: sequences >= sequencesMost };
}

/** Throws `plan-input-invalid` that names the first field that is wrong. */
export function checkScale(scale: PoolScale, targets: ScaleTargets): void {
  for (const [name, value] of Object.entries(scale)) {
    const min = name === "stepsMost" || name.endsWith("PerStep") ? 0 : 1;
    checkNumber(name, value, { min, max: 10_000, whole: true });
  }
  checkNumber("prefillUseMost", targets.prefillUseMost, { min: 0.01, max: 1 });
  checkNumber("tpotMs", targets.tpotMs, { min: 0.1 });
  checkNumber("accepted", targets.accepted, { max: 1 });
  checkNumber("sequencesMost", targets.sequencesMost, { min: 1, max: 65536, whole: true });
  checkNumber("tokenBudget", targets.tokenBudget, { min: 64, max: 2 ** 20, whole: true });
}
