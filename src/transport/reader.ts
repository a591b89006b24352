/**
 * @file Bytes in, frames out. The reader says where the next bytes should go: while a large body
 * arrives that is its destination itself, so that a socket writes there and nothing is copied.
 */
import { rpcError } from "./errors.ts";
import {
  bodyBytesOf,
  checkBody,
  frameFlags,
  type Header,
  headerBytes,
  readHeader,
} from "./frame.ts";
import type { LinkEvents } from "./link.ts";

/** Below this a body goes through the scratch buffer, with its neighbours. */
const directBytesMin = 16384;

/** Cuts a stream of bytes into frames; memory: one frame's body, and a scratch buffer. */
export class FrameReader {
  /** Bytes of a header, as they came. */
  private readonly head = new Uint8Array(headerBytes);
  private headFilled = 0;
  private header: Header | undefined;
  private meta = new Uint8Array(0);
  private data: Uint8Array = new Uint8Array(0);
  private bodyFilled = 0;
  private readonly scratch: Uint8Array;
  private readonly events: LinkEvents;
  private readonly dataBytesMax: number;

  constructor(events: LinkEvents, dataBytesMax: number, scratch: Uint8Array) {
    this.events = events;
    this.dataBytesMax = dataBytesMax;
    this.scratch = scratch;
  }

  /** Where the next bytes should be put; then call `filled` with this memory and how many came. */
  get next(): Uint8Array {
    if (this.header !== undefined && this.bodyFilled >= this.meta.length) {
      const rest = this.data.subarray(this.bodyFilled - this.meta.length);
      if (rest.length >= directBytesMin) return rest;
    }
    return this.scratch;
  }

  /** Takes `count` bytes from the start of `bytes`. Throws what `readHeader` and `checkBody` throw. */
  filled(bytes: Uint8Array, count: number): void {
    if (bytes !== this.scratch && this.isOwn(bytes)) {
      this.bodyFilled += count;
      this.finish();
      return;
    }
    let at = 0;
    while (at < count) {
      at +=
        this.header === undefined
          ? this.takeHead(bytes, at, count)
          : this.takeBody(bytes, at, count);
    }
  }

  /** Throws `rpc-frame-invalid` where the stream ended inside a frame. */
  end(): void {
    if (this.headFilled === 0 && this.header === undefined) return;
    const advice = "the other end broke off; try again";
    throw rpcError("rpc-frame-invalid", `the connection ended inside a frame: ${advice}.`);
  }

  private isOwn(bytes: Uint8Array): boolean {
    return (
      this.header !== undefined &&
      bytes.buffer === this.data.buffer &&
      bytes.byteOffset === this.data.byteOffset + this.bodyFilled - this.meta.length
    );
  }

  private takeHead(bytes: Uint8Array, at: number, end: number): number {
    const count = Math.min(headerBytes - this.headFilled, end - at);
    this.head.set(bytes.subarray(at, at + count), this.headFilled);
    this.headFilled += count;
    if (this.headFilled < headerBytes) return count;
    const header = readHeader(this.head, this.dataBytesMax);
    this.headFilled = 0;
    this.header = header;
    this.bodyFilled = 0;
    this.meta = new Uint8Array(header.metaBytes);
    const dataBytes = bodyBytesOf(header) - header.metaBytes;
    this.data = (dataBytes > 0 && this.events.place(header)) || new Uint8Array(dataBytes);
    this.finish();
    return count;
  }

  private takeBody(bytes: Uint8Array, at: number, end: number): number {
    const inMeta = this.bodyFilled < this.meta.length;
    const target = inMeta ? this.meta : this.data;
    const from = inMeta ? this.bodyFilled : this.bodyFilled - this.meta.length;
    const count = Math.min(target.length - from, end - at);
    target.set(bytes.subarray(at, at + count), from);
    this.bodyFilled += count;
    this.finish();
    return count;
  }

  private finish(): void {
    const { header, meta, data } = this;
    if (header === undefined || this.bodyFilled < meta.length + data.length) return;
    this.header = undefined;
    const isCarried = !(header.flags & frameFlags.announced) && data.length > 0;
    if (meta.length > 0 || isCarried) checkBody(header, meta, data);
    this.events.frame({ ...header, meta, data });
  }
}
