/** @file Ranges too long for one read. */
import { keyAfter } from "./keys.ts";
import type { KvEntry, Transaction } from "./types.ts";

/** How to scan. */
export interface ScanOptions {
  /** Entries that are read at a time; default 1,000. */
  readonly pageEntries?: number;
  /** Read from the snapshot, so that later changes do not matter; default false. */
  readonly snapshot?: boolean;
}

/** The entries of a range in order, read page by page within `transaction`. */
export async function* scan(
  transaction: Transaction,
  begin: Uint8Array,
  end: Uint8Array,
  { pageEntries = 1000, snapshot = false }: ScanOptions = {},
): AsyncGenerator<KvEntry> {
  let from = begin;
  while (true) {
    const page = snapshot
      ? await transaction.snapshotGetRange(from, end, { limit: pageEntries })
      : await transaction.getRange(from, end, { limit: pageEntries });
    yield* page;
    if (page.length < pageEntries) return;
    from = keyAfter(page[page.length - 1].key);
  }
}
