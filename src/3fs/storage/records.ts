/**
 * @file What a target remembers of a chunk, and how it looks in the record store. A chunk has a committed
 * version, a pending one, or both. Its bytes are summed page by page (CRC32C), so that a small read checks
 * what it reads: a page is 4 KiB, or 1/256 of the chunk where that is more.
 */
import { crc32c } from "@node-rs/crc32";
import { assert } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import type { ChainVersion, ChunkId } from "../types.ts";
import type { Block } from "./allocator.ts";

/** Bytes that one checksum covers, in chunks of files with this `chunkBytes`. */
export function pageBytesOf(chunkBytes: number): number {
  return Math.max(4096, chunkBytes / 256);
}

/** Who made an update: a retry has the same tag. */
export interface UpdateTag {
  readonly clientId: number;
  /** A client has one update under way on each of its channels. */
  readonly channel: number;
  /** Grows with each update on the channel. */
  readonly seq: number;
}

/** One version of a chunk's content. */
export interface ChunkVersion {
  /** 1 for the first update of a chunk; grows by one with each. */
  readonly version: number;
  /** Of the chain when the update was made. */
  readonly chainVersion: ChainVersion;
  /** Where the bytes are; absent for an empty chunk. */
  readonly block: Block | undefined;
  /** Bytes of content. */
  readonly length: number;
  /** Whether this version, a pending one, removes the chunk: its record goes when it is committed. */
  readonly removed: boolean;
  /** CRC32C of each page. */
  readonly checksums: Uint32Array;
  /** Who made it; absent where it came by another way than an update. */
  readonly tag: UpdateTag | undefined;
}

/** A chunk's record. */
export interface ChunkRecord {
  readonly chunk: ChunkId;
  readonly chunkBytes: number;
  committed: ChunkVersion | undefined;
  pending: ChunkVersion | undefined;
}

/** CRC32C of each page of `data`, whose first byte lies on a page's border. */
export function checksumsOf(data: Uint8Array, pageBytes: number): Uint32Array {
  const sums = new Uint32Array(Math.ceil(data.length / pageBytes));
  for (let i = 0; i < sums.length; i++) {
    sums[i] = crc32c(data.subarray(i * pageBytes, (i + 1) * pageBytes));
  }
  return sums;
}

/** One number that stands for a version's content: equal contents have equal digests. */
export function digestOf({ length, removed, checksums }: ChunkVersion): number {
  const head = new Uint32Array([length, removed ? 1 : 0]);
  const sum = crc32c(new Uint8Array(head.buffer));
  return crc32c(new Uint8Array(checksums.buffer, checksums.byteOffset, checksums.byteLength), sum);
}

/** The key of a chunk's record. */
export function keyOf({ inode, index }: ChunkId): string {
  return `${inode}.${index}`;
}

/** The chunk whose record has this key. */
function chunkOfKey(key: string): ChunkId {
  const [inode, index] = key.split(".").map(Number);
  return { inode, index };
}

const formatVersion = 1;
const headBytes = 8;
const versionBytes = 56;
const noBlock = 0xff;

/** A record as bytes: format, chunk size, then each version's fields and checksums; CRC32C at the end. */
export function encodeRecord(record: ChunkRecord): Uint8Array {
  const versions = [record.committed, record.pending];
  let bytes = headBytes + 4;
  for (const one of versions) if (one) bytes += versionBytes + one.checksums.length * 4;
  const view = new DataView(new ArrayBuffer(bytes));
  view.setUint8(0, formatVersion);
  view.setUint8(1, (record.committed ? 1 : 0) | (record.pending ? 2 : 0));
  view.setUint32(4, record.chunkBytes, true);
  let at = headBytes;
  for (const one of versions) if (one) at = encodeVersion(view, at, one);
  const all = new Uint8Array(view.buffer);
  view.setUint32(at, crc32c(all.subarray(0, at)), true);
  return all;
}

function encodeVersion(view: DataView, start: number, one: ChunkVersion): number {
  view.setFloat64(start, one.version, true);
  view.setFloat64(start + 8, one.chainVersion, true);
  view.setUint32(start + 16, one.length, true);
  view.setUint8(start + 20, one.removed ? 1 : 0);
  view.setUint8(start + 21, one.block?.sizeClass ?? noBlock);
  view.setUint32(start + 24, one.block?.index ?? 0, true);
  view.setUint32(start + 28, one.checksums.length, true);
  // A tag's numbers are at least 1, 0 and 1: all zeros stand for none.
  view.setFloat64(start + 32, one.tag?.clientId ?? 0, true);
  view.setFloat64(start + 40, one.tag?.channel ?? 0, true);
  view.setFloat64(start + 48, one.tag?.seq ?? 0, true);
  let at = start + versionBytes;
  for (const sum of one.checksums) {
    view.setUint32(at, sum, true);
    at += 4;
  }
  return at;
}

/** The record that `encodeRecord` wrote. Throws `storage-io-failed` where the bytes are damaged. */
export function decodeRecord(key: string, bytes: Uint8Array): ChunkRecord {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 4;
  if (end < headBytes || view.getUint32(end, true) !== crc32c(bytes.subarray(0, end))) {
    const words = `the record of chunk ${key} is damaged: let the target be filled again`;
    throw fsError("storage-io-failed", `${words} from another replica.`);
  }
  const format = view.getUint8(0);
  assert(format === formatVersion, () => `format of a chunk record: got ${format}`);
  const flags = view.getUint8(1);
  let at = headBytes;
  const next = (isThere: boolean): ChunkVersion | undefined => {
    if (!isThere) return undefined;
    const one = decodeVersion(view, at);
    at += versionBytes + one.checksums.length * 4;
    return one;
  };
  const committed = next((flags & 1) !== 0);
  const pending = next((flags & 2) !== 0);
  return { chunk: chunkOfKey(key), chunkBytes: view.getUint32(4, true), committed, pending };
}

function decodeVersion(view: DataView, start: number): ChunkVersion {
  const sizeClass = view.getUint8(start + 21);
  const index = view.getUint32(start + 24, true);
  const checksums = new Uint32Array(view.getUint32(start + 28, true));
  for (let i = 0; i < checksums.length; i++) {
    checksums[i] = view.getUint32(start + versionBytes + i * 4, true);
  }
  const [clientId, channel, seq] = [32, 40, 48].map((at) => view.getFloat64(start + at, true));
  return {
    tag: clientId === 0 ? undefined : { clientId, channel, seq },
    version: view.getFloat64(start, true),
    chainVersion: view.getFloat64(start + 8, true),
    block: sizeClass === noBlock ? undefined : { sizeClass, index },
    length: view.getUint32(start + 16, true),
    removed: view.getUint8(start + 20) === 1,
    checksums,
  };
}
