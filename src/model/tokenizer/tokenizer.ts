/**
 * @file The byte-level BPE tokenizer that a `tokenizer.json` describes, or a `tiktoken.model`: text
 * to token ids and back.
 * Encoding: added tokens are cut out (only where the caller trusts the text), the rest is
 * normalised, cut into pieces, and each piece's bytes are merged. Decoding: their bytes, as UTF-8.
 * Source: the format's documentation, huggingface.co/docs/tokenizers.
 */
import { join } from "node:path";
import { z } from "zod";
import { assert } from "../../base/index.ts";
import { modelError } from "../errors.ts";
import { readBinaryFile, readJsonFile } from "../json-file.ts";
import { AddedTokenFinder, TextEscaper, withoutMarks } from "./added-tokens.ts";
import { BytePairEncoder } from "./bpe.ts";
import { type PreTokenizer, preTokenizerOf } from "./pre-tokenizer.ts";
import { framingOf, type Normalizer, normalizerOf, tokenizerConfigOf } from "./settings.ts";
import { readTiktokenFile } from "./tiktoken-file.ts";
import { readTokenizerFile, type TokenizerFile } from "./tokenizer-file.ts";
import type { Vocabulary } from "./vocabulary.ts";

/** How `encode` reads a text. */
export interface EncodeOptions {
  /** Put the beginning (or end) of sequence where the tokenizer's own settings say so. */
  readonly addSpecialTokens?: boolean;
  /**
   * Added tokens that are spelt out in the text become their ids, except where `escape` has marked
   * them: for prompts and rendered templates. Otherwise they are text like any other, so that what
   * a user writes can't forge the marks of a chat.
   */
  readonly allowSpecial?: boolean;
}

/** Turns ids into text as they come, whole characters only. */
export interface TokenStream {
  /** The text that this id completes; bytes of an unfinished character wait for the next. */
  push(id: number): string;
  /** What still waits, as U+FFFD. */
  end(): string;
}

/** The longest piece whose ids are remembered, in UTF-16 units, and how many pieces are. */
const cachedLengthMax = 48;
const cachedPiecesMax = 50_000;

const addedTokenSchema = z.object({
  id: z.int().min(0),
  content: z.string(),
  special: z.boolean().default(false),
  normalized: z.boolean().default(true),
  single_word: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
});

const modelSchema = z.object({
  type: z.literal("BPE").default("BPE"),
  ignore_merges: z.boolean().nullish(),
  dropout: z.union([z.null(), z.literal(0)]).optional(),
  continuing_subword_prefix: z.union([z.null(), z.literal("")]).optional(),
  end_of_word_suffix: z.union([z.null(), z.literal("")]).optional(),
  byte_fallback: z.literal(false).nullish(),
});

const fileSchema = z.object({
  added_tokens: z.array(addedTokenSchema).default([]),
  normalizer: z.unknown().optional(),
  pre_tokenizer: z.unknown().optional(),
  post_processor: z.unknown().optional(),
  decoder: z.object({ type: z.literal("ByteLevel") }).nullish(),
  model: modelSchema,
});

/** A tokenizer; one thread uses it. */
export class Tokenizer {
  /** One more than the highest id that stands for something; a model may have more rows. */
  readonly vocabSize: number;
  /** Beginning and end of a sequence, where `tokenizer_config.json` names them. */
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  readonly bosToken: string | undefined;
  readonly eosToken: string | undefined;
  private readonly special = new Set<number>();
  /** Ids of the tokens that are not of the byte alphabet, by what is written. */
  private readonly otherIds = new Map<string, number>();
  private readonly vocabulary: Vocabulary;
  private readonly ignoreMerges: boolean;
  private readonly bpe: BytePairEncoder;
  private readonly normalize: Normalizer;
  private readonly preTokenize: PreTokenizer;
  private readonly rawFinder: AddedTokenFinder;
  private readonly normalizedFinder: AddedTokenFinder;
  private readonly escaper: TextEscaper;
  private readonly prefix: readonly number[];
  private readonly suffix: readonly number[];
  /** Bytes of the tokens that are not of the byte alphabet. */
  private readonly otherBytes = new Map<number, Uint8Array>();
  private readonly cache = new Map<string, readonly number[]>();
  private bytes = new Uint8Array(256);

  private constructor(contents: TokenizerFile, config: unknown) {
    const { vocabulary, otherTokens, merges } = contents;
    const { model, added_tokens: added, ...file } = checked(contents.rest);
    this.normalize = normalizerOf(file.normalizer);
    this.preTokenize = preTokenizerOf(file.pre_tokenizer);
    this.vocabulary = vocabulary;
    this.ignoreMerges = model.ignore_merges ?? false;
    this.bpe = new BytePairEncoder(vocabulary, merges, contents.name);
    let size = vocabulary.size;
    const others = [...otherTokens].map(([content, id]) => ({ content, id }));
    for (const { content, id } of [...others, ...added]) {
      this.otherIds.set(content, id);
      this.otherBytes.set(id, utf8.encode(content));
      size = Math.max(size, id + 1);
    }
    this.vocabSize = size;
    for (const token of added) if (token.special) this.special.add(token.id);
    this.rawFinder = new AddedTokenFinder(added.filter(({ normalized }) => !normalized));
    this.normalizedFinder = new AddedTokenFinder(
      added
        .filter(({ normalized }) => normalized)
        .map((token) => ({ ...token, content: this.normalize(token.content) })),
    );
    this.escaper = new TextEscaper(added);
    const settings = tokenizerConfigOf(config);
    this.bosToken = settings.bosToken;
    this.eosToken = settings.eosToken;
    this.bosTokenId = this.bosToken === undefined ? undefined : this.idOf(this.bosToken);
    this.eosTokenId = this.eosToken === undefined ? undefined : this.idOf(this.eosToken);
    const framing = framingOf(file.post_processor, settings, (content) => this.idOf(content));
    this.prefix = framing.prefix;
    this.suffix = framing.suffix;
  }

  /**
   * The tokenizer of the Hugging Face directory `dir`: its `tokenizer.json`, else its
   * `tiktoken.model`, and its `tokenizer_config.json`. Raises `tokenizer-invalid`, naming file and
   * field.
   */
  static fromDirectory(dir: string): Tokenizer {
    const read = (name: string) => readBinaryFile(join(dir, name), "tokenizer-invalid");
    const config = readJsonFile(join(dir, "tokenizer_config.json"), "tokenizer-invalid");
    const bytes = read("tokenizer.json");
    if (bytes) return new Tokenizer(readTokenizerFile(bytes), config);
    const ranks = read("tiktoken.model");
    if (ranks) return new Tokenizer(readTiktokenFile(ranks, config), config);
    throw modelError(
      "tokenizer-invalid",
      `${dir} has neither tokenizer.json nor tiktoken.model. Give a model directory with one; ` +
        "other formats (tokenizer.model) need converting.",
    );
  }

  /** The tokenizer of a parsed `tokenizer.json` and, if given, `tokenizer_config.json`. */
  static fromJson(json: unknown, config?: unknown): Tokenizer {
    return new Tokenizer(readTokenizerFile(utf8.encode(JSON.stringify(json) ?? "")), config);
  }

  /** The ids of `text`. Unpaired surrogates count as U+FFFD. Time is O(n log n) at worst. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const ids = options.addSpecialTokens ? [...this.prefix] : [];
    const wellFormed = text.replace(/\p{Surrogate}/gu, "\ufffd");
    if (options.allowSpecial) this.encodeMarked(wellFormed, ids);
    else this.encodePlain(this.normalize(wellFormed), ids);
    if (options.addSpecialTokens) for (const id of this.suffix) ids.push(id);
    return ids;
  }

  /** `text`, marked so that `encode` with `allowSpecial` takes all of it as plain text. */
  readonly escape = (text: string): string => this.escaper.escape(text);

  /**
   * The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids that stand for nothing are left
   * out, and with `skipSpecial` so are special tokens.
   */
  decode(ids: Iterable<number>, options: { readonly skipSpecial?: boolean } = {}): string {
    const stream = this.streamDecoder(options);
    let text = "";
    for (const id of ids) text += stream.push(id);
    return text + stream.end();
  }

  /** A decoder of one answer; see `TokenStream` and `decode`. */
  streamDecoder(options: { readonly skipSpecial?: boolean } = {}): TokenStream {
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    return {
      push: (id) => {
        if (options.skipSpecial && this.special.has(id)) return "";
        return decoder.decode(this.tokenBytes(id), { stream: true });
      },
      end: () => decoder.decode(),
    };
  }

  /** The bytes that `id` stands for; none for an id that stands for nothing. Not to be changed. */
  tokenBytes(id: number): Uint8Array {
    assert(Number.isInteger(id) && id >= 0, () => `token id: got ${id}, wanted one from 0 up`);
    return this.otherBytes.get(id) ?? this.vocabulary.bytesOf(id) ?? noBytes;
  }

  /** Whether `id` is a special token, which `skipSpecial` leaves out. */
  isSpecial(id: number): boolean {
    return this.special.has(id);
  }

  /** The id of the token, added or of the vocabulary, that stands for the text `content`. */
  idOf(content: string): number | undefined {
    const id = this.otherIds.get(content) ?? this.vocabulary.idOf(utf8.encode(content));
    return id < 0 ? undefined : id;
  }

  private encodeMarked(text: string, ids: number[]): void {
    for (const outer of this.rawFinder.split(text)) {
      if (typeof outer === "number") {
        ids.push(outer);
        continue;
      }
      for (const inner of this.normalizedFinder.split(this.normalize(outer))) {
        if (typeof inner === "number") ids.push(inner);
        else this.encodePlain(withoutMarks(inner), ids);
      }
    }
  }

  private encodePlain(text: string, ids: number[]): void {
    for (const piece of this.preTokenize(text)) {
      const known = this.cache.get(piece);
      if (known === undefined) this.encodePiece(piece, ids);
      else for (const id of known) ids.push(id);
    }
  }

  private encodePiece(piece: string, ids: number[]): void {
    const length = this.toBytes(piece);
    const start = ids.length;
    const whole = this.ignoreMerges ? this.vocabulary.idOf(this.bytes, length) : -1;
    if (whole < 0) this.bpe.encode(this.bytes, length, ids);
    else ids.push(whole);
    if (piece.length > cachedLengthMax) return;
    if (this.cache.size >= cachedPiecesMax) this.cache.clear();
    // The key is made afresh: a piece is a slice, and would keep the whole text in memory.
    const key = Buffer.from(this.bytes.buffer, 0, length).toString("utf8");
    this.cache.set(key, ids.slice(start));
  }

  /** Writes the UTF-8 of `piece` to `this.bytes` and returns its length. */
  private toBytes(piece: string): number {
    if (piece.length * 3 > this.bytes.length) this.bytes = new Uint8Array(piece.length * 3);
    const { bytes } = this;
    for (let i = 0; i < piece.length; i++) {
      const code = piece.charCodeAt(i);
      if (code > 0x7f) return utf8.encodeInto(piece, bytes).written;
      bytes[i] = code;
    }
    return piece.length;
  }
}

const utf8 = new TextEncoder();

const noBytes = new Uint8Array(0);

function checked(rest: unknown): z.infer<typeof fileSchema> {
  const result = fileSchema.safeParse(rest);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const field = issue.path.map(String).join(".") || "the file";
  throw modelError(
    "tokenizer-invalid",
    `tokenizer.json: ${field} is not supported (${issue.message}). ` +
      "Give a byte-level BPE tokenizer.",
    result.error,
  );
}
