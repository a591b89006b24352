/**
 * @file Some ranks of one decode unit for some virtual seconds: sequences arrive with their cache, are
 * put on a rank by the decode balancer, are planned by the engine's scheduler and move on by one
 * token a step (more where drafts are right), which all ranks take together. The rest of the unit is taken to be like those ranks.
 */
import { type Random, VirtualClock } from "../base/index.ts";
import {
  assignDecode,
  balancedness,
  blockTokens,
  type DecodeLoad,
  planStep,
  type RankState,
  type SequenceView,
} from "../inference/planning.ts";
import { decodeStep } from "./decode.ts";
import { type Demand, drawRequest } from "./demand.ts";
import { type Deployment, memoryOf } from "./deployment.ts";
import { tokensPerStep } from "./estimate.ts";

/** Queued sequences that are looked at at once: those behind them don't pass. */
const turn = 32;

/** What happened on those ranks while they were watched. */
export interface DecodeSample {
  /** Milliseconds of each step by the tokens that a sequence got in it on average, sorted. */
  readonly tpotMs: number[];
  /** Tokens drawn by all ranks watched. */
  readonly tokens: number;
  readonly ranks: number;
  readonly seconds: number;
  /** Mean sequences, and cache tokens, of a rank. */
  readonly sequences: number;
  readonly kvTokens: number;
  /** Means over steps. */
  readonly balancedness: { readonly kvTokens: number; readonly requests: number };
  readonly preemptions: number;
  /** Sequences for which no rank has room at the end. */
  readonly waiting: number;
}

/** How to run it. */
export interface DecodeSetting {
  readonly deployment: Deployment;
  readonly demand: Demand;
  readonly random: Random;
  /** Of the whole unit. */
  readonly requestsPerS: number;
  /** Ranks to simulate. */
  readonly ranks: number;
  readonly sequencesMost: number;
  /** Share of the drafts that are right; the deployment says how many there are. */
  readonly accepted: number;
  readonly warmUpS: number;
  readonly seconds: number;
}

interface Answer extends SequenceView {
  length: number;
  computed: number;
  blockCount: number;
  readonly drafts: number;
  /** Length at which it ends. */
  readonly end: number;
}

interface Rank {
  running: Answer[];
  waiting: Answer[];
  freeBlocks: number;
  kvTokens: number;
}

/**
 * Sequences a GPU at which as many end as come: the least n with n = rate x answer x step(n), or
 * `most` where the unit can't keep up.
 */
export function steadySequences(
  deployment: Deployment,
  demand: Demand,
  requestsPerS: number,
  most: number,
  accepted: number,
): number {
  const { promptTokens, outputTokens, outputSigma } = demand;
  // A glance finds answers in proportion to their length, at half of it on average.
  const context = promptTokens + (outputTokens * Math.exp(outputSigma ** 2)) / 2;
  const perRank = requestsPerS / deployment.ranks;
  const perStep = tokensPerStep(deployment.drafts, accepted);
  const excess = (n: number) => {
    const { us } = decodeStep(deployment, { sequences: n, kvTokens: n * context });
    return (perRank * outputTokens * (us / 1e6)) / perStep - n;
  };
  if (most < 1 || excess(most) > 0) return Math.max(1, most);
  if (excess(1) <= 0) return 1;
  let [low, high] = [1, most];
  for (let i = 0; i < 24; i++) {
    const middle = (low + high) / 2;
    if (excess(middle) > 0) low = middle;
    else high = middle;
  }
  return high;
}

/** Runs the ranks, from a state as a glance at the steady one finds it. */
export function runDecodeUnit(setting: DecodeSetting): DecodeSample {
  return new DecodeUnit(setting).run();
}

class DecodeUnit {
  private readonly setting: DecodeSetting;
  private readonly clock = new VirtualClock();
  private readonly ranks: Rank[];
  private readonly blocksMost: number;
  private readonly queue: Answer[] = [];
  private readonly tpotMs: number[] = [];
  private tokens = 0;
  private preemptions = 0;
  private isBegun = false;
  private sums = { sequences: 0, kvTokens: 0, requests: 0, kv: 0 };

  constructor(setting: DecodeSetting) {
    this.setting = setting;
    const { deployment, demand, random, requestsPerS, sequencesMost, accepted } = setting;
    const { kvTokens } = memoryOf(deployment, "decode");
    this.blocksMost = Math.floor(kvTokens / blockTokens);
    this.ranks = Array.from({ length: setting.ranks }, () => ({
      running: [],
      waiting: [],
      freeBlocks: this.blocksMost,
      kvTokens: 0,
    }));
    const steady = steadySequences(deployment, demand, requestsPerS, sequencesMost, accepted);
    for (let i = 0; i < Math.round(steady * setting.ranks); i++) {
      const { promptTokens, outputTokens } = drawRequest(demand, random, true);
      const begun = Math.floor(random.uniform() * outputTokens);
      this.queue.push(answerOf(promptTokens, outputTokens, begun, deployment.drafts));
    }
  }

  run(): DecodeSample {
    const { warmUpS, seconds, ranks } = this.setting;
    this.place();
    this.arriveLater();
    this.step();
    this.clock.advance((warmUpS + seconds) * 1e3);
    const steps = Math.max(1, this.tpotMs.length);
    const { sequences, kvTokens, requests, kv } = this.sums;
    return {
      tpotMs: this.tpotMs.sort((a, b) => a - b),
      tokens: this.tokens,
      ranks,
      seconds,
      sequences: sequences / steps / ranks,
      kvTokens: kvTokens / steps / ranks,
      balancedness: { kvTokens: kv / steps, requests: requests / steps },
      preemptions: this.preemptions,
      waiting: this.queue.length,
    };
  }

  private arriveLater(): void {
    const { random, requestsPerS, ranks, deployment, demand } = this.setting;
    const rate = (requestsPerS * ranks) / deployment.ranks;
    const gapMs = (-Math.log(1 - random.uniform()) / rate) * 1e3;
    this.clock.after(gapMs, () => {
      const { promptTokens, outputTokens } = drawRequest(demand, random);
      this.queue.push(answerOf(promptTokens, outputTokens, 0, deployment.drafts));
      this.place();
      this.arriveLater();
    });
  }

  /** Hands queued sequences to ranks, in order of arrival, while one has room. */
  private place(): void {
    const { sequencesMost } = this.setting;
    const room = this.blocksMost * blockTokens;
    if (this.queue.length === 0) return;
    const loads = this.ranks.map(
      ({ running, waiting, kvTokens }): DecodeLoad => ({
        kvTokens: kvTokens + waiting.reduce((sum, { length }) => sum + length, 0),
        requests: running.length + waiting.length,
        kvTokensMax: room,
        requestsMax: sequencesMost,
      }),
    );
    const first = this.queue.slice(0, this.isBegun ? turn : this.queue.length);
    const { rankOf } = assignDecode(
      loads,
      first.map(({ end }) => ({ kvTokens: end })),
    );
    const left = first.filter((answer, i) => {
      if (rankOf[i] >= 0) this.ranks[rankOf[i]].waiting.push(answer);
      return rankOf[i] < 0;
    });
    this.queue.splice(0, first.length, ...left);
    this.isBegun = true;
  }

  private step(): void {
    const { deployment, sequencesMost } = this.setting;
    const plans = planStep(this.ranks.map(stateOf), {
      maxSequences: sequencesMost,
      tokenBudget: sequencesMost * (blockTokens + 1),
    });
    let [sequences, kvMost] = [0, 0];
    for (const { rank, preempt, admit, work } of plans) {
      const own = this.ranks[rank];
      for (const answer of preempt) this.preempt(own, answer);
      for (const { sequence } of admit) admitTo(own, sequence);
      for (const { sequence, drafts } of work) grow(own, sequence, drafts);
      sequences += work.length;
      kvMost = Math.max(kvMost, own.kvTokens);
    }
    if (sequences === 0) {
      this.clock.after(1, () => this.step());
      return;
    }
    const { us } = decodeStep(deployment, {
      sequences: Math.max(1, sequences / this.ranks.length),
      kvTokens: kvMost,
    });
    this.clock.after(us / 1e3, () => {
      let drawn = 0;
      for (const { rank, work } of plans) {
        const own = this.ranks[rank];
        let ended = false;
        for (const { sequence, drafts } of work) {
          const tokens = 1 + this.rightDrafts(drafts);
          drawn += tokens;
          own.kvTokens += tokens;
          sequence.length += tokens;
          sequence.computed = sequence.length - 1;
          ended ||= sequence.length >= sequence.end;
        }
        if (ended) release(own);
      }
      this.observe(us / 1e3, sequences, drawn);
      this.place();
      this.step();
    });
  }

  /** How many of so many drafts are right before the first that is wrong. */
  private rightDrafts(drafts: number): number {
    const { random, accepted } = this.setting;
    let right = 0;
    while (right < drafts && random.uniform() < accepted) right++;
    return right;
  }

  private observe(ms: number, sequences: number, tokens: number): void {
    if (this.clock.now() < this.setting.warmUpS * 1e3) return;
    this.tpotMs.push((ms * sequences) / tokens);
    this.tokens += tokens;
    const kv = this.ranks.map((rank) => rank.kvTokens);
    const requests = this.ranks.map((rank) => rank.running.length);
    this.sums.sequences += sequences;
    this.sums.kvTokens += kv.reduce((sum, one) => sum + one, 0);
    this.sums.kv += balancedness(kv);
    this.sums.requests += balancedness(requests);
  }

  /** Its cache goes back to storage, and comes from there again. */
  private preempt(rank: Rank, answer: Answer): void {
    this.preemptions++;
    rank.running.splice(rank.running.indexOf(answer), 1);
    rank.freeBlocks += answer.blockCount;
    rank.kvTokens -= answer.computed;
    answer.blockCount = 0;
    answer.computed = 0;
    rank.waiting.unshift(answer);
  }
}

function answerOf(
  promptTokens: number,
  outputTokens: number,
  begun: number,
  drafts: number,
): Answer {
  // Prefill drew the first token.
  const length = promptTokens + 1 + begun;
  return { length, computed: 0, blockCount: 0, drafts, end: promptTokens + 1 + outputTokens };
}

function admitTo(rank: Rank, answer: Answer): void {
  rank.waiting.splice(rank.waiting.indexOf(answer), 1);
  rank.running.push(answer);
  rank.kvTokens += answer.length - 1;
  answer.computed = answer.length - 1;
}

/** The blocks that the next token and its drafts cross into, if any; for a new sequence all of them. */
function grow(rank: Rank, answer: Answer, drafts: number): void {
  const blocks = Math.ceil((answer.length + drafts) / blockTokens);
  rank.freeBlocks -= Math.max(0, blocks - answer.blockCount);
  answer.blockCount = Math.max(blocks, answer.blockCount);
}

/** Lets go of the sequences that are complete. */
function release(rank: Rank): void {
  rank.running = rank.running.filter((answer) => {
    if (answer.length < answer.end) return true;
    rank.freeBlocks += answer.blockCount;
    rank.kvTokens -= answer.computed;
    return false;
  });
}

/** What the engine's scheduler sees; a new sequence's full blocks have come with it. */
function stateOf(rank: Rank, index: number): RankState<Answer> {
  return {
    rank: index,
    freeBlocks: rank.freeBlocks,
    running: rank.running,
    waiting: rank.waiting,
    match: ({ length }) => {
      const blocks = Math.floor((length - 1) / blockTokens);
      return { blocks, idle: blocks, missing: undefined };
    },
    releasable: ({ blockCount }) => blockCount,
    isExpected: () => false,
  };
}
