/**
 * @file Cuts text into the pieces that are encoded one by one: `pre_tokenizer` of `tokenizer.json`.
 * Source: the documentation of huggingface.co/docs/tokenizers, components, "Pre-tokenizers".
 */
import { z } from "zod";
import { modelError } from "../errors.ts";
import { fromOniguruma } from "./oniguruma.ts";

/** Cuts a text into pieces, none of them empty. */
export type PreTokenizer = (text: string) => string[];

const splitSchema = z.object({
  type: z.literal("Split"),
  pattern: z.union([z.object({ Regex: z.string() }), z.object({ String: z.string() })]),
  behavior: z.enum(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]),
  invert: z.boolean().default(false),
});

const stepSchema = z.discriminatedUnion("type", [
  splitSchema,
  z.object({ type: z.literal("Digits"), individual_digits: z.boolean().default(false) }),
  z.object({
    type: z.literal("ByteLevel"),
    add_prefix_space: z.boolean().default(true),
    use_regex: z.boolean().default(true),
  }),
  z.object({ type: z.literal("Sequence"), pretokenizers: z.array(z.unknown()) }),
]);

type Behavior = z.infer<typeof splitSchema>["behavior"];
type Step = (pieces: readonly string[]) => readonly string[];

/** GPT-2's pattern, which ByteLevel applies unless told not to. */
const gpt2Pattern =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/**
 * The cutter that `json`, the `pre_tokenizer` of `tokenizer.json`, describes. It must come to bytes
 * in the end: a ByteLevel step is wanted. Raises `tokenizer-invalid` for what is not supported.
 */
export function preTokenizerOf(json: unknown): PreTokenizer {
  const found = { byteLevel: false };
  const steps = stepsOf(json, "pre_tokenizer", found);
  if (!found.byteLevel) {
    throw invalid(
      "pre_tokenizer has no ByteLevel step, and only byte-level tokenizers are supported",
    );
  }
  return (text) => {
    let pieces: readonly string[] = text === "" ? [] : [text];
    try {
      for (const step of steps) pieces = step(pieces);
    } catch (cause) {
      // The expression engine's stack is some 64 MB, which a run of ten million letters takes.
      if (!(cause instanceof RangeError)) throw cause;
      const message = `a text of ${text.length} characters has a run that is too long to be cut`;
      throw modelError("text-too-long", `${message}. Break it up, or shorten it.`, cause);
    }
    return pieces as string[];
  };
}

function stepsOf(json: unknown, field: string, found: { byteLevel: boolean }): Step[] {
  const result = stepSchema.safeParse(json);
  if (!result.success) {
    const { type } = (json ?? {}) as { type?: unknown };
    const [issue] = result.error.issues;
    if (issue.path[0] === "type" || issue.path.length === 0) {
      const given = type === undefined ? "none" : JSON.stringify(type);
      const known = "Sequence, Split, Digits and ByteLevel";
      throw invalid(`${field} of type ${given} is not supported; ${known} are`);
    }
    throw invalid(`${[field, ...issue.path].map(String).join(".")} is wrong (${issue.message})`);
  }
  const step = result.data;
  switch (step.type) {
    case "Sequence":
      return step.pretokenizers.flatMap((each, i) => stepsOf(each, `${field}.${i}`, found));
    case "Digits":
      return [split(/\p{N}/gu, step.individual_digits ? "Isolated" : "Contiguous", false)];
    case "Split": {
      const pattern =
        "Regex" in step.pattern ? fromOniguruma(step.pattern.Regex) : literal(step.pattern.String);
      return [split(pattern, step.behavior, step.invert)];
    }
    case "ByteLevel": {
      found.byteLevel = true;
      const steps: Step[] = [];
      if (step.add_prefix_space) {
        steps.push((pieces) => pieces.map((piece) => (piece[0] === " " ? piece : ` ${piece}`)));
      }
      if (step.use_regex) steps.push(split(fromOniguruma(gpt2Pattern), "Isolated", false));
      return steps;
    }
  }
}

function literal(text: string): RegExp {
  return new RegExp(text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu");
}

/** Cuts every piece where `pattern` matches, as `behavior` says. */
function split(pattern: RegExp, behavior: Behavior, invert: boolean): Step {
  if (behavior === "Isolated") return (pieces) => isolated(pattern, pieces);
  return (pieces) => {
    const result: string[] = [];
    for (const piece of pieces) {
      for (const part of arrange(partsOf(pattern, piece, invert), behavior)) result.push(part);
    }
    return result;
  };
}

/** The common case, in which matches and what lies between are pieces alike. */
function isolated(pattern: RegExp, pieces: readonly string[]): string[] {
  const result: string[] = [];
  for (const piece of pieces) {
    let end = 0;
    pattern.lastIndex = 0;
    for (let match = pattern.exec(piece); match; match = pattern.exec(piece)) {
      const [text] = match;
      if (text === "") {
        pattern.lastIndex += (piece.codePointAt(match.index) ?? 0) > 0xffff ? 2 : 1;
        continue;
      }
      if (match.index > end) result.push(piece.slice(end, match.index));
      result.push(text);
      end = match.index + text.length;
    }
    if (end === 0) result.push(piece);
    else if (end < piece.length) result.push(piece.slice(end));
  }
  return result;
}

interface Part {
  text: string;
  readonly matched: boolean;
}

function partsOf(pattern: RegExp, piece: string, invert: boolean): Part[] {
  const parts: Part[] = [];
  let end = 0;
  for (const { 0: text, index } of piece.matchAll(pattern)) {
    if (text === "") continue;
    if (index > end) parts.push({ text: piece.slice(end, index), matched: invert });
    parts.push({ text, matched: !invert });
    end = index + text.length;
  }
  if (end < piece.length) parts.push({ text: piece.slice(end), matched: invert });
  return parts;
}

/** Joins the parts of one piece with their neighbours, or drops them, as `behavior` says. */
function arrange(parts: readonly Part[], behavior: Behavior): string[] {
  const joined: string[] = [];
  let previous: Part | undefined;
  const backwards = behavior === "MergedWithNext";
  for (const part of backwards ? parts.toReversed() : parts) {
    const joins =
      behavior === "Contiguous"
        ? previous?.matched === part.matched
        : behavior !== "Removed" && part.matched && previous?.matched === false;
    if (behavior === "Removed" && part.matched) continue;
    if (!joins) joined.push(part.text);
    else if (backwards) joined.push(part.text + joined.pop());
    else joined.push(joined.pop() + part.text);
    previous = part;
  }
  return backwards ? joined.reverse() : joined;
}

function invalid(what: string): Error {
  return modelError(
    "tokenizer-invalid",
    `tokenizer.json: ${what}. Give a byte-level BPE tokenizer.`,
  );
}
