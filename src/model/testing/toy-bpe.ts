/** @file A small byte-level BPE, trained in place, and an encoder as oracle, obvious and slow. */

/** Characters of the byte alphabet by byte, built from the published rule. */
export const alphabet: readonly string[] = (() => {
  const chars: string[] = [];
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const char = String.fromCodePoint(byte);
    // Printable Latin-1, which excludes controls, spaces and the soft hyphen.
    chars.push(/[!-~¡-¬®-ÿ]/.test(char) ? char : String.fromCodePoint(next++));
  }
  return chars;
})();

/** A vocabulary, and its merges in the order of their rank. */
export interface ToyBpe {
  readonly vocab: Record<string, number>;
  readonly merges: [string, string][];
}

/** Learns `count` merges from `words`: always the commonest pair, the first found of equals. */
export function trainToyBpe(words: readonly string[], count: number): ToyBpe {
  const vocab: Record<string, number> = {};
  for (const char of alphabet) vocab[char] = Object.keys(vocab).length;
  const merges: [string, string][] = [];
  const spelt = words.map(spell);
  for (let i = 0; i < count; i++) {
    const counts = new Map<string, number>();
    for (const word of spelt) {
      for (let j = 1; j < word.length; j++) {
        const pair = `${word[j - 1]} ${word[j]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const best = [...counts].reduce((x, y) => (y[1] > x[1] ? y : x), ["", 0]);
    if (best[1] === 0) break;
    const [left, right] = best[0].split(" ");
    merges.push([left, right]);
    vocab[left + right] ??= Object.keys(vocab).length;
    spelt.forEach((word, j) => {
      spelt[j] = merged(word, left, right);
    });
  }
  return { vocab, merges };
}

/** The tokens of one piece: merges applied one after another, each from left to right. */
export function encodeToyBpe({ vocab, merges }: ToyBpe, piece: string): number[] {
  let word = spell(piece);
  for (;;) {
    const pairs = new Set(word.slice(1).map((right, i) => `${word[i]} ${right}`));
    const merge = merges.find(([left, right]) => pairs.has(`${left} ${right}`));
    if (!merge) return word.map((token) => vocab[token]);
    word = merged(word, ...merge);
  }
}

/** A `tokenizer.json` around `bpe`. */
export function toyTokenizerJson(bpe: ToyBpe, extra: Record<string, unknown> = {}): unknown {
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: bpe.vocab, merges: bpe.merges },
    ...extra,
  };
}

function spell(text: string): string[] {
  return [...new TextEncoder().encode(text)].map((byte) => alphabet[byte]);
}

function merged(word: readonly string[], left: string, right: string): string[] {
  const result: string[] = [];
  for (let i = 0; i < word.length; i++) {
    if (word[i] === left && word[i + 1] === right) {
      result.push(left + right);
      i++;
    } else result.push(word[i]);
  }
  return result;
}
