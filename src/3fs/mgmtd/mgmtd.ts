/**
 * @file The management service: leads by lease, hears heartbeats, moves the states of targets, and
 * hands out routing and configuration. Changes are made one after another, each in a transaction that
 * fails once another instance leads.
 */
import { BaleenError, type Clock, realClock } from "../../base/index.ts";
import { isKvError, type KvStore, type Transaction, transact } from "../../kv/index.ts";
import { fsError } from "../errors.ts";
import type {
  ChainId,
  ChainInfo,
  ChainTable,
  NodeId,
  NodeInfo,
  NodeKind,
  RoutingInfo,
  TargetInfo,
} from "../types.ts";
import { applyMove } from "./chain-moves.ts";
import { nextChain, sameTargets } from "./chain-states.ts";
import { checkChainTable, checkHeartbeat, checkPlans, refuse } from "./checks.ts";
import { Lease, notPrimary } from "./lease.ts";
import { type Changes, ManagementState, type TargetHome } from "./state.ts";
import type {
  ChainMove,
  ChainPlan,
  ClientSession,
  Config,
  Heartbeat,
  HeartbeatReply,
  MgmtdService,
  Primary,
} from "./types.ts";

/** How an instance runs. */
export interface MgmtdOptions {
  readonly nodeId: NodeId;
  /** Where it listens. */
  readonly address: string;
  readonly store: KvStore;
  /** Default: the process's clock. */
  readonly clock?: Clock;
  /** Wall clock of session starts; default `Date.now`. */
  readonly wallMs?: () => number;
  /** Length of the primary's lease, in milliseconds; default 3,000. */
  readonly leaseMs?: number;
  /** Silence after which a node counts as failed; default 1,500. Heartbeats should come 3 times as often. */
  readonly failAfterMs?: number;
  /** Between two looks at lease, nodes, chains and sessions; default 250. */
  readonly tickMs?: number;
  /** Silence after which a client's session ends; default 20 minutes. */
  readonly sessionMs?: number;
  /** Told of failures that the next tick tries to make good; default: a line on standard error. */
  readonly onError?: (error: BaleenError) => void;
}

/** One instance of the management service. */
export class Mgmtd implements MgmtdService {
  private readonly options: Required<MgmtdOptions>;
  private readonly lease: Lease;
  private state: ManagementState | undefined;
  private queue: Promise<unknown> = Promise.resolve();
  private cancelTick: (() => void) | undefined;
  private isRunning = false;

  constructor(options: MgmtdOptions) {
    this.options = {
      clock: realClock,
      wallMs: Date.now,
      leaseMs: 3000,
      failAfterMs: 1500,
      tickMs: 250,
      sessionMs: 20 * 60_000,
      onError: ({ code, message }) => console.error(`mgmtd: ${code}: ${message}`),
      ...options,
    };
    const { store, clock, leaseMs, nodeId, address } = this.options;
    this.lease = new Lease(store, clock, leaseMs, { nodeId, address });
  }

  /** Starts to tick; resolves after the first. */
  async start(): Promise<void> {
    this.isRunning = true;
    await this.tickAndAgain();
  }

  /** Stops, and gives the lease up. */
  async stop(): Promise<void> {
    this.isRunning = false;
    this.cancelTick?.();
    await this.queue;
    this.state = undefined;
    await this.lease.resign();
  }

  /** Whether this instance leads now. */
  get isPrimary(): boolean {
    return this.state !== undefined && this.state.term === this.lease.term;
  }

  /** Renews the lease and, where it leads, looks for who is silent and what chains follow from it. */
  tick(): Promise<void> {
    return this.inTurn(async () => {
      if (!(await this.lease.renew())) {
        this.state = undefined;
        return;
      }
      const term = this.lease.term;
      if (term !== undefined && this.state?.term !== term) {
        const state = new ManagementState(term, this.options.clock.now());
        await state.load(this.options.store, this.options.clock);
        this.state = state;
      }
      await this.noteSilent();
      await this.advanceChains(this.leading().chains.keys());
      await this.endSilentSessions();
    });
  }

  async primary(): Promise<Primary> {
    return this.lease.primary();
  }

  async heartbeat(request: Heartbeat): Promise<HeartbeatReply> {
    checkHeartbeat(request);
    return this.inTurn(async () => {
      const state = this.leading();
      if (!state.hear(request, this.options.clock.now())) {
        const what = `Heartbeat ${request.generation}.${request.sequence} of node ${request.nodeId}`;
        const advice = "if another process runs under this node id, stop one of them";
        throw fsError("mgmtd-stale-version", `${what} is older than the last: ${advice}.`);
      }
      const { nodeId, kind, addresses } = request;
      const before = state.nodes.get(nodeId);
      const status = before?.status === "disabled" ? "disabled" : "active";
      const node: NodeInfo = { nodeId, kind, addresses, status, tags: before?.tags ?? {} };
      if (JSON.stringify(before) !== JSON.stringify(node)) {
        await this.change({ nodes: new Map([[nodeId, node]]) });
      }
      const chainIds = request.targets.map(({ targetId }) => state.chainOf.get(targetId));
      await this.advanceChains(new Set(chainIds.filter((id) => id !== undefined)));
      return {
        routingVersion: state.version,
        configVersion: state.configs.get(kind)?.version ?? 0,
        failAfterMs: this.options.failAfterMs,
      };
    });
  }

  async routing(knownVersion: number): Promise<RoutingInfo | null> {
    const state = this.leading();
    return state.version === knownVersion ? null : state.routing();
  }

  enableNode(nodeId: NodeId): Promise<void> {
    // Until it is heard it counts as failed.
    return this.changeNode(nodeId, (node) =>
      node.status === "disabled" ? { ...node, status: "failed" } : node,
    );
  }

  disableNode(nodeId: NodeId): Promise<void> {
    return this.changeNode(nodeId, (node) => ({ ...node, status: "disabled" }));
  }

  setTags(nodeId: NodeId, tags: Readonly<Record<string, string>>): Promise<void> {
    return this.changeNode(nodeId, (node) => ({ ...node, tags: { ...tags } }));
  }

  unregisterNode(nodeId: NodeId): Promise<void> {
    return this.inTurn(async () => {
      const state = this.leading();
      if (this.knownNode(nodeId).status === "active") {
        throw refuse(`node ${nodeId}`, "is active", "stop or disable it first");
      }
      const homes = [...state.homes.values()].filter((home) => home.nodeId === nodeId);
      const held = homes.find(({ targetId }) => state.chainOf.has(targetId));
      if (held) {
        const chainId = state.chainOf.get(held.targetId);
        const advice = "remove the target from it first";
        throw refuse(`node ${nodeId}`, `has target ${held.targetId} in chain ${chainId}`, advice);
      }
      await this.change({
        nodes: new Map([[nodeId, undefined]]),
        homes: new Map(homes.map(({ targetId }) => [targetId, undefined])),
      });
      state.lives.delete(nodeId);
    });
  }

  createChains(plans: readonly ChainPlan[]): Promise<void> {
    return this.inTurn(async () => {
      const state = this.leading();
      checkPlans(plans, state);
      const chains = plans.map(({ chainId, targets }): [ChainId, ChainInfo] => [
        chainId,
        {
          chainId,
          version: 1,
          targets: targets.map(({ targetId }) => ({ targetId, state: "serving" })),
          preferredOrder: [],
        },
      ]);
      const homes = plans.flatMap(({ targets }) => targets);
      await this.change({
        chains: new Map(chains),
        homes: new Map(homes.map(({ targetId, nodeId }) => [targetId, { targetId, nodeId }])),
      });
    });
  }

  setChainTable(tableId: number, chainIds: readonly ChainId[]): Promise<ChainTable> {
    return this.inTurn(async () => {
      const state = this.leading();
      checkChainTable(tableId, chainIds, state);
      const versions = state.tables.filter((table) => table.tableId === tableId);
      const table = { tableId, version: versions.length + 1, chainIds: [...chainIds] };
      await this.change({ tables: [table] });
      return table;
    });
  }

  moveChain(chainId: ChainId, move: ChainMove): Promise<ChainInfo> {
    return this.inTurn(async () => {
      const state = this.leading();
      const chain = state.chains.get(chainId);
      if (!chain) throw fsError("mgmtd-unknown", `Chain ${chainId} does not exist: check the id.`);
      const moved = applyMove(chain, move, state);
      const homes = new Map<number, TargetHome>();
      if (move.kind === "add-target") {
        homes.set(move.targetId, { targetId: move.targetId, nodeId: move.nodeId });
      }
      await this.change({ chains: new Map([[chainId, moved]]), homes });
      return moved;
    });
  }

  async orphanTargets(): Promise<readonly TargetInfo[]> {
    const state = this.leading();
    const orphans = [...state.reports.values()].filter(
      ({ targetId }) => !state.chainOf.has(targetId),
    );
    return orphans.map((report) => state.targetInfo(report));
  }

  setConfig(kind: NodeKind, values: Readonly<Record<string, unknown>>): Promise<Config> {
    return this.inTurn(async () => {
      if (typeof values !== "object" || values === null || Array.isArray(values)) {
        throw refuse("values", "is no object", "give names with their values");
      }
      const version = (this.leading().configs.get(kind)?.version ?? 0) + 1;
      const config = { kind, version, values };
      await this.change({ configs: [config] });
      return config;
    });
  }

  async config(kind: NodeKind): Promise<Config | null> {
    return this.leading().configs.get(kind) ?? null;
  }

  extendSession(clientId: string, description: string): Promise<void> {
    return this.inTurn(async () => {
      const state = this.leading();
      if (typeof clientId !== "string" || clientId === "" || clientId.length > 200) {
        throw refuse("clientId", "has no 1 to 200 characters", "give a UUID");
      }
      if (!state.sessions.has(clientId)) {
        const session = { clientId, description, startedMs: this.options.wallMs() };
        await this.change({ sessions: new Map([[clientId, session]]) });
      }
      state.sessionSeenMs.set(clientId, this.options.clock.now());
    });
  }

  endSession(clientId: string): Promise<void> {
    return this.inTurn(async () => {
      if (!this.leading().sessions.has(clientId)) return;
      await this.change({ sessions: new Map([[clientId, undefined]]) });
    });
  }

  async sessions(): Promise<readonly ClientSession[]> {
    return [...this.leading().sessions.values()];
  }

  /** The state, if this instance leads; else a refusal. */
  private leading(): ManagementState {
    if (this.state && this.state.term === this.lease.term) return this.state;
    throw notPrimary(undefined);
  }

  private knownNode(nodeId: NodeId): NodeInfo {
    const node = this.leading().nodes.get(nodeId);
    if (!node) throw fsError("mgmtd-unknown", `Node ${nodeId} was never heard: check the id.`);
    return node;
  }

  private changeNode(nodeId: NodeId, change: (node: NodeInfo) => NodeInfo): Promise<void> {
    return this.inTurn(async () => {
      const node = change(this.knownNode(nodeId));
      await this.change({ nodes: new Map([[nodeId, node]]) });
      await this.advanceChains(this.leading().chains.keys());
    });
  }

  /** Runs `work` after whatever was asked for before. */
  private inTurn<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.queue.then(work);
    this.queue = turn.catch(() => undefined);
    return turn;
  }

  /** Writes changes, if this instance still leads, and takes them into the state. */
  private async change(changes: Changes): Promise<void> {
    const state = this.leading();
    const { store, clock } = this.options;
    const write = async (transaction: Transaction): Promise<void> => {
      await this.lease.fence(transaction, state.term);
      state.write(transaction, changes);
    };
    try {
      await transact(store, write, { clock, whenUnknown: "repeat" });
    } catch (error) {
      // What is written is unknown, so that all of it is read again.
      if (isKvError(error, "kv-maybe-committed")) this.state = undefined;
      throw error;
    }
    state.commit(changes);
  }

  /** Marks nodes that are silent for too long as failed. */
  private async noteSilent(): Promise<void> {
    const state = this.leading();
    const { clock, failAfterMs } = this.options;
    const silent = [...state.nodes.values()].filter(({ nodeId, status }) => {
      const seenMs = state.lives.get(nodeId)?.seenMs ?? state.loadedMs;
      return status === "active" && clock.now() - seenMs > failAfterMs;
    });
    if (silent.length === 0) return;
    const failed = silent.map((node): [NodeId, NodeInfo] => [
      node.nodeId,
      { ...node, status: "failed" },
    ]);
    await this.change({ nodes: new Map(failed) });
  }

  /** Writes the chains whose targets' states follow otherwise from what is known now. */
  private async advanceChains(chainIds: Iterable<ChainId>): Promise<void> {
    const state = this.leading();
    const { clock, failAfterMs } = this.options;
    const chains = new Map<ChainId, ChainInfo>();
    for (const chainId of chainIds) {
      const chain = state.chains.get(chainId)!;
      if (chain.isShut) continue;
      const members = state.members(chain, clock.now(), failAfterMs);
      if (!members) continue;
      const targets = nextChain(members);
      if (sameTargets(targets, chain.targets)) continue;
      chains.set(chainId, { ...chain, version: chain.version + 1, targets });
    }
    if (chains.size > 0) await this.change({ chains });
  }

  private async endSilentSessions(): Promise<void> {
    const state = this.leading();
    const beforeMs = this.options.clock.now() - this.options.sessionMs;
    const silent = [...state.sessionSeenMs].filter(([, seenMs]) => seenMs < beforeMs);
    if (silent.length === 0) return;
    await this.change({ sessions: new Map(silent.map(([clientId]) => [clientId, undefined])) });
    for (const [clientId] of silent) state.sessionSeenMs.delete(clientId);
  }

  private async tickAndAgain(): Promise<void> {
    try {
      await this.tick();
    } catch (error) {
      if (!(error instanceof BaleenError)) throw error;
      this.options.onError(error);
    }
    if (!this.isRunning) return;
    this.cancelTick = this.options.clock.after(this.options.tickMs, () => void this.tickAndAgain());
  }
}
