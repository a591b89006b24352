/** @file Small structures that the driver reads and writes: words at fixed places. */
import { addressOf } from "../../native/index.ts";

/** Memory of `bytes`, zeroed, that JavaScript writes and the driver reads, or the other way round. */
export class Words {
  /** The memory as bytes. */
  readonly bytes: Uint8Array;
  /** Its address; valid while this object lives. */
  readonly address: number;
  private readonly view: DataView;

  /** `alignment` is a power of two. */
  constructor(bytes: number, alignment: number = 8) {
    const buffer = new ArrayBuffer(bytes + alignment);
    const base = addressOf(new Uint8Array(buffer));
    const start = (alignment - (base % alignment)) % alignment;
    this.bytes = new Uint8Array(buffer, start, bytes);
    this.address = base + start;
    this.view = new DataView(buffer, start, bytes);
  }

  /** The signed 32 bits at `offset`. */
  int(offset: number = 0): number {
    return this.view.getInt32(offset, true);
  }

  /** The 64 bits at `offset`, which must be a safe integer: an address, a handle or a size. */
  long(offset: number = 0): number {
    return Number(this.view.getBigUint64(offset, true));
  }

  /** The float32 at `offset`. */
  float(offset: number = 0): number {
    return this.view.getFloat32(offset, true);
  }

  /** Writes 32 bits. */
  setInt(offset: number, value: number): void {
    this.view.setInt32(offset, value, true);
  }

  /** Writes 64 bits from a safe integer. */
  setLong(offset: number, value: number): void {
    this.view.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
  }

  /** Writes a float32. */
  setFloat(offset: number, value: number): void {
    this.view.setFloat32(offset, value, true);
  }
}
