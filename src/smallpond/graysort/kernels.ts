/**
 * @file What the two rungs of the record sort offer, and the choice between them.
 */
import type { Device } from "../../device/index.ts";
import { openReferenceKernels } from "./reference.ts";
import { openX86Kernels } from "./x86.ts";

/** What a pass over sorted (or unsorted) records has found so far. */
export interface Tally {
  /** Records seen. */
  records: number;
  /** Records whose key sorts before the one in front of them. */
  unordered: number;
  /** Records whose key equals the one in front of them. */
  duplicates: number;
  /** Sum of the CRC-32 of every record, modulo 2^64; the same for any order. */
  checksum: bigint;
  /** The last key seen; undefined before the first record. */
  lastKey: Uint8Array | undefined;
  /** The first key seen. */
  firstKey: Uint8Array | undefined;
}

/**
 * Records in buckets by range of key: bucket b holds splitters[b - 1] <= prefix < splitters[b],
 * where a prefix is the key's first 8 bytes, big-endian.
 */
export interface Buckets {
  /** Buckets: a power of two. */
  readonly count: number;
  /** Appends whole records to their buckets, in order of arrival. Asserts that the capacity holds. */
  add(records: Uint8Array): void;
  /** Records in bucket `bucket`. */
  sizeOf(bucket: number): number;
  /** The records of `bucket` in order of arrival, as views; valid until `clear` or `close`. */
  pieces(bucket: number): Uint8Array[];
  /** Sorts `bucket` by key, equal keys in order of arrival; `copy` then reads from it. */
  sort(bucket: number): void;
  /** Copies sorted records `first` and following into `out`, as many as fit; of the last `sort`. */
  copy(first: number, out: Uint8Array): void;
  /** Empties all buckets; the memory is kept. */
  clear(): void;
  /** Gives the memory back; the buckets may not be used afterwards. */
  close(): void;
}

/** The inner loops of the record sort. */
export interface RecordKernels {
  /** Fills `out` with the records of rows `firstRow` and following. */
  generate(out: Uint8Array, firstRow: bigint): void;
  /** Adds whole `records`, which follow those tallied before, to `tally`. */
  check(records: Uint8Array, tally: Tally): void;
  /**
   * Empty buckets for at most `capacity` records between adds and clears; `splitters` ascend and are
   * one fewer than a power of two.
   */
  buckets(capacity: number, splitters: BigUint64Array): Buckets;
  /** Gives back the memory that is kept for the next buckets. */
  close(): void;
}

/** The kernels that run on `device`: machine code, else plain TypeScript. */
export function openKernels(device: Device): RecordKernels {
  return device.rung === "x86" ? openX86Kernels(device) : openReferenceKernels();
}

/** A tally of nothing. */
export function emptyTally(): Tally {
  return {
    records: 0,
    unordered: 0,
    duplicates: 0,
    checksum: 0n,
    lastKey: undefined,
    firstKey: undefined,
  };
}
