/**
 * @file One prefill unit for some virtual seconds: requests come, read their cached prefix, are put on a
 * rank by the prefill balancer, are planned by the engine's scheduler, computed in steps that all
 * ranks take together, and leave for decode.
 */
import { type Random, VirtualClock } from "../base/index.ts";
import {
  assignPrefill,
  attentionWork,
  balancedness,
  blockTokens,
  type PrefillLoad,
  planStep,
  type RankState,
  type SequenceView,
} from "../inference/planning.ts";
import { type Demand, drawRequest } from "./demand.ts";
import { type Deployment, memoryOf } from "./deployment.ts";
import { prefillStep } from "./prefill.ts";

/** What happened in the unit while it was watched. */
export interface PrefillSample {
  /** Milliseconds from arrival to the first token, cache on the decode node, sorted. */
  readonly ttftMs: number[];
  readonly computedTokens: number;
  readonly inputTokens: number;
  readonly cachedTokens: number;
  readonly requests: number;
  readonly seconds: number;
  /** Over ranks, of all work assigned. */
  readonly balancedness: PrefillLoad;
  /** Requests that wait at the end. */
  readonly waiting: number;
  /** Share of the tokens that came which were computed; 1 unless the queue is long and grows. */
  readonly served: number;
}

/** How to run it. */
export interface PrefillSetting {
  readonly deployment: Deployment;
  readonly demand: Demand;
  readonly random: Random;
  readonly requestsPerS: number;
  /** Most tokens a rank computes in a step. */
  readonly tokenBudget: number;
  readonly storageGBs: number;
  readonly warmUpS: number;
  readonly seconds: number;
}

interface Prompt extends SequenceView {
  length: number;
  computed: number;
  blockCount: number;
  readonly drafts: number;
  readonly cachedBlocks: number;
  readonly arrivedMs: number;
}

interface Rank {
  running: Prompt[];
  waiting: Prompt[];
  freeBlocks: number;
  /** What it has to compute yet. */
  attentionWork: number;
  tokens: number;
}

/** A queue of so many of the requests of a sample is no chance. */
const behindShare = 0.5;

/** Runs a unit, from empty through a warm-up. */
export function runPrefillUnit(setting: PrefillSetting): PrefillSample {
  return new PrefillUnit(setting).run();
}

class PrefillUnit {
  private readonly setting: PrefillSetting;
  private readonly clock = new VirtualClock();
  private readonly ranks: Rank[];
  private readonly assigned: { attentionWork: number; tokens: number }[];
  private readonly ttftMs: number[] = [];
  private isStepping = false;
  private computedTokens = 0;
  private inputTokens = 0;
  private cachedTokens = 0;
  private requests = 0;

  constructor(setting: PrefillSetting) {
    this.setting = setting;
    const { deployment } = setting;
    const freeBlocks = Math.floor(memoryOf(deployment, "prefill").kvTokens / blockTokens);
    this.ranks = Array.from({ length: deployment.ranks }, () => ({
      running: [],
      waiting: [],
      freeBlocks,
      attentionWork: 0,
      tokens: 0,
    }));
    this.assigned = this.ranks.map(() => ({ attentionWork: 0, tokens: 0 }));
  }

  run(): PrefillSample {
    const { warmUpS, seconds } = this.setting;
    this.arriveLater();
    this.clock.advance((warmUpS + seconds) * 1e3);
    const waiting = this.ranks.reduce((sum, rank) => sum + rank.waiting.length, 0);
    const fresh = this.inputTokens - this.cachedTokens;
    const isBehind = waiting > this.requests * behindShare;
    const of = (key: keyof PrefillLoad) => balancedness(this.assigned.map((load) => load[key]));
    return {
      ttftMs: this.ttftMs.sort((a, b) => a - b),
      computedTokens: this.computedTokens,
      inputTokens: this.inputTokens,
      cachedTokens: this.cachedTokens,
      requests: this.requests,
      seconds,
      balancedness: { attentionWork: of("attentionWork"), tokens: of("tokens") },
      waiting,
      served: isBehind ? Math.min(1, this.computedTokens / fresh) : 1,
    };
  }

  private get isWatched(): boolean {
    return this.clock.now() >= this.setting.warmUpS * 1e3;
  }

  private arriveLater(): void {
    const { random, requestsPerS } = this.setting;
    const gapMs = (-Math.log(1 - random.uniform()) / requestsPerS) * 1e3;
    this.clock.after(gapMs, () => {
      this.arrive();
      this.arriveLater();
    });
  }

  private arrive(): void {
    const { demand, random, deployment, storageGBs } = this.setting;
    const { promptTokens, cachedTokens } = drawRequest(demand, random);
    const prompt: Prompt = {
      length: promptTokens,
      computed: 0,
      blockCount: 0,
      drafts: 0,
      cachedBlocks: cachedTokens / blockTokens,
      arrivedMs: this.clock.now(),
    };
    if (this.isWatched) {
      this.requests++;
      this.inputTokens += promptTokens;
      this.cachedTokens += cachedTokens;
    }
    const perGpu = (storageGBs / deployment.hw.gpusPerNode) * 1e6;
    const readMs = (cachedTokens * deployment.arch.kvBytesPerToken) / perGpu;
    this.clock.after(readMs, () => this.enqueue(prompt));
  }

  private enqueue(prompt: Prompt): void {
    const cached = prompt.cachedBlocks * blockTokens;
    const tokens = prompt.length - cached;
    const load = { tokens, attentionWork: attentionWork(tokens, cached) };
    const [rank] = assignPrefill(this.ranks, [load]).rankOf;
    const own = this.ranks[rank];
    own.waiting.push(prompt);
    own.tokens += load.tokens;
    own.attentionWork += load.attentionWork;
    if (this.isWatched) {
      this.assigned[rank].tokens += load.tokens;
      this.assigned[rank].attentionWork += load.attentionWork;
    }
    if (!this.isStepping) this.step();
  }

  /** Plans a step of all ranks, lets its time pass, and takes the next one if there is work. */
  private step(): void {
    const { deployment, tokenBudget } = this.setting;
    const plans = planStep(this.ranks.map(stateOf), { maxSequences: 256, tokenBudget });
    let [tokens, total, keys, expanded, prompts] = [0, 0, 0, 0, 0];
    for (const { rank, admit, work } of plans) {
      for (const { sequence } of admit) this.admit(this.ranks[rank], sequence);
      let own = { tokens: 0, keys: 0, expanded: 0, prompts: 0 };
      for (const { sequence, tokens: count, draws } of work) {
        own = {
          tokens: own.tokens + count,
          keys: own.keys + attentionWork(count, sequence.computed),
          expanded: own.expanded + sequence.computed + count,
          prompts: own.prompts + (draws ? 1 : 0),
        };
      }
      total += own.tokens;
      tokens = Math.max(tokens, own.tokens);
      keys = Math.max(keys, own.keys);
      expanded = Math.max(expanded, own.expanded);
      prompts = Math.max(prompts, own.prompts);
    }
    this.isStepping = total > 0;
    if (total === 0) return;
    const meanTokens = total / deployment.ranks;
    const { us } = prefillStep(deployment, { tokens, keys, expanded, prompts, meanTokens });
    this.observe(us / 1e3, total);
    this.clock.after(us / 1e3, () => {
      for (const { rank, work } of plans) {
        const own = this.ranks[rank];
        for (const { sequence, tokens: count } of work) {
          own.tokens -= count;
          own.attentionWork -= attentionWork(count, sequence.computed);
          sequence.computed += count;
          if (sequence.computed === sequence.length) this.finish(own, sequence);
        }
      }
      this.step();
    });
  }

  /** Counts the part of a step that begins now which lies in the time watched. */
  private observe(stepMs: number, tokens: number): void {
    const { warmUpS, seconds } = this.setting;
    const [from, to] = [warmUpS * 1e3, (warmUpS + seconds) * 1e3];
    const now = this.clock.now();
    const watched = Math.max(0, Math.min(to, now + stepMs) - Math.max(from, now));
    this.computedTokens += (tokens * watched) / stepMs;
  }

  private admit(rank: Rank, prompt: Prompt): void {
    rank.waiting.splice(rank.waiting.indexOf(prompt), 1);
    rank.running.push(prompt);
    prompt.computed = prompt.cachedBlocks * blockTokens;
    prompt.blockCount = Math.ceil(prompt.length / blockTokens);
    rank.freeBlocks -= prompt.blockCount;
  }

  private finish(rank: Rank, prompt: Prompt): void {
    rank.running.splice(rank.running.indexOf(prompt), 1);
    rank.freeBlocks += prompt.blockCount;
    if (!this.isWatched) return;
    const { hw, arch } = this.setting.deployment;
    const transferMs = (prompt.length * arch.kvBytesPerToken) / (hw.nicGBs * 1e6);
    this.ttftMs.push(this.clock.now() + transferMs - prompt.arrivedMs);
  }
}

/** What the engine's scheduler sees; prefixes come from storage, and nobody waits for another's. */
function stateOf(rank: Rank, index: number): RankState<Prompt> {
  return {
    rank: index,
    freeBlocks: rank.freeBlocks,
    running: rank.running,
    waiting: rank.waiting,
    match: ({ cachedBlocks }) => ({ blocks: cachedBlocks, idle: cachedBlocks, missing: undefined }),
    releasable: ({ blockCount }) => blockCount,
    isExpected: () => false,
  };
}
