/** @file The reference rung: every kernel in plain TypeScript, obvious before fast. */
import { crc32 } from "@node-rs/crc32";
import { assert } from "../../base/index.ts";
import type { Buckets, RecordKernels, Tally } from "./kernels.ts";
import {
  compareKeys,
  keyAt,
  nextState,
  prefixAt,
  recordBytes,
  recordsIn,
  stateAfter,
  writeRecord,
} from "./record.ts";

/** The kernels of this rung. */
export function openReferenceKernels(): RecordKernels {
  return {
    generate,
    check,
    buckets: (capacity, splitters) => new ReferenceBuckets(capacity, splitters),
    close: () => {},
  };
}

function generate(out: Uint8Array, firstRow: bigint): void {
  let state = stateAfter(firstRow);
  let row = firstRow;
  for (let offset = 0; offset < recordsIn(out.length) * recordBytes; offset += recordBytes) {
    state = nextState(state);
    writeRecord(out, offset, row++, state);
  }
}

function check(records: Uint8Array, tally: Tally): void {
  for (let i = 0; i < recordsIn(records.length); i++) {
    const offset = i * recordBytes;
    const order = tally.lastKey ? compareKeys(records, offset, tally.lastKey, 0) : 1;
    if (order < 0) tally.unordered++;
    if (order === 0) tally.duplicates++;
    tally.lastKey = keyAt(records, offset);
    tally.firstKey ??= tally.lastKey;
    const sum = BigInt(crc32(records.subarray(offset, offset + recordBytes)));
    tally.checksum = BigInt.asUintN(64, tally.checksum + sum);
    tally.records++;
  }
}

class ReferenceBuckets implements Buckets {
  readonly count: number;
  private readonly capacity: number;
  private readonly splitters: BigUint64Array;
  private held: Uint8Array[][];
  private added = 0;
  private sorted: Uint8Array[] = [];

  constructor(capacity: number, splitters: BigUint64Array) {
    this.capacity = capacity;
    this.splitters = splitters.slice();
    this.count = splitters.length + 1;
    this.held = Array.from({ length: this.count }, () => []);
  }

  add(records: Uint8Array): void {
    const count = recordsIn(records.length);
    this.added += count;
    assert(this.added <= this.capacity, () => `buckets: got ${this.added}, hold ${this.capacity}`);
    for (let i = 0; i < count; i++) {
      const offset = i * recordBytes;
      const prefix = prefixAt(records, offset);
      let [low, high] = [0, this.splitters.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (this.splitters[middle] <= prefix) low = middle + 1;
        else high = middle;
      }
      this.held[low].push(Uint8Array.from(records.subarray(offset, offset + recordBytes)));
    }
  }

  sizeOf(bucket: number): number {
    return this.held[bucket].length;
  }

  pieces(bucket: number): Uint8Array[] {
    return this.held[bucket];
  }

  sort(bucket: number): void {
    this.sorted = this.held[bucket].toSorted((left, right) => compareKeys(left, 0, right, 0));
  }

  copy(first: number, out: Uint8Array): void {
    for (let i = 0; i < recordsIn(out.length); i++)
      out.set(this.sorted[first + i], i * recordBytes);
  }

  clear(): void {
    this.held = this.held.map(() => []);
    this.sorted = [];
    this.added = 0;
  }

  close(): void {
    this.clear();
  }
}
