/** @file The numbers of an Adam step: checked, corrected for the step, rounded to float32. */
import { assert, assertEqual } from "../base/index.ts";
import { elementCount } from "../tensor/index.ts";
import type { AdamStep } from "./types.ts";

/** What the kernels multiply with; every one is a float32. */
export interface AdamFactors {
  readonly gradientScale: number;
  readonly beta1: number;
  /** 1 - beta1. */
  readonly rest1: number;
  readonly beta2: number;
  readonly rest2: number;
  /** (1 - beta2^step)^(-1/2). */
  readonly correction2: number;
  readonly eps: number;
  /** learningRate / (1 - beta1^step). */
  readonly stepSize: number;
  /** Decoupled: 1 - learningRate weightDecay; l2: weightDecay. */
  readonly decay: number;
}

/** The checked call's number of elements and factors. */
export function adamFactors(call: AdamStep): { count: number; factors: AdamFactors } {
  const { parameters, step, learningRate, beta1 = 0.9, beta2 = 0.95, eps = 1e-8 } = call;
  const { weightDecay = 0, decay = "decoupled", gradientScale = 1 } = call;
  const count = elementCount(parameters.shape);
  for (const what of ["parameters", "gradients", "firstMoment", "secondMoment"] as const) {
    const tensor = call[what];
    assertEqual(tensor.dtype, "f32", `dtype of ${what}`);
    assertEqual(elementCount(tensor.shape), count, `elements of ${what}`);
    const last = tensor.shape.at(-1) ?? 1;
    const rows = tensor.shape.length > 1 && last < count;
    assert(!rows || tensor.stride === last, () => `row stride of ${what}: got ${tensor.stride}`);
    const got = tensor.data.length;
    assert(got >= count, () => `${what}: got memory for ${got} elements, wanted ${count}`);
  }
  assert(Number.isSafeInteger(step) && step >= 1, () => `step: got ${step}, wanted 1 or more`);
  for (const [what, beta] of Object.entries({ beta1, beta2 })) {
    assert(beta >= 0 && beta < 1, () => `${what}: got ${beta}, wanted at least 0 and below 1`);
  }
  const positive = { learningRate, eps, weightDecay };
  for (const [what, value] of Object.entries(positive)) {
    assert(value >= 0 && value < Infinity, () => `${what}: got ${value}, wanted at least 0`);
  }
  assert(Number.isFinite(gradientScale), () => `gradientScale: got ${gradientScale}`);
  const exact = {
    gradientScale,
    beta1,
    rest1: 1 - beta1,
    beta2,
    rest2: 1 - beta2,
    correction2: 1 / Math.sqrt(1 - beta2 ** step),
    eps,
    stepSize: learningRate / (1 - beta1 ** step),
    decay: decay === "l2" ? weightDecay : 1 - learningRate * weightDecay,
  };
  const rounded = Object.entries(exact).map(([name, value]) => [name, Math.fround(value)]);
  return { count, factors: Object.fromEntries(rounded) as AdamFactors };
}
