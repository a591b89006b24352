/** @file A store that fails by seed, for tests of whatever stands on `kv`. */
import type { Random } from "../base/index.ts";
import { kvError } from "./errors.ts";
import type { KvStore, Transaction } from "./types.ts";

/** How often a faulty store fails, as shares of commits from 0 to 1. */
export interface FaultRates {
  /** The commit fails with `kv-conflict`. */
  readonly conflict?: number;
  /** The commit fails with `kv-throttled`. */
  readonly throttled?: number;
  /** The commit succeeds, and its caller gets `kv-maybe-committed`. */
  readonly lostAfter?: number;
  /** The commit is not tried, and its caller gets `kv-maybe-committed`. */
  readonly lostBefore?: number;
  /** A read fails with `kv-too-old`; share of reads. */
  readonly tooOld?: number;
}

/** `store`, failing at random as `rates` say; closing it closes `store`. */
export function faultyKv(store: KvStore, rates: FaultRates, random: Random): KvStore {
  return {
    engine: store.engine,
    begin: () => faultyTransaction(store.begin(), rates, random),
    close: () => store.close(),
  };
}

function faultyTransaction(inner: Transaction, rates: FaultRates, random: Random): Transaction {
  const { conflict = 0, throttled = 0, lostAfter = 0, lostBefore = 0, tooOld = 0 } = rates;
  // The answer to a commit that writes nothing can be asked for again: it is never unknown.
  let writes = false;
  const writing = (write: () => void): void => {
    write();
    writes = true;
  };
  const injected = "Injected by the test: run the transaction again.";
  const reading = <T>(read: () => Promise<T>): Promise<T> =>
    random.uniform() < tooOld ? Promise.reject(kvError("kv-too-old", injected)) : read();
  return {
    get: (key) => reading(() => inner.get(key)),
    snapshotGet: (key) => reading(() => inner.snapshotGet(key)),
    getRange: (begin, end, options) => reading(() => inner.getRange(begin, end, options)),
    snapshotGetRange: (begin, end, options) =>
      reading(() => inner.snapshotGetRange(begin, end, options)),
    addReadConflictKey: (key) => inner.addReadConflictKey(key),
    addReadConflictRange: (begin, end) => inner.addReadConflictRange(begin, end),
    set: (key, value) => writing(() => inner.set(key, value)),
    clear: (key) => writing(() => inner.clear(key)),
    clearRange: (begin, end) => writing(() => inner.clearRange(begin, end)),
    cancel: () => inner.cancel(),
    async commit() {
      const [cause, before] = [random.uniform(), conflict + throttled + lostBefore];
      if (cause < before) {
        inner.cancel();
        if (cause < conflict) throw kvError("kv-conflict", injected);
        if (cause < conflict + throttled) throw kvError("kv-throttled", injected);
        throw kvError(writes ? "kv-maybe-committed" : "kv-unavailable", injected);
      }
      await inner.commit();
      if (writes && cause < before + lostAfter) throw kvError("kv-maybe-committed", injected);
    },
  };
}
