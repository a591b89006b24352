/**
 * @file How tiles lie in shared memory: the swizzle, and the 64-bit descriptors by which tensor
 * cores find a tile. The kernel language encodes descriptors, the emulator decodes them, so that a
 * wrong stride shows as a wrong product.
 *
 * Source: PTX ISA 8.7, "Asynchronous warpgroup level matrix shared memory layout".
 *
 *     bits  0-13  start address / 16      bits 32-45  stride byte offset / 16
 *     bits 16-29  leading byte offset /16 bits 62-63  swizzle: 0 none, 1 128, 2 64, 3 32 bytes
 */
import { assert } from "../../base/index.ts";
import type { Swizzle } from "./ir.ts";

const swizzleCode: Readonly<Record<Swizzle, number>> = { 0: 0, 128: 1, 64: 2, 32: 3 };
const swizzleOfCode: readonly Swizzle[] = [0, 128, 64, 32];

/**
 * The physical place of a byte: bits 4-6 are XORed with bits 7-9 (128), 4-5 with 7-8 (64), 4 with 7
 * (32), so that the same column of eight successive rows lies in different banks.
 */
export function swizzleAddress(address: number, swizzle: Swizzle): number {
  if (swizzle === 0) return address;
  return address ^ (((address >>> 7) & (swizzle / 16 - 1)) << 4);
}

/** Strides of a tile as a tensor core reads it. */
export interface MatrixLayout {
  readonly swizzle: Swizzle;
  /** Bytes between groups of 8 (rows, or k where transposed). */
  readonly strideBytes: number;
  /** Bytes between spans along the contiguous dimension; unused where k is contiguous, swizzled. */
  readonly leadingBytes: number;
}

/** The upper half of a descriptor, a constant of the tile's type. */
export function descriptorHigh(layout: MatrixLayout): number {
  assert(layout.strideBytes % 16 === 0, `stride of ${layout.strideBytes} B is no multiple of 16`);
  return ((layout.strideBytes >>> 4) | (swizzleCode[layout.swizzle] << 30)) >>> 0;
}

/** The constant part of a descriptor's lower half; the address / 16 is added at run time. */
export function descriptorLow(layout: MatrixLayout): number {
  return (((layout.leadingBytes >>> 4) & 0x3fff) << 16) >>> 0;
}

/** A decoded descriptor. */
export interface Descriptor extends MatrixLayout {
  readonly address: number;
}

/** Decodes the two halves of a descriptor. */
export function decodeDescriptor(low: number, high: number): Descriptor {
  return {
    address: (low & 0x3fff) << 4,
    leadingBytes: ((low >>> 16) & 0x3fff) << 4,
    strideBytes: (high & 0x3fff) << 4,
    swizzle: swizzleOfCode[high >>> 30],
  };
}

/**
 * The physical byte address of element (`index`, `k`) of an operand, `index` being its row of A or
 * column of B. `transposed`: `index` is contiguous in memory, not k.
 */
export function elementAddress(
  d: Descriptor,
  index: number,
  k: number,
  bytes: number,
  transposed: boolean,
): number {
  const slow = transposed ? k : index;
  const fast = (transposed ? index : k) * bytes;
  const span = d.swizzle || 16;
  let place = d.address + (slow & 7) * span + (fast % span);
  if (d.swizzle === 0 && transposed) {
    // Without swizzle the two strides trade places for the transposed form.
    place += (fast >>> 4) * d.strideBytes + (slow >>> 3) * d.leadingBytes;
  } else {
    place += (slow >>> 3) * d.strideBytes;
    if (d.swizzle === 0 || transposed) place += Math.floor(fast / span) * d.leadingBytes;
    else place += Math.floor(fast / span) * span;
  }
  return swizzleAddress(place, d.swizzle);
}
