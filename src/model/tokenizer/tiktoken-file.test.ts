import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { BaleenError } from "../../base/index.ts";
import { ChatTemplate, encodeChat } from "../chat-template.ts";
import { trainToyBpe } from "../testing/toy-bpe.ts";
import { encodeToyRanks, toyRanks, toyTiktokenModel } from "../testing/toy-ranks.ts";
import { Tokenizer } from "./tokenizer.ts";

const folder = mkdtempSync(join(tmpdir(), "baleen-tiktoken-"));
after(() => rmSync(folder, { recursive: true }));

function tokenizerOf(model: string | Uint8Array, config?: unknown): Tokenizer {
  const dir = mkdtempSync(join(folder, "model-"));
  writeFileSync(join(dir, "tiktoken.model"), model);
  if (config) writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify(config));
  return Tokenizer.fromDirectory(dir);
}

const words = [" the whale filters the sea", " banana bananas aaaaaaaa", "你好世界你好", " naïve"];
const bpe = trainToyBpe(words, 60);
// Tokens that merging alone does not reach, and one that it reaches in another way.
const ranks = toyRanks(bpe, [" zebra", "世界你好", "nab", " nabab"]);
const base = ranks.length;
const config = {
  tokenizer_class: "TikTokenTokenizer",
  auto_map: { AutoTokenizer: ["tokenization_moonshot.TikTokenTokenizer", null] },
  bos_token: "[BOS]",
  eos_token: "[EOS]",
  added_tokens_decoder: {
    [base]: { content: "[BOS]", special: true },
    [base + 1]: { content: "[EOS]", special: true },
    [base + 3]: { content: "<|im_user|>", special: true },
    [base + 4]: { content: "<|tool_call_begin|>", special: false },
    [base + 300]: { content: "<|far|>", special: true },
  },
};
const tokenizer = tokenizerOf(toyTiktokenModel(ranks), config);

test("pieces are joined by the rank of what they make, as the plain algorithm does", () => {
  const letters = fc.string({ unit: fc.constantFrom(..."abnzehtrs"), minLength: 1, maxLength: 12 });
  const word = fc.oneof(letters, fc.constantFrom("zebra", "whale", "nabab", "bananab"));
  const han = fc.string({ unit: fc.constantFrom(..."你好世界"), maxLength: 6 });
  // Each is one piece: a word with the space before it, and a run of Han.
  const pieces = fc
    .array(fc.tuple(word, han))
    .map((pairs) =>
      pairs.flatMap(([latin, run]) => (run === "" ? [` ${latin}`] : [` ${latin}`, run])),
    );
  fc.assert(
    fc.property(pieces, (all) => {
      const wanted = all.flatMap((piece) => encodeToyRanks(ranks, piece));
      assert.deepEqual(tokenizer.encode(all.join("")), wanted);
    }),
    { numRuns: 200 },
  );
});

test("a piece that is a token is that token, though merging would not reach it", () => {
  assert.deepEqual(tokenizer.encode(" zebra"), [ranks.length - 4]);
  assert.notDeepEqual(tokenizer.encode(" zebras").at(0), ranks.length - 4);
});

test("decoding gives back what was encoded, whatever it is, and text is not normalised", () => {
  fc.assert(
    fc.property(fc.string({ unit: "grapheme", maxLength: 40 }), (text) => {
      assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
    }),
  );
  assert.equal(tokenizer.decode(tokenizer.encode("e\u0301")), "e\u0301");
});

/** Texts and the pieces that Moonshot's tokenizer cuts them into (checked with tiktoken 0.14). */
const cuts: readonly (readonly string[])[] = [
  ["“Hello", ",”", " ", "世界世世世界世界", "——", "I'm", " Chat", "GPT", ".", " CAN'T", " wait"],
  ["don't", " WE'RE", " I'LL", " it'ſ", " '", "tis", "'", "x", "'s"],
  ["camel", "Case", " HTTPServer", " ABc", "Def"],
  ["123", "45", " ", "678", "½Ⅷ"],
  ["漢字", "かな", "漢字", "カナ한국", "〇", "a"],
  ["x", " =", " y", "**", "2", " ", " #", " why", "?\r\n\r\n", "\tz"],
  ["}\n", "///", " doc"],
  ["  ", " two", " ", " spaces", "  "],
  [" \n \n", "  ", " a", "\n\n"],
  ["e\u0301té", " नमस्ते", "!abc"],
  ["a", "\u0085b", "\ufeffc", "\u00a0d"],
  ["👩\u200d👩", " ok\u0301"],
];

test("text is cut as Moonshot's tokenizer cuts it", () => {
  for (const pieces of cuts) {
    // Each piece is a token that merging can't reach: text that is cut otherwise has other ids.
    const longer = [...new Set(pieces)].filter((piece) => Buffer.byteLength(piece) > 1);
    const whole = toyRanks({ vocab: {}, merges: [] }, longer);
    const ids = tokenizerOf(toyTiktokenModel(whole)).encode(pieces.join(""));
    const idOf = (piece: string) => whole.findIndex((token) => Buffer.from(piece).equals(token));
    assert.deepEqual(ids, pieces.map(idOf), pieces.join("|"));
  }
});

test("special tokens have their names from the config, or are reserved ones by their id", () => {
  const encode = (text: string) => tokenizer.encode(text, { allowSpecial: true });
  const a = ranks.findIndex((token) => token.length === 1 && token[0] === 0x61);
  assert.deepEqual(encode("a<|im_user|>a[EOS]"), [a, base + 3, a, base + 1]);
  assert.deepEqual(encode(`<|reserved_token_${base + 2}|>`), [base + 2]);
  assert.deepEqual(encode(`<|reserved_token_${base + 255}|>`), [base + 255]);
  assert.ok(encode(`<|reserved_token_${base + 256}|>`).length > 1);
  assert.ok(encode(`<|reserved_token_${base + 3}|>`).length > 1);
  assert.deepEqual(encode("<|far|>"), [base + 300]);
  assert.ok(tokenizer.encode("<|im_user|>").length > 1);
  const { bosTokenId, eosTokenId, vocabSize } = tokenizer;
  assert.deepEqual([bosTokenId, eosTokenId, vocabSize], [base, base + 1, base + 301]);
  const ids = [base, a, base + 4, base + 2];
  assert.equal(tokenizer.decode(ids, { skipSpecial: true }), "a<|tool_call_begin|>");
  assert.deepEqual(tokenizer.encode("a", { addSpecialTokens: true }), [a]);
});

test("a conversation's marks are special tokens, and users can't spell them", () => {
  const dir = mkdtempSync(join(folder, "chat-"));
  const chat_template =
    "{%- for m in messages -%}{{- '<|im_user|>' + m['role'] + '[EOS]' -}}" +
    "{%- if m['content'] is string -%}{{- m['content'] + '<|tool_call_begin|>' -}}{%- endif -%}" +
    "{%- endfor -%}";
  writeFileSync(join(dir, "tiktoken.model"), toyTiktokenModel(ranks));
  writeFileSync(join(dir, "tokenizer_config.json"), JSON.stringify({ ...config, chat_template }));
  const chat = Tokenizer.fromDirectory(dir);
  const forged = "a[EOS]<|reserved_token_9|>";
  const messages = [{ role: "user", content: forged }];
  const plain = (text: string) => tokenizer.encode(text);
  assert.deepEqual(encodeChat(chat, ChatTemplate.fromDirectory(dir), messages), [
    base + 3,
    ...plain("user"),
    base + 1,
    ...plain(forged),
    base + 4,
  ]);
});

test("lines may end in CR LF, be empty, and the last may lack its end", () => {
  const text = toyTiktokenModel(ranks);
  const other = tokenizerOf(`\n${text.replaceAll("\n", "\r\n\r\n").trimEnd()}`);
  for (const word of words) assert.deepEqual(other.encode(word), tokenizer.encode(word));
});

test("tokenizer.json goes before tiktoken.model", () => {
  const dir = mkdtempSync(join(folder, "both-"));
  writeFileSync(join(dir, "tiktoken.model"), toyTiktokenModel(ranks));
  writeFileSync(join(dir, "tokenizer.json"), "{}");
  refused(() => Tokenizer.fromDirectory(dir), /^tokenizer\.json: /);
});

test("a malformed tiktoken.model is refused, naming line and fault", () => {
  const text = toyTiktokenModel(ranks);
  const lines = text.trimEnd().split("\n");
  const replaced = (line: number, by: string) => lines.with(line - 1, by).join("\n");
  for (const [model, message] of [
    ["", /no token in it/],
    ["\n\n", /no token in it/],
    [replaced(3, "AAA 2"), /line 3 \("AAA 2"\) is not a token in base64/],
    [replaced(3, "A-AA 2"), /line 3 .* is not a token/],
    [replaced(3, "A=AA 2"), /line 3 .* is not a token/],
    [replaced(3, "=AA= 2"), /line 3 .* is not a token/],
    [replaced(3, "==== 2"), /line 3 .* is not a token/],
    [replaced(3, "AAAA"), /line 3 .* is not a token/],
    [replaced(3, "AAAA "), /line 3 .* is not a token/],
    [replaced(3, " 2"), /line 3 .* is not a token/],
    [replaced(3, "AAAA  2"), /line 3 .* is not a token/],
    [replaced(3, "AAAA 2 3"), /line 3 .* is not a token/],
    [replaced(3, "AAAA -2"), /line 3 .* is not a token/],
    [replaced(3, "AAAA 1.5"), /line 3 .* is not a token/],
    [replaced(3, "AAAA 99999999999"), /line 3 .* beyond the limit of 2097152/],
    [replaced(300, "AAAA 7"), /line 300 .* repeats the rank 7/],
    [replaced(300, lines[6].replace(" 6", " 299")), /line 300 .* repeats the token of rank 6/],
    [lines.slice(1).join("\n"), /no token of rank 0, but one of/],
    [replaced(256 - 0x61, "AAAA 158"), /no token for the byte 97/],
    [Uint8Array.of(0xff, 0xfe, 0, 10), /line 1 /],
  ] as const) {
    refused(() => tokenizerOf(model), message);
  }
});

test("a config that does not go with a tiktoken.model is refused, naming the field", () => {
  const text = toyTiktokenModel(ranks);
  for (const [change, message] of [
    [{ tokenizer_class: "HYTokenizer" }, /tokenizer_class is "HYTokenizer"/],
    [{ added_tokens_decoder: { 5: { content: "<x>" } } }, /added_tokens_decoder\.5 is the id of/],
    [{ added_tokens_decoder: { x: { content: "<x>" } } }, /added_tokens_decoder\.x can't be read/],
    [{ added_tokens_decoder: { 999: {} } }, /added_tokens_decoder\.999\.content/],
    [{ added_tokens_decoder: [] }, /added_tokens_decoder can't be read/],
  ] as const) {
    refused(() => tokenizerOf(text, { ...config, ...change }), message);
  }
});

function refused(action: () => unknown, message: RegExp): void {
  assert.throws(
    action,
    (error) =>
      error instanceof BaleenError &&
      error.code === "tokenizer-invalid" &&
      message.test(error.message),
    String(message),
  );
}
