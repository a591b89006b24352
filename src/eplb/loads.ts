/** @file Synthetic expert loads for benchmarks, tests and first tries. */
import { Random } from "../base/index.ts";

/** Which loads to make. */
export interface ZipfOptions {
  readonly seed: number;
  readonly layers: number;
  /** Load of the r-th busiest expert is in proportion to r^-exponent. */
  readonly exponent: number;
  /** Default 256. */
  readonly experts?: number;
  /** Routed tokens a layer; default 2^21, a quarter of a million tokens to 8 experts each. */
  readonly total?: number;
}

/**
 * Loads `[layers][experts]` of a Zipf law, dealt to the experts at random, with the noise of a sample
 * of that many tokens. The same seed gives the same loads.
 */
export function zipfLoads(options: ZipfOptions): number[][] {
  const { seed, layers, exponent, experts = 256, total = 2 ** 21 } = options;
  const random = new Random(seed);
  const law = Array.from({ length: experts }, (_, r) => (r + 1) ** -exponent);
  const sum = law.reduce((x, y) => x + y, 0);
  return Array.from({ length: layers }, () =>
    random.shuffle([...law]).map((part) => {
      const load = (part / sum) * total;
      return Math.max(0, Math.round(load + Math.sqrt(load) * random.normal()));
    }),
  );
}
