/** @file Keys as bytes, and as strings of one character a byte, which JavaScript orders as bytes. */

/** `key` with one character (0 to 255) a byte: compares as the bytes do, and is fast in maps. */
export function textOf(key: Uint8Array): string {
  return Buffer.from(key.buffer, key.byteOffset, key.byteLength).toString("latin1");
}

/** The bytes of such a string. */
export function bytesOf(text: string): Buffer {
  return Buffer.from(text, "latin1");
}

/** The least key above `key`. */
export function keyAfter(key: Uint8Array): Uint8Array {
  const after = new Uint8Array(key.length + 1);
  after.set(key);
  return after;
}

/** The least key above all that begin with `prefix`, which has a byte other than 255. */
export function prefixEnd(prefix: Uint8Array): Uint8Array {
  let length = prefix.length;
  while (length > 0 && prefix[length - 1] === 255) length--;
  const end = new Uint8Array(prefix.subarray(0, length));
  end[length - 1]++;
  return end;
}
