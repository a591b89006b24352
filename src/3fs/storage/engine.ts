/**
 * @file The chunk engine of one target. Updates are copy-on-write: new bytes go to a free block, then the
 * record changes; an append that fits goes behind the old bytes of the same block. Data is durable
 * before the record that names it, and a block is used again only when no durable record names it and
 * nobody reads it. Callers hold the chunk's lock while they stage and commit.
 */
import { assert, type BaleenError } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import { type ChunkId, chunkSizes, type InodeId } from "../types.ts";
import { Allocator, type Block, sizeClassOf } from "./allocator.ts";
import { Committer } from "./committer.ts";
import {
  appendedChecksums,
  checkPages,
  type NewContent,
  truncatedContent,
  writtenContent,
} from "./content.ts";
import type { Disk, RecordStore } from "./disk.ts";
import {
  type ChunkRecord,
  type ChunkVersion,
  checksumsOf,
  decodeRecord,
  encodeRecord,
  keyOf,
  pageBytesOf,
  type UpdateTag,
} from "./records.ts";

/** What an update does to a chunk. */
export type ChunkChange =
  | { readonly kind: "write"; readonly offset: number; readonly data: Uint8Array }
  | { readonly kind: "truncate"; readonly length: number }
  | { readonly kind: "replace"; readonly data: Uint8Array }
  | { readonly kind: "remove" };

/** An update to stage: its version is the committed one plus one, or any where it replaces. */
export interface Staging {
  readonly chunk: ChunkId;
  readonly chunkBytes: number;
  readonly version: number;
  readonly chainVersion: number;
  readonly change: ChunkChange;
  /** Who made it; noted so that a retry is known. */
  readonly tag?: UpdateTag;
  /** Commits at once, as a chain's last target does. */
  readonly commit: boolean;
}

/** What a read brings: whole pages around what was asked, checked. */
export interface ReadPages {
  /** From the start of page `firstPage`, up to the end of the content or of the last page asked. */
  readonly bytes: Uint8Array;
  readonly firstPage: number;
  readonly version: ChunkVersion;
}

/** The last update on a client's channel. */
export interface ChannelState {
  readonly seq: number;
  /** The version that the update made. */
  readonly version: number;
}

/** A block under readers: it is freed when they are gone. */
interface Use {
  readers: number;
  isRetired: boolean;
}

const channelPrefix = "@";

/** Chunks on one disk. Open it with `ChunkEngine.open`. */
export class ChunkEngine {
  private readonly disk: Disk;
  private readonly store: RecordStore;
  private readonly allocator: Allocator;
  private readonly committer: Committer;
  private readonly files = new Map<InodeId, Map<number, ChunkRecord>>();
  private readonly channels = new Map<string, ChannelState>();
  private readonly uses = new Map<number, Use>();
  private broken: BaleenError | undefined;

  private constructor(disk: Disk, store: RecordStore, capacityBytes: number) {
    this.disk = disk;
    this.store = store;
    this.allocator = new Allocator(capacityBytes);
    this.committer = new Committer(disk, store);
  }

  /** Loads all records. Throws `storage-io-failed` where one is damaged or two share a block. */
  static async open(
    disk: Disk,
    store: RecordStore,
    capacityBytes: number = Number.MAX_SAFE_INTEGER,
  ): Promise<ChunkEngine> {
    const engine = new ChunkEngine(disk, store, capacityBytes);
    for await (const [key, bytes] of store.entries()) {
      if (key.startsWith(channelPrefix)) {
        const [seq, version] = new Float64Array(bytes.slice().buffer);
        engine.channels.set(key.slice(1), { seq, version });
      } else {
        engine.load(decodeRecord(key, bytes));
      }
    }
    return engine;
  }

  /** Bytes of the blocks that chunks take. */
  get usedBytes(): number {
    return this.allocator.usedBytes;
  }

  /** Why this target can't be used any more: a flush failed, so that nobody knows what is durable. */
  get failure(): BaleenError | undefined {
    return this.broken;
  }

  /** Batches that were flushed. */
  get batches(): number {
    return this.committer.batches;
  }

  /** The chunk's record; it is the engine's own, so only to be read. */
  record({ inode, index }: ChunkId): Readonly<ChunkRecord> | undefined {
    return this.files.get(inode)?.get(index);
  }

  /** All records, of one file or of all. */
  *records(inode?: InodeId): IterableIterator<Readonly<ChunkRecord>> {
    if (inode !== undefined) {
      yield* this.files.get(inode)?.values() ?? [];
      return;
    }
    for (const chunks of this.files.values()) yield* chunks.values();
  }

  /** The last update on the channel, if it is known. */
  channel(tag: UpdateTag): ChannelState | undefined {
    return this.channels.get(channelKey(tag));
  }

  /** Notes an update that changed nothing more here; durable when it resolves. */
  async noteUpdate(tag: UpdateTag, version: number): Promise<void> {
    if ((this.channel(tag)?.seq ?? -1) >= tag.seq) return;
    await this.guarded(this.noteChannel(channelKey(tag), { seq: tag.seq, version }));
  }

  /** The last updates of all channels, for a replica that is being filled. */
  allChannels(): [key: string, state: ChannelState][] {
    return [...this.channels];
  }

  /**
   * Knows of channels what a predecessor does, no more and no less, except for those in `fresh`, which it
   * heard of meanwhile; durable when it resolves. What only this target knew of was never committed.
   */
  async adoptChannels(
    states: readonly (readonly [string, ChannelState])[],
    fresh: ReadonlySet<string> = new Set(),
  ): Promise<void> {
    const theirs = new Map(states);
    const waits: Promise<void>[] = [];
    for (const key of this.channels.keys()) {
      if (theirs.has(key) || fresh.has(key)) continue;
      this.channels.delete(key);
      waits.push(this.committer.submit(channelPrefix + key, () => undefined, false));
    }
    for (const [key, state] of theirs) {
      const seq = this.channels.get(key)?.seq ?? -1;
      const isNews = fresh.has(key) ? state.seq > seq : state.seq !== seq;
      if (isNews) waits.push(this.noteChannel(key, state));
    }
    await this.guarded(Promise.all(waits));
  }

  /**
   * Reads the pages that hold `length` bytes from `offset` on, as far as there is content, and checks
   * them. Throws `storage-chunk-not-found`, `storage-checksum-mismatch`, `storage-io-failed`.
   */
  async read(chunk: ChunkId, offset: number, length: number, pending = false): Promise<ReadPages> {
    this.checkWhole();
    const record = this.record(chunk);
    const version = pending ? record?.pending : record?.committed;
    if (record === undefined || version === undefined || version.removed) {
      throw fsError(
        "storage-chunk-not-found",
        `chunk ${keyOf(chunk)} is not here: it reads as zeros.`,
      );
    }
    const pageBytes = pageBytesOf(record.chunkBytes);
    const end = Math.min(version.length, offset + length);
    const firstPage = Math.floor(Math.min(offset, end) / pageBytes);
    const start = firstPage * pageBytes;
    const stop = Math.min(version.length, Math.ceil(end / pageBytes) * pageBytes);
    const bytes = new Uint8Array(Math.max(0, stop - start));
    if (bytes.length > 0) {
      await this.readBlock(version, start, bytes);
      checkPages(`chunk ${keyOf(chunk)}`, bytes, firstPage, version.checksums, pageBytes);
    }
    return { bytes, firstPage, version };
  }

  /** Whether every page of the committed version is as it was written. */
  async scrub(chunk: ChunkId): Promise<boolean> {
    try {
      const length = this.record(chunk)?.committed?.length ?? 0;
      if (length > 0) await this.read(chunk, 0, length);
      return true;
    } catch (error) {
      if ((error as BaleenError).code === "storage-checksum-mismatch") return false;
      throw error;
    }
  }

  /**
   * Makes the update durable, as the pending version or (`commit`) as the committed one. An earlier
   * pending version is dropped. Throws `storage-no-space`, `storage-checksum-mismatch`,
   * `storage-io-failed`; then nothing has changed, unless `failure` says otherwise.
   */
  async stage(staging: Staging): Promise<void> {
    this.checkWhole();
    const { chunk, version, chainVersion } = staging;
    const record = this.files.get(chunk.inode)?.get(chunk.index);
    const made = await this.write(staging, record);
    const next: ChunkVersion = { ...made, version, chainVersion, tag: staging.tag };
    const kept: ChunkRecord = record ?? {
      chunk,
      chunkBytes: staging.chunkBytes,
      committed: undefined,
      pending: undefined,
    };
    const retired = [kept.pending];
    if (staging.commit) {
      retired.push(kept.committed);
      kept.committed = next.removed ? undefined : next;
      kept.pending = undefined;
    } else {
      kept.pending = next;
    }
    this.keep(kept);
    const { tag } = staging;
    const waits = [this.save(kept, true, retired)];
    // An update whose client gave up may come after the channel's next one.
    if (tag !== undefined && (this.channel(tag)?.seq ?? -1) < tag.seq) {
      waits.push(this.noteChannel(channelKey(tag), { seq: tag.seq, version }));
    }
    await this.guarded(Promise.all(waits));
  }

  /** The pending version is the committed one from now on; durable with the next batch. */
  commit(chunk: ChunkId): void {
    const record = this.files.get(chunk.inode)?.get(chunk.index);
    assert(record?.pending !== undefined, () => `chunk ${keyOf(chunk)} has nothing to commit`);
    const retired = [record.committed];
    record.committed = record.pending.removed ? undefined : record.pending;
    record.pending = undefined;
    this.keep(record);
    // A failure shows in `failure`; what is acknowledged is durable as pending already.
    this.guarded(this.save(record, false, retired)).catch(() => {});
  }

  /** Takes the pending version back, and what its channel knew of it; durable when it resolves. */
  async abandon(chunk: ChunkId, tag?: UpdateTag, lastOnChannel?: ChannelState): Promise<void> {
    const record = this.files.get(chunk.inode)?.get(chunk.index);
    if (record?.pending === undefined) return;
    const retired = [record.pending];
    record.pending = undefined;
    this.keep(record);
    const waits = [this.save(record, false, retired)];
    if (tag !== undefined) {
      const before = lastOnChannel ?? { seq: tag.seq - 1, version: 0 };
      waits.push(this.noteChannel(channelKey(tag), before));
    }
    await this.guarded(Promise.all(waits));
  }

  /** Bytes that the disk still has. */
  freeBytes(): Promise<number> {
    return this.disk.freeBytes();
  }

  /** Resolves when all is durable. */
  async flush(): Promise<void> {
    await this.guarded(this.committer.settled());
  }

  /** Makes everything durable and closes disk and store. */
  async close(): Promise<void> {
    try {
      if (this.broken === undefined) await this.committer.settled();
    } finally {
      await this.store.close();
      await this.disk.close();
    }
  }

  private load(record: ChunkRecord): void {
    this.keep(record);
    const { committed, pending } = record;
    const blocks = [committed?.block, pending?.block].filter((block) => block !== undefined);
    if (blocks.length === 2 && isSameBlock(blocks[0], blocks[1])) blocks.pop();
    for (const block of blocks) {
      if (this.allocator.claim(block)) continue;
      const words = `block ${block.sizeClass}/${block.index} belongs to two chunks`;
      throw fsError("storage-io-failed", `${words}: let the target be filled again.`);
    }
  }

  /** Puts the record in its place, or takes it out where the chunk is no more. */
  private keep(record: ChunkRecord): void {
    const { inode, index } = record.chunk;
    let file = this.files.get(inode);
    if (record.committed === undefined && record.pending === undefined) {
      file?.delete(index);
      if (file?.size === 0) this.files.delete(inode);
      return;
    }
    if (file === undefined) {
      file = new Map();
      this.files.set(inode, file);
    }
    file.set(index, record);
  }

  private noteChannel(key: string, state: ChannelState): Promise<void> {
    this.channels.set(key, state);
    const bytes = new Uint8Array(new Float64Array([state.seq, state.version]).buffer);
    return this.committer.submit(channelPrefix + key, () => bytes, false);
  }

  /** Submits the record; blocks of `retired` versions that it no longer names are freed after that. */
  private save(
    record: ChunkRecord,
    withData: boolean,
    retired: readonly (ChunkVersion | undefined)[],
  ): Promise<void> {
    const named = [record.committed?.block, record.pending?.block];
    const free = retired
      .map((version) => version?.block)
      .filter((block) => block !== undefined)
      .filter((block) => !named.some((other) => other !== undefined && isSameBlock(block, other)));
    const after = (): void => {
      for (const block of free) this.retire(block);
    };
    const value = (): Uint8Array | undefined => {
      // The newest record of the chunk: this one may have gone and come again meanwhile.
      const now = this.record(record.chunk);
      return now && encodeRecord(now);
    };
    return this.committer.submit(keyOf(record.chunk), value, withData, after);
  }

  /** Writes the new content to its block. */
  private async write(
    { chunk, chunkBytes, change }: Staging,
    record: Readonly<ChunkRecord> | undefined,
  ): Promise<Omit<ChunkVersion, "version" | "chainVersion" | "tag">> {
    const nothing = { block: undefined, length: 0, checksums: new Uint32Array(0) };
    if (change.kind === "remove") return { ...nothing, removed: true };
    const old = record?.committed;
    const pageBytes = pageBytesOf(record?.chunkBytes ?? chunkBytes);
    // Behind a pending append there may be bytes that a durable record names, so not in place then.
    const isAlone = record?.pending === undefined;
    if (change.kind === "write" && isAlone && old !== undefined && old.block !== undefined) {
      const { offset, data } = change;
      const room = chunkSizes[old.block.sizeClass] - old.length;
      if (offset === old.length && data.length <= room) {
        const { block } = old;
        await this.disk.write(
          block.sizeClass,
          block.index * chunkSizes[block.sizeClass] + offset,
          data,
        );
        const checksums = appendedChecksums(old.checksums, old.length, data, pageBytes);
        return { block, length: old.length + data.length, removed: false, checksums };
      }
    }
    const what = `chunk ${keyOf(chunk)}`;
    const readOld = (offset: number, into: Uint8Array) => this.readBlock(old!, offset, into);
    let content: NewContent;
    if (change.kind === "replace") {
      content = { bytes: change.data, checksums: checksumsOf(change.data, pageBytes) };
    } else if (change.kind === "truncate") {
      content = await truncatedContent(what, old, readOld, change.length, pageBytes);
    } else {
      content = await writtenContent(what, old, readOld, change.offset, change.data, pageBytes);
    }
    const { bytes, checksums } = content;
    if (bytes.length === 0) return { ...nothing, removed: false };
    const block = this.allocator.allocate(sizeClassOf(bytes.length));
    try {
      await this.disk.write(block.sizeClass, block.index * chunkSizes[block.sizeClass], bytes);
    } catch (error) {
      this.allocator.free(block);
      throw error;
    }
    return { block, length: bytes.length, removed: false, checksums };
  }

  private async readBlock(version: ChunkVersion, offset: number, into: Uint8Array): Promise<void> {
    const { block } = version;
    assert(block !== undefined, "a version without a block was read");
    const id = useKey(block);
    let use = this.uses.get(id);
    if (use === undefined) {
      use = { readers: 0, isRetired: false };
      this.uses.set(id, use);
    }
    use.readers++;
    try {
      await this.disk.read(
        block.sizeClass,
        block.index * chunkSizes[block.sizeClass] + offset,
        into,
      );
    } finally {
      if (--use.readers === 0) {
        this.uses.delete(id);
        if (use.isRetired) this.allocator.free(block);
      }
    }
  }

  private retire(block: Block): void {
    const use = this.uses.get(useKey(block));
    if (use === undefined) this.allocator.free(block);
    else use.isRetired = true;
  }

  private checkWhole(): void {
    if (this.broken !== undefined) throw this.broken;
  }

  /** A failed flush leaves unknown what is durable, so nothing of this target counts any more. */
  private async guarded<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (cause) {
      const words = "the target's disk failed while changes were made durable";
      const advice = "replace the disk and let the target be filled again";
      this.broken ??= fsError("storage-io-failed", `${words}: ${advice}.`, cause);
      throw this.broken;
    }
  }
}

/** The key of a channel in a target's memory. */
export function channelKey({ clientId, channel }: UpdateTag): string {
  return `${clientId}.${channel}`;
}

function isSameBlock(one: Block, other: Block): boolean {
  return one.sizeClass === other.sizeClass && one.index === other.index;
}

function useKey({ sizeClass, index }: Block): number {
  return index * 16 + sizeClass;
}
