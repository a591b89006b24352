/**
 * @file Tokens that are found in text before anything else is done to it, such as the marks between
 * a chat's turns; and how text is kept from spelling them.
 * Source: the documentation of huggingface.co/docs/tokenizers, "Added tokens".
 */

/** One entry of `added_tokens`. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Left out of decoded text when that is asked for. */
  readonly special: boolean;
  /** Looked for in the normalised text rather than in the raw one. */
  readonly normalized: boolean;
  /** Found only where no word character adjoins. */
  readonly single_word: boolean;
  /** Takes the white space before it along. */
  readonly lstrip: boolean;
  /** Takes the white space after it along. */
  readonly rstrip: boolean;
}

/**
 * Says that the next character is ordinary: Unicode's noncharacter U+FDD0, which text for
 * interchange does not contain.
 */
const escapeMark = "\ufdd0";

/** A stretch of text between added tokens, or the id of one. */
export type Segment = string | number;

const wordAtEnd = /[\p{L}\p{M}\p{N}\p{Pc}]$/u;
const wordAtStart = /^[\p{L}\p{M}\p{N}\p{Pc}]/u;

/** Finds added tokens: the leftmost, of those that start alike the longest. */
export class AddedTokenFinder {
  private readonly byContent = new Map<string, AddedToken>();
  private readonly pattern: RegExp | undefined;

  constructor(tokens: readonly AddedToken[]) {
    for (const token of tokens) if (token.content !== "") this.byContent.set(token.content, token);
    if (this.byContent.size > 0) this.pattern = anyOf([escapeMark, ...this.byContent.keys()]);
  }

  /** Cuts `text` at the tokens; escape marks stay in the stretches. */
  split(text: string): Segment[] {
    const { pattern } = this;
    if (!pattern) return text === "" ? [] : [text];
    const segments: Segment[] = [];
    let done = 0;
    pattern.lastIndex = 0;
    for (let match = pattern.exec(text); match; match = pattern.exec(text)) {
      const token = this.byContent.get(match[0]);
      if (!token) {
        // An escape mark: what it marks can't begin a token.
        pattern.lastIndex++;
        continue;
      }
      let [start, end] = [match.index, match.index + match[0].length];
      if (start < done || (token.single_word && isInWord(text, start, end))) continue;
      if (token.lstrip) while (start > done && isSpace(text[start - 1])) start--;
      if (token.rstrip) while (end < text.length && isSpace(text[end])) end++;
      if (start > done) segments.push(text.slice(done, start));
      segments.push(token.id);
      done = end;
    }
    if (done < text.length) segments.push(text.slice(done));
    return segments;
  }
}

/** Marks every place in `text` where one of `tokens` begins, and every mark that it has itself. */
export class TextEscaper {
  private readonly beginning: RegExp;

  constructor(tokens: readonly AddedToken[]) {
    const contents = tokens.map(({ content }) => content).filter((content) => content !== "");
    this.beginning = new RegExp(`(?=${anyOf([escapeMark, ...contents]).source})`, "g");
  }

  escape(text: string): string {
    return text.replace(this.beginning, escapeMark);
  }
}

/** `text` without its escape marks: each gives way to the character after it. */
export function withoutMarks(text: string): string {
  return text.includes(escapeMark) ? text.replace(/\ufdd0([\s\S]?)/g, "$1") : text;
}

function anyOf(contents: readonly string[]): RegExp {
  const longestFirst = [...new Set(contents)].sort((a, b) => b.length - a.length);
  const literals = longestFirst.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  return new RegExp(literals.join("|"), "g");
}

function isInWord(text: string, start: number, end: number): boolean {
  // Two code units suffice for any one character.
  return (
    wordAtEnd.test(text.slice(Math.max(0, start - 2), start)) ||
    wordAtStart.test(text.slice(end, end + 2))
  );
}

function isSpace(char: string): boolean {
  return /\p{White_Space}/u.test(char);
}
