/**
 * @file The alphabet in which byte-level vocabularies are written: each byte is one printable
 * character, itself where it is printable, else one from U+0100 on, in order.
 * Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), GPT-2.
 */

function isPrintable(byte: number): boolean {
  return (
    (byte >= 0x21 && byte <= 0x7e) ||
    (byte >= 0xa1 && byte <= 0xac) ||
    (byte >= 0xae && byte <= 0xff)
  );
}

/** The character of each byte. */
const byteChars: readonly string[] = (() => {
  let spare = 0x100;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(isPrintable(byte) ? byte : spare++),
  );
})();

/** The byte of each character code below U+0144, -1 where it stands for none. */
const charBytes: Int16Array = (() => {
  const bytes = new Int16Array(0x144).fill(-1);
  byteChars.forEach((char, byte) => {
    bytes[char.charCodeAt(0)] = byte;
  });
  return bytes;
})();

/** The byte that the character `code` stands for, or -1. */
export function byteOfChar(code: number): number {
  return code >= 0 && code < 0x144 ? charBytes[code] : -1;
}
