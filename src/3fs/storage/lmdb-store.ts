/** @file Records in LMDB: a commit is one transaction, awaited until it is flushed. */
import { open, type RootDatabase } from "lmdb";
import type { RecordChange, RecordStore } from "./disk.ts";
import { ioError } from "./file-disk.ts";

/** Opens the record store in `folder`. Throws `storage-io-failed`. */
export function openLmdbStore(folder: string): RecordStore {
  let database: RootDatabase<Uint8Array, string>;
  try {
    database = open<Uint8Array, string>({
      path: folder,
      encoding: "binary",
      // Large enough for any target; memory is used only as pages are.
      mapSize: 2 ** 38,
      maxDbs: 1,
    });
  } catch (cause) {
    throw ioError(cause, `opening the records in ${folder}`);
  }
  return {
    async *entries() {
      for (const { key, value } of database.getRange({})) yield [key, value] as const;
    },
    async commit(changes: readonly RecordChange[]): Promise<void> {
      try {
        await database.batch(() => {
          for (const [key, value] of changes) {
            if (value === undefined) void database.remove(key);
            else void database.put(key, value);
          }
        });
        await database.flushed;
      } catch (cause) {
        throw ioError(cause, `committing records in ${folder}`);
      }
    },
    close: () => database.close(),
  };
}
