/** @file A command: its name, flags and help, and what it does. */
import { type Flags, type Parsed, parseFlags, placeholder } from "./flags.ts";

/** A command of the `baleen` program. */
export interface Command {
  readonly name: string;
  /** One line: what it does. */
  readonly summary: string;
  readonly flags: Flags;
  /** What stands after the name in the usage line, such as `[TEXT...]`. */
  readonly operands: string;
  /** Lines that show its use. */
  readonly examples: readonly string[];
  /** Parses and runs; throws a `UsageError` or `BaleenError`. */
  run(argv: readonly string[]): Promise<void>;
}

/** A command from its parts; `run` gets the checked values. */
export function defineCommand<const T extends Flags>(parts: {
  readonly name: string;
  readonly summary: string;
  readonly flags: T;
  readonly operands?: string;
  readonly examples?: readonly string[];
  readonly run: (parsed: Parsed<T>) => Promise<void>;
}): Command {
  const { operands = "", examples = [], flags } = parts;
  return {
    ...parts,
    operands,
    examples,
    run: (argv) => parts.run(parseFlags(argv, flags)),
  };
}

/** The help of a command, as `--help` prints it. */
export function helpOf(command: Command): string {
  const rows = Object.entries(command.flags).map(([name, flag]) => {
    const dashed = flag.type === "switch" && flag.default ? `--no-${name}` : `--${name}`;
    const value = flag.type === "switch" ? "" : ` ${placeholder(flag)}`;
    const short = flag.short === undefined ? "    " : `-${flag.short}, `;
    return [`  ${short}${dashed}${value}`, flag.help + defaultOf(flag)] as const;
  });
  rows.push(["  -h, --help", "Show this help."]);
  const width = Math.max(...rows.map(([left]) => left.length));
  const usage = ["baleen", command.name, "[FLAGS]", command.operands].join(" ").trimEnd();
  return [
    command.summary,
    "",
    `Usage: ${usage}`,
    "",
    ...rows.map(([left, right]) => `${left.padEnd(width)}  ${right}`),
    ...(command.examples.length > 0 ? ["", "Examples:"] : []),
    ...command.examples.map((example) => `  ${example}`),
  ].join("\n");
}

function defaultOf(flag: Flags[string]): string {
  if (flag.type === "switch" || flag.type === "list" || flag.default === undefined) return "";
  return ` Default: ${flag.defaultHelp ?? flag.default}.`;
}
