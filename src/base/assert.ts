/** @file Assertions for programmer mistakes; operating failures are `BaleenError`s instead. */

/** Throws an `Error` unless `condition` holds. `message` may be a function, so that it costs nothing. */
export function assert(condition: unknown, message: string | (() => string)): asserts condition {
  if (!condition) {
    throw new Error(`assertion failed: ${typeof message === "string" ? message : message()}`);
  }
}

/** Throws unless `got === wanted`; the message names `what` and both values. */
export function assertEqual<T>(got: T, wanted: T, what: string): void {
  if (got !== wanted) {
    throw new Error(`assertion failed: ${what}: got ${String(got)}, wanted ${String(wanted)}`);
  }
}
