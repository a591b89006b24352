/** @file Door of `flash-mla`: attention over a paged latent cache. */
export { type MlaCall, type MlaSequence, pageTokens } from "./types.ts";
