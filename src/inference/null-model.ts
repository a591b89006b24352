/**
 * @file A language model without arithmetic, for measuring an engine and server alone and for
 * testing them. A token's state is a hash of its sequence up to it, kept in the paged cache: the
 * next token comes from what the pages hold, so a wrong page, a stale row or a row that was never
 * written changes the answer.
 */
import { assert, ceilDiv } from "../base/index.ts";
import type {
  DraftSequence,
  ForwardResult,
  ForwardSequence,
  KvCache,
  LanguageModel,
} from "../model/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { blockTokens } from "./scheduler.ts";
import type { Detokenizer } from "./sequence.ts";

/** What a null model imitates; every field has a default. */
export interface NullModelOptions {
  /** 2048 unless given; `startEngine` gives the tokenizer's, where there is one. */
  readonly vocabSize?: number | undefined;
  /** 4096 unless given. */
  readonly maxContext?: number | undefined;
  /** None unless given. */
  readonly eosTokenIds?: readonly number[] | undefined;
  /** Tokens with a logit above 0 in each row; 1 unless given. */
  readonly choices?: number | undefined;
  /** Share of drafts that agree with the model; without it the model can not draft. */
  readonly draftAccuracy?: number | undefined;
}

/** Writes letters for token ids, where there is no tokenizer. */
export const nullDetokenizer: Detokenizer = {
  streamDecoder: () => ({
    push: (tokenId) => String.fromCharCode(97 + (tokenId % 26)),
    end: () => "",
  }),
};

/** States of the main model and of the MTP layer, `[pages * 64]` each. */
class NullCache implements KvCache {
  readonly pages: number;
  readonly bytes: number;
  readonly states: Int32Array;
  readonly drafted: Int32Array;

  constructor(pages: number) {
    this.pages = pages;
    this.states = new Int32Array(pages * blockTokens).fill(-1);
    this.drafted = new Int32Array(pages * blockTokens).fill(-1);
    this.bytes = this.states.byteLength + this.drafted.byteLength;
  }
}

/** See the file's header. Deterministic: the same sequence has the same logits everywhere. */
export class NullModel implements LanguageModel {
  readonly vocabSize: number;
  readonly hiddenSize: number = 1;
  readonly maxContext: number;
  readonly eosTokenIds: readonly number[];
  readonly kvBytesPerPage: number = 8 * blockTokens;
  readonly canDraft: boolean;
  readonly description: string = "null model, no arithmetic";
  readonly expertLoad: LanguageModel["expertLoad"] = {
    layers: 0,
    experts: 0,
    counts: new Float64Array(0),
  };
  private readonly choices: number;
  private readonly draftAccuracy: number;
  private readonly logits: SparseRows;
  private readonly draftLogits: SparseRows;
  private rowStates: Int32Array = new Int32Array(0);
  private hidden: Float32Array = new Float32Array(0);

  constructor(options: NullModelOptions = {}) {
    this.vocabSize = options.vocabSize ?? 2048;
    this.maxContext = options.maxContext ?? 4096;
    this.eosTokenIds = options.eosTokenIds ?? [];
    this.choices = options.choices ?? 1;
    this.canDraft = options.draftAccuracy !== undefined;
    this.draftAccuracy = options.draftAccuracy ?? 0;
    this.logits = new SparseRows(this.vocabSize);
    this.draftLogits = new SparseRows(this.vocabSize);
  }

  /** Eight bytes a token. */
  openCache(pages: number): KvCache {
    return new NullCache(pages);
  }

  /** Hashes on from the cached states; see `LanguageModel.forward`. */
  forward(cache: KvCache, sequences: readonly ForwardSequence[]): ForwardResult {
    const { states } = cache as NullCache;
    let [tokenCount, rowCount] = [0, 0];
    for (const sequence of sequences) {
      this.check(cache, sequence);
      tokenCount += sequence.tokens.length;
      rowCount += sequence.logitRows;
    }
    this.reserve(tokenCount);
    this.logits.clear(rowCount);
    let [row, logitRow] = [0, 0];
    for (const { tokens, position, blockTable, logitRows } of sequences) {
      let state = position === 0 ? 0 : states[rowAt(blockTable, position - 1)];
      for (let i = 0; i < tokens.length; i++) {
        state = mix(state ^ mix(tokens[i] + 1));
        states[rowAt(blockTable, position + i)] = state;
        this.rowStates[row++] = state;
        if (i >= tokens.length - logitRows) this.write(this.logits, logitRow++, state);
      }
    }
    return { logits: this.logits.tensor(rowCount), hidden: matrix(this.hidden, tokenCount, 1) };
  }

  /**
   * Guesses, right for `draftAccuracy` of all states; see `LanguageModel.draft`. Throws where the
   * row before a sequence's first was never drafted: the MTP layer would attend to garbage.
   */
  draft(cache: KvCache, sequences: readonly DraftSequence[]): Tensor<"f32"> {
    const { states, drafted } = cache as NullCache;
    const rows = sequences.filter(({ guess }) => guess ?? true).length;
    this.draftLogits.clear(rows);
    let row = 0;
    for (const { nextTokens, position, hiddenStart, blockTable, guess } of sequences) {
      if (position > 0) {
        const before = rowAt(blockTable, position - 1);
        assert(drafted[before] === states[before], () => `draft: no row ${position - 1}`);
      }
      for (let j = 0; j < nextTokens.length; j++) {
        drafted[rowAt(blockTable, position + j)] = this.rowStates[hiddenStart + j];
      }
      const last = nextTokens.length - 1;
      const state = mix(this.rowStates[hiddenStart + last] ^ mix(nextTokens[last] + 1));
      const right = (mix(state ^ 0x2545f491) >>> 0) / 4294967296 < this.draftAccuracy;
      if (guess ?? true) this.write(this.draftLogits, row++, right ? state : ~state);
    }
    return this.draftLogits.tensor(rows);
  }

  /** Nothing to stop. */
  close(): void {}

  private write(rows: SparseRows, row: number, state: number): void {
    for (let choice = 0; choice < this.choices; choice++) {
      const bits = mix(state + choice * 0x632be5ab) >>> 0;
      rows.set(row, bits % this.vocabSize, 10 - choice * 0.25);
    }
  }

  private reserve(tokens: number): void {
    if (this.rowStates.length >= tokens) return;
    this.rowStates = new Int32Array(2 * tokens);
    this.hidden = new Float32Array(2 * tokens);
  }

  private check(cache: KvCache, { tokens, position, blockTable, logitRows }: ForwardSequence) {
    const context = position + tokens.length;
    const pages = ceilDiv(context, blockTokens);
    assert(tokens.length > 0 && logitRows <= tokens.length, "sequence: wanted at least one token");
    assert(context <= this.maxContext, () => `context: got ${context} of ${this.maxContext}`);
    assert(blockTable.length >= pages, () => `block table: got ${blockTable.length} of ${pages}`);
    for (let i = 0; i < pages; i++) {
      const page = blockTable[i];
      assert(page >= 0 && page < cache.pages, () => `page: got ${page}`);
    }
    for (const id of tokens) {
      assert(id >= 0 && id < this.vocabSize, () => `token id: got ${id} of ${this.vocabSize}`);
    }
  }
}

/** Rows of zeros with few exceptions, cleared at the cost of those. */
class SparseRows {
  private readonly columns: number;
  private data: Float32Array = new Float32Array(0);
  private readonly written: number[] = [];

  constructor(columns: number) {
    this.columns = columns;
  }

  clear(rows: number): void {
    for (const index of this.written) this.data[index] = 0;
    this.written.length = 0;
    const size = rows * this.columns;
    if (this.data.length < size) this.data = new Float32Array(2 * size);
  }

  set(row: number, column: number, value: number): void {
    const index = row * this.columns + column;
    this.data[index] = Math.max(this.data[index], value);
    this.written.push(index);
  }

  tensor(rows: number): Tensor<"f32"> {
    return matrix(this.data, rows, this.columns);
  }
}

function matrix(data: Float32Array, rows: number, columns: number): Tensor<"f32"> {
  return { dtype: "f32", shape: [rows, columns], stride: columns, data, address: 0 };
}

function rowAt(blockTable: Int32Array, position: number): number {
  return blockTable[Math.floor(position / blockTokens)] * blockTokens + (position % blockTokens);
}

/** 32 well-mixed bits of a 32-bit integer. */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}
