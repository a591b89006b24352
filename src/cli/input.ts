/** @file Texts and JSON from flags, operands, files and standard input. */
import { readFileSync } from "node:fs";
import { BaleenError } from "../base/index.ts";
import { UsageError } from "./flags.ts";

/** All of standard input as text; a `UsageError` where nobody pipes anything in. */
export async function readStdin(advice: string): Promise<string> {
  if (process.stdin.isTTY) throw new UsageError(advice);
  const pieces: Buffer[] = [];
  for await (const piece of process.stdin) pieces.push(piece as Buffer);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(pieces));
  } catch (cause) {
    throw new BaleenError("input-invalid", "Standard input is not valid UTF-8: encode it so.", {
      cause,
    });
  }
}

/** The JSON in the file `path`; the failure names file and reason. */
export function readJsonFile(path: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new BaleenError(
      "input-unreadable",
      `${path} can't be read (${reason}): check the path.`,
      {
        cause,
      },
    );
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    const reason = (cause as Error).message;
    throw new BaleenError("input-invalid", `${path} is not valid JSON (${reason}): correct it.`, {
      cause,
    });
  }
}

/** `value` as a list of token ids below `vocabSize`, or a failure that names `what`. */
export function idsOf(value: unknown, vocabSize: number, what: string): number[] {
  const wanted = `a list of token ids from 0 to ${vocabSize - 1}`;
  if (!Array.isArray(value)) throw invalid(what, `is no list`, wanted);
  value.forEach((id: unknown, index) => {
    if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= vocabSize) {
      throw invalid(`${what}[${index}]`, `is ${JSON.stringify(id)}`, wanted);
    }
  });
  return value as number[];
}

function invalid(what: string, got: string, wanted: string): BaleenError {
  return new BaleenError("input-invalid", `${what} ${got}: give ${wanted}.`);
}
