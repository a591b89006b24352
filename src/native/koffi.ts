/** @file Loads koffi, once, if it is there. */

/** The address of a typed array's first byte, or 0 where there is no native layer. */
export function addressOf(_data: ArrayBufferView): number {
  return 0;
}
