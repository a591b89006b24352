/**
 * @file Reads `tokenizer.json` from its bytes. Its vocabulary and merges, nine tenths of it, are
 * taken from the bytes as they stand, for speed; the rest is parsed as any JSON.
 */
import { modelError } from "../errors.ts";
import { type Merges, MergeTable, mergesMax } from "./bpe.ts";
import { byteOfChar } from "./byte-alphabet.ts";
import { hashStart, hashStep, Vocabulary } from "./vocabulary.ts";

/** The contents of a `tokenizer.json`, or of another file in its form. */
export interface TokenizerFile {
  /** Its name, for messages. */
  readonly name: string;
  /** Tokens written in the byte alphabet. */
  readonly vocabulary: Vocabulary;
  /** Ids of the tokens that are not, by what is written. */
  readonly otherTokens: ReadonlyMap<string, number>;
  readonly merges: Merges;
  /** All else: `model` has an empty `vocab` and `merges`. */
  readonly rest: unknown;
}

/** An id from here on is refused: the tables are as long as the highest. */
const idMax = 2 ** 24;

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const colon = 0x3a;
const space = 0x20;
const openBrace = 0x7b;
const closeBrace = 0x7d;
const openBracket = 0x5b;
const closeBracket = 0x5d;

/** The contents of the `tokenizer.json` whose bytes are given. Raises `tokenizer-invalid`. */
export function readTokenizerFile(bytes: Uint8Array): TokenizerFile {
  const ranges = locate(bytes);
  const tokens = readVocab(bytes, ranges.vocab);
  return {
    name: "tokenizer.json",
    ...tokens,
    merges: readMerges(bytes, ranges.merges, tokens.vocabulary),
    rest: parseRest(bytes, ranges),
  };
}

/** Where a value starts and ends. */
type Range = readonly [number, number];

function locate(bytes: Uint8Array): { vocab: Range; merges: Range } {
  const ranges: Record<string, Range> = {};
  const cursor = new Cursor(bytes, 0);
  cursor.members((key) => {
    if (key !== "model" || cursor.peek() !== openBrace) return cursor.skipValue();
    cursor.members((inner) => {
      cursor.peek();
      const start = cursor.at;
      cursor.skipValue();
      ranges[inner] = [start, cursor.at];
    });
  });
  const { vocab, merges } = ranges;
  if (!vocab || bytes[vocab[0]] !== openBrace) throw invalid("model.vocab is not an object");
  if (!merges || bytes[merges[0]] !== openBracket) throw invalid("model.merges is not a list");
  return { vocab, merges };
}

function parseRest(bytes: Uint8Array, { vocab, merges }: { vocab: Range; merges: Range }): unknown {
  const cuts = [
    { range: vocab, stub: "{}" },
    { range: merges, stub: "[]" },
  ].sort((x, y) => x.range[0] - y.range[0]);
  const text = (from: number, to: number) => Buffer.from(bytes.subarray(from, to)).toString("utf8");
  let rest = "";
  let at = 0;
  for (const { range, stub } of cuts) {
    rest += text(at, range[0]) + stub;
    at = range[1];
  }
  try {
    return JSON.parse(rest + text(at, bytes.length));
  } catch (cause) {
    throw invalid("it is not valid JSON", cause);
  }
}

function readVocab(
  bytes: Uint8Array,
  [start]: Range,
): Pick<TokenizerFile, "vocabulary" | "otherTokens"> {
  const vocabulary = new Vocabulary();
  const otherTokens = new Map<string, number>();
  const reader = new TokenReader(bytes);
  const cursor = new Cursor(bytes, start);
  for (cursor.take(openBrace); !cursor.takeIf(closeBrace); cursor.separator(closeBrace)) {
    cursor.peek();
    const keyStart = cursor.at;
    const plain = reader.read(keyStart, quote);
    if (plain) cursor.at = reader.at;
    else cursor.skipString();
    const keyEnd = cursor.at;
    cursor.take(colon);
    const id = cursor.integer();
    if (id >= idMax) throw invalid(`model.vocab has the id ${id}, beyond the limit of ${idMax}`);
    if (plain) vocabulary.add(reader.bytes, reader.length, reader.hash, id);
    else otherTokens.set(cursor.text(keyStart, keyEnd), id);
  }
  return { vocabulary, otherTokens };
}

function readMerges(bytes: Uint8Array, [start]: Range, vocabulary: Vocabulary): MergeTable {
  const merges = new MergeTable();
  const reader = new TokenReader(bytes);
  const cursor = new Cursor(bytes, start);
  for (cursor.take(openBracket); !cursor.takeIf(closeBracket); cursor.separator(closeBracket)) {
    const from = cursor.at;
    const isPair = cursor.takeIf(openBracket);
    cursor.peek();
    let ok = reader.read(cursor.at, isPair ? quote : space);
    const leftLength = reader.length;
    const left = ok ? vocabulary.find(reader.bytes, 0, leftLength, reader.hash) : -1;
    cursor.at = reader.at;
    if (ok && isPair) {
      cursor.take(comma);
      cursor.peek();
    }
    ok &&= reader.readMore(cursor.at, isPair);
    cursor.at = reader.at;
    if (ok && isPair) cursor.take(closeBracket);
    const { length, hash, moreHash } = reader;
    const right = ok
      ? vocabulary.find(reader.bytes, leftLength, length - leftLength, moreHash)
      : -1;
    const joined = ok ? vocabulary.find(reader.bytes, 0, length, hash) : -1;
    if (left < 0 || right < 0 || joined < 0) {
      const shown = Buffer.from(bytes.subarray(from, from + 60))
        .toString("utf8")
        .split("\n")[0];
      throw invalid(
        `model.merges.${merges.count} (${shown}) is not a pair of tokens of model.vocab`,
      );
    }
    if (merges.count === mergesMax) throw invalid(`model.merges has more than ${mergesMax}`);
    merges.add(left, right, joined);
  }
  return merges;
}

/** Reads strings in the byte alphabet: their bytes and hashes. */
class TokenReader {
  private readonly source: Uint8Array;
  bytes: Uint8Array<ArrayBuffer> = new Uint8Array(256);
  length = 0;
  /** Of all bytes, and of those of the last `readMore`. */
  hash: number = hashStart;
  moreHash: number = hashStart;
  /** After what was read last. */
  at = 0;

  constructor(source: Uint8Array) {
    this.source = source;
  }

  /**
   * Reads the string at `at`, an opening quote, up to `end`: its closing quote, or a space inside.
   * False where there is no such string in the alphabet; then `at` means nothing.
   */
  read(at: number, end: number): boolean {
    this.length = 0;
    this.hash = hashStart;
    return this.source[at] === quote && this.characters(at + 1, end);
  }

  /** Reads on, from an opening quote if `quoted`, to the closing one. */
  readMore(at: number, quoted: boolean): boolean {
    if (quoted && this.source[at] !== quote) return false;
    return this.characters(quoted ? at + 1 : at, quote);
  }

  private characters(at: number, end: number): boolean {
    const { source } = this;
    let { length, hash } = this;
    let more = hashStart;
    for (;;) {
      let code = source[at++];
      if (code === end) break;
      if (code === backslash) {
        const escaped = source[at++];
        if (escaped === 0x75) {
          code = Number.parseInt(String.fromCharCode(...source.subarray(at, at + 4)), 16);
          at += 4;
        } else code = escaped === quote || escaped === backslash || escaped === 0x2f ? escaped : -1;
      } else if (code >= 0x80)
        code = ((code & 0x1f) << 6) | (code < 0xe0 ? source[at++] & 0x3f : -1);
      const byte = byteOfChar(code);
      if (byte < 0) return false;
      if (length === this.bytes.length) this.grow();
      this.bytes[length++] = byte;
      hash = hashStep(hash, byte);
      more = hashStep(more, byte);
    }
    this.length = length;
    this.hash = hash;
    this.moreHash = more;
    this.at = at;
    return true;
  }

  private grow(): void {
    const larger = new Uint8Array(2 * this.bytes.length);
    larger.set(this.bytes);
    this.bytes = larger;
  }
}

/** A place in JSON; what it skips is checked only as far as finding its end takes. */
class Cursor {
  private readonly bytes: Uint8Array;
  at: number;

  constructor(bytes: Uint8Array, at: number) {
    this.bytes = bytes;
    this.at = at;
  }

  /** The next byte that is no white space, or undefined at the end; `at` is there then. */
  peek(): number | undefined {
    const { bytes } = this;
    while (bytes[this.at] <= space && this.at < bytes.length) this.at++;
    return bytes[this.at];
  }

  takeIf(byte: number): boolean {
    if (this.peek() !== byte) return false;
    this.at++;
    return true;
  }

  take(byte: number): void {
    if (!this.takeIf(byte)) {
      throw invalid(`byte ${this.at} is not the "${String.fromCharCode(byte)}" that JSON wants`);
    }
  }

  /** After an element: a comma, unless `close` is next. */
  separator(close: number): void {
    if (this.peek() !== close) this.take(comma);
  }

  /** Calls `visit` for each member of the object here; it must move past the value. */
  members(visit: (key: string) => void): void {
    for (this.take(openBrace); !this.takeIf(closeBrace); this.separator(closeBrace)) {
      this.peek();
      const start = this.at;
      this.skipString();
      const key = this.text(start, this.at);
      this.take(colon);
      visit(key);
    }
  }

  skipString(): void {
    this.take(quote);
    const { bytes } = this;
    while (bytes[this.at] !== quote) {
      if (this.at >= bytes.length) throw invalid("it ends inside a string");
      this.at += bytes[this.at] === backslash ? 2 : 1;
    }
    this.at++;
  }

  skipValue(): void {
    let depth = 0;
    do {
      const byte = this.peek();
      if (byte === undefined) throw invalid("it ends too early");
      if (byte === quote) this.skipString();
      else {
        if (byte === openBrace || byte === openBracket) depth++;
        if (byte === closeBrace || byte === closeBracket) depth--;
        this.at++;
        if (depth === 0 && byte !== closeBrace && byte !== closeBracket) this.skipLiteral();
      }
    } while (depth > 0);
  }

  /** A non-negative integer. */
  integer(): number {
    this.peek();
    const start = this.at;
    let value = 0;
    for (let digit = this.bytes[this.at] - 0x30; digit >= 0 && digit <= 9; ) {
      value = value * 10 + digit;
      digit = this.bytes[++this.at] - 0x30;
    }
    if (this.at === start) throw invalid(`byte ${start} is not the token id that is wanted there`);
    return value;
  }

  /** The JSON string at [start, end). */
  text(start: number, end: number): string {
    const json = Buffer.from(this.bytes.subarray(start, end)).toString("utf8");
    try {
      return JSON.parse(json);
    } catch (cause) {
      throw invalid(`${json.slice(0, 60)} is not a JSON string`, cause);
    }
  }

  /** The rest of a number, true, false or null. */
  private skipLiteral(): void {
    const ends = [comma, closeBrace, closeBracket];
    while (this.at < this.bytes.length && !ends.includes(this.bytes[this.at])) this.at++;
  }
}

function invalid(what: string, cause?: unknown): Error {
  const message = `tokenizer.json: ${what}. Download the file again.`;
  return modelError("tokenizer-invalid", message, cause);
}
