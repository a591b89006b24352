/**
 * @file What a target needs of a disk: files of blocks that are read, written and flushed, and a table of
 * chunk records that is changed by atomic, durable batches. Data is flushed before a batch names it.
 */

/** The block files of one target, one for each of the 11 sizes, numbered from 0. */
export interface Disk {
  /** Fills `into` from `offset` on; what was never written reads as zeros. Throws `storage-io-failed`. */
  read(file: number, offset: number, into: Uint8Array): Promise<void>;
  /** Writes `data`; it may be lost until `flush`. Throws `storage-io-failed`, `storage-no-space`. */
  write(file: number, offset: number, data: Uint8Array): Promise<void>;
  /** What was written before is durable. Throws `storage-io-failed`. */
  flush(): Promise<void>;
  /** Bytes that the disk still has. */
  freeBytes(): Promise<number>;
  close(): Promise<void>;
}

/** One change of a record: new bytes, or undefined where it goes. */
export type RecordChange = readonly [key: string, value: Uint8Array | undefined];

/** A durable table of records. */
export interface RecordStore {
  /** All records, in any order. */
  entries(): AsyncIterable<readonly [key: string, value: Uint8Array]>;
  /** Makes all changes at once; durable when it resolves. Throws `storage-io-failed`, `storage-no-space`. */
  commit(changes: readonly RecordChange[]): Promise<void>;
  close(): Promise<void>;
}
