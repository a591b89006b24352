/** @file A metadata service for tests: a storage that remembers only how long chunks are, a routing of 40 chains. */
import { Random } from "../../../base/index.ts";
import { type KvStore, openMemoryKv } from "../../../kv/index.ts";
import { Routing } from "../../routing.ts";
import type { FileLayout, InodeId } from "../../types.ts";
import { Meta, type MetaOptions } from "../meta.ts";
import type { Caller, FileStorage, Inode } from "../types.ts";

/** A storage that keeps the lengths of chunks. */
class FakeStorage implements FileStorage {
  /** Bytes by chunk, by inode. */
  readonly chunks: Map<InodeId, Map<number, number>> = new Map();

  /** As a client writes: chunk by chunk. */
  write({ id, layout }: Inode, offset: number, bytes: number): void {
    const { chunkBytes } = layout!;
    const chunks = this.chunks.get(id) ?? new Map<number, number>();
    this.chunks.set(id, chunks);
    for (let at = offset; at < offset + bytes; ) {
      const index = Math.floor(at / chunkBytes);
      const end = Math.min(offset + bytes, (index + 1) * chunkBytes);
      chunks.set(index, Math.max(chunks.get(index) ?? 0, end - index * chunkBytes));
      at = end;
    }
  }

  async endOf(inode: InodeId, layout: FileLayout, usedStripe: number): Promise<number> {
    let end = 0;
    for (const [index, bytes] of this.chunks.get(inode) ?? []) {
      if (index % layout.stripe >= usedStripe) continue;
      end = Math.max(end, index * layout.chunkBytes + bytes);
    }
    return end;
  }

  async truncate(
    inode: InodeId,
    layout: FileLayout,
    usedStripe: number,
    length: number,
  ): Promise<void> {
    const chunks = this.chunks.get(inode) ?? new Map<number, number>();
    for (const [index, bytes] of [...chunks]) {
      if (index % layout.stripe >= usedStripe) continue;
      const keep = Math.min(bytes, length - index * layout.chunkBytes);
      if (keep > 0) chunks.set(index, keep);
      else chunks.delete(index);
    }
  }

  async remove(inode: InodeId): Promise<void> {
    this.chunks.delete(inode);
  }
}

const routing = new Routing({
  version: 1,
  nodes: [],
  targets: [],
  chains: [],
  chainTables: [{ tableId: 1, version: 1, chainIds: Array.from({ length: 40 }, (_, i) => i + 1) }],
});

/** User 0. */
export const root: Caller = { uid: 0, gid: 0 };

/** A service with an empty file system. */
export interface World {
  readonly meta: Meta;
  readonly storage: FakeStorage;
  readonly store: KvStore;
  /** Another instance over the same records. */
  another(options?: Partial<MetaOptions>): Meta;
  /** Collects until there is nothing more to do. */
  collectAll(): Promise<void>;
}

/** A fresh file system in `store`, stripes of 32 chains, chunks of 64 KiB. */
export async function openWorld(
  store: KvStore = openMemoryKv(),
  options: Partial<MetaOptions> = {},
): Promise<World> {
  const storage = new FakeStorage();
  const another = (more: Partial<MetaOptions> = {}) =>
    new Meta({
      store,
      storage,
      routing: () => routing,
      random: new Random(5),
      ...options,
      ...more,
    });
  const meta = another();
  await meta.format({ tableId: 1, chunkBytes: 65536, stripe: 32 });
  const collectAll = async () => {
    while ((await meta.collect(50)).hasMore);
  };
  return { meta, storage, store, another, collectAll };
}
