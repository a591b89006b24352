/**
 * @file Functions that travel to workers as their source text. Method: a tokenizer (strings,
 * templates, comments, regular expressions told from division by the token before), then names: one
 * that is used, declared nowhere in the function and no global is an outer variable, which would not
 * travel, so the function is refused with its name. The same tokens tell which members of the first
 * parameter are read, so that other columns need not be fetched. Declarations are taken for the
 * whole function, so a name that leaks past its block passes here and fails where it runs.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { pondError } from "./errors.ts";

interface Token {
  readonly kind: "name" | "number" | "string" | "regex" | "mark";
  readonly text: string;
}

/** A function as it travels: its source, or the module and name it is exported under. */
export type ShippedFunction =
  | { readonly kind: "source"; readonly source: string }
  | {
      readonly kind: "module";
      readonly url: string;
      readonly name: string;
      readonly digest: string;
    };

/** A function exported by a module; it may use whatever its module does. See `fn`. */
export interface ModuleFunction<F> {
  readonly url: string;
  readonly name: string;
  /** Only for the compiler. */
  readonly call?: F;
}

/** The function that the module at `url` (`import.meta.url`) exports as `name`. */
export function fn<F = (...values: never[]) => unknown>(
  url: string,
  name: string,
): ModuleFunction<F> {
  return { url, name };
}

/** The travelling form; throws `closure-refused` where the function uses outer variables. */
export function shipFunction(
  given: ((...values: never[]) => unknown) | ModuleFunction<unknown>,
): ShippedFunction {
  if (typeof given !== "function") {
    const { url, name } = given;
    const digest = createHash("sha256").update(readModule(url)).digest("hex");
    return { kind: "module", url, name, digest };
  }
  const source = given.toString();
  if (/\{\s*\[native code\]\s*\}$/.test(source)) {
    throw pondError(
      "closure-refused",
      "A bound or built-in function can't travel to a worker; write it out.",
    );
  }
  const [outer] = outerNames(source);
  if (outer !== undefined) {
    throw pondError(
      "closure-refused",
      `The function uses ${outer}, which lies outside it and can't travel to a worker; write its value into the function, make it a column, or export the function and name it with fn(import.meta.url, "name").`,
    );
  }
  return { kind: "source", source };
}

function readModule(url: string): Buffer {
  try {
    return readFileSync(fileURLToPath(url));
  } catch (error) {
    throw pondError(
      "input-missing",
      `The module ${url} can't be read; give import.meta.url.`,
      error,
    );
  }
}

const keywords = new Set(
  (
    "async await break case catch class const continue debugger default delete do else export extends false " +
    "finally for function get if import in instanceof let new null of return set static super switch this " +
    "throw true try typeof undefined var void while with yield arguments"
  ).split(" "),
);

/** The names that a function's source uses but neither declares nor finds among the globals. */
export function outerNames(source: string): string[] {
  const tokens = tokenize(source);
  const declared = declaredNames(tokens);
  const outer = new Set<string>();
  tokens.forEach(({ kind, text }, i) => {
    if (kind !== "name" || keywords.has(text) || declared.has(text) || text in globalThis) return;
    if (isMemberName(tokens, i)) return;
    outer.add(text);
  });
  return [...outer];
}

/** Whether the name at `i` is a member's: after a dot, or a key or method of an object literal. */
function isMemberName(tokens: readonly Token[], i: number): boolean {
  const before = tokens[i - 1]?.text;
  const after = tokens[i + 1]?.text;
  if (before === "." || before === "?.") return true;
  const startsKey =
    before === "{" || before === "," || ["get", "set", "async", "static", "*"].includes(before);
  if (after === ":" && startsKey) return true;
  if (after !== "(" || !(startsKey || before === ";" || before === "}")) return false;
  return tokens[closing(tokens, i + 1) + 1]?.text === "{";
}

/** The index of the bracket that closes the one at `open`. */
function closing(tokens: readonly Token[], open: number): number {
  let depth = 0;
  for (let i = open; i < tokens.length; i++) {
    if (["(", "[", "{"].includes(tokens[i].text) && tokens[i].kind === "mark") depth++;
    if ([")", "]", "}"].includes(tokens[i].text) && tokens[i].kind === "mark" && --depth === 0)
      return i;
  }
  return tokens.length;
}

function declaredNames(tokens: readonly Token[]): Set<string> {
  const declared = new Set<string>();
  const addAll = (from: number, to: number) => {
    for (let i = from; i < to; i++) {
      const isKey = tokens[i + 1]?.text === ":" && tokens[i - 1]?.text !== "?";
      if (tokens[i].kind === "name" && tokens[i - 1]?.text !== "." && !isKey)
        declared.add(tokens[i].text);
    }
  };
  tokens.forEach((token, i) => {
    const next = tokens[i + 1];
    if (token.kind === "mark" && token.text === "=>") {
      if (tokens[i - 1].kind === "name") declared.add(tokens[i - 1].text);
      else if (tokens[i - 1].text === ")") addAll(opening(tokens, i - 1), i - 1);
    } else if (token.kind !== "name" || next === undefined) return;
    else if (["let", "const", "var"].includes(token.text))
      addDeclaration(tokens, i + 1, addAll, declared);
    else if (token.text === "function" || token.text === "class") {
      let at = i + 1;
      if (tokens[at].text === "*") at++;
      if (tokens[at].kind === "name") declared.add(tokens[at++].text);
      if (tokens[at]?.text === "(") addAll(at, closing(tokens, at));
    } else if (next.text === "(") {
      const close = closing(tokens, i + 1);
      const isHead = ["if", "for", "while", "switch", "with"].includes(token.text);
      if (tokens[close + 1]?.text === "{" && !isHead) addAll(i + 1, close);
    }
  });
  return declared;
}

function addDeclaration(
  tokens: readonly Token[],
  at: number,
  addAll: (from: number, to: number) => void,
  declared: Set<string>,
): void {
  let i = at;
  for (;;) {
    if (tokens[i]?.text === "{" || tokens[i]?.text === "[") {
      const close = closing(tokens, i);
      addAll(i, close);
      i = close + 1;
    } else if (tokens[i]?.kind === "name") declared.add(tokens[i++].text);
    else return;
    // Skips the initialiser, to a comma at this level or the end of the declaration.
    while (i < tokens.length && ![",", ";", ")", "}", "]", "of", "in"].includes(tokens[i].text)) {
      i = ["(", "[", "{"].includes(tokens[i].text) ? closing(tokens, i) + 1 : i + 1;
    }
    if (tokens[i]?.text !== ",") return;
    i++;
  }
}

function opening(tokens: readonly Token[], close: number): number {
  let depth = 0;
  for (let i = close; i >= 0; i--) {
    if (tokens[i].kind !== "mark") continue;
    if ([")", "]", "}"].includes(tokens[i].text)) depth++;
    if (["(", "[", "{"].includes(tokens[i].text) && --depth === 0) return i;
  }
  return 0;
}

/**
 * The members of its first parameter that a function reads, or undefined where it uses the row as a
 * whole (or where the source is too clever to tell).
 */
export function membersRead(source: string): readonly string[] | undefined {
  const tokens = tokenize(source);
  let at = tokens[0]?.text === "async" ? 1 : 0;
  if (tokens[at]?.text === "function") {
    at += tokens[at + 1]?.text === "*" ? 2 : 1;
    if (tokens[at]?.kind === "name") at++;
  } else if (tokens[at]?.kind === "name" && tokens[at + 1]?.text === "(") at++;
  const bare = tokens[at]?.kind === "name";
  const first = bare ? at : at + 1;
  if (tokens.some(({ text }) => text === "arguments" || text === "eval")) return undefined;
  if (!bare && tokens[first]?.text === ")") return [];
  if (tokens[first]?.text === "{") return destructured(tokens, first);
  const name = tokens[first];
  if (name?.kind !== "name" || (!bare && ![",", ")", "="].includes(tokens[first + 1]?.text)))
    return undefined;
  const members = new Set<string>();
  for (let i = first + 1; i < tokens.length; i++) {
    if (tokens[i].kind !== "name" || tokens[i].text !== name.text || tokens[i - 1].text === ".")
      continue;
    const dotted = [".", "?."].includes(tokens[i + 1]?.text) && tokens[i + 2]?.kind === "name";
    if (dotted) members.add(tokens[i + 2].text);
    else if (
      tokens[i + 1]?.text === "[" &&
      tokens[i + 2]?.kind === "string" &&
      tokens[i + 3]?.text === "]"
    ) {
      members.add(tokens[i + 2].text.slice(1, -1));
    } else return undefined;
  }
  return [...members];
}

function destructured(tokens: readonly Token[], open: number): string[] | undefined {
  const close = closing(tokens, open);
  const members: string[] = [];
  for (let i = open + 1; i < close; i++) {
    if (tokens[i].text === "..." || tokens[i].text === "[") return undefined;
    if (tokens[i].kind !== "name" && tokens[i].kind !== "string") return undefined;
    members.push(tokens[i].kind === "string" ? tokens[i].text.slice(1, -1) : tokens[i].text);
    while (i < close && tokens[i].text !== ",") {
      i = ["(", "[", "{"].includes(tokens[i].text) ? closing(tokens, i) + 1 : i + 1;
    }
  }
  return members;
}

const patterns: readonly [Token["kind"] | "skip", RegExp][] = [
  ["skip", /\s+|\/\/[^\n]*|\/\*[\s\S]*?\*\//y],
  ["name", /[\p{ID_Start}$_#][\p{ID_Continue}$\u200c\u200d]*/uy],
  ["number", /(?:0[xob][\da-f_]+|\d[\d_]*\.?[\d_]*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)n?/iy],
  ["string", /"(?:\\[\s\S]|[^"\\])*"|'(?:\\[\s\S]|[^'\\])*'/y],
  ["mark", /=>|\.\.\.|\?\.(?!\d)|[()[\]{}.,;:?]|[-+*/%&|^!~<>=]+/y],
];

/** The tokens of JavaScript source; of a template only what stands in its `${}`. */
function tokenize(source: string): Token[] {
  const tokens: Token[] = [];
  /** For each open template its depth of braces. */
  const templates: number[] = [];
  let depth = 0;
  let at = 0;
  while (at < source.length) {
    const endsTemplateHole = source[at] === "}" && templates.at(-1) === depth;
    if (source[at] === "`" || endsTemplateHole) {
      if (endsTemplateHole) {
        templates.pop();
        tokens.push({ kind: "mark", text: ")" });
      }
      at = templateEnd(source, at + 1);
      if (source[at - 1] === "{") {
        templates.push(depth);
        tokens.push({ kind: "mark", text: "(" });
      } else tokens.push({ kind: "string", text: "``" });
      continue;
    }
    const regex =
      source[at] === "/" && startsRegex(tokens.at(-1)) ? regexAt(source, at) : undefined;
    if (regex !== undefined) {
      tokens.push({ kind: "regex", text: regex });
      at += regex.length;
      continue;
    }
    const found = patterns.find(([, pattern]) => {
      pattern.lastIndex = at;
      return pattern.test(source);
    });
    const text = found ? source.slice(at, found[1].lastIndex) : source[at];
    if (found && found[0] !== "skip") tokens.push({ kind: found[0], text });
    if (text === "{") depth++;
    if (text === "}") depth--;
    at += text.length;
  }
  return tokens;
}

/** The index after the backtick or the `${` that ends the template text from `at`. */
function templateEnd(source: string, at: number): number {
  for (let i = at; i < source.length; i++) {
    if (source[i] === "\\") i++;
    else if (source[i] === "`") return i + 1;
    else if (source[i] === "$" && source[i + 1] === "{") return i + 2;
  }
  return source.length;
}

function startsRegex(before: Token | undefined): boolean {
  if (before === undefined) return true;
  if (before.kind === "mark") return ![")", "]", "}"].includes(before.text);
  return (
    before.kind === "name" && ["return", "typeof", "case", "in", "of", "void"].includes(before.text)
  );
}

function regexAt(source: string, at: number): string | undefined {
  const pattern = /\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/[a-z]*/y;
  pattern.lastIndex = at;
  return pattern.exec(source)?.[0];
}
