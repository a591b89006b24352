/**
 * @file One request on its way through an engine: its tokens, the cache blocks that hold them, what
 * the sampler must remember, and the text that may be shown.
 */
import { assert } from "../base/index.ts";
import { blockKey } from "./block-key.ts";
import { type TokenHistory, usesHistory } from "./sampler.ts";
import { blockTokens } from "./scheduler.ts";
import { StopScanner } from "./stop-text.ts";
import type {
  FinishReason,
  GenerationEvent,
  GenerationRequest,
  TokenLogprob,
  Usage,
} from "./types.ts";

/** Turns one answer's tokens into text as they come. */
export interface StreamDecoder {
  /** The text that is complete with this token; bytes of an unfinished character wait. */
  push(tokenId: number): string;
  /** What is left at the end: unfinished bytes as U+FFFD. */
  end(): string;
}

/** Where stream decoders come from; a tokenizer is one. */
export interface Detokenizer {
  streamDecoder(): StreamDecoder;
}

/** What a sequence takes from its engine. */
export interface SequenceContext {
  /** Order of arrival. */
  readonly arrival: number;
  /** Time of arrival, by the engine's clock. */
  readonly arrivedMs: number;
  /** Most tokens of prompt and answer together. */
  readonly maxContext: number;
  /** Ids that end the answer. */
  readonly stopTokenIds: ReadonlySet<number>;
  readonly decoder: StreamDecoder;
  /** Whether blocks get keys, for the prefix cache. */
  readonly keyed: boolean;
}

type Logprob = TokenLogprob & { readonly top: readonly TokenLogprob[] };

/** One request's state. The engine moves it; it touches neither model nor cache. */
export class Sequence {
  readonly request: GenerationRequest;
  readonly arrival: number;
  /** For the sampler's penalties; undefined where none is asked for. */
  readonly history: TokenHistory | undefined;
  /** Tokens whose keys and values are in the cache. */
  computed = 0;
  /** Leading blocks that were published to, or taken from, the prefix cache. */
  publishedBlocks = 0;
  /** Blocks up to this index were announced to the block manager. */
  announcedBlocks = 0;
  /** Prompt tokens that the prefix cache spared at the first admission. */
  cachedTokens = 0;
  /** Milliseconds from arrival to the first admission; undefined before it. */
  queueMs: number | undefined;
  /** Why the answer ended; undefined while it goes on. */
  finish: GenerationEvent["finish"];

  private readonly context: SequenceContext;
  private readonly scanner: StopScanner;
  private readonly answerCounts: Map<number, number> | undefined;
  private readonly keys: string[] = [];
  private tokens: Int32Array;
  private tokenCount: number;
  private draftCount = 0;
  private table = new Int32Array(8);
  private tableCount = 0;
  private eventText = "";
  private eventTokens: number[] = [];
  private eventLogprobs: Logprob[] = [];

  constructor(request: GenerationRequest, context: SequenceContext) {
    this.request = request;
    this.context = context;
    this.arrival = context.arrival;
    this.scanner = new StopScanner(request.stop);
    this.tokenCount = request.prompt.length;
    this.tokens = new Int32Array(this.tokenCount + Math.min(request.maxTokens, 256) + 2);
    this.tokens.set(request.prompt);
    if (usesHistory(request.sampling)) {
      const penalisesPrompt = request.sampling.repetitionPenalty !== 1;
      this.answerCounts = new Map();
      const prompt = new Set(penalisesPrompt ? request.prompt : []);
      this.history = { prompt, answer: this.answerCounts };
    }
  }

  /** Tokens known: prompt and answer. */
  get length(): number {
    return this.tokenCount;
  }

  /** Tokens of the answer. */
  get generated(): number {
    return this.tokenCount - this.request.prompt.length;
  }

  /** Drafted tokens that wait to be verified. */
  get drafts(): number {
    return this.draftCount;
  }

  /** The drafted token; there must be one. */
  get draft(): number {
    assert(this.draftCount === 1, "draft: wanted a sequence that has one");
    return this.tokens[this.tokenCount];
  }

  /** Notes the start of the first step, which found `cachedTokens` of the prompt in the cache. */
  admit(nowMs: number, cachedTokens: number): void {
    this.queueMs = nowMs - this.context.arrivedMs;
    this.cachedTokens = cachedTokens;
  }

  /** How many more tokens the answer may get. */
  get remaining(): number {
    const { maxTokens, prompt } = this.request;
    return Math.min(maxTokens, this.context.maxContext - prompt.length) - this.generated;
  }

  /** Token ids `from` to `to`, drafts included, as a view that holds until the next `accept`. */
  tokensOf(from: number, to: number): Int32Array {
    return this.tokens.subarray(from, to);
  }

  /** Remembers a guess of the next token. */
  setDraft(tokenId: number): void {
    this.reserve(this.tokenCount + 1);
    this.tokens[this.tokenCount] = tokenId;
    this.draftCount = 1;
  }

  /** Forgets the guess. */
  dropDraft(): void {
    this.draftCount = 0;
  }

  /**
   * Appends a drawn token (any draft is used up), decodes it, and sets `finish` where it ends the
   * answer.
   */
  accept(tokenId: number, logprob: Logprob | undefined): void {
    this.reserve(this.tokenCount + 1);
    this.tokens[this.tokenCount++] = tokenId;
    this.draftCount = 0;
    this.eventTokens.push(tokenId);
    if (logprob) this.eventLogprobs.push(logprob);
    this.answerCounts?.set(tokenId, (this.answerCounts.get(tokenId) ?? 0) + 1);
    if (this.context.stopTokenIds.has(tokenId)) {
      this.endText();
      this.finish ??= this.finishOf("stop", { stop: tokenId });
      return;
    }
    this.show(this.context.decoder.push(tokenId));
    if (this.finish || this.remaining > 0) return;
    this.endText();
    this.finish ??= this.finishOf("length");
  }

  /** Ends the answer for another reason than its tokens; text held back is dropped. */
  end(reason: "cancelled" | "error", error?: { code: string; message: string }): void {
    this.finish ??= this.finishOf(reason, error);
  }

  /** What happened since the last event; undefined if nothing did. */
  takeEvent(): GenerationEvent | undefined {
    const { request, finish, eventTokens, eventText, eventLogprobs } = this;
    if (eventTokens.length === 0 && finish === undefined) return undefined;
    this.eventTokens = [];
    this.eventLogprobs = [];
    this.eventText = "";
    return {
      id: request.id,
      tokenIds: eventTokens,
      text: eventText,
      ...(request.logprobs === undefined ? {} : { logprobs: eventLogprobs }),
      ...(finish === undefined ? {} : { finish }),
    };
  }

  /** Pages of the blocks held, in order, as a view that holds until the next `addBlock`. */
  get blockTable(): Int32Array {
    return this.table.subarray(0, this.tableCount);
  }

  /** How many blocks are held. */
  get blockCount(): number {
    return this.tableCount;
  }

  /** Appends a page to the block table. */
  addBlock(page: number): void {
    if (this.tableCount === this.table.length) {
      const grown = new Int32Array(2 * this.tableCount);
      grown.set(this.table);
      this.table = grown;
    }
    this.table[this.tableCount++] = page;
  }

  /** Puts a page with the same content in the place of block `index`. */
  replaceBlock(index: number, page: number): void {
    this.table[index] = page;
  }

  /** Forgets blocks, drafts and what was computed; tokens and text stay. */
  reset(): void {
    this.tableCount = 0;
    this.computed = 0;
    this.publishedBlocks = 0;
    this.announcedBlocks = 0;
    this.draftCount = 0;
  }

  /** Keys of all full blocks of the tokens known; none where the prefix cache is off. */
  blockKeys(): readonly string[] {
    if (!this.context.keyed) return this.keys;
    const full = Math.floor(this.tokenCount / blockTokens);
    while (this.keys.length < full) {
      const start = this.keys.length * blockTokens;
      const parent = this.keys.at(-1) ?? "";
      this.keys.push(blockKey(parent, this.tokens.subarray(start, start + blockTokens)));
    }
    return this.keys;
  }

  private show(text: string): void {
    if (this.finish) return;
    const scan = this.scanner.push(text);
    this.eventText += scan.text;
    if (scan.stop !== undefined) this.finish = this.finishOf("stop", { stop: scan.stop });
  }

  private endText(): void {
    this.show(this.context.decoder.end());
    if (!this.finish) this.eventText += this.scanner.flush();
  }

  private finishOf(
    reason: FinishReason,
    detail: { stop?: string | number; code?: string; message?: string } = {},
  ): NonNullable<GenerationEvent["finish"]> {
    const usage: Usage = {
      promptTokens: this.request.prompt.length,
      cachedTokens: this.cachedTokens,
      completionTokens: this.generated,
    };
    const { queueMs } = this;
    return { reason, usage, ...detail, ...(queueMs === undefined ? {} : { queueMs }) };
  }

  private reserve(count: number): void {
    if (count <= this.tokens.length) return;
    const grown = new Int32Array(Math.max(count, 2 * this.tokens.length));
    grown.set(this.tokens);
    this.tokens = grown;
  }
}
