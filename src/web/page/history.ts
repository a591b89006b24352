/**
 * @file What the charts draw, from the engine's states over time. Counters become rates by
 * differences; a restart, which sets counters back, begins a new history.
 */
import type { EngineStats } from "./api.ts";

/** Seconds that the charts show. */
export const shownS = 120;
/** Seconds between two points of a chart. */
const pointS = 0.5;
/** Seconds over which a rate is taken. */
const rateS = 2;
/** Seconds that the expert map covers, and between two of its snapshots. */
const expertWindowS = 30;
const expertStepS = 2;

/** The engine at one moment. */
export interface Point {
  /** Seconds, from an arbitrary origin. */
  readonly timeS: number;
  readonly running: number;
  readonly waiting: number;
  readonly blocksUsed: number;
  readonly blocksCached: number;
  readonly generatedPerS: number;
  readonly promptPerS: number;
  /** Share of the time that the engine computed, 0 to 1. */
  readonly busy: number;
}

/** Tokens that each expert received. */
export interface ExpertWindow {
  readonly layers: number;
  readonly experts: number;
  /** `[layers, experts]`. */
  readonly counts: readonly number[];
  /** Seconds that it covers; undefined: since the start. */
  readonly seconds: number | undefined;
}

interface Sample {
  readonly timeS: number;
  readonly stats: EngineStats;
}

/** The recent past of one engine. */
export class History {
  /** Oldest first, at most `shownS` old. */
  points: readonly Point[] = [];
  latest: EngineStats | undefined;
  private samples: Sample[] = [];
  private snapshots: { readonly timeS: number; readonly counts: readonly number[] }[] = [];

  /** Takes in a state; returns whether there is a new point to draw. */
  add(stats: EngineStats, timeS: number): boolean {
    if (this.latest && stats.generatedTokens < this.latest.generatedTokens) this.restart();
    this.latest = stats;
    this.samples.push({ timeS, stats });
    this.samples = this.samples.filter((sample) => sample.timeS > timeS - 2 * rateS);
    if (timeS - (this.snapshots.at(-1)?.timeS ?? -Infinity) >= expertStepS) {
      this.snapshots.push({ timeS, counts: stats.expertLoad.counts });
      this.snapshots = this.snapshots.filter((one) => one.timeS >= timeS - expertWindowS);
    }
    if (timeS - (this.points.at(-1)?.timeS ?? -Infinity) < pointS) return false;
    const kept = this.points.filter((point) => point.timeS >= timeS - shownS);
    this.points = [...kept, this.pointOf(stats, timeS)];
    return true;
  }

  /** Tokens per expert of the last seconds, or since the start where none came. */
  expertWindow(): ExpertWindow | undefined {
    if (!this.latest) return undefined;
    const { layers, experts, counts } = this.latest.expertLoad;
    const oldest = this.snapshots[0];
    const recent = counts.map((count, index) => count - (oldest.counts[index] ?? 0));
    if (!recent.some((count) => count > 0)) {
      return { layers, experts, counts, seconds: undefined };
    }
    const now = this.samples.at(-1)!.timeS;
    return { layers, experts, counts: recent, seconds: Math.max(1, now - oldest.timeS) };
  }

  private restart(): void {
    this.samples = [];
    this.snapshots = [];
  }

  private pointOf(stats: EngineStats, timeS: number): Point {
    const before = this.samples.find((sample) => sample.timeS >= timeS - rateS)!;
    const seconds = timeS - before.timeS;
    const perS = (now: number, then: number): number => (seconds > 0 ? (now - then) / seconds : 0);
    return {
      timeS,
      running: stats.running,
      waiting: stats.waiting,
      blocksUsed: stats.blocksUsed,
      blocksCached: stats.blocksCached,
      generatedPerS: perS(stats.generatedTokens, before.stats.generatedTokens),
      promptPerS: perS(stats.promptTokens, before.stats.promptTokens),
      busy: Math.min(1, perS(stats.busyMs, before.stats.busyMs) / 1000),
    };
  }
}
