/** @file The error codes of `kv`, the limits of every engine, and the checks of what a caller gives. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of this room's errors. */
export type KvErrorCode =
  | "kv-conflict"
  | "kv-too-old"
  | "kv-maybe-committed"
  | "kv-throttled"
  | "kv-unavailable"
  | "kv-no-space"
  | "kv-input-invalid"
  | "kv-transaction-over"
  | "kv-closed";

/** Those codes, each with its retry advice: `after-refresh` means in a new transaction. */
export const kvErrors: Readonly<Record<KvErrorCode, RetryAdvice>> = {
  /** Something that was read has changed since; nothing was written. */
  "kv-conflict": "after-refresh",
  /** The transaction's snapshot is gone; nothing was written. */
  "kv-too-old": "after-refresh",
  /** The commit's answer was lost: all of it was written, or nothing. */
  "kv-maybe-committed": "after-refresh",
  /** Too many commits wait; nothing was written. */
  "kv-throttled": "after-refresh",
  /** The engine can't be reached; nothing was written. */
  "kv-unavailable": "after-refresh",
  /** The engine's disk or map is full; nothing was written. */
  "kv-no-space": "never",
  /** A key, value, range or transaction beyond the limits. */
  "kv-input-invalid": "never",
  /** Use of a transaction after its commit or cancel. */
  "kv-transaction-over": "never",
  /** The store was closed. */
  "kv-closed": "never",
};

/** A failure of this room, with the advice that belongs to its code. */
export function kvError(code: KvErrorCode, message: string, cause?: unknown): BaleenError {
  return new BaleenError(code, message, { retry: kvErrors[code], cause });
}

/** Whether `error` is a failure of this room: any, or one with one of the codes. */
export function isKvError(error: unknown, ...codes: KvErrorCode[]): error is BaleenError {
  if (!(error instanceof BaleenError)) return false;
  return codes.length === 0 ? error.code in kvErrors : (codes as string[]).includes(error.code);
}

/** The limits that every engine keeps, so that what works on one works on all. */
export const kvLimits = {
  /** Bytes of a key, at least 1. */
  keyBytes: 1024,
  /** Bytes of a value. */
  valueBytes: 100_000,
  /** Bytes of all keys and values that one transaction writes. */
  transactionBytes: 10_000_000,
} as const;

/** Throws `kv-input-invalid` unless `key` can be one. */
export function checkKey(name: string, key: Uint8Array): void {
  if (!(key instanceof Uint8Array)) {
    throw kvError("kv-input-invalid", `${name} is no Uint8Array: give bytes.`);
  }
  if (key.length >= 1 && key.length <= kvLimits.keyBytes) return;
  const wanted = `give 1 to ${kvLimits.keyBytes}`;
  throw kvError("kv-input-invalid", `${name} has ${key.length} bytes: ${wanted}.`);
}

/** Throws `kv-input-invalid` unless the bounds make a range, the end excluded. */
export function checkRange(begin: Uint8Array, end: Uint8Array): void {
  checkKey("begin of the range", begin);
  checkKey("end of the range", end);
  if (Buffer.compare(begin, end) <= 0) return;
  throw kvError("kv-input-invalid", "begin of the range is above its end: exchange the two.");
}

/** Throws `kv-input-invalid` unless `value` can be one. */
export function checkValue(value: Uint8Array): void {
  if (!(value instanceof Uint8Array)) {
    throw kvError("kv-input-invalid", "value is no Uint8Array: give bytes.");
  }
  if (value.length <= kvLimits.valueBytes) return;
  const wanted = `give at most ${kvLimits.valueBytes}, or split it over several keys`;
  throw kvError("kv-input-invalid", `value has ${value.length} bytes: ${wanted}.`);
}

/** Throws `kv-input-invalid` unless `limit` is a number of entries. */
export function checkLimit(limit: number): void {
  if (Number.isInteger(limit) && limit >= 1) return;
  throw kvError("kv-input-invalid", `limit is ${limit}: give a whole number of at least 1.`);
}
