/** @file Reads a small JSON file of a model directory. */
import { readFileSync, statSync } from "node:fs";
import { type ModelErrorCode, modelError } from "./errors.ts";

/** The largest file that is read: the tokenizers of 160,000 tokens take some 20 MB. */
const fileBytesMax = 512 * 1024 * 1024;

/** The bytes of `path`, or undefined where there is no such file; other failures raise `code`. */
export function readBinaryFile(path: string, code: ModelErrorCode): Buffer | undefined {
  try {
    const stats = statSync(path, { throwIfNoEntry: false });
    if (!stats) return undefined;
    if (stats.size > fileBytesMax) {
      const message = `${path} is ${stats.size} bytes long, beyond the limit of ${fileBytesMax}.`;
      throw modelError(code, `${message} Check that it is the right file.`);
    }
    return readFileSync(path);
  } catch (cause) {
    const system =
      (cause as NodeJS.ErrnoException).syscall && (cause as NodeJS.ErrnoException).code;
    if (!system) throw cause;
    const message = `${path} can't be read (${system}). Check the file and its permissions.`;
    throw modelError(code, message, cause);
  }
}

/** The text of `path`, or undefined where there is no such file; see `readBinaryFile`. */
export function readTextFile(path: string, code: ModelErrorCode): string | undefined {
  return readBinaryFile(path, code)?.toString("utf8");
}

/** The parsed contents of `path`, or undefined where there is no such file; see `readTextFile`. */
export function readJsonFile(path: string, code: ModelErrorCode): unknown {
  const text = readTextFile(path, code);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw modelError(code, `${path} is not valid JSON. Download the file again.`, cause);
  }
}
