/**
 * @file Door of `smallpond`: lazy tables over Parquet, CSV and JSON, run by processes here or by a
 * queue's workers, resumable and published whole. See README.md.
 */
export { Batch } from "./batch.ts";
export type {
  ArrayColumn,
  BytesColumn,
  Column,
  FixedColumn,
  FixedValues,
  ListColumn,
  StructColumn,
} from "./column.ts";
export {
  type ActionOptions,
  DataFrame,
  desc,
  type JoinOptions,
  type RepartitionOptions,
  type RowFunction,
  type SortBy,
  type Write,
  type WriteOptions,
  type Writer,
} from "./data-frame.ts";
export type { Field } from "./duck.ts";
export { type PondErrorCode, pondErrors } from "./errors.ts";
export { fn, type ModuleFunction } from "./function-source.ts";
export {
  type GenerateOptions,
  generateFile,
  type KeySpread,
  type Manifest,
  type SortOptions,
  type SortProgress,
  type SortReport,
  sortFiles,
  type Tally,
  tallyFiles,
} from "./graysort/index.ts";
export { type Aggregate, aggregates, Grouped } from "./grouped.ts";
export type { Executor } from "./local-pool.ts";
export { type CsvOptions, init, Pond, type PondOptions } from "./pond.ts";
export type { OutputManifest } from "./publish.ts";
export {
  type QueueAddress,
  type QueueExecutorOptions,
  type QueueWorkerOptions,
  queueExecutor,
  runQueueWorker,
} from "./queue.ts";
export type { RunEvent, RunStats, StageSummary } from "./scheduler.ts";
export { type Sql, type SqlValue, sql } from "./sql.ts";
export type { Faults } from "./task.ts";
export {
  type ColumnType,
  type Interval,
  type Row,
  type RowOf,
  type Schema,
  schema,
  t,
} from "./types.ts";
export {
  progressLine,
  showProgress,
  skewOf,
  Watch,
  type WatchedAttempt,
  type WatchedStage,
} from "./watch.ts";
export { serveWatch, type WatchServer } from "./watch-server.ts";
