/**
 * @file Frames: a header of 48 bytes, then meta (JSON), then data. Little-endian:
 *
 *     0 u32 magic "bln1"     4 u8 version    5 u8 kind      6 u16 flags
 *     8 u16 service         10 u16 method   12 u32 argument (milliseconds left, offset, or bytes)
 *    16 u64 request id      24 u64 trace id
 *    32 u32 meta bytes      36 u32 data bytes
 *    40 u32 CRC32C of meta, then of data  44 u32 CRC32C of bytes 0 to 43
 *
 * With the flag `announced` the data bytes are not in the frame, but follow in frames of kind `data`.
 * With `ownChecksum` data is left out of the checksum, since the service carries one of its own.
 */
import { crc32c } from "@node-rs/crc32";
import { assert } from "../base/index.ts";
import { rpcError } from "./errors.ts";

/** Bytes of a header. */
export const headerBytes = 48;

/** What a frame is for. */
export const frameKinds = { request: 1, response: 2, cancel: 3, credit: 4, data: 5 } as const;

/** Bits of a frame's flags. */
export const frameFlags = { announced: 1, failed: 2, ownChecksum: 4, reply: 8 } as const;

/** The largest meta, and the largest data in one frame; what is larger travels in pieces. */
export const metaBytesMax: number = 2 ** 20;
/** See `metaBytesMax`. */
export const pieceBytesMax: number = 2 ** 20;

const magic = 0x316e6c62;
const version = 1;

/** What a header says. */
export interface Header {
  readonly kind: number;
  readonly flags: number;
  readonly service: number;
  readonly method: number;
  /** Of a request: milliseconds left, 0 for no end. Of data: its offset. Of a credit: bytes. */
  readonly argument: number;
  readonly requestId: number;
  readonly traceId: number;
  readonly metaBytes: number;
  readonly dataBytes: number;
  readonly bodyChecksum: number;
}

/** A frame, whole. */
export interface Frame extends Header {
  readonly meta: Uint8Array;
  /** Empty where the flag `announced` is set. */
  readonly data: Uint8Array;
}

const empty = new Uint8Array(0);

/** A frame from what its sender has to say; lengths and checksum follow from the rest. */
export function makeFrame(
  fields: Partial<Frame> & Pick<Frame, "kind" | "requestId">,
  announcedBytes?: number,
): Frame {
  const { flags = 0, meta = empty, data = empty } = fields;
  assert(meta.length <= metaBytesMax, () => `meta of a frame: got ${meta.length} bytes`);
  assert(data.length <= pieceBytesMax, () => `data of a frame: got ${data.length} bytes`);
  let bodyChecksum = meta.length > 0 ? crc32c(meta) : 0;
  if (data.length > 0 && !(flags & frameFlags.ownChecksum)) {
    bodyChecksum = crc32c(data, bodyChecksum);
  }
  return {
    kind: fields.kind,
    flags: announcedBytes === undefined ? flags : flags | frameFlags.announced,
    service: fields.service ?? 0,
    method: fields.method ?? 0,
    argument: fields.argument ?? 0,
    requestId: fields.requestId,
    traceId: fields.traceId ?? 0,
    metaBytes: meta.length,
    dataBytes: announcedBytes ?? data.length,
    bodyChecksum,
    meta,
    data,
  };
}

/** Writes the header at the start of `into`, which has 48 bytes or more. */
export function writeHeader(header: Header, into: Uint8Array): void {
  const view = new DataView(into.buffer, into.byteOffset, headerBytes);
  view.setUint32(0, magic, true);
  view.setUint8(4, version);
  view.setUint8(5, header.kind);
  view.setUint16(6, header.flags, true);
  view.setUint16(8, header.service, true);
  view.setUint16(10, header.method, true);
  view.setUint32(12, header.argument, true);
  setSafe(view, 16, header.requestId);
  setSafe(view, 24, header.traceId);
  view.setUint32(32, header.metaBytes, true);
  view.setUint32(36, header.dataBytes, true);
  view.setUint32(40, header.bodyChecksum, true);
  view.setUint32(44, crc32c(into.subarray(0, 44)), true);
}

/**
 * What the 48 bytes say. `dataBytesMax` bounds announced data. Throws `rpc-frame-invalid`, or
 * `rpc-too-large` where only a length is wrong.
 */
export function readHeader(bytes: Uint8Array, dataBytesMax: number): Header {
  const view = new DataView(bytes.buffer, bytes.byteOffset, headerBytes);
  if (view.getUint32(0, true) !== magic) throw invalid("its first bytes are not those of a frame");
  if (view.getUint32(44, true) !== crc32c(bytes.subarray(0, 44))) {
    throw invalid("the header's checksum does not match");
  }
  if (view.getUint8(4) !== version) throw invalid(`version ${view.getUint8(4)} is not ${version}`);
  const header = {
    kind: view.getUint8(5),
    flags: view.getUint16(6, true),
    service: view.getUint16(8, true),
    method: view.getUint16(10, true),
    argument: view.getUint32(12, true),
    requestId: getSafe(view, 16),
    traceId: getSafe(view, 24),
    metaBytes: view.getUint32(32, true),
    dataBytes: view.getUint32(36, true),
    bodyChecksum: view.getUint32(40, true),
  };
  if (header.kind < 1 || header.kind > 5) throw invalid(`kind ${header.kind} is unknown`);
  if (header.flags > 15) throw invalid(`flags ${header.flags} are unknown`);
  const limit = header.flags & frameFlags.announced ? dataBytesMax : pieceBytesMax;
  refuseAbove("meta", header.metaBytes, metaBytesMax);
  refuseAbove("data", header.dataBytes, limit);
  return header;
}

/** Bytes that follow the header in the same frame. */
export function bodyBytesOf(header: Header): number {
  return header.metaBytes + (header.flags & frameFlags.announced ? 0 : header.dataBytes);
}

/** Throws `rpc-frame-invalid` unless the body has the header's checksum. */
export function checkBody(header: Header, meta: Uint8Array, data: Uint8Array): void {
  let sum = meta.length > 0 ? crc32c(meta) : 0;
  if (data.length > 0 && !(header.flags & frameFlags.ownChecksum)) sum = crc32c(data, sum);
  if (sum !== header.bodyChecksum) throw invalid("the body's checksum does not match");
}

function refuseAbove(what: string, bytes: number, limit: number): void {
  if (bytes <= limit) return;
  const advice = "send less at once, or raise the receiver's limit";
  throw rpcError("rpc-too-large", `a frame's ${what} has ${bytes} bytes of ${limit}: ${advice}.`);
}

function invalid(problem: string): Error {
  const advice = "check that both ends are of one release, and the network between them";
  return rpcError("rpc-frame-invalid", `a frame is not valid, ${problem}: ${advice}.`);
}

function setSafe(view: DataView, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, () => `id in a frame: got ${value}`);
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

function getSafe(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  if (high >= 2 ** 21) throw invalid("an id is above 2^53");
  return high * 2 ** 32 + view.getUint32(at, true);
}
