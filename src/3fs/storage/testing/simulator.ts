/**
 * @file A whole cluster in one process, on a virtual clock: the real manager, storage nodes, chunk engines
 * and clients over a faulty network and disks in memory. One seed is one history. Nodes are killed (their
 * disks lose what was not flushed), frozen, cut off; the network delays, drops, doubles and reorders.
 * After a while all is healed, and then every target must serve again with the same content as the others,
 * and the history of every chunk must be linearisable.
 */
import { type BaleenError, type Clock, Random, VirtualClock } from "../../../base/index.ts";
import { openMemoryKv } from "../../../kv/index.ts";
import {
  ConnectionPool,
  defineService,
  FaultyNetwork,
  handlerOf,
  listen,
  type RpcServer,
  remote,
  served,
} from "../../../transport/index.ts";
import { ChunkClient, type RoutingSource } from "../../client/chunk-client.ts";
import { fsError } from "../../errors.ts";
import { Mgmtd } from "../../mgmtd/mgmtd.ts";
import type { MgmtdService } from "../../mgmtd/types.ts";
import { Routing } from "../../routing.ts";
import type { NodeId } from "../../types.ts";
import { ChunkEngine } from "../engine.ts";
import { StorageNode } from "../node.ts";
import { SimulatedMedium } from "../simulated-disk.ts";
import { type StorageApi, storageService } from "../types.ts";
import { isLinearisable, type RegisterOperation } from "./register.ts";

type Manager = Pick<MgmtdService, "heartbeat" | "routing">;
const managerService = defineService<Manager>(1, "mgmtd", ["heartbeat", "routing"]);

/** What a run is made of. */
export interface SimulationOptions {
  readonly seed: number;
  readonly nodes?: number;
  readonly clients?: number;
  readonly chunks?: number;
  /** Virtual milliseconds of trouble. */
  readonly troubleMs?: number;
}

/** What came of a run that went well. */
export interface SimulationResult {
  readonly operations: number;
  readonly unknown: number;
  readonly crashes: number;
  readonly virtualMs: number;
  readonly lostFrames: number;
}

const chainId = 1;
const chunkBytes = 65536;
const failAfterMs = 600;
const beatMs = 100;
/** Chunks are written whole, over page borders, so that a torn one shows. */
const contentBytes = 9000;

/** The clock of a node that can be frozen: then its timers wait until it thaws. */
class NodeClock implements Clock {
  isFrozen = false;
  private readonly clock: Clock;
  private held: (() => void)[] = [];

  constructor(clock: Clock) {
    this.clock = clock;
  }

  now(): number {
    return this.clock.now();
  }

  after(delayMs: number, callback: () => void): () => void {
    let isCancelled = false;
    const cancel = this.clock.after(delayMs, () => {
      const run = () => {
        if (!isCancelled) callback();
      };
      if (this.isFrozen) this.held.push(run);
      else run();
    });
    return () => {
      isCancelled = true;
      cancel();
    };
  }

  thaw(): void {
    this.isFrozen = false;
    for (const callback of this.held.splice(0)) callback();
  }
}

/** A storage node as a process: what a kill ends, and what it leaves on its disk. */
class Process {
  readonly name: string;
  readonly nodeId: NodeId;
  readonly medium: SimulatedMedium;
  isUp = false;
  clock: NodeClock;
  private readonly world: Simulation;
  private generation = 0;
  private node: StorageNode | undefined;
  private server: RpcServer | undefined;
  private pool: ConnectionPool | undefined;

  constructor(world: Simulation, nodeId: NodeId) {
    this.world = world;
    this.nodeId = nodeId;
    this.name = `s${nodeId}`;
    this.clock = new NodeClock(world.clock);
    this.medium = new SimulatedMedium(world.clock, world.random, { delayMs: 2 });
  }

  async start(): Promise<void> {
    const generation = ++this.generation;
    const { world, name, nodeId } = this;
    this.isUp = true;
    this.clock = new NodeClock(world.clock);
    const { clock } = this;
    const { disk, store } = this.medium.open();
    const engine = await ChunkEngine.open(disk, store);
    if (generation !== this.generation) return;
    const transports = [world.network.transportOf(name)];
    const pool = new ConnectionPool({ transports, clock });
    const manager = remote(managerService, pool.callerOf("sim:mgmtd"), { deadlineMs: 200 });
    const node = new StorageNode({
      ...{ nodeId, generation, clock },
      engines: new Map([[nodeId, engine]]),
      peerOf: (peer) =>
        remote<StorageApi>(storageService, pool.callerOf(`sim:s${peer}`), { deadlineMs: 400 }),
    });
    [this.node, this.pool] = [node, pool];
    const handler = handlerOf(served(storageService, node));
    this.server = await listen(`sim:${name}`, { handler, transports, clock });
    void this.beat(node, manager, generation);
  }

  /** Heartbeats until the process dies; each renews the lease and brings routing. */
  private async beat(node: StorageNode, manager: Manager, generation: number): Promise<void> {
    const { nodeId, clock } = this;
    for (let sequence = 1; this.isUp && generation === this.generation; sequence++) {
      const sentMs = clock.now();
      try {
        const targets = await node.status();
        const beat = { nodeId, kind: "storage", generation, sequence, targets } as const;
        const reply = await manager.heartbeat({ ...beat, addresses: [`sim:${this.name}`] });
        if (reply.routingVersion > node.routingVersion) {
          const info = await manager.routing(node.routingVersion);
          if (info !== null) node.setRouting(info);
        }
        node.extendLease(sentMs + reply.failAfterMs / 2);
      } catch (error) {
        this.world.expect(error);
      }
      await new Promise<void>((resolve) => void clock.after(beatMs, resolve));
    }
  }

  kill(): void {
    this.isUp = false;
    this.generation++;
    this.node?.close();
    this.world.network.crash(this.name);
    void this.server?.close();
    this.pool?.close();
    this.medium.crash();
  }
}

class ClientRouting implements RoutingSource {
  private routing: Routing | undefined;
  private readonly manager: Manager;

  constructor(manager: Manager) {
    this.manager = manager;
  }

  current(): Routing {
    if (this.routing !== undefined) return this.routing;
    throw fsError("fs-unavailable", "There is no routing yet: wait for the manager.");
  }

  async refresh(): Promise<void> {
    const info = await this.manager.routing(this.routing?.info.version ?? 0).catch(() => null);
    if (info !== null) this.routing = new Routing(info);
  }
}

/** One cluster and its history. */
export class Simulation {
  readonly clock: VirtualClock = new VirtualClock();
  readonly random: Random;
  readonly network: FaultyNetwork;
  private readonly options: Required<SimulationOptions>;
  private readonly processes: Process[];
  private readonly histories: RegisterOperation[][];
  private isTroubled = true;
  private crashes = 0;
  private unknown = 0;
  private nextValue = 1;
  private fault: unknown;

  constructor(options: SimulationOptions) {
    this.options = { nodes: 3, clients: 3, chunks: 2, troubleMs: 6000, ...options };
    this.random = new Random(options.seed);
    this.network = new FaultyNetwork(this.clock, this.random);
    const ids = Array.from({ length: this.options.nodes }, (_, i) => i + 1);
    this.processes = ids.map((nodeId) => new Process(this, nodeId));
    this.histories = Array.from({ length: this.options.chunks }, () => []);
  }

  /** Errors of operation are part of the game; anything else is a defect and ends the run. */
  expect(error: unknown): void {
    const { code } = error as BaleenError;
    if (typeof code !== "string" || code === "rpc-internal") this.fault ??= error;
  }

  /** Runs it all. Throws an error that names the seed where something is wrong. */
  async run(): Promise<SimulationResult> {
    let isDone = false;
    const whole = this.story().finally(() => {
      isDone = true;
    });
    whole.catch(() => {});
    while (!isDone && this.fault === undefined) {
      await new Promise((resolve) => setImmediate(resolve));
      if (!this.clock.runNext() || this.clock.now() > 600_000) {
        throw this.failure(`it stands still at ${this.clock.now()} ms`);
      }
    }
    if (this.fault !== undefined) {
      throw this.failure(`a defect: ${(this.fault as Error).stack ?? this.fault}`);
    }
    await whole;
    return {
      operations: this.histories.reduce((sum, one) => sum + one.length, 0),
      ...{ unknown: this.unknown, crashes: this.crashes, virtualMs: this.clock.now() },
      lostFrames: this.network.lost,
    };
  }

  private failure(words: string): Error {
    return new Error(`simulation ${this.options.seed}: ${words}`);
  }

  private sleep(ms: number): Promise<void> {
    return new Promise((resolve) => void this.clock.after(ms, resolve));
  }

  private async story(): Promise<void> {
    const mgmtd = await this.startManager();
    await Promise.all(this.processes.map((process) => process.start()));
    const targets = this.processes.map(({ nodeId }) => ({ targetId: nodeId, nodeId }));
    await this.sleep(beatMs * 2);
    await mgmtd.createChains([{ chainId, targets }]);
    const clients = Array.from({ length: this.options.clients }, (_, i) => this.client(i + 1));
    const work = clients.map((client) => this.work(client));
    await this.trouble();
    this.isTroubled = false;
    await Promise.all(work);
    await this.recover(mgmtd);
    await this.compare(this.client(100));
    await mgmtd.stop();
    for (const process of this.processes) process.kill();
  }

  private async startManager(): Promise<Mgmtd> {
    const { clock } = this;
    const mgmtd = new Mgmtd({
      ...{ nodeId: 1000, address: "sim:mgmtd", store: openMemoryKv(), clock },
      ...{ failAfterMs, tickMs: 50, leaseMs: 1000, wallMs: () => clock.now() },
      onError: (error) => this.expect(error),
    });
    await mgmtd.start();
    while (!mgmtd.isPrimary) await this.sleep(100);
    const transports = [this.network.transportOf("mgmtd")];
    const handler = handlerOf(served(managerService, mgmtd));
    await listen("sim:mgmtd", { handler, transports, clock });
    return mgmtd;
  }

  private client(id: number): ChunkClient {
    const { clock, random } = this;
    const pool = new ConnectionPool({ transports: [this.network.transportOf(`c${id}`)], clock });
    const manager = remote(managerService, pool.callerOf("sim:mgmtd"), { deadlineMs: 200 });
    return new ChunkClient({
      ...{ clientId: id, clock, random, channels: 1, tryMs: 300, totalMs: 4000 },
      routing: new ClientRouting(manager),
      peerOf: (nodeId) => remote<StorageApi>(storageService, pool.callerOf(`sim:s${nodeId}`)),
    });
  }

  /** One client: reads and writes of random chunks, one after the other. */
  private async work(client: ChunkClient): Promise<void> {
    while (this.isTroubled) {
      const chunk = this.random.below(this.options.chunks);
      if (this.random.below(2) === 0) await this.write(client, chunk);
      else await this.read(client, chunk);
      await this.sleep(this.random.uniform() * 60);
    }
  }

  private async write(client: ChunkClient, index: number): Promise<void> {
    const isRemoval = this.random.below(12) === 0;
    const value = isRemoval ? 0 : this.nextValue++;
    const data = new Uint8Array(contentBytes);
    new Uint32Array(data.buffer).fill(value);
    const startMs = this.clock.now();
    let endMs = Number.POSITIVE_INFINITY;
    try {
      const change = isRemoval
        ? ({ kind: "remove" } as const)
        : ({ kind: "write", offset: 0, data } as const);
      await client.update(chainId, { inode: 7, index }, chunkBytes, change);
      endMs = this.clock.now();
    } catch (error) {
      this.expect(error);
      this.unknown++;
    }
    this.histories[index].push({ kind: "write", value, startMs, endMs });
  }

  private async read(
    client: ChunkClient,
    index: number,
    from?: number,
  ): Promise<number | undefined> {
    const startMs = this.clock.now();
    try {
      const part = await client.read(chainId, { inode: 7, index }, 0, chunkBytes, from);
      const value = this.valueOf(part?.data);
      this.histories[index].push({ kind: "read", value, startMs, endMs: this.clock.now() });
      return value;
    } catch (error) {
      this.expect(error);
      return undefined;
    }
  }

  private valueOf(data: Uint8Array | undefined): number {
    if (data === undefined) return 0;
    const words = new Uint32Array(data.slice().buffer);
    if (data.length !== contentBytes || words.some((word) => word !== words[0])) {
      this.fault ??= new Error(`a torn chunk of ${data.length} bytes was read`);
    }
    return words[0];
  }

  /** Things go wrong, one after the other and on top of each other. */
  private async trouble(): Promise<void> {
    const endMs = this.clock.now() + this.options.troubleMs;
    const { random, network } = this;
    await this.sleep(300);
    while (this.clock.now() < endMs) {
      const process = this.processes[random.below(this.processes.length)];
      const other = ["mgmtd", "s1", "s2", "s3", "c1", "c2"][random.below(6)];
      switch (random.below(6)) {
        case 0:
        case 1:
          if (process.isUp) {
            process.kill();
            this.crashes++;
            const downMs = random.below(2) === 0 ? random.below(100) : random.below(2000);
            void this.sleep(downMs).then(() => process.start());
          }
          break;
        case 2:
          if (other !== process.name) network.cut(process.name, other);
          break;
        case 3:
          network.heal();
          break;
        case 4: {
          const isRough = random.below(2) === 0;
          const chance = isRough ? 0.05 : 0;
          network.faults = {
            delayMs: [0.1, 3],
            drop: chance,
            duplicate: chance * 3,
            reorder: chance * 3,
          };
          break;
        }
        default:
          this.freeze(process);
      }
      await this.sleep(random.uniform() * 700);
    }
  }

  /** Stops a process in its tracks for a while, as a signal or a busy machine does. */
  private freeze(process: Process): void {
    const { clock } = process;
    if (!process.isUp || clock.isFrozen) return;
    clock.isFrozen = true;
    this.network.freeze(process.name);
    void this.sleep(this.random.uniform() * 1500).then(() => {
      this.network.thaw(process.name);
      clock.thaw();
    });
  }

  /** With all healed, every target must serve again. */
  private async recover(mgmtd: Mgmtd): Promise<void> {
    this.network.heal();
    this.network.faults = { delayMs: [0.1, 1], drop: 0, duplicate: 0, reorder: 0 };
    const endMs = this.clock.now() + 60_000;
    for (;;) {
      await this.sleep(200);
      const chain = (await mgmtd.routing(0))?.chains[0];
      if (chain?.targets.every(({ state }) => state === "serving")) break;
      if (this.clock.now() < endMs) continue;
      const states = chain?.targets.map(({ targetId, state }) => `${targetId} ${state}`).join(", ");
      throw this.failure(`the chain did not recover (${states})`);
    }
    // Updates whose clients have given up come to their end, too, once their nodes have thawed.
    await this.sleep(4000);
  }

  /** Every replica has the same content, and every history an order. */
  private async compare(client: ChunkClient): Promise<void> {
    for (const [index, history] of this.histories.entries()) {
      const values: (number | undefined)[] = [];
      for (const { nodeId } of this.processes) values.push(await this.read(client, index, nodeId));
      if (values.some((value) => value === undefined || value !== values[0])) {
        throw this.failure(`the replicas of chunk ${index} differ: ${values.join(", ")}`);
      }
      if (isLinearisable(history, 0)) continue;
      const lines = history
        .toSorted((x, y) => x.startMs - y.startMs)
        .map((one) => `${one.startMs.toFixed(1)}-${one.endMs.toFixed(1)} ${one.kind} ${one.value}`);
      throw this.failure(`chunk ${index} has no order:\n${lines.join("\n")}`);
    }
  }
}
