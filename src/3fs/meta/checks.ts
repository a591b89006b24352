/** @file The checks of what `meta` is given. */
import { fsError } from "../errors.ts";
import { chunkSizes } from "../types.ts";
import type { LayoutDefaults } from "./types.ts";

const limits = { nameBytes: 255, pathBytes: 4095 };

/** The refusal of a field: `field problem: advice.` */
export function refuse(field: string, problem: string, advice: string): Error {
  return fsError("fs-input-invalid", `${field} ${problem}: ${advice}.`);
}

/** Throws unless `name` can name an entry. */
export function checkName(name: string): void {
  if (typeof name !== "string" || name === "" || name === "." || name === "..") {
    throw refuse("name", `is ${JSON.stringify(name)}`, "give a name of its own");
  }
  if (name.includes("/") || name.includes("\0")) {
    throw refuse("name", "has a / or a zero", "leave it out");
  }
  if (Buffer.byteLength(name) <= limits.nameBytes) return;
  const problem = `The name has ${Buffer.byteLength(name)} bytes`;
  throw fsError("fs-name-too-long", `${problem}: give at most ${limits.nameBytes}.`);
}

/** Throws unless `path` can be walked. */
export function checkPath(field: string, path: string): void {
  if (typeof path !== "string" || path.includes("\0")) {
    throw refuse(field, "is no text without zeros", "give a path");
  }
  if (Buffer.byteLength(path) <= limits.pathBytes) return;
  const problem = `${field} has ${Buffer.byteLength(path)} bytes`;
  throw fsError("fs-name-too-long", `${problem}: give at most ${limits.pathBytes}.`);
}

/** Throws unless `value` is a whole number from `min` to `max`. */
export function checkWhole(
  field: string,
  value: unknown,
  min = 0,
  max: number = Number.MAX_SAFE_INTEGER,
): void {
  if (Number.isInteger(value) && (value as number) >= min && (value as number) <= max) return;
  throw refuse(field, `is ${JSON.stringify(value)}`, `give a whole number from ${min} to ${max}`);
}

/** Throws unless files can be laid out so. */
export function checkDefaults({ tableId, chunkBytes, stripe }: LayoutDefaults): void {
  checkWhole("tableId", tableId, 1);
  checkWhole("stripe", stripe, 1, 100_000);
  if (chunkSizes.includes(chunkBytes)) return;
  const advice = "give a power of two from 65536 (64 KiB) to 67108864 (64 MiB)";
  throw refuse("chunkBytes", `is ${chunkBytes}`, advice);
}
