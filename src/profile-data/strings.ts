/**
 * @file Interned strings: equal byte sequences get one small number, and become text only when asked
 * for. A trace repeats a few thousand names millions of times, so this is where its size goes.
 * An open hash table over the bytes, which are kept back to back in one pool.
 */

const noId = -1;

/** A growing table of strings by number, from 0 in the order of first appearance. */
export class StringTable {
  private slots = new Int32Array(1 << 12).fill(noId);
  private hashes = new Int32Array(1 << 11);
  private offsets = new Float64Array(1 << 11);
  private pool = new Uint8Array(1 << 16);
  /** Entries are distinct raw forms; two of them may be one string, written with other escapes. */
  private numEntries = 0;
  private readonly idOfEntry: number[] = [];
  private readonly texts: string[] = [];
  private readonly idOfText = new Map<string, number>();

  /** How many different strings there are. */
  get size(): number {
    return this.texts.length;
  }

  /** The text of a number. */
  text(id: number): string {
    return this.texts[id];
  }

  /** The number of a text; a new one if it is new. */
  idOf(text: string): number {
    let id = this.idOfText.get(text);
    if (id === undefined) {
      id = this.texts.length;
      this.texts.push(text);
      this.idOfText.set(text, id);
    }
    return id;
  }

  /**
   * The number of the string whose raw form is `bytes[start, end)`, with a hash of it.
   * `decode` makes the text, once for each raw form.
   */
  intern(
    bytes: Uint8Array,
    start: number,
    end: number,
    hash: number,
    decode: (start: number, end: number) => string,
  ): number {
    const mask = this.slots.length - 1;
    let slot = (hash ^ (hash >>> 15)) & mask;
    for (let entry = this.slots[slot]; entry !== noId; entry = this.slots[slot]) {
      if (this.hashes[entry] === hash && this.holds(entry, bytes, start, end)) {
        return this.idOfEntry[entry];
      }
      slot = (slot + 1) & mask;
    }
    const id = this.idOf(decode(start, end));
    this.slots[slot] = this.append(bytes, start, end, hash);
    this.idOfEntry.push(id);
    if (this.numEntries * 2 > this.slots.length) this.rehash();
    return id;
  }

  private holds(entry: number, bytes: Uint8Array, start: number, end: number): boolean {
    let at = this.offsets[entry];
    if (this.offsets[entry + 1] - at !== end - start) return false;
    for (let i = start; i < end; i++) if (this.pool[at++] !== bytes[i]) return false;
    return true;
  }

  private append(bytes: Uint8Array, start: number, end: number, hash: number): number {
    const entry = this.numEntries++;
    const at = this.offsets[entry];
    if (entry + 2 > this.offsets.length) {
      this.offsets = grown(this.offsets, this.offsets.length * 2);
      this.hashes = grown(this.hashes, this.hashes.length * 2);
    }
    const after = at + end - start;
    if (after > this.pool.length) {
      this.pool = grown(this.pool, Math.max(after, this.pool.length * 2));
    }
    this.pool.set(bytes.subarray(start, end), at);
    this.hashes[entry] = hash;
    this.offsets[entry + 1] = after;
    return entry;
  }

  private rehash(): void {
    const mask = this.slots.length * 2 - 1;
    this.slots = new Int32Array(mask + 1).fill(noId);
    for (let entry = 0; entry < this.numEntries; entry++) {
      const hash = this.hashes[entry];
      let slot = (hash ^ (hash >>> 15)) & mask;
      while (this.slots[slot] !== noId) slot = (slot + 1) & mask;
      this.slots[slot] = entry;
    }
  }
}

/** `array` in a longer one of its kind. */
export function grown<T extends Float64Array | Int32Array | Uint8Array | Uint16Array>(
  array: T,
  length: number,
): T {
  const longer = new (array.constructor as new (length: number) => T)(length);
  longer.set(array);
  return longer;
}
