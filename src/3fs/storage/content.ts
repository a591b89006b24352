/** @file What an update makes of a chunk's bytes and checksums. Pure, but for reading the old bytes. */
import { crc32c } from "@node-rs/crc32";
import { fsError } from "../errors.ts";
import { type ChunkVersion, checksumsOf } from "./records.ts";

/** Bytes of a chunk's old version, which the caller reads. */
export type ReadOld = (offset: number, into: Uint8Array) => Promise<void>;

/** A chunk's content after an update. */
export interface NewContent {
  readonly bytes: Uint8Array;
  readonly checksums: Uint32Array;
}

/** Throws `storage-checksum-mismatch` where a page of `bytes`, from page `first` on, is not as summed. */
export function checkPages(
  what: string,
  bytes: Uint8Array,
  first: number,
  checksums: Uint32Array,
  pageBytes: number,
): void {
  const pages = Math.ceil(bytes.length / pageBytes);
  for (let i = 0; i < pages; i++) {
    const page = bytes.subarray(i * pageBytes, (i + 1) * pageBytes);
    if (crc32c(page) === checksums[first + i]) continue;
    const words = `page ${first + i} of ${what} is not what was written`;
    throw fsError("storage-checksum-mismatch", `${words}: read another replica.`);
  }
}

/** The checksums after appending `data`, without a look at the old bytes. */
export function appendedChecksums(
  old: Uint32Array,
  oldLength: number,
  data: Uint8Array,
  pageBytes: number,
): Uint32Array {
  const inLast = oldLength % pageBytes;
  const joining = inLast === 0 ? 0 : Math.min(data.length, pageBytes - inLast);
  const rest = checksumsOf(data.subarray(joining), pageBytes);
  const all = new Uint32Array(Math.ceil((oldLength + data.length) / pageBytes));
  all.set(old);
  if (joining > 0) all[old.length - 1] = crc32c(data.subarray(0, joining), old[old.length - 1]);
  all.set(rest, old.length);
  return all;
}

/**
 * The content after `data` was written at `offset` of a version (zeros fill a gap). Untouched pages keep
 * their checksums unread, so that damage in them stays visible; pages touched in part are checked.
 */
export async function writtenContent(
  what: string,
  old: ChunkVersion | undefined,
  readOld: ReadOld,
  offset: number,
  data: Uint8Array,
  pageBytes: number,
): Promise<NewContent> {
  const oldLength = old?.length ?? 0;
  const end = offset + data.length;
  const length = Math.max(oldLength, end);
  if (offset === 0 && end >= oldLength)
    return { bytes: data, checksums: checksumsOf(data, pageBytes) };
  const bytes = new Uint8Array(length);
  if (oldLength > 0) await readOld(0, bytes.subarray(0, oldLength));
  // Touched: from the old end, where zeros fill a gap, to the end of the data.
  const from = Math.min(offset, oldLength);
  const firstPage = Math.floor(from / pageBytes);
  const lastPage = Math.ceil(end / pageBytes);
  if (old !== undefined) {
    const checkEdge = (page: number): void => {
      const edge = bytes.subarray(page * pageBytes, Math.min(oldLength, (page + 1) * pageBytes));
      checkPages(what, edge, page, old.checksums, pageBytes);
    };
    const isWhole = (page: number): boolean =>
      offset <= page * pageBytes && end >= Math.min(oldLength, (page + 1) * pageBytes);
    if (firstPage < old.checksums.length && !isWhole(firstPage)) checkEdge(firstPage);
    const last = lastPage - 1;
    if (last !== firstPage && last < old.checksums.length && !isWhole(last)) checkEdge(last);
  }
  bytes.set(data, offset);
  const checksums = new Uint32Array(Math.ceil(length / pageBytes));
  if (old !== undefined) checksums.set(old.checksums);
  const touched = bytes.subarray(firstPage * pageBytes, lastPage * pageBytes);
  checksums.set(checksumsOf(touched, pageBytes), firstPage);
  return { bytes, checksums };
}

/** The content cut, or filled with zeros, to `length`. */
export async function truncatedContent(
  what: string,
  old: ChunkVersion | undefined,
  readOld: ReadOld,
  length: number,
  pageBytes: number,
): Promise<NewContent> {
  const kept = Math.min(old?.length ?? 0, length);
  if (length > kept) {
    const zeros = new Uint8Array(length - kept);
    return writtenContent(what, old, readOld, kept, zeros, pageBytes);
  }
  const bytes = new Uint8Array(length);
  if (old === undefined || kept === 0) return { bytes, checksums: new Uint32Array(0) };
  // The page that is cut must be checked whole before its first part is summed anew.
  const lastStart = Math.floor(Math.max(0, length - 1) / pageBytes) * pageBytes;
  const lastEnd = Math.min(old.length, lastStart + pageBytes);
  const whole = new Uint8Array(lastEnd);
  await readOld(0, whole);
  checkPages(what, whole.subarray(lastStart), lastStart / pageBytes, old.checksums, pageBytes);
  bytes.set(whole.subarray(0, length));
  const checksums = old.checksums.slice(0, Math.ceil(length / pageBytes));
  checksums[checksums.length - 1] = crc32c(bytes.subarray(lastStart));
  return { bytes, checksums };
}
