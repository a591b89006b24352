/** @file The failures of `smallpond`: their codes, and whether trying again can help. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of this room. */
export type PondErrorCode =
  | "input-missing"
  | "input-invalid"
  | "schema-mismatch"
  | "sql-error"
  | "closure-refused"
  | "function-failed"
  | "type-unsupported"
  | "output-exists"
  | "disk-full"
  | "out-of-memory"
  | "worker-died"
  | "task-failed"
  | "fault-injected"
  | "queue-lost"
  | "aborted";

/** Every code of the room with its retry advice. */
export const pondErrors: Readonly<Record<PondErrorCode, RetryAdvice>> = {
  "input-missing": "never",
  "input-invalid": "never",
  "schema-mismatch": "never",
  "sql-error": "never",
  "closure-refused": "never",
  "function-failed": "never",
  "type-unsupported": "never",
  "output-exists": "never",
  "disk-full": "same",
  "out-of-memory": "same",
  "worker-died": "same",
  "task-failed": "never",
  "fault-injected": "same",
  "queue-lost": "same",
  aborted: "same",
};

/** A failure of this room; `message` says what is wrong and what to do next. */
export function pondError(code: PondErrorCode, message: string, cause?: unknown): BaleenError {
  return new BaleenError(code, message, { retry: pondErrors[code], cause });
}

/** Throws the `aborted` error if `signal` has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw pondError("aborted", "The run was cancelled; run it again to go on.", signal.reason);
  }
}
