/**
 * @file Group commit: while one batch is on its way to the disk the next one gathers, so that many updates
 * share two flushes (data, then records).
 */
import type { Disk, RecordChange, RecordStore } from "./disk.ts";

interface Batch {
  /** What each key becomes, asked when the batch leaves, so that one record goes in once. */
  readonly changes: Map<string, () => Uint8Array | undefined>;
  needsData: boolean;
  /** Run once the batch is durable. */
  readonly after: (() => void)[];
  readonly done: Promise<void>;
  resolve: () => void;
  reject: (error: unknown) => void;
}

function newBatch(): Batch {
  let resolve = (): void => {};
  let reject = (_: unknown): void => {};
  const done = new Promise<void>((yes, no) => {
    [resolve, reject] = [yes, no];
  });
  // Those who wait see the failure; a batch that nobody waits for must not end the process.
  done.catch(() => {});
  return { changes: new Map(), needsData: false, after: [], done, resolve, reject };
}

/** Writes batches, one after the other. */
export class Committer {
  /** Batches that went to the disk. */
  batches = 0;
  private readonly disk: Disk;
  private readonly store: RecordStore;
  private gathering: Batch = newBatch();
  private running: Promise<void> | undefined;

  constructor(disk: Disk, store: RecordStore) {
    this.disk = disk;
    this.store = store;
  }

  /**
   * Notes that the record at `key` changed; `value` gives its bytes when the batch leaves. Resolves when
   * it is durable, data written before (where `withData`) included. `after` runs before that.
   */
  submit(
    key: string,
    value: () => Uint8Array | undefined,
    withData: boolean,
    after?: () => void,
  ): Promise<void> {
    const batch = this.gathering;
    batch.changes.set(key, value);
    batch.needsData ||= withData;
    if (after !== undefined) batch.after.push(after);
    this.running ??= this.run();
    return batch.done;
  }

  /** Resolves when all that was submitted is durable. Throws where the last batch failed. */
  async settled(): Promise<void> {
    if (this.gathering.changes.size > 0) await this.gathering.done;
    else await this.running;
  }

  private async run(): Promise<void> {
    // Updates of the same turn of the event loop come along.
    await Promise.resolve();
    while (this.gathering.changes.size > 0) {
      const batch = this.gathering;
      this.gathering = newBatch();
      try {
        // Before the flush: a record that names data written during it must wait for the next.
        const changes: RecordChange[] = [...batch.changes].map(([key, value]) => [key, value()]);
        if (batch.needsData) await this.disk.flush();
        await this.store.commit(changes);
        this.batches++;
        for (const step of batch.after) step();
        batch.resolve();
      } catch (error) {
        batch.reject(error);
      }
    }
    this.running = undefined;
  }
}
