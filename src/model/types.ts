/** @file What a model offers to an engine, whatever runs it. */
import type { Tensor } from "../tensor/index.ts";

/** One sequence's share of a forward pass. */
export interface ForwardSequence {
  /** The new tokens' ids: a prompt chunk, one decoded token, or a token with its drafts. */
  readonly tokens: Int32Array;
  /** Position of the first of them: the number of tokens already in the cache. */
  readonly position: number;
  /** Cache pages, one for each 64 tokens, enough for `position + tokens.length`. */
  readonly blockTable: Int32Array;
  /** How many of the last tokens need logits; 0 for a prompt chunk that is not the last. */
  readonly logitRows: number;
}

/** What a forward pass leaves; valid until the next pass on the same model. */
export interface ForwardResult {
  /** float32 `[sum of logitRows, vocabSize]`, sequence after sequence. */
  readonly logits: Tensor<"f32">;
  /** float32 `[sum of tokens, hiddenSize]`: every row after the final norm, the MTP layer's input. */
  readonly hidden: Tensor<"f32">;
}

/** One sequence's share of a draft pass of the MTP layer. */
export interface DraftSequence {
  /** The token that follows each hidden row: `nextTokens[i]` is at `position + i + 1`. */
  readonly nextTokens: Int32Array;
  /** Position of the first hidden row. */
  readonly position: number;
  /** First of its rows in `hidden`. */
  readonly hiddenStart: number;
  readonly blockTable: Int32Array;
  /** False where only the layer's cache is to be written: no row of logits then. True if absent. */
  readonly guess?: boolean;
}

/** A paged cache of one model, in pages of 64 tokens; every layer has its slab. */
export interface KvCache {
  readonly pages: number;
  readonly bytes: number;
}

/**
 * A causal language model over a paged cache. One thread uses it. **Batch-invariant**: the logits of
 * a sequence are the same bits alone or in any batch, with its prompt whole or in chunks.
 */
export interface LanguageModel {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  /** The longest context, prompt and answer together. */
  readonly maxContext: number;
  /** Ids that end an answer; empty where the checkpoint names none. */
  readonly eosTokenIds: readonly number[];
  readonly kvBytesPerPage: number;
  /** Whether `draft` may be called: the checkpoint has an MTP layer. */
  readonly canDraft: boolean;
  /** One line: what runs, in which precision, on which rung. */
  readonly description: string;
  /** `[MoE layers, routed experts]`: tokens routed to each expert since the start, ever increasing. */
  readonly expertLoad: {
    readonly layers: number;
    readonly experts: number;
    readonly counts: Float64Array;
  };
  openCache(pages: number): KvCache;
  forward(cache: KvCache, sequences: readonly ForwardSequence[]): ForwardResult;
  /**
   * Runs the MTP layer over rows of the last `forward`'s hidden states and returns the logits
   * `[sequences that guess, vocabSize]` of their last rows: they guess the token after the next.
   */
  draft(cache: KvCache, sequences: readonly DraftSequence[]): Tensor<"f32">;
  close(): void;
}
