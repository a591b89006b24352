/** @file Operating failures: one class, a stable code, and advice on trying again. */

/** What a caller may do after a failure: give up, try the same call again, or refresh its state first. */
export type RetryAdvice = "never" | "same" | "after-refresh";

/** A room's error codes with their retry advice; the same table is the status on the wire. */
export type ErrorTable = Readonly<Record<string, RetryAdvice>>;

/**
 * An operating failure (bad file, full disk, lost peer, bad input of a user).
 * `message` is one sentence or two: what is wrong, naming the field, and the next thing to do.
 */
export class BaleenError extends Error {
  /** Stable, kebab-case; the same across releases. */
  readonly code: string;
  /** Whether trying again can help. */
  readonly retry: RetryAdvice;

  constructor(
    code: string,
    message: string,
    options: { retry?: RetryAdvice; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "BaleenError";
    this.code = code;
    this.retry = options.retry ?? "never";
  }
}
