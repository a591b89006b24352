/** @file The error codes of `tensor`, with what a caller may do about each. */
import { BaleenError, type RetryAdvice } from "../base/index.ts";

/** A code of the errors that reading and writing tensor files raise. */
export type TensorErrorCode =
  | "tensors-missing"
  | "tensors-invalid"
  | "tensor-unavailable"
  | "tensors-unwritable";

/** Those codes, each with its retry advice. */
export const tensorErrors: Readonly<Record<TensorErrorCode, RetryAdvice>> = {
  /** No such file, or a directory without a checkpoint in it. */
  "tensors-missing": "never",
  /** A file that is not what its format says: truncated, lying or damaged. */
  "tensors-invalid": "never",
  /** A tensor that the file doesn't have, or has in a type that can't be read so. */
  "tensor-unavailable": "never",
  /** The operating system failed to write a file. */
  "tensors-unwritable": "same",
};

/** A `BaleenError` of this room; the retry advice comes from the table. */
export function tensorError(code: TensorErrorCode, message: string, cause?: unknown): BaleenError {
  return new BaleenError(code, message, { retry: tensorErrors[code], cause });
}
