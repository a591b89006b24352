/**
 * @file The tokens of a byte-level vocabulary as bytes: one arena, and a hash table from bytes to
 * ids. 128,000 tokens as JavaScript strings in an object would take four times as long to build.
 */

/** Start of a hash; see `hashStep`. */
export const hashStart: number = 0x811c9dc5 | 0;

/** The hash of bytes, one more each step (FNV-1a, 32 bits). */
export function hashStep(hash: number, byte: number): number {
  return Math.imul(hash ^ byte, 0x01000193);
}

/** The hash of the first `length` of `bytes`. */
export function hashOf(bytes: Uint8Array, length: number): number {
  let hash = hashStart;
  for (let i = 0; i < length; i++) hash = hashStep(hash, bytes[i]);
  return hash;
}

/** A set of byte strings with ids. What is looked at together lies together: a miss costs most. */
export class Vocabulary {
  private arena = new Uint8Array(1 << 16);
  private end = 0;
  /** Two numbers an id: start in the arena and length, -1 where there is no such token. */
  private spans = new Int32Array(1 << 13).fill(-1);
  /** Open addressing, two numbers a slot: hash, and id + 1 or 0 where it is free. */
  private slots = new Int32Array(1 << 14);
  private count = 0;
  /** One more than the highest id. */
  size = 0;

  /** Adds the first `length` of `bytes`, of this hash, as token `id`; of equals the first stays. */
  add(bytes: Uint8Array, length: number, hash: number, id: number): void {
    this.makeRoom(length, id);
    for (let i = 0; i < length; i++) this.arena[this.end + i] = bytes[i];
    this.spans[2 * id] = this.end;
    this.spans[2 * id + 1] = length;
    this.end += length;
    this.size = Math.max(this.size, id + 1);
    const slot = this.slotOf(bytes, 0, length, hash);
    if (this.slots[slot + 1] !== 0) return;
    this.slots[slot] = hash;
    this.slots[slot + 1] = id + 1;
    this.count++;
  }

  /** The id of `bytes` [start, start + length), whose hash is `hash`, or -1. */
  find(bytes: Uint8Array, start: number, length: number, hash: number): number {
    return this.slots[this.slotOf(bytes, start, length, hash) + 1] - 1;
  }

  /** The id of the first `length` of `bytes`, or -1. */
  idOf(bytes: Uint8Array, length: number = bytes.length): number {
    return this.find(bytes, 0, length, hashOf(bytes, length));
  }

  /** The id of the bytes of token `left` followed by those of token `right`, or -1. */
  idOfJoined(left: number, right: number): number {
    const { spans } = this;
    const leftLength = spans[2 * left + 1];
    const length = leftLength + spans[2 * right + 1];
    // Behind the last token the arena is free.
    if (this.end + length > this.arena.length) this.growArena(length);
    const { arena, end } = this;
    let hash = hashStart;
    for (let i = 0, from = spans[2 * left]; i < length; i++, from++) {
      if (i === leftLength) from = spans[2 * right];
      arena[end + i] = arena[from];
      hash = hashStep(hash, arena[from]);
    }
    return this.find(arena, end, length, hash);
  }

  /** The bytes of token `id`, or undefined where there is none. Not to be changed. */
  bytesOf(id: number): Uint8Array | undefined {
    if (!(id < this.size) || this.spans[2 * id] < 0) return undefined;
    return this.arena.subarray(this.spans[2 * id], this.spans[2 * id] + this.spans[2 * id + 1]);
  }

  private slotOf(bytes: Uint8Array, start: number, length: number, hash: number): number {
    const { slots } = this;
    const mask = slots.length - 2;
    let slot = firstSlot(hash, mask);
    while (slots[slot + 1] !== 0) {
      if (slots[slot] === hash && this.isToken(slots[slot + 1] - 1, bytes, start, length)) break;
      slot = (slot + 2) & mask;
    }
    return slot;
  }

  private isToken(id: number, bytes: Uint8Array, start: number, length: number): boolean {
    const { arena, spans } = this;
    if (spans[2 * id + 1] !== length) return false;
    const at = spans[2 * id];
    for (let i = 0; i < length; i++) if (arena[at + i] !== bytes[start + i]) return false;
    return true;
  }

  private makeRoom(length: number, id: number): void {
    if (this.end + length > this.arena.length) this.growArena(length);
    if (2 * id >= this.spans.length) {
      const spans = new Int32Array(2 ** Math.ceil(Math.log2(2 * id + 2))).fill(-1);
      spans.set(this.spans);
      this.spans = spans;
    }
    // Half full at most.
    if (4 * this.count >= this.slots.length) this.rehash();
  }

  private growArena(length: number): void {
    const arena = new Uint8Array(2 * (this.end + length));
    arena.set(this.arena);
    this.arena = arena;
  }

  private rehash(): void {
    const old = this.slots;
    const slots = new Int32Array(4 * old.length);
    const mask = slots.length - 2;
    for (let from = 0; from < old.length; from += 2) {
      if (old[from + 1] === 0) continue;
      let slot = firstSlot(old[from], mask);
      while (slots[slot + 1] !== 0) slot = (slot + 2) & mask;
      slots[slot] = old[from];
      slots[slot + 1] = old[from + 1];
    }
    this.slots = slots;
  }
}

function firstSlot(hash: number, mask: number): number {
  return ((hash ^ (hash >>> 15)) << 1) & mask;
}
