/**
 * @file Where top-k, top-p and min-p cut a distribution, without sorting it.
 *
 * Tokens are ordered by logit, the likeliest first, equal ones by id. Each filter keeps a prefix
 * of that order, so all of them together amount to one cut: the last token kept. To find it, the
 * tokens are counted and their probabilities summed in buckets of equal logit range; only the
 * bucket in which the cut falls is sorted.
 */
import { ceilDiv } from "../base/index.ts";
import type { Sampling } from "./types.ts";

/** Tokens further below the likeliest (by a factor of 1e-20) take no part in filtered sampling. */
const rangeNats = 46;
/** Tokens to a bucket, on average, up to the greatest number of buckets. */
const bucketTokens = 16;
const bucketsMax = 4096;

/** exp(-k / 64) for the integers that `rangeNats` needs. */
const powers = Float64Array.from({ length: 64 * rangeNats + 2 }, (_, k) => Math.exp(-k / 64));

/** exp(-x) for x from 0 to `rangeNats`, to 2e-14: the mass of a token so far below the first. */
function massAt(x: number): number {
  const k = (x * 64) | 0;
  const r = k / 64 - x;
  const series = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120)))));
  return powers[k] * series;
}

/** The last token that is kept: so are all with a greater logit, or the same and a lower id. */
export interface Cut {
  readonly logit: number;
  readonly tokenId: number;
}

/** Finds cuts; one instance serves any number of rows, one after another. */
export class TokenFilter {
  private readonly counts: Int32Array;
  private readonly masses: Float64Array;
  private row: Float32Array = new Float32Array(0);
  private max = 0;
  private temperature = 1;
  private bucketsPerNat = 0;

  /** `vocabSize`: the rows' length. */
  constructor(vocabSize: number) {
    const buckets = Math.min(bucketsMax, ceilDiv(vocabSize, bucketTokens));
    this.counts = new Int32Array(buckets);
    this.masses = new Float64Array(buckets);
  }

  /**
   * The cut of `row`, whose greatest logit is `max`, under `sampling`'s temperature (above 0),
   * topK, topP and minP. O(row).
   */
  cut(row: Float32Array, max: number, sampling: Sampling): Cut {
    this.row = row;
    this.max = max;
    this.temperature = sampling.temperature;
    const { topK, topP, minP } = sampling;
    if (topK > 0 || topP < 1) this.fill();
    const byRank = topK > 0 ? this.cutAtRank(topK) : undefined;
    let cut = byRank?.cut ?? { logit: -Infinity, tokenId: row.length };
    if (topP < 1) {
      const byMass = this.cutAtMass(topP * (byRank?.mass ?? this.totalMass()));
      // Rounding may put the sum a hair below the mass that top-k left.
      if (precedes(byMass, cut)) cut = byMass;
    }
    return this.cutAtRatio(cut, minP);
  }

  /** Counts tokens and sums their unnormalised probabilities by bucket. */
  private fill(): void {
    const { row, max, counts, masses, temperature } = this;
    let min = max;
    for (let i = 0; i < row.length; i++) if (row[i] < min && row[i] !== -Infinity) min = row[i];
    const nats = Math.min(rangeNats, (max - min) / temperature);
    this.bucketsPerNat = nats > 0 ? (counts.length - 1) / nats : 0;
    counts.fill(0);
    masses.fill(0);
    const scale = this.bucketsPerNat;
    for (let i = 0; i < row.length; i++) {
      const below = (max - row[i]) / temperature;
      if (!(below <= nats)) continue;
      const bucket = (below * scale) | 0;
      counts[bucket]++;
      masses[bucket] += massAt(below);
    }
  }

  /** The cut after the `rank` likeliest, and the mass up to it; undefined where that is all. */
  private cutAtRank(rank: number): { cut: Cut; mass: number } | undefined {
    const { counts, masses } = this;
    let [before, mass] = [0, 0];
    for (let bucket = 0; bucket < counts.length; bucket++) {
      if (before + counts[bucket] < rank) {
        before += counts[bucket];
        mass += masses[bucket];
        continue;
      }
      const members = this.sorted(bucket);
      for (let i = 0; i < rank - before; i++) mass += this.massOf(members[i]);
      return { cut: this.cutAfter(members[rank - before - 1]), mass };
    }
    return undefined;
  }

  /** The cut after the fewest tokens whose masses reach `target`. */
  private cutAtMass(target: number): Cut {
    const { masses, counts } = this;
    let mass = 0;
    let last = 0;
    for (let bucket = 0; bucket < counts.length; bucket++) {
      if (counts[bucket] === 0) continue;
      last = bucket;
      if (mass + masses[bucket] < target) {
        mass += masses[bucket];
        continue;
      }
      const members = this.sorted(bucket);
      for (const tokenId of members) {
        mass += this.massOf(tokenId);
        if (mass >= target) return this.cutAfter(tokenId);
      }
      return this.cutAfter(members[members.length - 1]);
    }
    return this.cutAfter(this.sorted(last).at(-1)!);
  }

  /** `cut`, or an earlier one that drops tokens below `minP` times the greatest probability. */
  private cutAtRatio(cut: Cut, minP: number): Cut {
    if (minP === 0) return cut;
    const logit = this.max + this.temperature * Math.log(minP);
    return logit > cut.logit ? { logit, tokenId: this.row.length } : cut;
  }

  private cutAfter(tokenId: number): Cut {
    return { logit: this.row[tokenId], tokenId };
  }

  private totalMass(): number {
    let total = 0;
    for (const mass of this.masses) total += mass;
    return total;
  }

  private massOf(tokenId: number): number {
    return massAt((this.max - this.row[tokenId]) / this.temperature);
  }

  /** Token ids of a bucket in order. */
  private sorted(bucket: number): number[] {
    const { row, max, temperature, bucketsPerNat } = this;
    const members: number[] = [];
    for (let i = 0; i < row.length; i++) {
      const below = (max - row[i]) / temperature;
      if (below <= rangeNats && ((below * bucketsPerNat) | 0) === bucket) members.push(i);
    }
    return members.sort((x, y) => row[y] - row[x] || x - y);
  }
}

/** Whether `first` keeps fewer tokens than `second`. */
function precedes(first: Cut, second: Cut): boolean {
  return (
    first.logit > second.logit || (first.logit === second.logit && first.tokenId < second.tokenId)
  );
}
