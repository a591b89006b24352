/** @file How many cache blocks an engine gets from the memory that there is. */
import { freemem } from "node:os";
import { availableMemory } from "node:process";
import { BaleenError, ceilDiv, formatBytes } from "../base/index.ts";
import { blockTokens } from "./scheduler.ts";

/** Share of the available memory that the cache takes unless told otherwise. */
const defaultShare = 0.25;

/** What bounds the cache. */
export interface CacheBounds {
  readonly bytesPerBlock: number;
  readonly maxContext: number;
  readonly maxSequences: number;
  /** Memory for the cache; a quarter of what is available unless given. */
  readonly kvBytes?: number | undefined;
}

/** Memory in bytes that this process may still take; a container's limit counts. */
function availableBytes(): number {
  return availableMemory?.() ?? freemem();
}

/**
 * Blocks that fit in the memory given, but never more than `maxSequences` contexts of full length.
 * Errors: BaleenError `cache-too-small` where not one block fits.
 */
export function blocksFor(bounds: CacheBounds): number {
  const { bytesPerBlock, maxContext, maxSequences } = bounds;
  const bytes = bounds.kvBytes ?? availableBytes() * defaultShare;
  const useful = maxSequences * ceilDiv(maxContext, blockTokens);
  const blocks = Math.min(useful, Math.floor(bytes / bytesPerBlock));
  if (blocks >= 1) return blocks;
  throw new BaleenError(
    "cache-too-small",
    `kvBytes: ${formatBytes(Math.floor(bytes))} hold no cache block of ` +
      `${formatBytes(bytesPerBlock)}; give the cache more memory.`,
  );
}
