/**
 * @file The engine of one rank: `step` plans, computes, draws and reports. One thread uses it.
 *
 * The order of a step: the scheduler's plan is applied (preempt, admit, allocate); one forward pass
 * computes all shares; the sampler draws; blocks that are full are published to the prefix cache;
 * the MTP layer guesses each sequence's token after the next, to be verified in the next step. A
 * guess is accepted if and only if the sampler, given the model's own logits, draws that very
 * token: answers are the same with and without it. A rejected guess leaves a row in the cache that
 * the next step overwrites.
 */
import { assert, BaleenError, type Clock, realClock } from "../base/index.ts";
import type { DraftSequence, ForwardResult, KvCache, LanguageModel } from "../model/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { BlockManager } from "./block-manager.ts";
import { blocksFor } from "./cache-size.ts";
import { DraftPolicy } from "./draft-policy.ts";
import { checkRequest, engineError } from "./errors.ts";
import { Sampler } from "./sampler.ts";
import { blockTokens, planStep, type RankPlan, type RankState, type Share } from "./scheduler.ts";
import { type Detokenizer, Sequence } from "./sequence.ts";
import type { EngineStats, FinishReason, GenerationEvent, GenerationRequest } from "./types.ts";

/** How an engine runs; every field has a default. */
export interface EngineOptions {
  /** Most sequences in a step; 256 unless given. */
  readonly maxSequences?: number | undefined;
  /** Most tokens in a step; 512 unless given, and always above `maxSequences`. */
  readonly tokenBudget?: number | undefined;
  /** Most requests that wait; 1024 unless given. */
  readonly maxWaiting?: number | undefined;
  /** Longest context; the model's own, or what the cache holds, where those are shorter. */
  readonly maxContext?: number | undefined;
  /** Cache blocks; as many as `kvBytes` hold unless given. */
  readonly blocks?: number | undefined;
  /** Memory for the cache; a quarter of what is available unless given. */
  readonly kvBytes?: number | undefined;
  /**
   * Draft with the model's MTP layer, if it has one: where that is found to pay (true, unless
   * given), always, or never (false). Answers are the same.
   */
  readonly mtp?: boolean | "always" | undefined;
  /** Keep blocks for prompts that start the same; true unless given. */
  readonly prefixCache?: boolean | undefined;
  /** Ids that may be drawn: the tokenizer's, where the model's output has more rows. */
  readonly vocabSize?: number | undefined;
  readonly clock?: Clock | undefined;
}

/** A share of a step after its forward pass. */
interface Outcome {
  readonly sequence: Sequence;
  /** First of the share's rows in `hidden`. */
  readonly hiddenStart: number;
  /** Position of that row. */
  readonly position: number;
  /** Rows whose tokens stand; rows of rejected drafts do not count. */
  readonly rows: number;
  readonly draws: boolean;
}

/** Generates for many requests at once over one model. */
export class Engine {
  /** Cache blocks in all. */
  readonly blocksTotal: number;
  /** Most tokens of prompt and answer together. */
  readonly maxContext: number;
  /** Ids that may be drawn. */
  readonly vocabSize: number;
  private readonly model: LanguageModel;
  private readonly detokenizer: Detokenizer;
  private readonly clock: Clock;
  private readonly limits: { maxSequences: number; tokenBudget: number; maxWaiting: number };
  private readonly mtp: boolean;
  private readonly draftPolicy: DraftPolicy | undefined;
  private readonly prefixCache: boolean;
  private readonly cache: KvCache;
  private readonly blocks: BlockManager;
  private readonly sampler: Sampler;
  private readonly eosTokenIds: ReadonlySet<number>;
  private readonly open = new Map<string, Sequence>();
  private readonly running: Sequence[] = [];
  private readonly waiting: Sequence[] = [];
  private events: GenerationEvent[] = [];
  private arrivals = 0;
  private readonly totals = {
    steps: 0,
    promptTokens: 0,
    cachedPromptTokens: 0,
    generatedTokens: 0,
    preemptions: 0,
    draftedTokens: 0,
    acceptedTokens: 0,
    busyMs: 0,
  };
  private readonly finished: Record<FinishReason, number> = {
    stop: 0,
    length: 0,
    cancelled: 0,
    error: 0,
  };

  /** Opens the cache. Errors: BaleenError `cache-too-small`. The model stays the caller's. */
  constructor(model: LanguageModel, detokenizer: Detokenizer, options: EngineOptions = {}) {
    const { maxSequences = 256, tokenBudget = 512, maxWaiting = 1024 } = options;
    assert(maxSequences >= 1, () => `maxSequences: got ${maxSequences}, wanted at least 1`);
    this.model = model;
    this.detokenizer = detokenizer;
    this.clock = options.clock ?? realClock;
    this.limits = {
      maxSequences,
      tokenBudget: Math.max(tokenBudget, maxSequences + 1),
      maxWaiting,
    };
    this.mtp = model.canDraft && options.mtp !== false;
    this.draftPolicy = options.mtp === "always" ? undefined : new DraftPolicy();
    this.prefixCache = options.prefixCache ?? true;
    const maxContext = Math.min(model.maxContext, options.maxContext ?? model.maxContext);
    const { kvBytesPerPage: bytesPerBlock } = model;
    this.blocksTotal =
      options.blocks ??
      blocksFor({ bytesPerBlock, maxContext, maxSequences, kvBytes: options.kvBytes });
    this.maxContext = Math.min(maxContext, this.blocksTotal * blockTokens);
    this.vocabSize = Math.min(model.vocabSize, options.vocabSize ?? model.vocabSize);
    this.cache = model.openCache(this.blocksTotal);
    this.blocks = new BlockManager(this.blocksTotal);
    this.sampler = new Sampler(this.vocabSize);
    this.eosTokenIds = new Set(model.eosTokenIds);
  }

  /** Whether `step` has anything to do or to report. */
  get hasWork(): boolean {
    return this.open.size > 0 || this.events.length > 0;
  }

  /**
   * Queues a request whose id no open request has; its events come from the steps that follow.
   * Errors: BaleenError `invalid-request`, `prompt-too-long`, `queue-full`; nothing is queued then.
   */
  add(request: GenerationRequest): void {
    checkRequest(request, { vocabSize: this.model.vocabSize, maxContext: this.maxContext });
    if (this.open.has(request.id)) {
      throw engineError("invalid-request", `id ${request.id} is in use: give another one.`);
    }
    if (this.waiting.length >= this.limits.maxWaiting) {
      throw engineError("queue-full", `${this.waiting.length} requests wait: try again later.`);
    }
    const ownStops = request.stopTokenIds;
    const sequence = new Sequence(request, {
      arrival: this.arrivals++,
      arrivedMs: this.clock.now(),
      maxContext: this.maxContext,
      stopTokenIds: new Set(request.ignoreEos ? ownStops : [...this.eosTokenIds, ...ownStops]),
      decoder: this.detokenizer.streamDecoder(),
      keyed: this.prefixCache,
    });
    this.open.set(request.id, sequence);
    this.waiting.push(sequence);
  }

  /** Ends a request: its blocks are free on return, its last event comes with the next step. */
  cancel(id: string): void {
    const sequence = this.open.get(id);
    if (!sequence) return;
    sequence.end("cancelled");
    this.retire(sequence);
  }

  /** Computes a step for the sequences that are due, and returns one event for each that moved. */
  step(): GenerationEvent[] {
    const started = this.clock.now();
    if (this.open.size > 0) {
      const [plan] = planStep([this.rankState()], this.limits);
      const moves = plan.work.length + plan.preempt.length;
      assert(moves > 0, "step: sequences are open but the plan moves none");
      this.apply(plan);
      if (plan.work.length > 0) this.compute(plan.work);
      this.totals.steps++;
    }
    const { events } = this;
    this.events = [];
    this.totals.busyMs += this.clock.now() - started;
    return events;
  }

  /** The state and the totals now. */
  stats(): EngineStats {
    const { blocks, totals, model } = this;
    return {
      running: this.running.length,
      waiting: this.waiting.length,
      blocksTotal: blocks.total,
      blocksUsed: blocks.used,
      blocksCached: blocks.cached,
      ...totals,
      finished: { ...this.finished },
      expertLoad: { ...model.expertLoad, counts: model.expertLoad.counts.slice() },
    };
  }

  /** Throws unless the block books balance with what the sequences hold; for tests. */
  check(): void {
    this.blocks.check();
    const held = new Int32Array(this.blocksTotal);
    for (const sequence of this.open.values()) {
      for (const page of sequence.blockTable) held[page]++;
    }
    held.forEach((count, page) => {
      const references = this.blocks.referencesOf(page);
      assert(
        count === references,
        () => `page ${page}: ${references} references, ${count} holders`,
      );
    });
    const announced = this.running.some((s) => s.announcedBlocks > s.publishedBlocks);
    assert(announced || this.blocks.expectedCount === 0, "a block is expected from nobody");
  }

  private rankState(): RankState<Sequence> {
    const { blocks } = this;
    return {
      rank: 0,
      freeBlocks: blocks.free,
      running: this.running,
      waiting: this.waiting,
      match: (sequence) => {
        const keys = sequence.blockKeys();
        // The last token is always computed: its logits are needed.
        const limit = Math.min(keys.length, Math.floor((sequence.length - 1) / blockTokens));
        return blocks.match(keys, limit);
      },
      releasable: (sequence) =>
        sequence.blockTable.reduce((n, page) => n + Number(blocks.referencesOf(page) === 1), 0),
      isExpected: (key) => blocks.isExpected(key),
    };
  }

  private apply(plan: RankPlan<Sequence>): void {
    const { blocks } = this;
    for (const sequence of plan.preempt) {
      this.running.splice(this.running.indexOf(sequence), 1);
      this.releaseBlocks(sequence);
      insertByArrival(this.waiting, sequence);
      this.totals.preemptions++;
    }
    // All prefixes are taken before any block is allocated, which might evict one of them.
    for (const { sequence, cachedBlocks } of plan.admit) {
      const keys = sequence.blockKeys();
      for (let i = 0; i < cachedBlocks; i++) sequence.addBlock(blocks.take(keys[i]));
      sequence.computed = cachedBlocks * blockTokens;
      sequence.publishedBlocks = cachedBlocks;
      for (let i = cachedBlocks; i < keys.length; i++) blocks.expect(keys[i]);
      sequence.announcedBlocks = keys.length;
      this.waiting.splice(this.waiting.indexOf(sequence), 1);
      insertByArrival(this.running, sequence);
      if (sequence.queueMs !== undefined) continue;
      sequence.admit(this.clock.now(), sequence.computed);
      this.totals.promptTokens += sequence.length;
      this.totals.cachedPromptTokens += sequence.computed;
    }
    for (const { sequence } of plan.admit) this.growTo(sequence, sequence.length);
    for (const { sequence, tokens, drafts } of plan.work) {
      this.growTo(sequence, sequence.computed + tokens + drafts);
    }
  }

  private growTo(sequence: Sequence, tokens: number): void {
    while (sequence.blockCount * blockTokens < tokens) sequence.addBlock(this.blocks.allocate());
  }

  private compute(work: readonly Share<Sequence>[]): void {
    const startedMs = this.clock.now();
    const generatedBefore = this.totals.generatedTokens;
    const drawing = work.reduce((count, { draws }) => count + Number(draws), 0);
    const guesses = this.mtp && drawing > 0 && (this.draftPolicy?.shouldGuess(drawing) ?? true);
    const result = this.guarded(work, () =>
      this.model.forward(
        this.cache,
        work.map(({ sequence, tokens, drafts, draws }) => ({
          tokens: sequence.tokensOf(sequence.computed, sequence.computed + tokens + drafts),
          position: sequence.computed,
          blockTable: sequence.blockTable,
          logitRows: draws ? 1 + drafts : 0,
        })),
      ),
    );
    if (!result) return;
    const outcomes = this.drawAll(work, result).filter(({ sequence }) => !this.failed(sequence));
    const drafting = outcomes.filter((outcome) => this.needsDraftPass(outcome));
    if (this.mtp && drafting.length > 0) this.draftAll(drafting, guesses);
    for (const { sequence } of outcomes) {
      if (!this.failed(sequence)) this.publish(sequence);
    }
    for (const { sequence } of work) this.report(sequence);
    // Steps that prefill, or that change from one way to the other, tell nothing of either.
    if (!this.mtp || drawing < work.length) return;
    if (!work.every(({ drafts }) => drafts === Number(guesses))) return;
    const generated = this.totals.generatedTokens - generatedBefore;
    this.draftPolicy?.observe(drawing, guesses, generated, this.clock.now() - startedMs);
  }

  /** The result of `run`, or undefined if it threw: then each request of `work` ended with that. */
  private guarded<T>(work: readonly { sequence: Sequence }[], run: () => T): T | undefined {
    try {
      return run();
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      const message = `The model failed in a step: ${reason}`;
      for (const { sequence } of work) sequence.end("error", { code: "model-failed", message });
      for (const { sequence } of work) this.report(sequence);
      return undefined;
    }
  }

  /** Draws for every share, and moves the sequences on by the rows that stand. */
  private drawAll(work: readonly Share<Sequence>[], { logits }: ForwardResult): Outcome[] {
    let [row, hiddenStart] = [0, 0];
    return work.map(({ sequence, tokens, drafts, draws }) => {
      const position = sequence.computed;
      let rows = tokens;
      if (draws) rows += this.drawFor(sequence, drafts, logits, row);
      const outcome = { sequence, hiddenStart, position, rows, draws };
      sequence.computed += rows;
      row += draws ? 1 + drafts : 0;
      hiddenStart += tokens + drafts;
      return outcome;
    });
  }

  /** Draws from the logits row of the last token, then from a draft's; returns drafts accepted. */
  private drawFor(sequence: Sequence, drafts: number, logits: Tensor<"f32">, row: number): number {
    const draft = drafts > 0 ? sequence.draft : -1;
    this.totals.draftedTokens += drafts;
    try {
      this.drawOne(sequence, rowOf(logits, row));
      if (sequence.finish || drafts === 0) return 0;
      if (sequence.tokensOf(sequence.length - 1, sequence.length)[0] !== draft) return 0;
      this.totals.acceptedTokens++;
      this.drawOne(sequence, rowOf(logits, row + 1));
      return 1;
    } catch (error) {
      sequence.end("error", { code: codeOf(error), message: (error as Error).message });
      return 0;
    }
  }

  private drawOne(sequence: Sequence, row: Float32Array): void {
    const { sampling, logprobs } = sequence.request;
    const token = this.sampler.draw(row, sampling, sequence.generated, sequence.history);
    const logprob =
      logprobs === undefined ? undefined : this.sampler.logprobs(row, token, logprobs);
    sequence.accept(token, logprob);
    this.totals.generatedTokens++;
  }

  /** Whether the MTP layer's cache still needs the rows of this step. */
  private needsDraftPass({ sequence }: Outcome): boolean {
    if (!sequence.finish) return true;
    return Math.floor(sequence.computed / blockTokens) > sequence.publishedBlocks;
  }

  /**
   * Writes the MTP layer's cache for all rows that stand, so that a later step can guess, and
   * guesses the next tokens where that is wanted.
   */
  private draftAll(outcomes: readonly Outcome[], guesses: boolean): void {
    const calls = outcomes.map((outcome): DraftSequence => {
      const { sequence, hiddenStart, position, rows, draws } = outcome;
      const { blockTable, finish, remaining } = sequence;
      const nextTokens = sequence.tokensOf(position + 1, position + rows + 1);
      const guess = guesses && draws && !finish && remaining >= 2;
      return { nextTokens, position, hiddenStart, blockTable, guess };
    });
    const logits = this.guarded(outcomes, () => this.model.draft(this.cache, calls));
    if (!logits) return;
    let row = 0;
    outcomes.forEach(({ sequence }, i) => {
      if (calls[i].guess) this.guess(sequence, rowOf(logits, row++));
    });
  }

  private guess(sequence: Sequence, row: Float32Array): void {
    const { request, generated, history } = sequence;
    try {
      sequence.setDraft(this.sampler.draw(row, request.sampling, generated, history));
    } catch (error) {
      // A guess that can not be made costs a step, not the answer.
      if (codeOf(error) !== "bad-logits") throw error;
    }
  }

  /** Makes the blocks that this step filled known to the prefix cache. */
  private publish(sequence: Sequence): void {
    const full = Math.floor(sequence.computed / blockTokens);
    if (!this.prefixCache || full <= sequence.publishedBlocks) return;
    const keys = sequence.blockKeys();
    for (let i = sequence.publishedBlocks; i < full; i++) {
      sequence.replaceBlock(i, this.blocks.publish(sequence.blockTable[i], keys[i]));
      if (i < sequence.announcedBlocks) this.blocks.unexpect(keys[i]);
    }
    sequence.publishedBlocks = full;
  }

  private failed(sequence: Sequence): boolean {
    return sequence.finish?.reason === "error";
  }

  /** Queues the sequence's event; one that has ended leaves the engine. */
  private report(sequence: Sequence): void {
    if (sequence.finish) {
      this.retire(sequence);
      return;
    }
    const event = sequence.takeEvent();
    if (event) this.events.push(event);
  }

  private retire(sequence: Sequence): void {
    if (!this.open.delete(sequence.request.id)) return;
    for (const list of [this.running, this.waiting]) {
      const at = list.indexOf(sequence);
      if (at >= 0) list.splice(at, 1);
    }
    this.releaseBlocks(sequence);
    this.finished[sequence.finish!.reason]++;
    this.events.push(sequence.takeEvent()!);
  }

  private releaseBlocks(sequence: Sequence): void {
    const { blockTable } = sequence;
    for (let i = blockTable.length - 1; i >= 0; i--) this.blocks.release(blockTable[i]);
    const keys = sequence.blockKeys();
    for (let i = sequence.publishedBlocks; i < sequence.announcedBlocks; i++) {
      this.blocks.unexpect(keys[i]);
    }
    sequence.reset();
  }
}

function rowOf({ data, stride, shape }: Tensor<"f32">, row: number): Float32Array {
  return data.subarray(row * stride, row * stride + shape[1]);
}

function codeOf(error: unknown): string {
  return error instanceof BaleenError ? error.code : "model-failed";
}

/** Inserts into a list that is sorted by arrival. */
function insertByArrival(list: Sequence[], sequence: Sequence): void {
  let at = list.length;
  while (at > 0 && list[at - 1].arrival > sequence.arrival) at--;
  list.splice(at, 0, sequence);
}
