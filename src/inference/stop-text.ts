/**
 * @file Finds stop strings in text that arrives in pieces, and holds back what may become one.
 *
 * Each stop string is matched character by character with its failure function (Knuth, Morris and
 * Pratt 1977), so a piece costs O(its length x number of stop strings) however long those are. The
 * result does not depend on how the text was cut into pieces: the match that is complete first
 * wins, and of those complete at the same character the longest.
 */
import { assert } from "../base/index.ts";

/** What may be shown after a piece of text. */
export interface StopScan {
  /** Text that can not be part of a stop string any more. */
  readonly text: string;
  /** The stop string that was found; `text` then ends before it. */
  readonly stop?: string;
}

/** Scans one answer's text for stop strings. */
export class StopScanner {
  private readonly patterns: readonly Pattern[];
  private held = "";

  /** `stops`: strings of at least one character; none is fine. */
  constructor(stops: readonly string[]) {
    this.patterns = stops.map((stop) => new Pattern(stop));
  }

  /** Takes the next piece and returns what may be shown, earlier held-back text included. */
  push(piece: string): StopScan {
    if (this.patterns.length === 0) return { text: piece };
    const before = this.held.length;
    const text = this.held + piece;
    for (let i = 0; i < piece.length; i++) {
      const found = this.advance(piece.charCodeAt(i));
      if (found === undefined) continue;
      this.held = "";
      return { text: text.slice(0, before + i + 1 - found.length), stop: found };
    }
    const hold = this.patterns.reduce((most, { matched }) => Math.max(most, matched), 0);
    this.held = text.slice(text.length - hold);
    return { text: text.slice(0, text.length - hold) };
  }

  /** The text still held back; nothing is afterwards. For an answer that ended otherwise. */
  flush(): string {
    const { held } = this;
    this.held = "";
    return held;
  }

  private advance(code: number): string | undefined {
    let found: string | undefined;
    for (const pattern of this.patterns) {
      const { text } = pattern;
      if (pattern.advance(code) && text.length > (found?.length ?? 0)) found = text;
    }
    return found;
  }
}

/** One stop string, and how many of its characters the text seen so far ends with. */
class Pattern {
  readonly text: string;
  matched = 0;
  private readonly failure: Int32Array;

  constructor(text: string) {
    assert(text.length > 0, "stop string: got an empty one");
    this.text = text;
    this.failure = new Int32Array(text.length);
    for (let i = 1, k = 0; i < text.length; i++) {
      while (k > 0 && text[i] !== text[k]) k = this.failure[k - 1];
      if (text[i] === text[k]) k++;
      this.failure[i] = k;
    }
  }

  /** Takes one UTF-16 code unit; true when the whole string has just been seen. */
  advance(code: number): boolean {
    const { text, failure } = this;
    while (this.matched > 0 && text.charCodeAt(this.matched) !== code) {
      this.matched = failure[this.matched - 1];
    }
    if (text.charCodeAt(this.matched) === code) this.matched++;
    return this.matched === text.length;
  }
}
