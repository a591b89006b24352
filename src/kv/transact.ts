/** @file Runs a function in a transaction until it commits; at most once where that is asked for. */
import { type BaleenError, type Clock, Random, realClock } from "../base/index.ts";
import { isKvError, kvError } from "./errors.ts";
import type { KvStore, Transaction } from "./types.ts";

/**
 * Makes a function take effect at most once, however often it is tried. Its result is kept under
 * `key` by the same commit; whoever finds a result there returns it and does nothing.
 */
export interface OnceOptions<T> {
  readonly key: Uint8Array;
  /** The result as bytes. */
  encode(result: T): Uint8Array;
  /** The result from those bytes. */
  decode(value: Uint8Array): T;
}

/** How to try again. */
export interface TransactOptions<T> {
  /** Attempts before the last failure is thrown; default 50. */
  readonly attempts?: number;
  /**
   * What an unknown outcome means: `repeat` runs the function again, which must then be harmless;
   * `throw` (default) leaves `kv-maybe-committed` to the caller. With `once` it is always settled.
   */
  readonly whenUnknown?: "repeat" | "throw";
  readonly once?: OnceOptions<T>;
  /** The clock of the pauses between attempts; default the process's. */
  readonly clock?: Clock;
  /** The chance in the pauses; default seeded by the clock. */
  readonly random?: Random;
}

/**
 * The result of `run`, once its transaction has committed. Conflicts, old snapshots, throttling and
 * unreachable engines are tried again in a new transaction, after pauses that double from 1 ms to
 * 100 ms, halved at random. Any other failure of `run` cancels the transaction and is thrown.
 */
export async function transact<T>(
  store: KvStore,
  run: (transaction: Transaction) => Promise<T>,
  options: TransactOptions<T> = {},
): Promise<T> {
  const { attempts = 50, clock = realClock, once } = options;
  const repeatsUnknown = once !== undefined || options.whenUnknown === "repeat";
  let random = options.random;
  let isUnknown = false;
  for (let attempt = 1; ; attempt++) {
    const transaction = store.begin();
    try {
      const kept = once && (await transaction.get(once.key));
      if (kept) return once.decode(kept);
      const result = await run(transaction);
      if (once) transaction.set(once.key, once.encode(result));
      await transaction.commit();
      return result;
    } catch (error) {
      const again = isKvError(error) && error.retry === "after-refresh";
      if (!again) throw error;
      isUnknown ||= isKvError(error, "kv-maybe-committed");
      if ((isUnknown && !repeatsUnknown) || attempt >= attempts) throw outcome(error, isUnknown);
      random ??= new Random(clock.now() * 1000);
      await pause(clock, Math.min(100, 2 ** (attempt - 1)) * (0.5 + random.uniform() / 2));
    } finally {
      transaction.cancel();
    }
  }
}

/** The last failure, unless an earlier attempt may have committed. */
function outcome(last: BaleenError, isUnknown: boolean): BaleenError {
  if (!isUnknown || last.code === "kv-maybe-committed") return last;
  const message = "An earlier attempt may have committed: look whether its writes are there.";
  return kvError("kv-maybe-committed", message, last);
}

function pause(clock: Clock, ms: number): Promise<void> {
  return new Promise((resolve) => {
    clock.after(ms, resolve);
  });
}
