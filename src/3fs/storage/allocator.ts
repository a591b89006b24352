/** @file Which blocks are taken: a bitmap for each of the 11 sizes, grown by groups of 256 blocks. */
import { assert } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import { chunkSizes } from "../types.ts";

/** A block: its size's place in `chunkSizes`, and its number in that size's file. */
export interface Block {
  readonly sizeClass: number;
  readonly index: number;
}

const groupWords = 8;

/** The smallest size class whose blocks hold `bytes`. */
export function sizeClassOf(bytes: number): number {
  const found = chunkSizes.findIndex((size) => size >= bytes);
  assert(found >= 0, () => `bytes of a chunk: got ${bytes}, wanted 64 MiB at most`);
  return found;
}

interface SizeBitmap {
  words: Uint32Array;
  /** No word before this one has a free bit. */
  firstFree: number;
}

/** Gives blocks out, the lowest free number first, so that files stay short. */
export class Allocator {
  /** Bytes of all blocks that are taken. */
  usedBytes = 0;
  private readonly capacityBytes: number;
  private readonly sizes: SizeBitmap[] = chunkSizes.map(() => ({
    words: new Uint32Array(groupWords),
    firstFree: 0,
  }));

  constructor(capacityBytes: number) {
    this.capacityBytes = capacityBytes;
  }

  /** Takes a free block. Throws `storage-no-space` where the target's capacity would be passed. */
  allocate(sizeClass: number): Block {
    const bytes = chunkSizes[sizeClass];
    if (this.usedBytes + bytes > this.capacityBytes) {
      const words = `the target is full (${this.capacityBytes} bytes)`;
      throw fsError("storage-no-space", `${words}: remove files, or add targets.`);
    }
    const size = this.sizes[sizeClass];
    let word = size.firstFree;
    while (word < size.words.length && size.words[word] === 0xffffffff) word++;
    if (word === size.words.length) grow(size);
    const bit = 31 - Math.clz32(~size.words[word] & -~size.words[word]);
    size.words[word] |= 1 << bit;
    size.firstFree = word;
    this.usedBytes += bytes;
    return { sizeClass, index: word * 32 + bit };
  }

  /** Marks a block as taken, when records are loaded. False where it was. */
  claim({ sizeClass, index }: Block): boolean {
    const size = this.sizes[sizeClass];
    while (index >= size.words.length * 32) grow(size);
    const mask = 1 << (index & 31);
    if (size.words[index >> 5] & mask) return false;
    size.words[index >> 5] |= mask;
    this.usedBytes += chunkSizes[sizeClass];
    return true;
  }

  /** Gives a block back. */
  free({ sizeClass, index }: Block): void {
    const size = this.sizes[sizeClass];
    const mask = 1 << (index & 31);
    assert((size.words[index >> 5] & mask) !== 0, () => `block ${sizeClass}/${index} is free`);
    size.words[index >> 5] &= ~mask;
    size.firstFree = Math.min(size.firstFree, index >> 5);
    this.usedBytes -= chunkSizes[sizeClass];
  }
}

function grow(size: SizeBitmap): void {
  // By a group, or half again where there are many, so that growing costs little for each block.
  const more = Math.max(groupWords, size.words.length >> 1);
  const words = new Uint32Array(size.words.length + more);
  words.set(size.words);
  size.words = words;
}
