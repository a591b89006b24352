/** @file The error codes of `planner`, and the checks of numbers that a caller gives. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of this room's errors. */
export type PlannerErrorCode = "plan-input-invalid" | "hardware-unknown" | "plan-impossible";

/** Those codes, each with its retry advice. */
export const plannerErrors: Readonly<Record<PlannerErrorCode, RetryAdvice>> = {
  /** A number that is none, is out of range, or does not divide as it must; a key that is missing. */
  "plan-input-invalid": "never",
  /** No profile of that name. */
  "hardware-unknown": "never",
  /** No configuration meets what was asked; the message says what stands in the way. */
  "plan-impossible": "never",
};

/** A `BaleenError` of this room; the retry advice comes from the table. */
export function plannerError(code: PlannerErrorCode, message: string): BaleenError {
  return new BaleenError(code, message, { retry: plannerErrors[code] });
}

/** The refusal of a field: `field problem: advice.` */
export function refuse(field: string, problem: string, advice: string): BaleenError {
  return plannerError("plan-input-invalid", `${field} ${problem}: ${advice}.`);
}

/** A range of numbers that a field takes. */
export interface Bounds {
  readonly min?: number;
  readonly max?: number;
  readonly whole?: boolean;
}

/** `value` as a finite number within `bounds`, 0 or more unless `min` says else. */
export function checkNumber(field: string, value: unknown, bounds: Bounds = {}): number {
  const { min = 0, max = Number.MAX_SAFE_INTEGER, whole = false } = bounds;
  const inRange = typeof value === "number" && value >= min && value <= max;
  if (inRange && (!whole || Number.isInteger(value))) return value;
  const got = typeof value === "number" ? String(value) : JSON.stringify(value);
  const range = bounds.max === undefined ? `of at least ${min}` : `from ${min} to ${max}`;
  const advice = `give a ${whole ? "whole " : ""}number ${range}`;
  throw refuse(field, got === undefined ? "is missing" : `is ${got}`, advice);
}
