/**
 * @file A storage node: chain replication with apportioned queries (CRAQ; Terrace and Freedman, USENIX
 * ATC 2009) over the targets of one process. A write passes the chain from head to tail; each target
 * makes it durable as pending, sends it on, and commits when its successor has. Any target that serves
 * answers reads of committed versions; while one is pending it says so, and the tail never has one.
 *
 * Three fences keep those who were left behind from doing harm: every request carries the chain's version;
 * a node without a lease answers nothing; and an order number on what one target sends the next makes
 * late copies void. Once staged, an update is driven until it is committed or the target has left the
 * chain, whether or not anybody still waits for it.
 */
import { type BaleenError, type Clock, realClock } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import type { TargetReport } from "../mgmtd/types.ts";
import { Routing } from "../routing.ts";
import type {
  ChainInfo,
  ChainVersion,
  ChunkId,
  LocalState,
  NodeId,
  RoutingInfo,
  TargetId,
} from "../types.ts";
import { checkAddress, checkForward, checkList, checkRead, checkUpdate } from "./checks.ts";
import {
  type ChannelState,
  type ChunkChange,
  type ChunkEngine,
  channelKey,
  type Staging,
} from "./engine.ts";
import { KeyedLock } from "./lock.ts";
import {
  type ChunkRecord,
  type ChunkVersion,
  digestOf,
  keyOf,
  pageBytesOf,
  type UpdateTag,
} from "./records.ts";
import { keepFilling } from "./resync.ts";
import type {
  ChainAddress,
  ChunkInfo,
  ForwardRequest,
  ListAnswer,
  ListRequest,
  ReadAnswer,
  ReadRequest,
  StorageApi,
  SyncDoneRequest,
  UpdateAnswer,
  UpdateRequest,
} from "./types.ts";

/** What a node needs of the world. */
export interface StorageNodeOptions {
  readonly nodeId: NodeId;
  /** Its targets: what it holds, by id. */
  readonly engines: ReadonlyMap<TargetId, ChunkEngine>;
  /** The storage service of another node. */
  readonly peerOf: (nodeId: NodeId, routing: Routing) => StorageApi;
  /** Grows each time the node's process starts. */
  readonly generation: number;
  /** Told that this node's routing seems old; it should fetch a newer one soon. */
  readonly onStaleRouting?: () => void;
  readonly clock?: Clock;
}

/** How long a target waits before it sends an update again. */
const retryMs = 50;
/** Listings that a target keeps for those who page through them. */
const listingsMax = 8;

function infoOf({ chunk, committed, pending }: Readonly<ChunkRecord>): ChunkInfo {
  return {
    chunk,
    version: committed?.version ?? 0,
    length: committed?.length ?? 0,
    digest: committed === undefined ? 0 : digestOf(committed),
    isPending: pending !== undefined,
  };
}

/** One target of this node, with what is under way on it. */
export interface Target {
  readonly targetId: TargetId;
  readonly engine: ChunkEngine;
  readonly locks: KeyedLock;
  localState: LocalState;
  /** Of its chain, as it last acted on it. */
  chainVersion: ChainVersion;
  /** Channels with an update under way. */
  readonly busy: Map<string, number>;
  /** By chunk: the order of the newest thing that came from a predecessor. */
  readonly orders: Map<string, readonly number[]>;
  /** Channels that a predecessor's updates named since the chain is as it is. */
  readonly fresh: Set<string>;
  /** Listings that are being paged through, by number. */
  readonly listings: Map<number, readonly Readonly<ChunkRecord>[]>;
  /** Chunks that the filling has seen, and how many there are. */
  progress: { done: number; total: number } | undefined;
}

/** Serves the targets of one process. */
export class StorageNode implements StorageApi {
  readonly nodeId: NodeId;
  private readonly targets: ReadonlyMap<TargetId, Target>;
  private readonly options: StorageNodeOptions;
  private readonly clock: Clock;
  private routing: Routing | undefined;
  private leaseEndMs = Number.NEGATIVE_INFINITY;
  private forwards = 0;
  private listingCount = 0;
  private isClosed = false;
  private wakers: (() => void)[] = [];

  constructor(options: StorageNodeOptions) {
    this.nodeId = options.nodeId;
    this.options = options;
    this.clock = options.clock ?? realClock;
    this.targets = new Map(
      [...options.engines].map(([targetId, engine]) => [
        targetId,
        {
          ...{ targetId, engine, locks: new KeyedLock(), localState: "online", chainVersion: 0 },
          ...{
            busy: new Map(),
            orders: new Map(),
            fresh: new Set(),
            listings: new Map(),
            progress: undefined,
          },
        },
      ]),
    );
  }

  /** The version of the routing in use; 0 before the first. */
  get routingVersion(): number {
    return this.routing?.info.version ?? 0;
  }

  /**
   * Serves until `untilMs` on its clock: when a heartbeat was answered, the time at which it was sent plus
   * half of the silence after which the manager counts a node as failed.
   */
  extendLease(untilMs: number): void {
    const hadLease = this.hasLease;
    this.leaseEndMs = Math.max(this.leaseEndMs, untilMs);
    if (!hadLease) this.wake();
  }

  /** Uses `info` from now on, unless something newer is in use. Starts what it asks for. */
  setRouting(info: RoutingInfo): void {
    if (info.version <= this.routingVersion) return;
    this.routing = new Routing(info);
    for (const target of this.targets.values()) this.follow(target);
    this.wake();
  }

  /** What heartbeats say of the targets. */
  async status(): Promise<TargetReport[]> {
    return Promise.all(
      [...this.targets.values()].map(async ({ targetId, engine, localState, chainVersion }) => ({
        ...{ targetId, diskIndex: 0, chainVersion },
        localState: engine.failure === undefined ? localState : "offline",
        usedBytes: engine.usedBytes,
        freeBytes: await engine.freeBytes().catch(() => 0),
      })),
    );
  }

  /** How far this node has filled the successor of a target; undefined where it fills none. */
  fillingOf(targetId: TargetId): { done: number; total: number } | undefined {
    return this.targets.get(targetId)?.progress;
  }

  /** Stops driving updates. Engines stay open. */
  close(): void {
    this.isClosed = true;
    this.wake();
  }

  /** See `StorageApi`. */
  async read(request: ReadRequest): Promise<ReadAnswer> {
    checkRead(request);
    const { target } = this.serving(request);
    const { chunk, offset, length } = request;
    const record = target.engine.record(chunk);
    if (record?.pending !== undefined) {
      const words = `chunk ${keyOf(chunk)} is being written`;
      throw fsError("storage-chunk-not-committed", `${words}: read the tail, or try again.`);
    }
    try {
      const { bytes, firstPage, version } = await target.engine.read(chunk, offset, length);
      const pageBytes = pageBytesOf(record?.chunkBytes ?? 0);
      const pages = Math.ceil(bytes.length / pageBytes);
      // The lease may have ended while the disk worked; then somebody may have written elsewhere.
      this.serving(request);
      return {
        version: version.version,
        chunkLength: version.length,
        offset: firstPage * pageBytes,
        pageBytes,
        checksums: [...version.checksums.subarray(firstPage, firstPage + pages)],
        data: bytes,
        ownChecksum: true,
      };
    } catch (error) {
      const isDamaged = (error as BaleenError).code === "storage-checksum-mismatch";
      if (isDamaged) this.repair(target, chunk).catch(() => {});
      throw error;
    }
  }

  /** See `StorageApi`. */
  async update(request: UpdateRequest): Promise<UpdateAnswer> {
    checkUpdate(request);
    const { target } = this.head(request);
    const { chunk, tag } = request;
    const channel = channelKey(tag);
    const under = target.busy.get(channel);
    if (under !== undefined && under !== tag.seq) {
      const words = `channel ${channel} has update ${under} under way`;
      throw fsError("storage-update-busy", `${words}: send the next when it is answered.`);
    }
    target.busy.set(channel, tag.seq);
    try {
      return await target.locks.with(keyOf(chunk), () => this.updateLocked(target, request));
    } finally {
      target.busy.delete(channel);
    }
  }

  /** See `StorageApi`. */
  async list(request: ListRequest): Promise<ListAnswer> {
    checkList(request);
    const { target } = this.member(request);
    const { from, limit, inode } = request;
    const { listings } = target;
    // A listing is of one moment, so that what comes and goes meanwhile can't hide anything.
    const [id, at] = from?.split(":").map(Number) ?? [++this.listingCount, 0];
    const all = from === undefined ? [...target.engine.records(inode)] : listings.get(id);
    if (all === undefined) {
      throw fsError("fs-input-invalid", `listing ${from} is over: begin again, without \`from\`.`);
    }
    const chunks = all.slice(at, at + limit).map(infoOf);
    listings.delete(id);
    if (at + limit >= all.length) return { chunks };
    listings.set(id, all);
    if (listings.size > listingsMax) listings.delete(listings.keys().next().value!);
    return { chunks, next: `${id}:${at + limit}` };
  }

  /** See `StorageApi`. */
  async forward(request: ForwardRequest): Promise<UpdateAnswer> {
    checkForward(request);
    const { target } = this.member(request);
    return target.locks.with(keyOf(request.chunk), () => this.forwardLocked(target, request));
  }

  /** See `StorageApi`. */
  async syncDone(request: SyncDoneRequest): Promise<void> {
    checkAddress(request);
    const { target } = this.member(request);
    await target.engine.adoptChannels(request.channels, target.fresh);
    // The chain may have changed meanwhile, and with it who fills this target.
    const { state } = this.member(request);
    if (state === "syncing") target.localState = "uptodate";
  }

  private async updateLocked(target: Target, request: UpdateRequest): Promise<UpdateAnswer> {
    this.head(request);
    const { engine } = target;
    const { chunk, tag, chunkBytes, change } = request;
    // What an earlier drive left, when this target was out of the chain for a while.
    if (engine.record(chunk)?.pending !== undefined) await this.drive(target, chunk);
    const last = engine.channel(tag);
    if (last !== undefined && last.seq >= tag.seq) {
      if (last.seq === tag.seq) return this.answerOf(target, chunk, last.version);
      const words = `update ${tag.seq} came after ${last.seq} on its channel`;
      throw fsError("storage-update-stale", `${words}: it is void, send nothing again.`);
    }
    const { chain } = this.head(request);
    const version = (engine.record(chunk)?.committed?.version ?? 0) + 1;
    const staging: Staging = {
      ...{ chunk, chunkBytes, version, chainVersion: chain.version },
      ...{ change, tag, commit: false },
    };
    await engine.stage(staging);
    await this.driveOrAbandon(target, chunk, last, change, tag);
    return this.answerOf(target, chunk, version);
  }

  /** Drives an update that was just staged; takes it back where a successor has no room for it. */
  private async driveOrAbandon(
    target: Target,
    chunk: ChunkId,
    lastOnChannel: ChannelState | undefined,
    change?: ChunkChange,
    tag?: UpdateTag,
  ): Promise<void> {
    try {
      await this.drive(target, chunk, change);
    } catch (error) {
      if ((error as BaleenError).code === "storage-no-space") {
        await target.engine.abandon(chunk, tag, lastOnChannel);
      }
      throw error;
    }
  }

  private async forwardLocked(target: Target, request: ForwardRequest): Promise<UpdateAnswer> {
    const { engine } = target;
    const { chunk, version, change, digest, isReplacement } = request;
    const { chain, state } = this.member(request);
    this.checkOrder(target, request);
    const record = engine.record(chunk);
    if (!isReplacement) {
      const committed = record?.committed;
      const isDone =
        change.kind === "remove"
          ? record === undefined
          : committed?.version === version && digestOf(committed) === digest;
      if (isDone) return this.noteDone(target, request);
      if (state !== "serving" || (committed?.version ?? 0) !== version - 1) {
        const words = `chunk ${keyOf(chunk)} is at version ${committed?.version ?? 0} here`;
        throw fsError("storage-update-stale", `${words}: send its whole content.`);
      }
    } else if (change.kind === "remove" && record === undefined) {
      return this.noteDone(target, request);
    }
    const isTail = this.successorOf(chain, target.targetId) === undefined;
    const last = request.tag && engine.channel(request.tag);
    if (request.tag !== undefined) target.fresh.add(channelKey(request.tag));
    await engine.stage({
      ...{ chunk, chunkBytes: request.chunkBytes, version, chainVersion: request.madeIn, change },
      ...(request.tag !== undefined && { tag: request.tag }),
      commit: isTail,
    });
    const staged = isTail ? engine.record(chunk)?.committed : engine.record(chunk)?.pending;
    if (change.kind !== "remove" && (staged === undefined || digestOf(staged) !== digest)) {
      const words = `chunk ${keyOf(chunk)} came out different here`;
      throw fsError("storage-update-stale", `${words}: send its whole content.`);
    }
    const sent = isReplacement ? undefined : change;
    if (!isTail) await this.driveOrAbandon(target, chunk, last, sent, request.tag);
    return this.answerOf(target, chunk, version);
  }

  /** What came is here already; who made it must be known here all the same, for its retries. */
  private async noteDone(
    target: Target,
    { chunk, tag, version }: ForwardRequest,
  ): Promise<UpdateAnswer> {
    if (tag !== undefined) {
      target.fresh.add(channelKey(tag));
      await target.engine.noteUpdate(tag, version);
    }
    return this.answerOf(target, chunk, version);
  }

  private answerOf(target: Target, chunk: ChunkId, version: number): UpdateAnswer {
    const committed = target.engine.record(chunk)?.committed;
    if (committed === undefined) return { version: 0, chunkLength: 0 };
    return { version, chunkLength: committed.length };
  }

  /**
   * Brings the pending version of a chunk, whose lock is held, down the chain and commits it. `change`
   * made it, where that is known; a successor that can't follow gets the whole content. Throws
   * `storage-not-serving` once this target has left the chain.
   */
  async drive(target: Target, chunk: ChunkId, change?: ChunkChange): Promise<void> {
    const { engine } = target;
    let isWhole = change === undefined;
    for (;;) {
      const record = engine.record(chunk);
      const pending = record?.pending;
      if (record === undefined || pending === undefined) return;
      const chain = this.chainOf(target);
      if (!this.hasLease) {
        // Another may have this target's place by now, or routing shall say that it still is the one.
        await this.sleep(retryMs);
        continue;
      }
      const successor = this.successorOf(chain, target.targetId);
      if (successor === undefined) break;
      if (successor.state === "syncing") isWhole = true;
      const sent = isWhole || change === undefined ? undefined : change;
      try {
        await this.send(target, chain, successor.targetId, {
          chunk,
          version: pending,
          change: sent,
          tag: pending.tag,
        });
        const now = this.chainOf(target);
        if (
          this.hasLease &&
          this.successorOf(now, target.targetId)?.targetId === successor.targetId
        )
          break;
      } catch (error) {
        const { code } = error as BaleenError;
        if (engine.failure !== undefined) throw engine.failure;
        // Nothing was staged behind the one that is full, or it would have said so.
        if (code === "storage-no-space") throw error;
        if (code === "storage-update-stale") isWhole = true;
        else await this.pause(error as BaleenError);
      }
    }
    engine.commit(chunk);
  }

  /** Sends a version of a chunk to the successor: the change, or without one the whole content. */
  async send(
    target: Target,
    chain: ChainInfo,
    successor: TargetId,
    what: {
      chunk: ChunkId;
      version: ChunkVersion;
      change?: ChunkChange | undefined;
      tag?: UpdateTag | undefined;
    },
  ): Promise<void> {
    const { chunk, version } = what;
    const change = what.change ?? (await this.wholeContent(target, chunk, version));
    const chunkBytes = target.engine.record(chunk)?.chunkBytes ?? 0;
    await this.peerOf(successor).forward({
      ...{ chainId: chain.chainId, chainVersion: chain.version, targetId: successor },
      ...{ chunk, chunkBytes, change, version: version.version, madeIn: version.chainVersion },
      ...(what.tag !== undefined && { tag: what.tag }),
      digest: digestOf(version),
      order: [this.options.generation, ++this.forwards],
      isReplacement: what.change === undefined,
    });
  }

  /** Sends the removal of a chunk that the successor has and this target lacks; its lock is held. */
  async sendRemoval(chain: ChainInfo, successor: TargetId, chunk: ChunkId): Promise<void> {
    await this.peerOf(successor).forward({
      ...{ chainId: chain.chainId, chainVersion: chain.version, targetId: successor, chunk },
      ...{ chunkBytes: 65536, change: { kind: "remove" }, version: 1, madeIn: chain.version },
      ...{ digest: 0, order: [this.options.generation, ++this.forwards], isReplacement: true },
    });
  }

  /** The storage service of the node that has the target. */
  peerOf(targetId: TargetId): StorageApi {
    const routing = this.known();
    return this.options.peerOf(routing.target(targetId).nodeId, routing);
  }

  private async wholeContent(
    target: Target,
    chunk: ChunkId,
    version: ChunkVersion,
  ): Promise<ChunkChange> {
    if (version.removed) return { kind: "remove" };
    const { engine } = target;
    const isPending = engine.record(chunk)?.pending === version;
    const { bytes } = await engine.read(chunk, 0, version.length, isPending);
    return { kind: "replace", data: bytes };
  }

  /** Gets a damaged chunk from another replica. Does nothing where another repair is under way. */
  private async repair(target: Target, chunk: ChunkId): Promise<void> {
    if (target.locks.isHeld(keyOf(chunk))) return;
    await target.locks.with(keyOf(chunk), async () => {
      const { engine } = target;
      const committed = engine.record(chunk)?.committed;
      if (committed === undefined || (await engine.scrub(chunk))) return;
      const chain = this.chainOf(target);
      const { chunkBytes } = engine.record(chunk)!;
      for (const { targetId } of this.known().readers(chain.chainId)) {
        if (targetId === target.targetId) continue;
        const address = { chainId: chain.chainId, chainVersion: chain.version, targetId };
        const range = { chunk, offset: 0, length: chunkBytes };
        const answer = await this.peerOf(targetId)
          .read({ ...address, ...range })
          .catch(() => undefined);
        if (answer === undefined || answer.version !== committed.version) continue;
        const change = { kind: "replace", data: answer.data } as const;
        const { version, chainVersion } = committed;
        await engine.stage({ chunk, chunkBytes, version, chainVersion, change, commit: true });
        return;
      }
    });
  }

  /** Does what the target's state in the newest routing asks for. */
  private follow(target: Target): void {
    const info = this.routing?.info.targets.find(({ targetId }) => targetId === target.targetId);
    if (info?.chainId === undefined) return;
    const chain = this.known().chain(info.chainId);
    if (chain.version === target.chainVersion) return;
    target.chainVersion = chain.version;
    target.fresh.clear();
    const state = chain.targets.find(({ targetId }) => targetId === target.targetId)?.state;
    if (state === "serving") target.localState = "uptodate";
    else target.localState = "online";
    if (state !== "serving") return;
    for (const { chunk, pending } of target.engine.records()) {
      if (pending === undefined || target.locks.isHeld(keyOf(chunk))) continue;
      // Left by an earlier life of this process, or from before this target was out of the chain.
      target.locks.with(keyOf(chunk), () => this.drive(target, chunk)).catch(() => {});
    }
    const successor = this.successorOf(chain, target.targetId);
    if (successor?.state === "syncing") {
      void keepFilling(this, target, chain, successor.targetId);
    }
  }

  /** Whether the chain is still as it was when `chain` was read, and this node may act in it. */
  isCurrent(chain: ChainInfo): boolean {
    const now = this.routing?.info.chains.find(({ chainId }) => chainId === chain.chainId);
    return !this.isClosed && now?.version === chain.version;
  }

  /** Waits a little. Asks for routing where the error says so. */
  async pause(error: BaleenError): Promise<void> {
    if (error.retry === "after-refresh") this.options.onStaleRouting?.();
    await this.sleep(retryMs);
  }

  /** Waits `ms`, or until routing or lease change, or this node is closed. */
  async sleep(ms: number): Promise<void> {
    if (this.isClosed) return;
    await new Promise<void>((resolve) => {
      const cancel = this.clock.after(ms, resolve);
      this.wakers.push(() => {
        cancel();
        resolve();
      });
    });
  }

  private wake(): void {
    for (const waker of this.wakers.splice(0)) waker();
  }

  private known(): Routing {
    if (this.routing !== undefined) return this.routing;
    const words = `node ${this.nodeId} has no routing yet`;
    throw fsError("storage-not-serving", `${words}: try another, or again.`);
  }

  /** The successor that writes go to, or undefined for the tail. */
  private successorOf(
    chain: ChainInfo,
    targetId: TargetId,
  ): ChainInfo["targets"][number] | undefined {
    const writers = this.known().writers(chain.chainId);
    return writers[writers.findIndex((writer) => writer.targetId === targetId) + 1];
  }

  private get hasLease(): boolean {
    return this.clock.now() < this.leaseEndMs;
  }

  /** The chain in which a target serves, as far as routing is known. Throws `storage-not-serving`. */
  private chainOf(target: Target): ChainInfo {
    const { targetId } = target;
    const routing = this.known();
    const { chainId } = routing.target(targetId);
    const chain = chainId === undefined ? undefined : routing.chain(chainId);
    const state = chain?.targets.find((one) => one.targetId === targetId)?.state;
    if (chain === undefined || state !== "serving" || this.isClosed)
      throw this.notServing(targetId);
    return chain;
  }

  /** The addressed target, whatever its state, if caller and node see the chain alike. */
  private member(address: ChainAddress): {
    target: Target;
    chain: ChainInfo;
    state: ChainInfo["targets"][number]["state"];
  } {
    const { targetId, chainId, chainVersion } = address;
    const target = this.targets.get(targetId);
    if (target === undefined || this.isClosed) throw this.notServing(targetId);
    const chain = this.known().chain(chainId);
    if (chain.version !== chainVersion) {
      if (chainVersion > chain.version) this.options.onStaleRouting?.();
      const words = `chain ${chainId} is at version ${chain.version} here, not ${chainVersion}`;
      throw fsError("storage-chain-version-mismatch", `${words}: refresh the routing.`);
    }
    const state = chain.targets.find((one) => one.targetId === targetId)?.state;
    if (state === undefined || !this.hasLease) throw this.notServing(targetId);
    if (target.engine.failure !== undefined) throw target.engine.failure;
    return { target, chain, state };
  }

  private serving(address: ChainAddress): { target: Target; chain: ChainInfo } {
    const { target, chain, state } = this.member(address);
    if (state !== "serving") throw this.notServing(address.targetId);
    return { target, chain };
  }

  private head(address: ChainAddress): { target: Target; chain: ChainInfo } {
    const found = this.serving(address);
    const head = found.chain.targets[0];
    if (head.targetId === address.targetId) return found;
    const words = `target ${address.targetId} is not the head of chain ${address.chainId}`;
    throw fsError("storage-not-head", `${words}: write to target ${head.targetId}.`);
  }

  private notServing(targetId: TargetId): Error {
    const words = `target ${targetId} does not serve on node ${this.nodeId}`;
    return fsError("storage-not-serving", `${words}: refresh the routing.`);
  }

  private checkOrder(target: Target, { chunk, chainVersion, order }: ForwardRequest): void {
    const key = keyOf(chunk);
    const last = target.orders.get(key);
    // Within one version of the chain the predecessor is always the same target.
    const next = [chainVersion, ...order];
    if (last !== undefined && !isAfter(next, last)) {
      const words = `an update of chunk ${key} came late`;
      throw fsError("storage-update-stale", `${words}: it is void, a newer one is here.`);
    }
    target.orders.delete(key);
    target.orders.set(key, next);
    // Late copies live for seconds at most; so many chunks are not written in that time.
    if (target.orders.size > 100_000) target.orders.delete(target.orders.keys().next().value!);
  }
}

/** Whether `one` comes after `other`, number by number. */
function isAfter(one: readonly number[], other: readonly number[]): boolean {
  const at = one.findIndex((value, i) => value !== other[i]);
  return at >= 0 && one[at] > other[at];
}
