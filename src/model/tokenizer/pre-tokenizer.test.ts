import assert from "node:assert/strict";
import { test } from "node:test";
import { BaleenError } from "../../base/index.ts";
import { fromOniguruma } from "./oniguruma.ts";
import { preTokenizerOf } from "./pre-tokenizer.ts";

// Expected values in this file were computed with the Hugging Face tokenizers library, 0.23.

/** `pre_tokenizer` with a ByteLevel step that does nothing, which all here must have. */
function cutter(...steps: unknown[]): (text: string) => string[] {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
  return preTokenizerOf({ type: "Sequence", pretokenizers: [...steps, byteLevel] });
}

function isolated(regex: string): unknown {
  return { type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false };
}

/** DeepSeek-V3's three steps. */
const deepseek = [
  "\\p{N}{1,3}",
  "[一-龥぀-ゟ゠-ヿ]+",
  [
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+",
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
  ].join("|"),
];

test("DeepSeek-V3's steps cut numbers in threes, then CJK and kana runs, then words", () => {
  const cut = cutter(...deepseek.map(isolated));
  for (const [text, pieces] of [
    ["Hello, world! 12345 apples", ["Hello", ",", " world", "!", " ", "123", "45", " apples"]],
    ["你好世界2024年ひらがな", ["你好世界", "202", "4", "年ひらがな"]],
    [
      "x = y**2  # why?\r\n\r\n\tz",
      ["x", " =", " y", "**", "2", " ", " #", " why", "?\r\n\r\n", "\tz"],
    ],
    ["  two  spaces ", [" ", " two", " ", " spaces", " "]],
    // Next line is white space, a byte order mark is not: JavaScript's \s says the opposite.
    ["a\u0085b\ufeffc\u00a0d", ["a", "\u0085b", "\ufeffc", "\u00a0d"]],
    ["e\u0301té नमस्ते!abc", ["e\u0301té", " नमस्ते", "!abc"]],
    ["'tis don't", ["'tis", " don", "'t"]],
    ["\n \n  \n", ["\n \n  \n"]],
    ["👩\u200d👩\u200d👧 ok", ["👩", "\u200d", "👩", "\u200d", "👧", " ok"]],
    ["½Ⅷ٣", ["½Ⅷ٣"]],
    ["", []],
  ] as const) {
    assert.deepEqual(cut(text), pieces);
  }
});

test("DeepSeek-V2-Lite's steps cut line ends, letters, punctuation, CJK and single digits", () => {
  const letters = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯ]+";
  // The range from ":" to "~" holds the letters of ASCII too, which cuts "über" in two.
  const punctuation = "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+";
  const splits = ["[\r\n]", letters, punctuation, "\\s+$", "[一-龥ࠀ-一가-\ud7ff]+"];
  const cut = cutter(...splits.map(isolated), { type: "Digits", individual_digits: true });
  for (const [text, pieces] of [
    ["Hello, world! 123 apples", ["Hello", ",", " world", "!", " ", "1", "2", "3", " apples"]],
    ["你好世界20年ひらがな한국", ["你好世界", "2", "0", "年ひらがな한국"]],
    [
      "x = y**2  # why?\r\n\tz",
      ["x", " =", " y", "**", "2", " ", " #", " why", "?", "\r", "\n", "\tz"],
    ],
    ["  two  spaces \n  ", [" ", " two", " ", " spaces", " ", "\n", "  "]],
    ["über Öl: “né”!", ["ü", "ber", " Ö", "l", ":", " ", "“", "n", "é", "”", "!"]],
    ["a\u3000b\u3000。c", ["a", "\u3000", "b", "\u3000。", "c"]],
  ] as const) {
    assert.deepEqual(cut(text), pieces);
  }
});

test("each behaviour arranges matches and what lies between in its way", () => {
  for (const [behavior, invert, pieces] of [
    ["Removed", false, ["the", "final", "countdown"]],
    ["Removed", true, ["-", "-", "-", "-"]],
    ["Isolated", false, ["the", "-", "final", "-", "-", "countdown", "-"]],
    ["Isolated", true, ["the", "-", "final", "-", "-", "countdown", "-"]],
    ["MergedWithPrevious", false, ["the-", "final-", "-", "countdown-"]],
    ["MergedWithPrevious", true, ["the", "-final", "-", "-countdown", "-"]],
    ["MergedWithNext", false, ["the", "-final", "-", "-countdown", "-"]],
    ["MergedWithNext", true, ["the-", "final-", "-", "countdown-"]],
    ["Contiguous", false, ["the", "-", "final", "--", "countdown", "-"]],
    ["Contiguous", true, ["the", "-", "final", "--", "countdown", "-"]],
  ] as const) {
    const cut = cutter({ type: "Split", pattern: { String: "-" }, behavior, invert });
    assert.deepEqual(cut("the-final--countdown-"), pieces, `${behavior}, invert ${invert}`);
  }
});

test("digits are cut out one by one or in runs", () => {
  const text = "call 123 now² 4";
  const one = cutter({ type: "Digits", individual_digits: true });
  assert.deepEqual(one(text), ["call ", "1", "2", "3", " now", "²", " ", "4"]);
  const runs = cutter({ type: "Digits", individual_digits: false });
  assert.deepEqual(runs(text), ["call ", "123", " now", "²", " ", "4"]);
});

test("ByteLevel cuts as GPT-2 does, and may put a space in front", () => {
  const plain = preTokenizerOf({ type: "ByteLevel", add_prefix_space: false });
  assert.deepEqual(plain("I'm  here 42!"), ["I", "'m", " ", " here", " 42", "!"]);
  const spaced = preTokenizerOf({ type: "ByteLevel", add_prefix_space: true });
  assert.deepEqual(spaced("I'm"), [" I", "'m"]);
  assert.deepEqual(spaced(" I'm"), [" I", "'m"]);
});

test("Oniguruma's expressions match in JavaScript what they match in Oniguruma", () => {
  for (const [pattern, text, matches] of [
    ["\\s+", "a\u0085\u2028b \ufeff c", ["\u0085\u2028", " ", " "]],
    ["[^\\s\\p{L}]+", "a\u0085!?b", ["!?"]],
    ["\\d+", "12٣a", ["12٣"]],
    ["\\w+", "né_1-x\u0301½", ["né_1", "x\u0301½"]],
    ["\\h+", "beefy", ["beef"]],
    ["a.c", "a\rc a\nc", ["a\rc"]],
    ["^b", "a\nb\rb", ["b"]],
    ["a$", "a\nb a\rb a", ["a", "a"]],
    ["(?i:'s|'LL)x?", "'S 'ſ 'll 'sx 'sX", ["'S", "'ſ", "'ll", "'sx", "'s"]],
    ["(?i)k+a", "kKKa ka", ["kKKa", "ka"]],
    ["(?i:[a-c]+)x", "abCx ABCX", ["abCx"]],
    ["a++b|a+", "aab aaa", ["aab", "aaa"]],
    ["(?>a|ab)c|b", "abc ac", ["b", "ac"]],
    ["[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+", " x--yz", [" x", "-yz"]],
    ["\\p{Han}+", "漢字kana", ["漢字"]],
    ["\\p{^L}+", "a12b", ["12"]],
    ["[a-z&&[^aeiou]]+", "hello", ["h", "ll"]],
    ["[[ab]c]+", "abcd", ["abc"]],
    ["[\\x41-\\x{43}]+", "ABCD", ["ABC"]],
    ["x{2}|x{,1}y|x{0,}z", "xxy xxxz y", ["xx", "y", "xx", "xz", "y"]],
    ["[]a]+", "a]b", ["a]"]],
    ["{a}", "{a}", ["{a}"]],
    ["a{", "a{b", ["a{"]],
    ["[\\-\\]^]+", "-]^x", ["-]^"]],
    ["[\\\\a]+", "a\\b", ["a\\"]],
    ["\\Aab", "abab", ["ab"]],
    ["[^\\n]+?\\z", "ab", ["ab"]],
    ["(a|b)+c", "abac", ["abac"]],
    ["(?<=a)b", "ab b", ["b"]],
    ["(?<!a)b", "ab b", ["b"]],
    ["[一-龥぀-ゟ゠-ヿ]+", "中文かなx", ["中文かな"]],
  ] as const) {
    const found = [...text.matchAll(fromOniguruma(pattern))].map(([match]) => match);
    assert.deepEqual(found, matches, pattern);
  }
});

test("what can't be said in JavaScript, and what is no expression, is refused by name", () => {
  for (const [pattern, message] of [
    ["(a)\\1", /\\\\1|"\\1"/],
    ["\\bword", /"\\b"/],
    ["[[:alpha:]]", /\[:/],
    ["(?m:a)", /the group/],
    ["\\p{Nonsense}", /property "Nonsense"/],
    ["(a", /without its "\)"/],
    ["a)", /unmatched/],
    ["[a", /without its "]"/],
    ["*a", /nothing before it/],
    ["[z-a]", /as a whole/],
    ["\\", /""|"\\"/],
  ] as const) {
    assert.throws(
      () => fromOniguruma(pattern),
      (error) => error instanceof BaleenError && message.test(error.message),
      pattern,
    );
  }
});

test("pre-tokenizers that are not supported are refused by name", () => {
  for (const [json, message] of [
    [null, /of type none/],
    [{ type: "Metaspace" }, /of type "Metaspace"/],
    [{ type: "Sequence", pretokenizers: [{ type: "BertPreTokenizer" }] }, /pre_tokenizer\.0/],
    [{ type: "Digits" }, /no ByteLevel/],
    [{ type: "Split", pattern: { Regex: "a" }, behavior: "Sideways" }, /behavior/],
  ] as const) {
    assert.throws(
      () => preTokenizerOf(json),
      (error) => error instanceof BaleenError && message.test(error.message),
    );
  }
});
