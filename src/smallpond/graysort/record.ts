/**
 * @file The record of the sort benchmark, and the generator that makes it: plain TypeScript, the
 * reference that machine code is checked against.
 *
 * A record is 100 bytes: a key of 10; 00 11; its row number in 32 hexadecimal digits; 88 99 aa bb;
 * 48 bytes of filler; cc dd ee ff. Row r draws x(r + 1) of the sequence x(0) = 0, x(i + 1) =
 * a x(i) + c modulo 2^128; its key is the upper 10 bytes, its filler the lower 12 hexadecimal
 * digits, each four times. Source: the sort benchmark's public rules and generator (sortbenchmark.org).
 */
import { assert } from "../../base/index.ts";

/** Bytes of a record. */
export const recordBytes = 100;
/** Bytes of the key that a record starts with; keys compare as unsigned bytes. */
const keyBytes = 10;

/** The generator's multiplier a. */
export const multiplier: bigint = 0x2360ed051fc65da44385df649fccf645n;
/** The generator's increment c. */
export const increment: bigint = 0x4a696d47726179524950202020202001n;

const mask128 = 2n ** 128n - 1n;

/**
 * x(steps): the generator's state after `steps` steps from 0. Squares the step as often as `steps`
 * has bits, so that any row is reached at once.
 */
export function stateAfter(steps: bigint): bigint {
  assert(steps >= 0n, () => `steps of the generator: got ${steps}, wanted none or more`);
  let state = 0n;
  let a = multiplier;
  let c = increment;
  for (let rest = steps; rest > 0n; rest >>= 1n) {
    if (rest & 1n) state = (a * state + c) & mask128;
    c = (a * c + c) & mask128;
    a = (a * a) & mask128;
  }
  return state;
}

/** The state that follows `state`. */
export function nextState(state: bigint): bigint {
  return (multiplier * state + increment) & mask128;
}

const hexDigits = "0123456789ABCDEF";

/** Writes the record of row `row`, which the generator's `state` decides, at `offset` of `out`. */
export function writeRecord(out: Uint8Array, offset: number, row: bigint, state: bigint): void {
  for (let i = 0; i < keyBytes; i++)
    out[offset + i] = Number((state >> BigInt(120 - 8 * i)) & 255n);
  out.set([0x00, 0x11], offset + 10);
  const digits = row.toString(16).toUpperCase().padStart(32, "0");
  for (let i = 0; i < 32; i++) out[offset + 12 + i] = digits.charCodeAt(i);
  out.set([0x88, 0x99, 0xaa, 0xbb], offset + 44);
  for (let i = 0; i < 12; i++) {
    const digit = Number((state >> BigInt(44 - 4 * i)) & 15n);
    out.fill(hexDigits.charCodeAt(digit), offset + 48 + 4 * i, offset + 52 + 4 * i);
  }
  out.set([0xcc, 0xdd, 0xee, 0xff], offset + 96);
}

/** Negative, zero or positive as the key at `a` of `left` sorts before, with or after that at `b`. */
export function compareKeys(left: Uint8Array, a: number, right: Uint8Array, b: number): number {
  for (let i = 0; i < keyBytes; i++) {
    const difference = left[a + i] - right[b + i];
    if (difference !== 0) return difference;
  }
  return 0;
}

/** The first 8 bytes of the key at `offset`, as the number that keys sort by first. */
export function prefixAt(records: Uint8Array, offset: number): bigint {
  return new DataView(records.buffer, records.byteOffset).getBigUint64(offset);
}

/** A copy of the key at `offset`. */
export function keyAt(records: Uint8Array, offset: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(records.subarray(offset, offset + keyBytes)); // a Buffer's slice is a view
}

/** How many whole records `bytes` are; asserts that nothing is left over. */
export function recordsIn(bytes: number): number {
  assert(
    Number.isSafeInteger(bytes) && bytes >= 0 && bytes % recordBytes === 0,
    () => `bytes of records: got ${bytes}, wanted a multiple of ${recordBytes}`,
  );
  return bytes / recordBytes;
}
