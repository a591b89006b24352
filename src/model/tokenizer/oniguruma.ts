/**
 * @file Regular expressions of `tokenizer.json`, Oniguruma's (Ruby syntax), as JavaScript's.
 * What the two spell alike but mean differently is respelt: `\s`, `\d`, `\w`, `\h`, `.`, `^`, `$`,
 * script names, inline `(?i:`, possessive and atomic groups. What can't be respelt is refused.
 * Source: Oniguruma's description of its syntax, github.com/kkos/oniguruma/blob/master/doc/RE.
 */
import { modelError } from "../errors.ts";

/** `pattern` as a global JavaScript expression; raises `tokenizer-invalid` where that fails. */
export function fromOniguruma(pattern: string): RegExp {
  const source = new Translator(pattern).translate();
  try {
    // The v flag for nested classes and &&; code points, not code units, match either way.
    return new RegExp(source, "gv");
  } catch (cause) {
    throw unsupported(pattern, "it as a whole", cause);
  }
}

/** Escapes that mean a set of characters, as the inside of a JavaScript class. */
const sets: Readonly<Record<string, string>> = {
  s: "\\p{White_Space}",
  d: "\\p{Nd}",
  w: "\\p{L}\\p{M}\\p{N}\\p{Pc}",
  h: "0-9A-Fa-f",
};

/** Escapes that mean one character. */
const controls: Readonly<Record<string, number>> = {
  n: 10,
  r: 13,
  t: 9,
  f: 12,
  v: 11,
  a: 7,
  e: 27,
};

/** Longest range of a class that is spelt out when case is ignored. */
const rangeMax = 1024;

class Translator {
  private readonly pattern: string;
  private readonly chars: readonly string[];
  private at = 0;
  private ignoreCase = false;
  private atomicGroups = 0;

  constructor(pattern: string) {
    this.pattern = pattern;
    this.chars = [...pattern];
  }

  translate(): string {
    const source = this.alternatives();
    if (this.at < this.chars.length) throw this.unsupported('an unmatched ")"');
    return source;
  }

  /** Everything up to the end of the enclosing group. */
  private alternatives(): string {
    const ignoreCase = this.ignoreCase;
    let source = "";
    while (this.at < this.chars.length && this.chars[this.at] !== ")") {
      if (this.take("|")) source += "|";
      else source += this.quantified(this.atom());
    }
    this.ignoreCase = ignoreCase;
    return source;
  }

  private atom(): string {
    const char = this.chars[this.at++];
    if (char === "(") return this.group();
    if (char === "[") return this.charClass();
    if (char === "\\") return this.escape();
    if (char === ".") return "[^\\n]";
    // Ruby's are anchors of lines, and only \n ends a line.
    if (char === "^") return "(?<![^\\n])";
    if (char === "$") return "(?![^\\n])";
    if ("*+?".includes(char)) throw this.unsupported(`"${char}" with nothing before it`);
    return this.literal(char);
  }

  private group(): string {
    if (!this.take("?")) return this.groupBody("(?:");
    for (const opening of [":", "=", "!", "<=", "<!"]) {
      if (this.take(opening)) return this.groupBody(`(?${opening}`);
    }
    if (this.take(">")) return this.atomic(this.groupBody("(?:"));
    const flags = /^(-?)i([:)])/.exec(this.chars.slice(this.at, this.at + 3).join(""));
    if (!flags) throw this.unsupported(`the group "(?${this.chars[this.at] ?? ""}"`);
    this.at += flags[0].length;
    const before = this.ignoreCase;
    this.ignoreCase = flags[1] === "";
    // "(?i)" holds to the end of the enclosing group, where `alternatives` restores it.
    if (flags[2] === ")") return "(?:)";
    const body = this.groupBody("(?:");
    this.ignoreCase = before;
    return body;
  }

  private groupBody(opening: string): string {
    const body = this.alternatives();
    if (!this.take(")")) throw this.unsupported('a "(" without its ")"');
    return `${opening}${body})`;
  }

  /** Keeps what `source` matched first: a lookahead is never entered again. */
  private atomic(source: string): string {
    const name = `atomic${this.atomicGroups++}`;
    return `(?:(?=(?<${name}>${source}))\\k<${name}>)`;
  }

  private quantified(atom: string): string {
    for (const char of ["*", "+", "?"]) {
      if (!this.take(char)) continue;
      if (this.take("+")) return this.quantified(this.atomic(atom + char));
      return this.quantified(`(?:${atom}${char}${this.take("?") ? "?" : ""})`);
    }
    const interval = /^\{(\d*)(,?)(\d*)\}/.exec(this.chars.slice(this.at, this.at + 24).join(""));
    if (!interval || (interval[1] === "" && interval[3] === "")) return atom;
    this.at += interval[0].length;
    const [, least, comma, most] = interval;
    const lazy = this.take("?");
    if (lazy && !comma) throw this.unsupported(`"${interval[0]}?"`);
    return this.quantified(`(?:${atom}{${least || "0"}${comma}${most}}${lazy ? "?" : ""})`);
  }

  private escape(): string {
    const set = this.setEscape();
    if (set !== undefined) return `[${set}]`;
    if (this.take("A")) return "(?<![\\s\\S])";
    if (this.take("z")) return "(?![\\s\\S])";
    return this.literal(this.charEscape());
  }

  /** After a backslash: the inside of a class, if the escape means a set of characters. */
  private setEscape(): string | undefined {
    const char = this.chars[this.at] ?? "";
    const lower = char.toLowerCase();
    if (Object.hasOwn(sets, lower)) {
      this.at++;
      return char === lower ? sets[lower] : `[^${sets[lower]}]`;
    }
    if (lower !== "p") return undefined;
    const property = /^[pP]\{(\^?)([\w =]+)\}/.exec(
      this.chars.slice(this.at, this.at + 60).join(""),
    );
    if (!property) throw this.unsupported(`"\\${char}" without a property`);
    this.at += property[0].length;
    const negated = (char === "P") !== (property[1] === "^");
    return `\\${negated ? "P" : "p"}{${this.property(property[2])}}`;
  }

  /** JavaScript's name of a Unicode property: scripts need to be called such. */
  private property(name: string): string {
    for (const candidate of [name, `Script=${name}`]) {
      try {
        new RegExp(`\\p{${candidate}}`, "v");
        return candidate;
      } catch {
        // The next candidate may do.
      }
    }
    throw this.unsupported(`the property "${name}"`);
  }

  /** After a backslash: the one character that it means. */
  private charEscape(): string {
    const rest = this.chars.slice(this.at, this.at + 12).join("");
    const hex = /^(?:x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4}))/.exec(rest);
    if (hex) {
      this.at += hex[0].length;
      return String.fromCodePoint(Number.parseInt(hex[1] ?? hex[2] ?? hex[3], 16));
    }
    const char = this.chars[this.at++] ?? "";
    if (Object.hasOwn(controls, char)) return String.fromCodePoint(controls[char]);
    // Back references, word boundaries and the like are all letters or digits.
    if (char === "" || /[0-9A-Za-z]/.test(char)) throw this.unsupported(`"\\${char}"`);
    return char;
  }

  /** After an opening bracket, to its closing one. */
  private charClass(): string {
    const negated = this.take("^");
    const operands: string[] = [];
    let union = "";
    for (let first = true; first || !this.take("]"); first = false) {
      if (this.at >= this.chars.length) throw this.unsupported('a "[" without its "]"');
      if (this.take("&&")) {
        operands.push(`[${union}]`);
        union = "";
      } else union += this.classItem();
    }
    const inside = operands.length > 0 ? [...operands, `[${union}]`].join("&&") : union;
    return `[${negated ? "^" : ""}${inside}]`;
  }

  private classItem(): string {
    if (this.chars[this.at] === "[" && this.chars[this.at + 1] === ":") {
      throw this.unsupported('"[:" in a class');
    }
    if (this.take("[")) return this.charClass();
    const escaped = this.take("\\");
    const set = escaped ? this.setEscape() : undefined;
    if (set !== undefined) return set;
    const from = this.classChar(escaped);
    const isRange =
      this.chars[this.at] === "-" && !["]", undefined].includes(this.chars[this.at + 1]);
    if (!isRange) return this.ignoreCase ? foldings(from).map(spell).join("") : spell(from);
    this.at++;
    const to = this.classChar(this.take("\\"));
    const [low, high] = [from.codePointAt(0) ?? 0, to.codePointAt(0) ?? 0];
    const range = `${spell(from)}-${spell(to)}`;
    if (!this.ignoreCase) return range;
    if (high - low > rangeMax) throw this.unsupported("a long range whose case is ignored");
    const every = Array.from({ length: high - low + 1 }, (_, i) => String.fromCodePoint(low + i));
    return range + every.flatMap(foldings).map(spell).join("");
  }

  private classChar(escaped: boolean): string {
    return escaped ? this.charEscape() : this.chars[this.at++];
  }

  private literal(char: string): string {
    const same = this.ignoreCase ? foldings(char) : [char];
    return same.length > 1 ? `[${same.map(spell).join("")}]` : spell(char);
  }

  private take(text: string): boolean {
    for (let i = 0; i < text.length; i++) if (this.chars[this.at + i] !== text[i]) return false;
    this.at += text.length;
    return true;
  }

  private unsupported(what: string): Error {
    return unsupported(this.pattern, what);
  }
}

function unsupported(pattern: string, what: string, cause?: unknown): Error {
  const shown = pattern.length > 120 ? `${pattern.slice(0, 120)}...` : pattern;
  return modelError(
    "tokenizer-invalid",
    `tokenizer.json: pre_tokenizer's pattern ${JSON.stringify(shown)} has ${what}, ` +
      "which is not supported. Give a model with another tokenizer, or report this one.",
    cause,
  );
}

/** `char` in a spelling that means itself, in a class and outside. */
function spell(char: string): string {
  return `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`;
}

/** Every character that equals `char` when case is ignored, itself first. */
function foldings(char: string): string[] {
  const candidates = [char.toLowerCase(), char.toUpperCase(), "\u017f", "\u212a", "\u212b"];
  const equal = new RegExp(`^${spell(char)}$`, "iv");
  return [...new Set([char, ...candidates.filter((candidate) => equal.test(candidate))])];
}
