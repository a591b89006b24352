/** @file Writes what machine code reads: argument blocks and arrays of task records. */
import { assert } from "../base/index.ts";
import { addressOf } from "../native/index.ts";
import type { Device } from "./device.ts";
import { recorderOf } from "./recording.ts";

/**
 * Device memory that JavaScript writes field by field at byte offsets, little-endian as the
 * processor reads it, without allocating. One block serves as a kernel's arguments, another as its
 * array of task records (field `f` of record `i` at `i * recordBytes + f`, grown by `reserve`);
 * since a launch returns only when all is done, both may be rewritten for the next. Keep the block
 * referenced while its address is in use.
 */
export class ArgumentBlock {
  private readonly device: Device;
  private words: Uint32Array;
  private floats: Float32Array;
  private byteCount: number;
  private base: number;

  /** A zeroed block of at least `bytes`. */
  constructor(device: Device, bytes: number) {
    this.device = device;
    this.byteCount = Math.max(64, Math.ceil(bytes / 8) * 8);
    const buffer = device.allocate(this.byteCount);
    this.words = new Uint32Array(buffer, 0, this.byteCount / 4);
    this.floats = new Float32Array(buffer, 0, this.byteCount / 4);
    this.base = addressOf(this.words);
  }

  /**
   * Address of the block, 64-byte aligned; changes when `reserve` grows it; 0 without native layer.
   * While the device records, that of a copy of what has been written so far: so write first.
   */
  get address(): number {
    const recorder = recorderOf(this.device);
    return recorder === undefined ? this.base : recorder.copy(this.words);
  }

  /** Bytes in the block. */
  get bytes(): number {
    return this.byteCount;
  }

  /**
   * Makes room for `bytes`, at least doubling when it grows; the contents stay, the address may
   * change.
   */
  reserve(bytes: number): void {
    if (bytes <= this.byteCount) return;
    const grown = new ArgumentBlock(this.device, Math.max(bytes, 2 * this.byteCount));
    grown.words.set(this.words);
    this.words = grown.words;
    this.floats = grown.floats;
    this.byteCount = grown.byteCount;
    this.base = grown.base;
  }

  /** Writes an address as 64 bits; 0 and what is no address throw (for "none" use `setInt64`). */
  setAddress(offset: number, address: number): void {
    if (!(address > 0 && Number.isSafeInteger(address))) {
      assert(false, `address at offset ${offset}: got ${address}, wanted a positive safe integer`);
    }
    this.setInt64(offset, address);
  }

  /** Writes a safe integer as 64 bits. */
  setInt64(offset: number, value: number): void {
    const index = this.wordAt(offset, 8);
    this.words[index] = value;
    this.words[index + 1] = Math.floor(value / 2 ** 32);
  }

  /** Writes an integer as 32 bits, signed or unsigned alike. */
  setInt32(offset: number, value: number): void {
    this.words[this.wordAt(offset, 4)] = value;
  }

  /** Writes a number as a 32-bit float. */
  setFloat32(offset: number, value: number): void {
    this.floats[this.wordAt(offset, 4)] = value;
  }

  private wordAt(offset: number, size: number): number {
    if (!(offset >= 0 && offset + size <= this.byteCount && (offset & 3) === 0)) {
      assert(
        false,
        `offset of a field of ${size} bytes: got ${offset}, ` +
          `wanted a multiple of 4 within ${this.byteCount} bytes`,
      );
    }
    return offset >>> 2;
  }
}
