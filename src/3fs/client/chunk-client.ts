/**
 * @file Chunks from a client's side: an update goes to its chain's head and is sent again, with the same
 * tag, until it is answered; a read asks any target that serves, and the next one where that fails.
 */
import { crc32c } from "@node-rs/crc32";
import { BaleenError, type Clock, type Random, realClock } from "../../base/index.ts";
import { CallContext } from "../../transport/index.ts";
import { fsError } from "../errors.ts";
import type { Routing } from "../routing.ts";
import type { ChunkChange } from "../storage/engine.ts";
import type { ChunkInfo, ReadAnswer, StorageApi, UpdateAnswer } from "../storage/types.ts";
import type { ChainId, ChunkId, InodeId, NodeId, TargetId } from "../types.ts";

/** Where a client learns who serves what. */
export interface RoutingSource {
  /** What is known; throws `fs-unavailable` before anything is. */
  current(): Routing;
  /** Asks the manager, and resolves when the answer, or a failure, has come. Never throws. */
  refresh(): Promise<void>;
}

/** What a chunk client needs. */
export interface ChunkClientOptions {
  /** Unique among all clients there ever were. */
  readonly clientId: number;
  readonly routing: RoutingSource;
  readonly peerOf: (nodeId: NodeId, routing: Routing) => StorageApi;
  /** Decides which replica is asked first. */
  readonly random: Random;
  readonly clock?: Clock;
  /** Milliseconds for one try (2,000), and for all tries of one call together (30,000). */
  readonly tryMs?: number;
  readonly totalMs?: number;
  /** Updates under way at once (64). More wait. */
  readonly channels?: number;
}

/** Part of a chunk, checked. */
export interface ChunkPart {
  /** From the offset asked, up to the length asked or the end of the chunk. */
  readonly data: Uint8Array;
  readonly chunkLength: number;
  readonly version: number;
}

interface Channel {
  readonly id: number;
  seq: number;
}

const pauseMs = 20;
const pauseMsMax = 500;

/** Reads and updates chunks. */
export class ChunkClient {
  private readonly options: Required<ChunkClientOptions>;
  private readonly idle: Channel[];
  private readonly waiting: ((channel: Channel) => void)[] = [];

  constructor(options: ChunkClientOptions) {
    this.options = { clock: realClock, tryMs: 2000, totalMs: 30_000, channels: 64, ...options };
    this.idle = Array.from({ length: this.options.channels }, (_, id) => ({ id, seq: 0 }));
  }

  /**
   * Changes a chunk of a file with this `chunkBytes`; durable on every replica when it resolves. Throws
   * `storage-no-space`, `fs-input-invalid`, or `fs-unavailable` when `totalMs` are over: then it may
   * or may not have happened.
   */
  async update(
    chainId: ChainId,
    chunk: ChunkId,
    chunkBytes: number,
    change: ChunkChange,
  ): Promise<UpdateAnswer> {
    const channel =
      this.idle.pop() ?? (await new Promise<Channel>((next) => this.waiting.push(next)));
    const tag = { clientId: this.options.clientId, channel: channel.id, seq: ++channel.seq };
    try {
      return await this.insist(`writing chunk ${chunk.inode}.${chunk.index}`, async (context) => {
        const routing = this.options.routing.current();
        const chain = routing.chain(chainId);
        const head = chain.targets[0];
        if (head?.state !== "serving") throw noneServes(chainId);
        const address = { chainId, chainVersion: chain.version, targetId: head.targetId };
        const request = { ...address, chunk, chunkBytes, change, tag };
        return this.peerOf(head.targetId, routing).update(request, context);
      });
    } finally {
      const next = this.waiting.shift();
      if (next === undefined) this.idle.push(channel);
      else next(channel);
    }
  }

  /**
   * Reads part of a chunk, or undefined where there is no such chunk. `from` names the only replica that
   * may be asked. Throws `fs-unavailable`, `storage-checksum-mismatch` where all replicas are damaged.
   */
  async read(
    chainId: ChainId,
    chunk: ChunkId,
    offset: number,
    length: number,
    from?: TargetId,
  ): Promise<ChunkPart | undefined> {
    // The first choice spreads reads; after that the tail, which never waits for a commit, then the rest.
    let turn = 0;
    const start = this.options.random.below(2 ** 16);
    try {
      return await this.insist(`reading chunk ${chunk.inode}.${chunk.index}`, async (context) => {
        const routing = this.options.routing.current();
        const { version: chainVersion } = routing.chain(chainId);
        const readers = routing.readers(chainId).map(({ targetId }) => targetId);
        if (readers.length === 0) throw noneServes(chainId);
        const at = turn === 0 ? start : readers.length - turn;
        const targetId = from ?? readers.at(at % readers.length)!;
        turn++;
        const request = { chainId, chainVersion, targetId, chunk, offset, length };
        const answer = await this.peerOf(targetId, routing).read(request, context);
        return partOf(answer, offset, length);
      });
    } catch (error) {
      if ((error as BaleenError).code === "storage-chunk-not-found") return undefined;
      throw error;
    }
  }

  /** The chunks of a file that lie on a chain, as its tail has them. Throws `fs-unavailable`. */
  async list(chainId: ChainId, inode: InodeId): Promise<readonly ChunkInfo[]> {
    return this.insist(`listing chunks of file ${inode}`, async (context) => {
      const routing = this.options.routing.current();
      const { version: chainVersion } = routing.chain(chainId);
      const tail = routing.readers(chainId).at(-1);
      if (tail === undefined) throw noneServes(chainId);
      const address = { chainId, chainVersion, targetId: tail.targetId, inode, limit: 10_000 };
      const peer = this.peerOf(tail.targetId, routing);
      const chunks: ChunkInfo[] = [];
      let from: string | undefined;
      do {
        const page = await peer.list({ ...address, ...(from !== undefined && { from }) }, context);
        chunks.push(...page.chunks);
        from = page.next;
      } while (from !== undefined);
      return chunks;
    });
  }

  private peerOf(targetId: TargetId, routing: Routing): StorageApi {
    return this.options.peerOf(routing.target(targetId).nodeId, routing);
  }

  /** Tries until it works, or can't, or the time is over. */
  private async insist<T>(what: string, work: (context: CallContext) => Promise<T>): Promise<T> {
    const { clock, totalMs, tryMs, routing } = this.options;
    const endMs = clock.now() + totalMs;
    for (let tries = 0; ; tries++) {
      const leftMs = endMs - clock.now();
      try {
        return await work(new CallContext({ deadlineMs: Math.min(tryMs, leftMs) }));
      } catch (error) {
        if (!(error instanceof BaleenError) || error.retry === "never") throw error;
        const waitMs = Math.min(pauseMsMax, pauseMs * 2 ** Math.min(tries, 10));
        if (clock.now() + waitMs >= endMs) {
          const words = `${what} did not work within ${totalMs} ms (${error.message})`;
          throw fsError("fs-unavailable", `${words}: look at the chain's state.`, error);
        }
        // A replica that is being written or is damaged is passed over at once; others after a while.
        const isPassing = error.code === "storage-chunk-not-committed" && tries < 2;
        if (!isPassing) {
          await Promise.all([
            routing.refresh(),
            new Promise<void>((resolve) => void clock.after(waitMs, resolve)),
          ]);
        }
      }
    }
  }
}

function noneServes(chainId: ChainId): Error {
  const words = `no target of chain ${chainId} serves`;
  return fsError("storage-not-serving", `${words}: wait for its nodes, or start them.`);
}

/** Checks the pages of an answer and cuts out what was asked. */
function partOf(answer: ReadAnswer, offset: number, length: number): ChunkPart {
  const { data, pageBytes, checksums, chunkLength, version } = answer;
  for (let i = 0; i * pageBytes < data.length; i++) {
    if (crc32c(data.subarray(i * pageBytes, (i + 1) * pageBytes)) === checksums[i]) continue;
    const words = `page ${i} of a chunk was damaged on its way`;
    throw fsError("storage-checksum-mismatch", `${words}: read again.`);
  }
  const start = Math.max(0, offset - answer.offset);
  return { data: data.subarray(start, start + length), chunkLength, version };
}
