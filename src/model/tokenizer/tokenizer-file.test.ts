import assert from "node:assert/strict";
import { test } from "node:test";
import { BaleenError, Random } from "../../base/index.ts";
import { alphabet, toyTokenizerJson, trainToyBpe } from "../testing/toy-bpe.ts";
import { readTokenizerFile } from "./tokenizer-file.ts";

const toy = trainToyBpe(["the whale filters the sea", '"quoted" back\\slash a/b', "你好 你好"], 60);
const json = toyTokenizerJson({ ...toy, vocab: { ...toy.vocab, "<｜User｜>": 400 } });

test("tokens, merges and the rest come out of a file, whatever its spacing and escapes", () => {
  const compact = JSON.stringify(json);
  const escaped = compact.replace(/[^\x20-\x7e]/g, (char) => {
    return `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
  for (const text of [compact, JSON.stringify(json, null, 2), escaped, `\n\t${compact}\n`]) {
    const file = readTokenizerFile(Buffer.from(text));
    for (const [token, id] of Object.entries(toy.vocab)) {
      const bytes = Uint8Array.from([...token].map((char) => alphabet.indexOf(char)));
      assert.equal(file.vocabulary.idOf(bytes), id);
      assert.deepEqual(file.vocabulary.bytesOf(id), bytes);
    }
    assert.equal(file.vocabulary.idOf(Buffer.from("no such token")), -1);
    assert.equal(file.vocabulary.bytesOf(399), undefined);
    assert.deepEqual([...file.otherTokens], [["<｜User｜>", 400]]);
    toy.merges.forEach(([left, right], rank) => {
      const ids = [toy.vocab[left], toy.vocab[right]] as const;
      assert.equal(file.merges.rank(...ids), rank);
      assert.equal(file.merges.joined(...ids), toy.vocab[left + right]);
    });
    assert.equal(file.merges.rank(toy.vocab.z, toy.vocab.q), -1);
    assert.deepEqual(file.rest, {
      ...(json as object),
      model: { type: "BPE", vocab: {}, merges: [] },
    });
  }
});

test("a vocabulary of many tokens keeps them apart", () => {
  const vocab: Record<string, number> = {};
  for (const char of alphabet) vocab[char] = Object.keys(vocab).length;
  for (let i = 0; i < 30_000; i++) vocab[`t${i.toString(36)}`] = 20_000 + i;
  const file = readTokenizerFile(
    Buffer.from(JSON.stringify(toyTokenizerJson({ vocab, merges: [] }))),
  );
  for (let i = 0; i < 30_000; i++) {
    assert.equal(file.vocabulary.idOf(Buffer.from(`t${i.toString(36)}`)), 20_000 + i);
  }
});

test("a damaged file is read or refused with a BaleenError, and never hangs", () => {
  const seed = Date.now() >>> 0;
  console.log(`tokenizer file fuzz seed ${seed}`);
  const random = new Random(seed);
  const bytes = Buffer.from(JSON.stringify(json));
  let refused = 0;
  for (let round = 0; round < 600; round++) {
    let copy = Buffer.from(bytes);
    for (let flips = 1 + random.below(4); flips > 0; flips--) {
      copy[random.below(copy.length)] = '"\\{}[],: \0ax'.charCodeAt(random.below(13)) & 0xff;
    }
    if (random.below(3) === 0) copy = copy.subarray(0, random.below(copy.length));
    try {
      readTokenizerFile(copy);
    } catch (error) {
      assert.ok(error instanceof BaleenError, `round ${round}: ${(error as Error).stack}`);
      refused++;
    }
  }
  assert.ok(refused > 200, `only ${refused} refused`);
});
