/**
 * @file Records as JSON under ordered keys: the families of records that `mgmtd` and `meta` keep in
 * `kv`. A key is the family's name, a zero byte, and the parts in an order-preserving form.
 */
import { assert } from "../base/index.ts";
import { type KvEntry, keyAfter, prefixEnd, scan, type Transaction } from "../kv/index.ts";

/** A part of a key: a non-negative safe integer, or a text (only as the last part, or without zero). */
export type KeyPart = number | string;

const decoder = new TextDecoder();

/** The key of a family's record: numbers as 8 bytes, texts ended by a zero but for the last part. */
function recordKey(family: string, parts: readonly KeyPart[]): Uint8Array {
  const last = parts.length - 1;
  let length = Buffer.byteLength(family) + 1;
  for (const [i, part] of parts.entries()) {
    length += typeof part === "number" ? 8 : Buffer.byteLength(part) + (i < last ? 1 : 0);
  }
  const key = Buffer.allocUnsafe(length);
  let at = key.write(family);
  key[at++] = 0;
  for (const [i, part] of parts.entries()) {
    if (typeof part === "number") {
      assert(Number.isSafeInteger(part) && part >= 0, () => `part of a key: got ${part}`);
      at = key.writeUInt32BE(Math.floor(part / 2 ** 32), at);
      at = key.writeUInt32BE(part % 2 ** 32, at);
    } else {
      at += key.write(part, at);
      if (i < last) key[at++] = 0;
    }
  }
  return key;
}

/** A value as JSON in bytes. */
export function encodeJson(value: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** The value of such bytes. */
export function decodeJson<T>(bytes: Uint8Array): T {
  return JSON.parse(decoder.decode(bytes)) as T;
}

/** A record with its key. */
export interface KeyedRecord<T> {
  readonly key: Uint8Array;
  readonly record: T;
}

/** The text that a family's key ends with, after `parts`. */
export function lastText(key: Uint8Array, family: string, ...parts: readonly KeyPart[]): string {
  return decoder.decode(key.subarray(recordKey(family, parts).length));
}

/** One family of records of type `T`. */
export class RecordFamily<T> {
  /** The first part of its keys. */
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }

  /** A record's key. */
  key(...parts: readonly KeyPart[]): Uint8Array {
    return recordKey(this.name, parts);
  }

  /** The record; the commit fails if it changes before. */
  async get(transaction: Transaction, ...parts: readonly KeyPart[]): Promise<T | undefined> {
    const value = await transaction.get(this.key(...parts));
    return value && decodeJson<T>(value);
  }

  /** The record in the snapshot. */
  async peek(transaction: Transaction, ...parts: readonly KeyPart[]): Promise<T | undefined> {
    const value = await transaction.snapshotGet(this.key(...parts));
    return value && decodeJson<T>(value);
  }

  /** Sets a record. */
  set(transaction: Transaction, record: T, ...parts: readonly KeyPart[]): void {
    transaction.set(this.key(...parts), encodeJson(record));
  }

  /** Removes a record. */
  clear(transaction: Transaction, ...parts: readonly KeyPart[]): void {
    transaction.clear(this.key(...parts));
  }

  /** Whether there is any record under `parts`; the commit fails if that changes. */
  async isEmpty(transaction: Transaction, ...parts: readonly KeyPart[]): Promise<boolean> {
    const prefix = this.key(...parts);
    return (await transaction.getRange(prefix, prefixEnd(prefix), { limit: 1 })).length === 0;
  }

  /** Removes every record under `parts`. */
  clearAll(transaction: Transaction, ...parts: readonly KeyPart[]): void {
    const prefix = this.key(...parts);
    transaction.clearRange(prefix, prefixEnd(prefix));
  }

  /** The first `limit` records under `parts`, with their keys; the commit fails if that changes. */
  async page(
    transaction: Transaction,
    limit: number,
    ...parts: readonly KeyPart[]
  ): Promise<KeyedRecord<T>[]> {
    const prefix = this.key(...parts);
    const found = await transaction.getRange(prefix, prefixEnd(prefix), { limit });
    return found.map(({ key, value }) => ({ key, record: decodeJson<T>(value) }));
  }

  /** The first `limit` records under `parts` whose last part is a text above `after`, from the snapshot. */
  async after(
    transaction: Transaction,
    limit: number,
    after: string | undefined,
    ...parts: readonly KeyPart[]
  ): Promise<KeyedRecord<T>[]> {
    const prefix = this.key(...parts);
    const begin = after === undefined ? prefix : keyAfter(this.key(...parts, after));
    const found = await transaction.snapshotGetRange(begin, prefixEnd(prefix), { limit });
    return found.map(({ key, value }) => ({ key, record: decodeJson<T>(value) }));
  }

  /** The same from the snapshot. */
  async entries(
    transaction: Transaction,
    limit = 1e6,
    ...parts: readonly KeyPart[]
  ): Promise<KeyedRecord<T>[]> {
    const prefix = this.key(...parts);
    const found = await transaction.snapshotGetRange(prefix, prefixEnd(prefix), { limit });
    return found.map(({ key, value }) => ({ key, record: decodeJson<T>(value) }));
  }

  /** All records under `parts`, from the snapshot, in the order of their keys. */
  async list(transaction: Transaction, ...parts: readonly KeyPart[]): Promise<T[]> {
    const prefix = this.key(...parts);
    const records: T[] = [];
    const entries: AsyncIterable<KvEntry> = scan(transaction, prefix, prefixEnd(prefix), {
      snapshot: true,
    });
    for await (const { value } of entries) records.push(decodeJson<T>(value));
    return records;
  }
}
