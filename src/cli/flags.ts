/**
 * @file What a command takes, as a table; and from an argument list to checked, typed values. Reads
 * the list with Node's own parser, and refuses what it would let pass: unknown flags, missing
 * values, numbers that are none.
 */
import { parseArgs } from "node:util";
import { nearestName } from "../base/index.ts";

/** A mistake in how the command was called: exit status 2. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "UsageError";
  }
}

interface FlagBase {
  /** What giving it does, in a few words; of a switch that is on, what `--no-NAME` does. */
  readonly help: string;
  /** What the help says of the default, where not its value. */
  readonly defaultHelp?: string;
  /** One letter that stands for it. */
  readonly short?: string;
}

/** A flag that takes a text. */
export interface TextFlag extends FlagBase {
  readonly type: "text";
  /** What stands for the value in the help. */
  readonly value: string;
  readonly default?: string;
}

/** A flag that takes one of a few words. */
export interface ChoiceFlag<C extends string = string> extends FlagBase {
  readonly type: "choice";
  readonly choices: readonly C[];
  readonly default?: C;
}

/** A flag that may be given several times. */
interface ListFlag extends FlagBase {
  readonly type: "list";
  readonly value: string;
}

/** A flag that takes a finite number from `min` to `max`. */
export interface NumberFlag extends FlagBase {
  /** `bytes` takes units such as `512MiB`. */
  readonly type: "number" | "whole" | "bytes";
  readonly value: string;
  readonly default?: number;
  readonly min: number;
  readonly max?: number;
}

/** A flag that is there or not; one that is on by default is turned off by `--no-NAME`. */
export interface SwitchFlag extends FlagBase {
  readonly type: "switch";
  readonly default?: boolean;
}

/** One flag of a command. */
export type Flag = TextFlag | ChoiceFlag | ListFlag | NumberFlag | SwitchFlag;

/** A flag that has a default. */
export type WithDefault<F extends { readonly default?: unknown }> = F & {
  readonly default: NonNullable<F["default"]>;
};

/** A command's flags by name, kebab-case. */
export type Flags = Readonly<Record<string, Flag>>;

/** The value of a flag after parsing; undefined only where it has no default. */
type ValueOf<F extends Flag> = F extends ListFlag
  ? string[]
  : F extends SwitchFlag
    ? boolean
    : GivenValue<F> | (F extends { readonly default: unknown } ? never : undefined);

type GivenValue<F> = F extends ChoiceFlag<infer C> ? C : F extends TextFlag ? string : number;

/** All flags of a command and what stood between them. */
export interface Parsed<T extends Flags> {
  readonly flags: { readonly [K in keyof T]: ValueOf<T[K]> };
  readonly operands: readonly string[];
}

/** The values of `argv`, defaults filled in. Throws a `UsageError` that names the flag. */
export function parseFlags<T extends Flags>(argv: readonly string[], table: T): Parsed<T> {
  const values = new Map<string, unknown>();
  for (const [name, flag] of Object.entries(table)) {
    if (flag.type === "list") values.set(name, []);
    else if (flag.type === "switch") values.set(name, flag.default ?? false);
    else values.set(name, flag.default);
  }
  const operands: string[] = [];
  for (const token of tokensOf(argv, table)) {
    if (token.kind === "positional") operands.push(token.value);
    else if (token.kind === "option") setFlag(token, table, values);
  }
  return { flags: Object.fromEntries(values) as Parsed<T>["flags"], operands };
}

type Token = NonNullable<ReturnType<typeof parseArgs>["tokens"]>[number];
type OptionToken = Extract<Token, { kind: "option" }>;

function tokensOf(argv: readonly string[], table: Flags): Token[] {
  const options: Record<string, { type: "string" | "boolean"; short?: string }> = {};
  for (const [name, flag] of Object.entries(table)) {
    const isSwitch = flag.type === "switch";
    options[name] = { type: isSwitch ? "boolean" : "string" };
    if (flag.short !== undefined) options[name].short = flag.short;
    if (isSwitch) options[`no-${name}`] = { type: "boolean" };
  }
  const args = [...argv];
  return parseArgs({ args, options, strict: false, allowPositionals: true, tokens: true }).tokens;
}

function setFlag(token: OptionToken, table: Flags, values: Map<string, unknown>): void {
  const off = token.name.startsWith("no-") && !Object.hasOwn(table, token.name);
  const name = off ? token.name.slice(3) : token.name;
  const flag = Object.hasOwn(table, name) ? table[name] : undefined;
  if (!flag || (off && flag.type !== "switch")) throw unknownFlag(token.rawName, table);
  if (flag.type === "switch") {
    if (token.value !== undefined) {
      throw new UsageError(`${token.rawName} takes no value: leave "=${token.value}" out.`);
    }
    values.set(name, !off);
    return;
  }
  const { value } = token;
  if (value === undefined || (!token.inlineValue && /^--[a-z]/.test(value))) {
    throw new UsageError(`${token.rawName} needs a value: add ${placeholder(flag)} after it.`);
  }
  if (flag.type === "list") (values.get(name) as string[]).push(value);
  else if (flag.type === "text") values.set(name, value);
  else if (flag.type === "choice") values.set(name, choiceOf(name, flag, value));
  else values.set(name, numberOf(name, flag, value));
}

/** What stands for a flag's value in the help; empty for a switch. */
export function placeholder(flag: Flag): string {
  if (flag.type === "switch") return "";
  return flag.type === "choice" ? flag.choices.join("|") : flag.value;
}

function unknownFlag(rawName: string, table: Flags): UsageError {
  const names = Object.entries(table).flatMap(([name, flag]) =>
    flag.type === "switch" ? [`--${name}`, `--no-${name}`] : [`--${name}`],
  );
  const meant = nearestName(rawName, names);
  const advice = meant ? `did you mean ${meant}?` : "--help lists what there is.";
  return new UsageError(`There is no flag ${rawName}: ${advice}`);
}

function choiceOf(name: string, flag: ChoiceFlag, value: string): string {
  if (flag.choices.includes(value)) return value;
  throw new UsageError(`--${name}: got "${value}", wanted ${flag.choices.join(" or ")}.`);
}

const unitBytes: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  k: 1024,
  kb: 1000,
  kib: 1024,
  m: 1024 ** 2,
  mb: 1000 ** 2,
  mib: 1024 ** 2,
  g: 1024 ** 3,
  gb: 1000 ** 3,
  gib: 1024 ** 3,
  t: 1024 ** 4,
  tb: 1000 ** 4,
  tib: 1024 ** 4,
};

function numberOf(name: string, flag: NumberFlag, text: string): number {
  const match = /^([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?) *([a-z]*)$/i.exec(text.trim());
  const unit = match?.[2].toLowerCase() ?? "";
  const scale = flag.type === "bytes" ? unitBytes[unit] : unit === "" ? 1 : undefined;
  let value = match && scale !== undefined ? Number(match[1]) * scale : Number.NaN;
  if (flag.type === "bytes") value = Math.round(value);
  const { min, max = Number.MAX_SAFE_INTEGER } = flag;
  const whole = flag.type === "number" || Number.isInteger(value);
  if (value >= min && value <= max && whole) return value;
  const kind = { number: "a number", whole: "a whole number", bytes: "a size such as 512MiB" };
  const range = flag.max === undefined ? `, at least ${min}` : ` from ${min} to ${max}`;
  throw new UsageError(`--${name}: got "${text}", wanted ${kind[flag.type]}${range}.`);
}
