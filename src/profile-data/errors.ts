/** @file The error codes of `profile-data`. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of this room's errors. */
export type ProfileErrorCode =
  | "trace-truncated"
  | "trace-invalid"
  | "trace-empty"
  | "profile-input-invalid";

/** Those codes, each with its retry advice. */
export const profileErrors: Readonly<Record<ProfileErrorCode, RetryAdvice>> = {
  /** The file ends before its JSON does. */
  "trace-truncated": "never",
  /** The file is no JSON, or no trace. */
  "trace-invalid": "never",
  /** The trace has no operation of a device. */
  "trace-empty": "never",
  /** A rule or an option that makes no sense. */
  "profile-input-invalid": "never",
};

/** An error of this room. */
export function profileError(code: ProfileErrorCode, message: string): BaleenError {
  return new BaleenError(code, message, { retry: profileErrors[code] });
}
