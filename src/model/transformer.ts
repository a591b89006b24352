/** @file The model as an engine sees it: tokens and pages in, logits out. */
import { assert } from "../base/index.ts";
import { gemm, type PackedWeights } from "../deep-gemm/index.ts";
import type { Device } from "../device/index.ts";
import { gatherRows, rmsNorm } from "../elementwise/index.ts";
import { pageTokens } from "../flash-mla/index.ts";
import { bytesPerElement, columnsOf, type Tensor, zeros } from "../tensor/index.ts";
import type { Block } from "./block.ts";
import { column, layOutPass, type Pass } from "./pass.ts";
import type { RopeTable } from "./rope.ts";
import type {
  DraftSequence,
  ForwardResult,
  ForwardSequence,
  KvCache,
  LanguageModel,
} from "./types.ts";
import type { Workspace } from "./workspace.ts";

/** The multi-token-prediction layer: guesses the token after the next. */
export interface MtpLayer {
  readonly embedding: Tensor<"f32"> | Tensor<"bf16">;
  readonly embeddingNorm: Tensor<"f32">;
  readonly hiddenNorm: Tensor<"f32">;
  /** `[hidden, 2 hidden]`: from the normed embedding, then the normed hidden state. */
  readonly projection: PackedWeights;
  readonly block: Block;
  readonly norm: Tensor<"f32">;
  readonly head: PackedWeights;
}

/** A loaded model's parts. */
export interface TransformerParts {
  readonly device: Device;
  readonly workspace: Workspace;
  readonly rope: RopeTable;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly maxContext: number;
  readonly eosTokenIds: readonly number[];
  readonly description: string;
  readonly eps: number;
  readonly embedding: Tensor<"f32"> | Tensor<"bf16">;
  readonly blocks: readonly Block[];
  readonly norm: Tensor<"f32">;
  readonly head: PackedWeights;
  readonly mtp: MtpLayer | undefined;
  readonly expertLoad: LanguageModel["expertLoad"];
  /** Type and width of a cached token of one layer. */
  readonly cacheDtype: "f32" | "bf16";
  readonly cacheDim: number;
}

/** A paged cache: one slab `[pages, 64, dim]` a layer, the MTP layer's last. */
class SlabCache implements KvCache {
  readonly pages: number;
  readonly bytes: number;
  readonly slabs: readonly (Tensor<"f32"> | Tensor<"bf16">)[];

  constructor(device: Device, layers: number, pages: number, dtype: "f32" | "bf16", dim: number) {
    this.pages = pages;
    this.bytes = layers * pages * pageTokens * dim * bytesPerElement[dtype];
    this.slabs = Array.from({ length: layers }, () =>
      zeros(dtype, [pages, pageTokens, dim], (bytes) => device.allocate(bytes)),
    ) as (Tensor<"f32"> | Tensor<"bf16">)[];
  }
}

/** A DeepSeek-V3-family model in memory. */
export class Transformer implements LanguageModel {
  private readonly parts: TransformerParts;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly maxContext: number;
  readonly eosTokenIds: readonly number[];
  readonly kvBytesPerPage: number;
  readonly canDraft: boolean;
  readonly description: string;
  readonly expertLoad: LanguageModel["expertLoad"];
  private lastHidden: Tensor<"f32"> | undefined;

  constructor(parts: TransformerParts) {
    this.parts = parts;
    this.vocabSize = parts.vocabSize;
    this.hiddenSize = parts.hiddenSize;
    this.maxContext = parts.maxContext;
    this.eosTokenIds = parts.eosTokenIds;
    this.canDraft = parts.mtp !== undefined;
    this.description = parts.description;
    this.expertLoad = parts.expertLoad;
    this.kvBytesPerPage =
      this.layers * pageTokens * parts.cacheDim * bytesPerElement[parts.cacheDtype];
  }

  private get layers(): number {
    return this.parts.blocks.length + (this.parts.mtp ? 1 : 0);
  }

  /** A zeroed cache of `pages` pages; `kvBytesPerPage` bytes each. */
  openCache(pages: number): KvCache {
    const { device, cacheDtype, cacheDim } = this.parts;
    return new SlabCache(device, this.layers, pages, cacheDtype, cacheDim);
  }

  /** Computes the new tokens of every sequence; see `LanguageModel.forward`. */
  forward(cache: KvCache, sequences: readonly ForwardSequence[]): ForwardResult {
    const { device, workspace, blocks, norm, eps, head, embedding } = this.parts;
    const slabs = this.slabsOf(cache);
    for (const sequence of sequences) this.checkSequence(cache, sequence);
    const pass = this.layOut(
      sequences.map((s) => ({
        count: s.tokens.length,
        position: s.position,
        blockTable: s.blockTable,
      })),
    );
    const x = workspace.tensor("x", "f32", pass.tokens, this.hiddenSize);
    this.embed(
      pass,
      embedding,
      sequences.map((s) => s.tokens),
      x,
    );
    blocks.forEach((block, layer) => {
      block.forward(pass, x, slabs[layer]);
    });
    const hidden = workspace.tensor("hidden", "f32", pass.tokens, this.hiddenSize);
    rmsNorm(device, x, norm, eps, pass.tokens, { type: "f32", values: hidden });
    this.lastHidden = hidden;
    const rows: number[] = [];
    let end = 0;
    for (const { tokens, logitRows } of sequences) {
      end += tokens.length;
      for (let row = end - logitRows; row < end; row++) rows.push(row);
    }
    return { logits: this.logitsOf(hidden, rows, head, "logits"), hidden };
  }

  /** Runs the MTP layer; see `LanguageModel.draft`. */
  draft(cache: KvCache, sequences: readonly DraftSequence[]): Tensor<"f32"> {
    const { mtp, lastHidden } = this.parts.mtp
      ? { mtp: this.parts.mtp, lastHidden: this.lastHidden }
      : { mtp: undefined, lastHidden: undefined };
    assert(mtp && lastHidden, "draft: wanted a model with an MTP layer, after a forward pass");
    const { device, workspace, eps } = this.parts;
    const pass = this.layOut(
      sequences.map((s) => ({
        count: s.nextTokens.length,
        position: s.position,
        blockTable: s.blockTable,
      })),
    );
    const { tokens } = pass;
    const size = this.hiddenSize;
    const embedded = workspace.tensor("mtp.embedded", "f32", tokens, size);
    this.embed(
      pass,
      mtp.embedding,
      sequences.map((s) => s.nextTokens),
      embedded,
    );
    const previous = this.gatherHidden(pass, lastHidden, sequences);
    const joined = workspace.tensor("mtp.joined", "f32", tokens, 2 * size);
    const left = { type: "f32", values: columnsOf(joined, 0, size) } as const;
    const right = { type: "f32", values: columnsOf(joined, size, 2 * size) } as const;
    rmsNorm(device, embedded, mtp.embeddingNorm, eps, tokens, left);
    rmsNorm(device, previous, mtp.hiddenNorm, eps, tokens, right);
    const x = workspace.tensor("x", "f32", tokens, size);
    gemm(device, [{ a: { type: "f32", values: joined }, m: tokens, b: mtp.projection, d: x }]);
    mtp.block.forward(pass, x, this.slabsOf(cache)[this.parts.blocks.length]);
    const normed = workspace.tensor("mtp.normed", "f32", tokens, size);
    rmsNorm(device, x, mtp.norm, eps, tokens, { type: "f32", values: normed });
    const lastRows: number[] = [];
    let end = 0;
    for (const { nextTokens, guess } of sequences) {
      end += nextTokens.length;
      if (guess ?? true) lastRows.push(end - 1);
    }
    return this.logitsOf(normed, lastRows, mtp.head, "mtp.logits");
  }

  /** Stops the device's threads. */
  close(): void {
    this.parts.device.close();
  }

  private layOut(parts: Parameters<typeof layOutPass>[3]): Pass {
    const { device, workspace, rope } = this.parts;
    return layOutPass(device, workspace, rope, parts);
  }

  private embed(
    { device, workspace, tokens }: Pass,
    table: Tensor<"f32"> | Tensor<"bf16">,
    ids: readonly Int32Array[],
    to: Tensor<"f32">,
  ): void {
    const index = column(workspace, "tokenIds", tokens);
    let at = 0;
    for (const part of ids) {
      index.data.set(part, at);
      at += part.length;
    }
    gatherRows(device, table, index, tokens, to);
  }

  private gatherHidden(
    { device, workspace, tokens }: Pass,
    hidden: Tensor<"f32">,
    sequences: readonly DraftSequence[],
  ): Tensor<"f32"> {
    const index = column(workspace, "mtp.rows", tokens);
    let at = 0;
    for (const { hiddenStart, nextTokens } of sequences) {
      for (let i = 0; i < nextTokens.length; i++) index.data[at++] = hiddenStart + i;
    }
    const previous = workspace.tensor("mtp.previous", "f32", tokens, this.hiddenSize);
    gatherRows(device, hidden, index, tokens, previous);
    return previous;
  }

  private logitsOf(
    hidden: Tensor<"f32">,
    rows: readonly number[],
    head: PackedWeights,
    name: string,
  ): Tensor<"f32"> {
    const { device, workspace } = this.parts;
    const logits = workspace.tensor(name, "f32", rows.length, this.vocabSize);
    if (rows.length === 0) return logits;
    const index = column(workspace, "logitRows", rows.length);
    index.data.set(rows);
    const input = workspace.tensor("logitInput", "f32", rows.length, this.hiddenSize);
    gatherRows(device, hidden, index, rows.length, input);
    gemm(device, [{ a: { type: "f32", values: input }, m: rows.length, b: head, d: logits }]);
    return logits;
  }

  private slabsOf(cache: KvCache): SlabCache["slabs"] {
    assert(cache instanceof SlabCache, "cache: wanted one opened by this model");
    return cache.slabs;
  }

  private checkSequence(
    cache: KvCache,
    { tokens, position, blockTable, logitRows }: ForwardSequence,
  ) {
    const context = position + tokens.length;
    assert(tokens.length > 0 && logitRows <= tokens.length, "sequence: wanted at least one token");
    assert(context <= this.maxContext, () => `context: got ${context} of ${this.maxContext}`);
    const pages = Math.ceil(context / pageTokens);
    assert(blockTable.length >= pages, () => `block table: got ${blockTable.length} of ${pages}`);
    for (let i = 0; i < pages; i++) {
      assert(blockTable[i] >= 0 && blockTable[i] < cache.pages, () => `page: got ${blockTable[i]}`);
    }
    for (const id of tokens) {
      assert(id >= 0 && id < this.vocabSize, () => `token id: got ${id} of ${this.vocabSize}`);
    }
  }
}
