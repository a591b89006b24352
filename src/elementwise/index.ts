/** @file Door of `elementwise`: norms, rotary embedding, activations, quantisation, combination. */
export type { Sink } from "./types.ts";
