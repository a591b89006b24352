/** @file The error codes of `dualpipe`, and checks that several files need. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of this room's errors. */
export type DualPipeErrorCode = "schedule-input-invalid" | "schedule-deadlock";

/** Those codes, each with its retry advice. */
export const dualPipeErrors: Readonly<Record<DualPipeErrorCode, RetryAdvice>> = {
  /** Numbers that make no schedule, or durations that are none. */
  "schedule-input-invalid": "never",
  /** A schedule whose ranks wait for each other for ever. */
  "schedule-deadlock": "never",
};

/** A `BaleenError` of this room. */
export function dualPipeError(code: DualPipeErrorCode, message: string): BaleenError {
  return new BaleenError(code, message, { retry: dualPipeErrors[code] });
}

/** The refusal of a field: `field problem: advice.` */
export function refuse(field: string, problem: string, advice: string): BaleenError {
  return dualPipeError("schedule-input-invalid", `${field} ${problem}: ${advice}.`);
}

/** Throws unless `value` is a whole number of at least `min`. */
export function checkWhole(field: string, value: number, min: number): void {
  if (Number.isInteger(value) && value >= min) return;
  throw refuse(field, `is ${String(value)}`, `give a whole number of at least ${min}`);
}
