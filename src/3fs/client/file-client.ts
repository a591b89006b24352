/**
 * @file The bytes of files: ranges are cut into chunks, which go to their chains side by side, within a
 * budget of bytes under way. What was never written reads as zeros. Names, lengths and rights are `meta`'s.
 */
import { assert } from "../../base/index.ts";
import { Budget } from "../../transport/index.ts";
import type { ChainId, ChunkId, FileLayout, InodeId } from "../types.ts";
import type { ChunkClient, RoutingSource } from "./chunk-client.ts";

/** A file's bytes: who it is, and where its chunks lie. */
export interface FileBody {
  readonly inode: InodeId;
  readonly layout: FileLayout;
}

/** Bytes of reads and writes that a client has under way by default. */
const budgetBytesDefault = 64 * 2 ** 20;

interface Piece {
  readonly chainId: ChainId;
  readonly chunk: ChunkId;
  /** In the chunk. */
  readonly offset: number;
  readonly length: number;
  /** In the range. */
  readonly at: number;
}

/** Reads and writes ranges of files. */
export class FileClient {
  private readonly chunks: ChunkClient;
  private readonly routing: RoutingSource;
  private readonly budget: Budget;

  constructor(
    chunks: ChunkClient,
    routing: RoutingSource,
    budgetBytes: number = budgetBytesDefault,
  ) {
    this.chunks = chunks;
    this.routing = routing;
    this.budget = new Budget(budgetBytes);
  }

  /**
   * The `length` bytes from `offset` on; zeros where nothing was written (only `meta` knows where a
   * file ends). Throws what `ChunkClient.read` throws.
   */
  async read(file: FileBody, offset: number, length: number): Promise<Uint8Array> {
    const pieces = this.piecesOf(file, offset, length);
    if (pieces.length === 1) {
      // The common small read: no copy where the chunk has it all.
      const data = await this.readPiece(pieces[0]);
      if (data?.length === length) return data;
      const padded = new Uint8Array(length);
      if (data !== undefined) padded.set(data);
      return padded;
    }
    const out = new Uint8Array(length);
    await Promise.all(
      pieces.map(async (piece) => {
        const data = await this.readPiece(piece);
        if (data !== undefined) out.set(data, piece.at);
      }),
    );
    return out;
  }

  /** Writes `data` at `offset`; durable on every replica when it resolves. Throws as `ChunkClient.update`. */
  async write(file: FileBody, offset: number, data: Uint8Array): Promise<void> {
    const { chunkBytes } = file.layout;
    const pieces = this.piecesOf(file, offset, data.length);
    await Promise.all(
      pieces.map((piece) =>
        this.within(piece.length, async () => {
          const part = data.subarray(piece.at, piece.at + piece.length);
          const change = { kind: "write", offset: piece.offset, data: part } as const;
          await this.chunks.update(piece.chainId, piece.chunk, chunkBytes, change);
        }),
      ),
    );
  }

  /** Where the last byte that was ever written lies, plus one: the length of the file after a crash. */
  async writtenLength(file: FileBody): Promise<number> {
    const { chunkBytes } = file.layout;
    let end = 0;
    for (const { chunk, length } of await this.listAll(file)) {
      end = Math.max(end, chunk.index * chunkBytes + length);
    }
    return end;
  }

  /** Gives up all bytes from `length` on; they read as zeros afterwards. */
  async truncate(file: FileBody, length: number): Promise<void> {
    const { chunkBytes } = file.layout;
    const cuts = (await this.listAll(file)).filter(
      ({ chunk, length: bytes }) => chunk.index * chunkBytes + bytes > length || bytes === 0,
    );
    await Promise.all(
      cuts.map(({ chainId, chunk }) => {
        const kept = Math.max(0, length - chunk.index * chunkBytes);
        const change =
          kept === 0
            ? ({ kind: "remove" } as const)
            : ({ kind: "truncate", length: kept } as const);
        return this.within(chunkBytes, () =>
          this.chunks.update(chainId, chunk, chunkBytes, change),
        );
      }),
    );
  }

  private async readPiece(piece: Piece): Promise<Uint8Array | undefined> {
    const { chainId, chunk, offset, length } = piece;
    const part = await this.within(length, () => this.chunks.read(chainId, chunk, offset, length));
    return part?.data;
  }

  private async listAll(
    file: FileBody,
  ): Promise<{ chainId: ChainId; chunk: ChunkId; length: number }[]> {
    const { layout, inode } = file;
    const routing = this.routing.current();
    const chainIds = new Set(
      Array.from({ length: layout.stripe }, (_, index) => routing.chainOf(layout, index).chainId),
    );
    const lists = [...chainIds].map(async (chainId) => {
      const chunks = await this.chunks.list(chainId, inode);
      return chunks.map(({ chunk, length }) => ({ chainId, chunk, length }));
    });
    return (await Promise.all(lists)).flat();
  }

  private piecesOf(file: FileBody, offset: number, length: number): Piece[] {
    assert(
      Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(length) && length >= 0,
      () => `range of a file: got ${length} bytes at ${offset}`,
    );
    const { inode, layout } = file;
    const { chunkBytes } = layout;
    const routing = this.routing.current();
    const pieces: Piece[] = [];
    for (let at = 0; at < length; ) {
      const index = Math.floor((offset + at) / chunkBytes);
      const within = (offset + at) % chunkBytes;
      const bytes = Math.min(chunkBytes - within, length - at);
      const { chainId } = routing.chainOf(layout, index);
      pieces.push({ chainId, chunk: { inode, index }, offset: within, length: bytes, at });
      at += bytes;
    }
    return pieces;
  }

  private async within<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    if (!this.budget.tryTake(bytes)) {
      await new Promise<void>((resolve) => void this.budget.take(bytes, resolve));
    }
    try {
      return await work();
    } finally {
      this.budget.give(bytes);
    }
  }
}
