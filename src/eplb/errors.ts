/** @file The error codes of `eplb`, and the checks of what a caller gives. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";
import type { Affinity, Loads } from "./types.ts";

/** A code of this room's errors. */
export type EplbErrorCode = "eplb-input-invalid";

/** Those codes, each with its retry advice. */
export const eplbErrors: Readonly<Record<EplbErrorCode, RetryAdvice>> = {
  /** A number that is none, is negative, or does not divide as it must. */
  "eplb-input-invalid": "never",
};

/** The refusal of a field: `field problem: advice.` */
export function refuse(field: string, problem: string, advice: string): BaleenError {
  const code = "eplb-input-invalid";
  return new BaleenError(code, `${field} ${problem}: ${advice}.`, { retry: eplbErrors[code] });
}

/** The machine and the slots on it. */
export interface Shape {
  readonly numLayers: number;
  readonly numExperts: number;
  readonly numReplicas: number;
  readonly numGroups: number;
  readonly numNodes: number;
  readonly numGpus: number;
  /** Slots of one GPU. */
  readonly slotsPerGpu: number;
  /** Whether groups can be dealt evenly to nodes, so that they have homes. */
  readonly hierarchical: boolean;
}

/** The checked shape of a problem; throws a `BaleenError` that names the first field that is wrong. */
export function shapeOf(
  weight: Loads,
  numReplicas: number,
  numGroups: number,
  numNodes: number,
  numGpus: number,
): Shape {
  for (const [name, value] of Object.entries({ numReplicas, numGroups, numNodes, numGpus })) {
    if (!Number.isInteger(value) || value < 1) {
      throw refuse(name, `is ${String(value)}`, "give a whole number of at least 1");
    }
  }
  const numExperts = checkLoads(weight);
  const hierarchical = numGroups % numNodes === 0;
  if (numReplicas < numExperts) {
    const advice = "give every expert at least one slot";
    throw refuse("numReplicas", `is ${numReplicas} for ${numExperts} experts`, advice);
  }
  divides("numReplicas", numReplicas, "numGpus", numGpus);
  if (hierarchical) {
    divides("the number of experts", numExperts, "numGroups", numGroups);
    divides("numGpus", numGpus, "numNodes", numNodes);
  }
  const slotsPerGpu = numReplicas / numGpus;
  return {
    numLayers: weight.length,
    numExperts,
    numReplicas,
    numGroups,
    numNodes,
    numGpus,
    slotsPerGpu,
    hierarchical,
  };
}

function divides(name: string, value: number, divisorName: string, divisor: number): void {
  if (value % divisor === 0) return;
  const problem = `(${value}) is not divisible by ${divisorName} (${divisor})`;
  throw refuse(name, problem, "change one of the two");
}

/** The number of experts; throws unless every load is a number that float32 holds, not negative. */
export function checkLoads(weight: Loads): number {
  const isList = (value: unknown): value is ArrayLike<number> =>
    Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView));
  if (!isList(weight) || weight.length === 0) {
    throw refuse("weight", "has no layers", "give one list of loads a layer");
  }
  const numExperts = weight[0]?.length ?? 0;
  for (let layer = 0; layer < weight.length; layer++) {
    const row: unknown = weight[layer];
    if (!isList(row) || row.length === 0) {
      throw refuse(`weight[${layer}]`, "is no list of loads", "give one load an expert");
    }
    if (row.length !== numExperts) {
      const problem = `has ${row.length} loads, weight[0] has ${numExperts}`;
      throw refuse(`weight[${layer}]`, problem, "give one load an expert");
    }
    for (let expert = 0; expert < numExperts; expert++) {
      const load = row[expert];
      if (typeof load === "number" && load >= 0 && load <= 3.4e38) continue;
      const problem = `is ${typeof load === "string" ? `"${String(load)}"` : String(load)}`;
      throw refuse(`weight[${layer}][${expert}]`, problem, "give a finite load, 0 or more");
    }
  }
  return numExperts;
}

/** Throws unless `affinity` is one that this shape can honour. */
export function checkAffinity(affinity: Affinity, shape: Shape): void {
  if (affinity === "global") return;
  const isSpill = typeof affinity === "object" && affinity !== null;
  if (affinity !== "strict" && !isSpill) {
    const advice = 'give "strict", "global" or { spill: a number of replicas }';
    throw refuse("affinity", `is ${JSON.stringify(affinity)}`, advice);
  }
  if (isSpill && (!Number.isInteger(affinity.spill) || affinity.spill < 0)) {
    throw refuse("affinity.spill", `is ${affinity.spill}`, "give a whole number, 0 or more");
  }
  if (!shape.hierarchical) {
    const problem = `needs homes, but numGroups (${shape.numGroups}) is not divisible by numNodes`;
    throw refuse("affinity", `${problem} (${shape.numNodes})`, 'give "global"');
  }
}

/** Throws unless `value` is a finite number of at least `min`. */
export function checkNumber(field: string, value: number, min: number): void {
  if (Number.isFinite(value) && value >= min) return;
  throw refuse(field, `is ${String(value)}`, `give a number of at least ${min}`);
}
