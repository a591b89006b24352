/**
 * @file How fast the tokenizers load, encode and decode, by the thread's processor time: one with
 * DeepSeek-V3's steps in a `tokenizer.json`, one with Moonshot's pattern in a `tiktoken.model`.
 * "Again" finds pieces in the cache of the last ones; "marks" are added tokens spelt out in the text.
 * Vocabularies and texts are made here, from the words of the small model's vocabulary: with
 * `--large` as many tokens as the real ones have and 4 MB of text, without it little, for the tests.
 */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { medianOf, Random } from "../../base/index.ts";
import { threadCpuTimeUs } from "../../native/index.ts";
import { alphabet } from "../testing/toy-bpe.ts";
import { Tokenizer } from "./tokenizer.ts";

interface Size {
  /** Tokens of the `tokenizer.json` and of the `tiktoken.model`. */
  readonly tokens: readonly [number, number];
  readonly words: number;
  readonly textBytes: number;
  readonly runs: number;
}

const small: Size = { tokens: [600, 700], words: 100, textBytes: 4000, runs: 1 };
const large: Size = { tokens: [128_000, 163_584], words: 30_000, textBytes: 4_000_000, runs: 5 };

const austenFile = fileURLToPath(
  new URL("../../../models/austen-6m/tokenizer.json", import.meta.url),
);

/** `count` different words, made of one to three of the small model's tokens. */
function makeWords(count: number, random: Random): string[] {
  const { vocab } = JSON.parse(readFileSync(austenFile, "utf8")).model;
  const parts = Object.keys(vocab).filter((token) => /^[a-z]{2,}$/.test(token));
  const words = new Set<string>();
  while (words.size < count) {
    const length = 1 + random.below(3);
    words.add(Array.from({ length }, () => parts[random.below(parts.length)]).join(""));
  }
  return [...words];
}

/** Text of these words, the first ones the commonest, as Zipf's law has it; a line end at times. */
function makeText(words: readonly string[], bytes: number, random: Random): string {
  const pieces: string[] = [];
  for (let size = 0; size < bytes; ) {
    const word = words[Math.floor(words.length ** random.uniform()) - 1];
    const mark = random.below(8) > 0 ? "" : random.below(12) > 0 ? "," : '."\n';
    pieces.push(` ${word}${mark}`);
    size += 1 + word.length + mark.length;
  }
  return pieces.join("").trim();
}

/** The single bytes, and the beginnings of ` word` for each word, until there are `count`. */
function makeTokens(words: readonly string[], count: number, random: Random): string[] {
  const tokens = new Set(alphabet);
  const add = (word: string) => {
    const spelt = alphabet[0x20] + word;
    for (let end = 2; end <= spelt.length && tokens.size < count; end++) {
      tokens.add(spelt.slice(0, end));
    }
  };
  words.forEach(add);
  while (tokens.size < count) makeWords(100, random).forEach(add);
  return [...tokens];
}

function tokenizerJson(tokens: readonly string[]): unknown {
  const regexes = [
    "\\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" +
      "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
  ];
  const splits = regexes.map((Regex) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  }));
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  return {
    pre_tokenizer: { type: "Sequence", pretokenizers: [...splits, byteLevel] },
    model: {
      type: "BPE",
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: tokens.slice(256).map((token) => [token.slice(0, -1), token.slice(-1)]),
    },
  };
}

function tiktokenModel(tokens: readonly string[]): string {
  const byteOf = new Map(alphabet.map((char, byte) => [char, byte]));
  const line = (token: string, rank: number) => {
    const bytes = Uint8Array.from(token, (char) => byteOf.get(char) as number);
    return `${Buffer.from(bytes).toString("base64")} ${rank}\n`;
  };
  return tokens.map(line).join("");
}

function cpuMs(work: () => void): number {
  const start = threadCpuTimeUs();
  work();
  return (threadCpuTimeUs() - start) / 1e3;
}

/** The texts by name. */
type Texts = Readonly<Record<string, string>>;
type Print = (line: string) => void;

function benchFile(path: string, tokens: number, texts: Texts, runs: number, print: Print): void {
  const times = new Map<string, number[]>();
  const time = (name: string, work: () => void) => {
    const ms = cpuMs(work);
    times.set(name, [...(times.get(name) ?? []), ms]);
  };
  const rateOf = (name: string, amount: number) => {
    // The first run is not counted: code was being compiled.
    return (amount / 1e3 / medianOf(times.get(name)?.slice(1) ?? [])).toFixed(1);
  };
  const decoded = new Map<string, number>();
  for (let run = -1; run < runs; run++) {
    const tokenizer = Tokenizer.fromDirectory(dirname(path));
    time("load", () => Tokenizer.fromDirectory(dirname(path)));
    for (const [name, text] of Object.entries(texts)) {
      let ids: number[] = [];
      time(`${name}, first`, () => {
        ids = tokenizer.encode(text);
      });
      time(`${name}, again`, () => tokenizer.encode(text));
      time(`${name}, marks`, () => tokenizer.encode(text, { allowSpecial: true }));
      const stream = tokenizer.streamDecoder();
      time(`${name}, decode`, () => {
        for (const id of ids) stream.push(id);
      });
      decoded.set(name, ids.length);
    }
  }
  const size = (statSync(path).size / 1e6).toFixed(1);
  const load = medianOf(times.get("load")?.slice(1) ?? []).toFixed(0);
  print(`${basename(path)}, ${tokens} tokens, ${size} MB: load ${load} ms`);
  for (const [name, text] of Object.entries(texts)) {
    const bytes = Buffer.byteLength(text);
    const rates = ["first", "again", "marks"].map((how) => rateOf(`${name}, ${how}`, bytes));
    const decode = rateOf(`${name}, decode`, decoded.get(name) ?? 0);
    print(
      `  ${name.padEnd(9)}  encode ${rates[0]} MB/s, again ${rates[1]}, ` +
        `looking for marks ${rates[2]}; decode ${decode} M tokens/s`,
    );
  }
}

/** Runs the benchmark, one line of text at a time. */
export function benchTokenizer(isLarge: boolean, print: Print): void {
  const { tokens, words: count, textBytes, runs } = isLarge ? large : small;
  const random = new Random(7);
  const words = makeWords(count, random);
  // No piece of these comes twice, and few of their letters make tokens.
  const letters = Array.from({ length: textBytes / 40 }, () =>
    Array.from({ length: 9 }, () => "etaoinshrdlu"[random.below(12)]).join(""),
  );
  const texts = { text: makeText(words, textBytes, random), "new words": letters.join(" ") };
  const folder = mkdtempSync(join(tmpdir(), "baleen-tokenizer-"));
  try {
    const [json, model] = ["tokenizer.json", "tiktoken.model"].map((name) => join(folder, name));
    const [jsonTokens, modelTokens] = tokens;
    writeFileSync(model, tiktokenModel(makeTokens(words, modelTokens, random)));
    benchFile(model, modelTokens, texts, runs, print);
    writeFileSync(json, JSON.stringify(tokenizerJson(makeTokens(words, jsonTokens, random))));
    benchFile(json, jsonTokens, texts, runs, print);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  benchTokenizer(process.argv.includes("--large"), console.log);
}
