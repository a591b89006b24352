/**
 * @file What an engine does next: a pure function from the state of its ranks to a plan.
 *
 * A step computes at most `tokenBudget` tokens. Sequences that decode come first (one token each,
 * with its drafts where there is room), then prompts in order of arrival, in chunks of what the
 * budget leaves, then new sequences are admitted in order of arrival while slots, blocks and budget
 * last. A new sequence gets blocks for all it has at once; a decoding one gets a block when it
 * crosses into it. When none is free, the youngest sequence is preempted: it gives up its blocks
 * and waits, to be computed again (mostly from the prefix cache). The oldest is never preempted,
 * so every sequence comes to its end.
 *
 * A sequence whose next block is being computed by another waits for that block instead of
 * computing it a second time; later arrivals may pass it meanwhile.
 *
 * Nothing here touches a clock, a model or memory: a simulator may drive it on a virtual clock.
 */
import { ceilDiv } from "../base/index.ts";
import type { PrefixMatch } from "./block-manager.ts";

/** Tokens in a block. */
export const blockTokens = 64;

/** What bounds a step of one rank. */
export interface SchedulerLimits {
  /** Most sequences that hold blocks at once. */
  readonly maxSequences: number;
  /** Most tokens computed in a step, drafts too. Above `maxSequences`, or prompts may starve. */
  readonly tokenBudget: number;
}

/** What the scheduler needs to know of a sequence. */
export interface SequenceView {
  /** Tokens known: prompt and answer. */
  readonly length: number;
  /** Tokens whose keys and values are in the cache; below `length`. */
  readonly computed: number;
  /** Drafted tokens beyond `length`, to be computed with the last one. */
  readonly drafts: number;
  /** Blocks held. */
  readonly blockCount: number;
}

/** One rank's state before a step. */
export interface RankState<S extends SequenceView> {
  readonly rank: number;
  /** Blocks that can be allocated. */
  readonly freeBlocks: number;
  /** Sequences with blocks, by arrival, oldest first. */
  readonly running: readonly S[];
  /** Sequences without, in the order in which they are to be admitted. */
  readonly waiting: readonly S[];
  /** What the cache holds of a waiting sequence, its last token excepted. */
  match(sequence: S): PrefixMatch;
  /** Blocks that become free when a running sequence gives up its own; at least so many. */
  releasable(sequence: S): number;
  /** Whether a running sequence is about to fill the block of this key. */
  isExpected(key: string): boolean;
}

/** A sequence's share of a step. */
export interface Share<S> {
  readonly sequence: S;
  /** Tokens to compute, from `computed` on; without the drafts. */
  readonly tokens: number;
  /** Drafted tokens to compute after them. */
  readonly drafts: number;
  /** Whether the last known token is among them, so that the next one can be drawn. */
  readonly draws: boolean;
}

/** A waiting sequence that starts to run. */
export interface Admission<S> {
  readonly sequence: S;
  /** Leading blocks to take from the cache. */
  readonly cachedBlocks: number;
}

/** What one rank does in a step, in this order: preempt, admit, compute. */
export interface RankPlan<S> {
  readonly rank: number;
  /** Youngest first. */
  readonly preempt: readonly S[];
  readonly admit: readonly Admission<S>[];
  readonly work: readonly Share<S>[];
}

/** The plans of all ranks; each depends on its own rank's state only. */
export function planStep<S extends SequenceView>(
  ranks: readonly RankState<S>[],
  limits: SchedulerLimits,
): RankPlan<S>[] {
  return ranks.map((state) => new RankPlanner(state, limits).plan());
}

class RankPlanner<S extends SequenceView> {
  private readonly state: RankState<S>;
  private readonly limits: SchedulerLimits;
  private readonly preempt: S[] = [];
  private readonly admit: Admission<S>[] = [];
  private readonly work: Share<S>[] = [];
  private free: number;
  private budget: number;
  /** Running sequences from this index on are preempted. */
  private end: number;

  constructor(state: RankState<S>, limits: SchedulerLimits) {
    this.state = state;
    this.limits = limits;
    this.free = state.freeBlocks;
    this.budget = limits.tokenBudget;
    this.end = state.running.length;
  }

  plan(): RankPlan<S> {
    const { running, rank } = this.state;
    for (let i = 0; i < this.end; i++) {
      if (running[i].length - running[i].computed === 1) this.decode(running[i], i);
    }
    this.grantDrafts();
    for (let i = 0; i < this.end; i++) {
      if (running[i].length - running[i].computed > 1) this.prefill(running[i]);
    }
    if (this.preempt.length === 0) this.admitWaiting();
    return { rank, preempt: this.preempt, admit: this.admit, work: this.work };
  }

  /** Plans one token of `running[index]`, preempting younger sequences where it needs a block. */
  private decode(sequence: S, index: number): void {
    if (this.budget < 1) return;
    const { running } = this.state;
    const blocks = Math.max(0, ceilDiv(sequence.length, blockTokens) - sequence.blockCount);
    while (this.free < blocks && this.end - 1 > index) {
      const victim = running[--this.end];
      this.preempt.push(victim);
      this.free += this.state.releasable(victim);
    }
    // Only younger sequences than this one could make room, and all have: it stays as it is.
    if (this.free < blocks) return;
    this.free -= blocks;
    this.budget--;
    this.work.push({ sequence, tokens: 1, drafts: 0, draws: true });
  }

  /** Adds drafts to the planned tokens. They are a bet, so they only take what is left over. */
  private grantDrafts(): void {
    for (let i = 0; i < this.work.length; i++) {
      const { sequence } = this.work[i];
      const { length, drafts } = sequence;
      const held = Math.max(sequence.blockCount, ceilDiv(length, blockTokens));
      const blocks = Math.max(0, ceilDiv(length + drafts, blockTokens) - held);
      if (drafts === 0 || drafts > this.budget || blocks > this.free) continue;
      this.free -= blocks;
      this.budget -= drafts;
      this.work[i] = { ...this.work[i], drafts };
    }
  }

  /** Plans the next chunk of a sequence whose blocks were all set aside when it was admitted. */
  private prefill(sequence: S): void {
    const remaining = sequence.length - sequence.computed;
    const tokens = Math.min(remaining, this.budget);
    if (tokens < 1) return;
    this.budget -= tokens;
    this.work.push({ sequence, tokens, drafts: 0, draws: tokens === remaining });
  }

  private admitWaiting(): void {
    const { running, waiting } = this.state;
    const { maxSequences } = this.limits;
    const expected = new Set<string>();
    for (const sequence of waiting) {
      const count = running.length + this.admit.length;
      if (this.budget < 1 || count >= maxSequences) return;
      const { blocks, idle, missing } = this.state.match(sequence);
      if (missing !== undefined) {
        if (expected.has(missing) || this.state.isExpected(missing)) continue;
        expected.add(missing);
      }
      const needed = ceilDiv(sequence.length, blockTokens) - blocks + idle;
      // One block a running sequence stays in reserve, so that it is not preempted at once.
      if (this.free - needed < count) return;
      this.free -= needed;
      const remaining = sequence.length - blocks * blockTokens;
      const tokens = Math.min(remaining, this.budget);
      this.budget -= tokens;
      this.admit.push({ sequence, cachedBlocks: blocks });
      this.work.push({ sequence, tokens, drafts: 0, draws: tokens === remaining });
    }
  }
}
