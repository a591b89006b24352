/**
 * @file A small cluster in this process for tests and benchmarks: nodes with one target each, on sockets,
 * whose states are moved by hand.
 */
import { Random } from "../../../base/index.ts";
import {
  ConnectionPool,
  handlerOf,
  listen,
  type RpcServer,
  remote,
  served,
} from "../../../transport/index.ts";
import { ChunkClient } from "../../client/chunk-client.ts";
import { FileClient } from "../../client/file-client.ts";
import { Routing } from "../../routing.ts";
import type { ChainTarget, RoutingInfo } from "../../types.ts";
import type { ChunkEngine } from "../engine.ts";
import { StorageNode } from "../node.ts";
import { type StorageApi, storageService } from "../types.ts";

/** A target that serves. */
export function serving(targetId: number): ChainTarget {
  return { targetId, state: "serving" };
}

/** Routing in which each chain has these targets; target n is on node n; table 1 has all chains. */
export function routingOf(
  version: number,
  chains: readonly (readonly ChainTarget[])[],
): RoutingInfo {
  const infos = chains.map((targets, i) => ({
    ...{ chainId: i + 1, version, targets, preferredOrder: [] },
  }));
  return {
    version,
    nodes: [],
    targets: infos.flatMap(({ chainId, targets }) =>
      targets.map(({ targetId, state }) => ({
        ...{ targetId, nodeId: targetId, diskIndex: 0, chainId, publicState: state },
        ...{ localState: "online" as const, usedBytes: 0, freeBytes: 0 },
      })),
    ),
    chains: infos,
    chainTables: [{ tableId: 1, version: 1, chainIds: infos.map(({ chainId }) => chainId) }],
  };
}

/** Nodes on Unix sockets in `folder`. */
export class Cluster {
  readonly nodes: Map<number, StorageNode> = new Map();
  readonly engines: Map<number, ChunkEngine> = new Map();
  readonly client: ChunkClient;
  readonly files: FileClient;
  private routing: Routing = new Routing(routingOf(1, []));
  private readonly folder: string;
  private readonly servers: RpcServer[] = [];
  private readonly pool = new ConnectionPool();
  private readonly addresses = new Map<number, string>();

  constructor(folder: string, seed: number) {
    this.folder = folder;
    const routing = { current: () => this.routing, refresh: async () => {} };
    this.client = new ChunkClient({
      ...{ clientId: 1, random: new Random(seed), totalMs: 3000, tryMs: 1000, routing },
      peerOf: (nodeId) => this.peerOf(nodeId),
    });
    this.files = new FileClient(this.client, routing);
  }

  /** The storage service of a node, over its socket. */
  peerOf(nodeId: number): StorageApi {
    const caller = this.pool.callerOf(this.addresses.get(nodeId)!);
    return remote(storageService, caller, { deadlineMs: 1000 });
  }

  /** Starts a node with this engine. */
  async add(nodeId: number, engine: ChunkEngine): Promise<void> {
    const peerOf = (peer: number) => this.peerOf(peer);
    const engines = new Map([[nodeId, engine]]);
    const node = new StorageNode({ nodeId, engines, peerOf, generation: 1 });
    const handler = handlerOf(served(storageService, node));
    const address = `unix://${this.folder}/${nodeId}-${Math.random()}.sock`;
    const server = await listen(address, { handler });
    node.extendLease(Number.POSITIVE_INFINITY);
    this.servers.push(server);
    this.addresses.set(nodeId, server.address);
    this.nodes.set(nodeId, node);
    this.engines.set(nodeId, engine);
  }

  /** Tells nodes and client that these are the chains now. */
  route(version: number, ...chains: readonly (readonly ChainTarget[])[]): void {
    const info = routingOf(version, chains);
    this.routing = new Routing(info);
    for (const node of this.nodes.values()) node.setRouting(info);
  }

  /** Ends all. */
  async close(): Promise<void> {
    for (const node of this.nodes.values()) node.close();
    this.pool.close();
    for (const server of this.servers) await server.close();
    for (const engine of this.engines.values()) await engine.close();
  }
}
