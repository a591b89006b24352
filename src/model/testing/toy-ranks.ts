/** @file A small `tiktoken.model`, and an encoder of its pieces as oracle, obvious and slow. */
import { alphabet, type ToyBpe } from "./toy-bpe.ts";

/** Tokens by rank. */
export type ToyRanks = readonly Uint8Array[];

/**
 * The tokens of `bpe` as ranks, single bytes in falling order first, and `more` behind them: those
 * need not be reachable from shorter ones.
 */
export function toyRanks({ vocab }: ToyBpe, more: readonly string[] = []): ToyRanks {
  const bytes = alphabet.map((_, byte) => Uint8Array.of(byte)).reverse();
  const byteOfChar = new Map(alphabet.map((char, byte) => [char, byte]));
  const longer = Object.keys(vocab).filter((token) => token.length > 1);
  const learnt = longer.map((token) =>
    Uint8Array.from(token, (char) => byteOfChar.get(char) as number),
  );
  return [...bytes, ...learnt, ...more.map((text) => new TextEncoder().encode(text))];
}

/** The file's text. */
export function toyTiktokenModel(ranks: ToyRanks): string {
  return ranks.map((token, rank) => `${Buffer.from(token).toString("base64")} ${rank}\n`).join("");
}

/**
 * The ranks of one piece: its own if it is a token, else neighbours are joined, the pair whose
 * bytes together rank lowest first and the leftmost of equals, as long as any make a token.
 */
export function encodeToyRanks(ranks: ToyRanks, piece: string): number[] {
  const rankOf = new Map(ranks.map((token, rank) => [Buffer.from(token).toString("latin1"), rank]));
  const bytes = Buffer.from(piece).toString("latin1");
  let parts = rankOf.has(bytes) ? [bytes] : [...bytes];
  for (;;) {
    const joined = parts.slice(1).map((right, i) => rankOf.get(parts[i] + right) ?? Infinity);
    const lowest = Math.min(...joined, Infinity);
    if (lowest === Infinity) return parts.map((part) => rankOf.get(part) as number);
    const at = joined.indexOf(lowest);
    parts = [...parts.slice(0, at), parts[at] + parts[at + 1], ...parts.slice(at + 2)];
  }
}
