/** @file Door of `native`: the only FFI of the house. */
export { addressOf } from "./koffi.ts";
