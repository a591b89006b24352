/**
 * @file Door of `kv`: an ordered map from bytes to bytes with strictly serialisable transactions, over
 * memory, LMDB, or a PostgreSQL server.
 */
export { isKvError, type KvErrorCode, kvErrors, kvLimits } from "./errors.ts";
export { type FaultRates, faultyKv } from "./faulty.ts";
export { keyAfter, prefixEnd } from "./keys.ts";
export { type LmdbOptions, openLmdbKv } from "./lmdb.ts";
export { openMemoryKv } from "./memory.ts";
export type { OptimisticOptions } from "./optimistic.ts";
export { openPostgresKv, type PostgresOptions } from "./postgres.ts";
export { type ScanOptions, scan } from "./scan.ts";
export { type OnceOptions, type TransactOptions, transact } from "./transact.ts";
export type { KvEntry, KvStore, RangeOptions, Transaction } from "./types.ts";
