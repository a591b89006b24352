/**
 * @file Reads `tiktoken.model`, which Moonshot's checkpoints (Moonlight, Kimi) have in place of a
 * `tokenizer.json`: a line for each token, its bytes in base64 and its rank, which is its id too.
 * What the other file would say besides lies in those checkpoints' Python code, and is fixed here:
 * how text is cut, that a piece which is a token is that token, that two tokens are joined wherever
 * that makes a token, lowest rank first, and that 256 special tokens follow the ranks.
 * Sources: `tokenization_moonshot.py` of moonshotai/Moonlight-16B-A3B for pattern and special
 * tokens; github.com/openai/tiktoken for format and merging.
 */
import { z } from "zod";
import { modelError } from "../errors.ts";
import { type Merges, mergesMax } from "./bpe.ts";
import type { TokenizerFile } from "./tokenizer-file.ts";
import { hashOf, Vocabulary } from "./vocabulary.ts";

/** Letters of one case or of none, and marks, but no Han: those stand before lower ones. */
const upper = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]";
const lower = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]";
const beforeWord = "[^\\r\\n\\p{L}\\p{N}]?";
const contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";

/** How text is cut into pieces; of the alternatives the first that matches counts. */
const pattern = [
  "\\p{Han}+",
  `${beforeWord}${upper}*${lower}+${contraction}`,
  `${beforeWord}${upper}+${lower}*${contraction}`,
  "\\p{N}{1,3}",
  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*",
  "\\s*[\\r\\n]+",
  "\\s+(?!\\S)",
  "\\s+",
].join("|");

const preTokenizer = {
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated" },
    { type: "ByteLevel", add_prefix_space: false, use_regex: false },
  ],
};

/** Ids after the ranks that are special tokens, named or not. */
const specialTokens = 256;

/** The class whose pattern and special tokens these are. */
const tokenizerClass = "TikTokenTokenizer";

const tokenSchema = z.object({ content: z.string().min(1), special: z.boolean().default(false) });

const configSchema = z.object({
  tokenizer_class: z.string().nullish(),
  added_tokens_decoder: z.record(z.string().regex(/^\d{1,7}$/), tokenSchema).default({}),
});

/**
 * The tokenizer of the `tiktoken.model` whose bytes are given, with the special tokens that
 * `config`, the parsed `tokenizer_config.json`, names. Raises `tokenizer-invalid`.
 */
export function readTiktokenFile(bytes: Uint8Array, config: unknown): TokenizerFile {
  const named = namedTokens(config);
  const vocabulary = readRanks(bytes);
  return {
    name: "tiktoken.model",
    vocabulary,
    otherTokens: new Map(),
    merges: new RankedMerges(vocabulary),
    rest: {
      added_tokens: addedTokens(vocabulary.size, named),
      pre_tokenizer: preTokenizer,
      model: { type: "BPE", ignore_merges: true },
    },
  };
}

/** Any pair of tokens that together are a token becomes it; its rank is the pair's. */
class RankedMerges implements Merges {
  private readonly vocabulary: Vocabulary;
  // A pair is asked for its rank, and again for what it becomes.
  private left = -1;
  private right = -1;
  private id = -1;

  constructor(vocabulary: Vocabulary) {
    this.vocabulary = vocabulary;
  }

  rank(left: number, right: number): number {
    if (left === this.left && right === this.right) return this.id;
    this.left = left;
    this.right = right;
    this.id = this.vocabulary.idOfJoined(left, right);
    return this.id;
  }

  joined(left: number, right: number): number {
    return this.rank(left, right);
  }
}

type NamedTokens = ReadonlyMap<number, z.infer<typeof tokenSchema>>;

function namedTokens(config: unknown): NamedTokens {
  const result = configSchema.safeParse(config ?? {});
  if (!result.success) {
    const [issue] = result.error.issues;
    const field = issue.path.map(String).join(".") || "the file";
    throw invalidConfig(`${field} can't be read (${issue.message})`);
  }
  const { tokenizer_class: given, added_tokens_decoder: tokens } = result.data;
  if (given && given !== tokenizerClass) {
    throw invalidConfig(
      `tokenizer_class is ${JSON.stringify(given)}, but beside a tiktoken.model only ` +
        `${tokenizerClass} is supported`,
    );
  }
  return new Map(Object.entries(tokens).map(([id, token]) => [Number(id), token]));
}

/** Entries of `added_tokens`: those that have names, and the rest of the reserved ones. */
function addedTokens(ranks: number, named: NamedTokens): unknown[] {
  const tokens = new Map<number, { content: string; special: boolean }>();
  for (let id = ranks; id < ranks + specialTokens; id++) {
    tokens.set(id, { content: `<|reserved_token_${id}|>`, special: true });
  }
  for (const [id, token] of named) {
    if (id < ranks) {
      throw invalidConfig(`added_tokens_decoder.${id} is the id of a rank of tiktoken.model`);
    }
    tokens.set(id, token);
  }
  return [...tokens].map(([id, token]) => ({ id, ...token, normalized: false }));
}

const newline = 0x0a;
const carriageReturn = 0x0d;
const space = 0x20;
const equals = 0x3d;

/** The value of each base64 digit, 255 for any other byte. */
const digitValues: Uint8Array = (() => {
  const values = new Uint8Array(256).fill(255);
  const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (let i = 0; i < digits.length; i++) values[digits.charCodeAt(i)] = i;
  return values;
})();

function readRanks(bytes: Uint8Array): Vocabulary {
  const vocabulary = new Vocabulary();
  const reader = new LineReader(bytes);
  let count = 0;
  while (reader.next()) {
    const { token, length, rank } = reader;
    if (vocabulary.bytesOf(rank)) throw reader.invalid(`repeats the rank ${rank}`);
    const hash = hashOf(token, length);
    const same = vocabulary.find(token, 0, length, hash);
    if (same >= 0) throw reader.invalid(`repeats the token of rank ${same}`);
    vocabulary.add(token, length, hash, rank);
    count++;
  }
  if (count === 0) throw invalid("there is no token in it");
  if (count < vocabulary.size) {
    let missing = 0;
    while (vocabulary.bytesOf(missing)) missing++;
    throw invalid(`there is no token of rank ${missing}, but one of ${vocabulary.size - 1}`);
  }
  return vocabulary;
}

/** Reads the file's lines one after another. */
class LineReader {
  private readonly bytes: Uint8Array;
  private at = 0;
  private start = 0;
  private line = 0;
  /** The token of the line, its first `length` bytes, and its rank. */
  token: Uint8Array = new Uint8Array(256);
  length = 0;
  rank = 0;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  /** Reads the next line that is not empty; false at the end. */
  next(): boolean {
    const { bytes } = this;
    for (;;) {
      if (this.at >= bytes.length) return false;
      this.start = this.at;
      this.line++;
      if (bytes[this.at] === carriageReturn) this.at++;
      if (bytes[this.at] !== newline) break;
      this.at++;
    }
    this.at = this.start;
    if (!this.readToken() || !this.readRank()) {
      throw this.invalid("is not a token in base64, a space and its rank");
    }
    return true;
  }

  /** The error that the line `what`, which its beginning is shown for. */
  invalid(what: string): Error {
    let end = this.start;
    while (end < this.bytes.length && this.bytes[end] !== newline && end < this.start + 40) end++;
    const shown = Buffer.from(this.bytes.subarray(this.start, end)).toString("utf8");
    return invalid(`line ${this.line} (${JSON.stringify(shown)}) ${what}`);
  }

  /** Four digits are three bytes; the last may be one or two of which the rest is padding. */
  private readToken(): boolean {
    const { bytes, start } = this;
    let end = start;
    while (end < bytes.length && bytes[end] !== space && bytes[end] !== newline) end++;
    const digits = end - start;
    if (digits === 0 || digits % 4 !== 0 || bytes[end] !== space) return false;
    if (digits > this.token.length) this.token = new Uint8Array(2 * digits);
    const paddings = bytes[end - 1] !== equals ? 0 : bytes[end - 2] !== equals ? 1 : 2;
    let bits = 0;
    this.length = 0;
    for (let i = 0; i < digits; i++) {
      const value = i < digits - paddings ? digitValues[bytes[start + i]] : 0;
      if (value > 63) return false;
      bits = (bits << 6) | value;
      if (i % 4 !== 3) continue;
      this.token[this.length++] = bits >> 16;
      this.token[this.length++] = bits >> 8;
      this.token[this.length++] = bits;
      bits = 0;
    }
    this.length -= paddings;
    this.at = end + 1;
    return true;
  }

  private readRank(): boolean {
    const { bytes } = this;
    const start = this.at;
    let rank = 0;
    for (; bytes[this.at] >= 0x30 && bytes[this.at] <= 0x39; this.at++) {
      rank = rank * 10 + bytes[this.at] - 0x30;
      if (rank >= mergesMax) {
        throw this.invalid(`has a rank beyond the limit of ${mergesMax}`);
      }
    }
    if (this.at === start) return false;
    if (bytes[this.at] === carriageReturn) this.at++;
    if (this.at < bytes.length && bytes[this.at++] !== newline) return false;
    this.rank = rank;
    return true;
  }
}

function invalid(what: string): Error {
  return modelError("tokenizer-invalid", `tiktoken.model: ${what}. Download the file again.`);
}

function invalidConfig(what: string): Error {
  return modelError(
    "tokenizer-invalid",
    `tokenizer_config.json: ${what}. Give a checkpoint as Moonlight's or Kimi's.`,
  );
}
