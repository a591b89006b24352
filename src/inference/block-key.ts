/**
 * @file Content hashes of full blocks: SHA-256 over the parent's hash and the block's token ids
 * (little-endian int32), so that a key names the whole prefix up to the block's end. It is a
 * cryptographic hash since prompts come from strangers: a made-up collision must not serve another
 * one's keys and values. The same prefix has the same key in every process, as tiers beyond memory
 * need it.
 */
import { createHash } from "node:crypto";

/** The key of a block: 32 bytes as a latin-1 string. `parent` is "" for the first block. */
export function blockKey(parent: string, tokens: Int32Array): string {
  return createHash("sha256").update(parent, "latin1").update(tokens).digest("binary");
}
