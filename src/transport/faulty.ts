/**
 * @file A network on a (virtual) clock that fails as it is told, all by one seed: it delays, drops,
 * doubles and reorders frames, and cuts nodes off. Addresses are `sim:NODE`.
 */
import type { Clock, Random } from "../base/index.ts";
import { rpcError } from "./errors.ts";
import type { Frame } from "./frame.ts";
import { passFrame } from "./in-process.ts";
import type { Link, LinkEvents, Listener, Transport } from "./link.ts";

/** How a faulty network treats frames; probabilities are from 0 to 1. */
export interface NetworkFaults {
  /** The least and the most milliseconds that a frame is under way. */
  readonly delayMs: readonly [number, number];
  readonly drop: number;
  readonly duplicate: number;
  /** That a frame overtakes, or is overtaken. */
  readonly reorder: number;
}

/** Frames arrive in order and once, after 0.1 to 1 ms. */
export const noFaults: NetworkFaults = { delayMs: [0.1, 1], drop: 0, duplicate: 0, reorder: 0 };

/** Milliseconds after which connecting to a node that is cut off fails. */
const connectTimeoutMs = 1000;

class FaultyLink implements Link {
  readonly peer: string;
  readonly near: string;
  readonly far: string;
  readonly writable = true;
  other: FaultyLink | undefined;
  isEnded = false;
  private events: LinkEvents | undefined;
  private readonly network: FaultyNetwork;
  private lastMs = 0;

  constructor(network: FaultyNetwork, near: string, far: string) {
    this.network = network;
    this.near = near;
    this.far = far;
    this.peer = `sim:${far}`;
  }

  async drained(): Promise<void> {}

  start(events: LinkEvents): void {
    this.events = events;
  }

  send(frame: Frame): void {
    const { network, other } = this;
    if (this.isEnded || other === undefined) return;
    // The sender may use its memory again, so the frame is taken down now.
    const copy = { ...frame, meta: frame.meta.slice(), data: frame.data.slice() };
    for (const delayMs of network.delaysOf()) {
      const dueMs = network.clock.now() + delayMs.ms;
      const atMs = delayMs.inOrder ? Math.max(dueMs, this.lastMs) : dueMs;
      if (delayMs.inOrder) this.lastMs = atMs;
      network.clock.after(atMs - network.clock.now(), () => {
        if (network.isCut(this.near, this.far)) network.lost++;
        else network.deliver(this.far, () => other.arrive(copy));
      });
    }
  }

  close(): void {
    if (this.isEnded) return;
    this.end();
    const { other } = this;
    this.network.clock.after(this.network.faults.delayMs[1], () => other?.end());
  }

  /** Ends this side only, as a reset does. */
  end(): void {
    if (this.isEnded) return;
    this.isEnded = true;
    this.network.links.delete(this);
    this.events?.closed();
  }

  private arrive(frame: Frame): void {
    if (this.isEnded || this.events === undefined) return;
    this.events.frame(passFrame(frame, this.events, 2 ** 32 - 1));
  }
}

/** A network between named nodes. The same seed and the same sends give the same history. */
export class FaultyNetwork {
  readonly clock: Clock;
  /** In force for frames sent from now on; may be replaced at any time. */
  faults: NetworkFaults;
  /** Frames that were dropped, by chance or by a cut. */
  lost = 0;
  /** All open ends. */
  readonly links: Set<FaultyLink> = new Set<FaultyLink>();
  private readonly random: Random;
  private readonly accepts = new Map<string, (link: Link) => void>();
  private readonly cuts = new Set<string>();
  private readonly frozen = new Map<string, (() => void)[]>();

  constructor(clock: Clock, random: Random, faults: NetworkFaults = noFaults) {
    this.clock = clock;
    this.random = random;
    this.faults = faults;
  }

  /** The network as the node sees it. */
  transportOf(node: string): Transport {
    return {
      scheme: "sim:",
      listen: async (address, accept): Promise<Listener> => {
        this.accepts.set(address, accept);
        return {
          address,
          close: async () => {
            this.accepts.delete(address);
          },
        };
      },
      connect: (address) => this.connect(node, address),
    };
  }

  /** Frames between `one` and `other`, and new links, get lost until `heal`. */
  cut(one: string, other: string): void {
    this.cuts.add(`${one} ${other}`);
    this.cuts.add(`${other} ${one}`);
  }

  /** Undoes `cut`; without names, every cut. */
  heal(one?: string, other?: string): void {
    if (one === undefined) this.cuts.clear();
    this.cuts.delete(`${one} ${other}`);
    this.cuts.delete(`${other} ${one}`);
  }

  /** The node is gone, as a process that was killed: its links break, and nobody listens. */
  crash(node: string): void {
    this.accepts.delete(`sim:${node}`);
    for (const link of [...this.links]) {
      if (link.near !== node) continue;
      const { other } = link;
      link.end();
      this.clock.after(this.faults.delayMs[1], () => other?.end());
    }
  }

  /** The node gets nothing from now on, as a process that is stopped; `thaw` hands it over. */
  freeze(node: string): void {
    this.frozen.set(node, []);
  }

  /** Undoes `freeze`. */
  thaw(node: string): void {
    const held = this.frozen.get(node) ?? [];
    this.frozen.delete(node);
    for (const arrival of held) arrival();
  }

  /** Runs `arrival` at the node: now, or when it thaws. */
  deliver(node: string, arrival: () => void): void {
    const held = this.frozen.get(node);
    if (held === undefined) arrival();
    else held.push(arrival);
  }

  /** Whether frames between the two get lost. */
  isCut(one: string, other: string): boolean {
    return this.cuts.has(`${one} ${other}`);
  }

  /** When copies of one frame arrive: none where it is dropped, two where it is doubled. */
  delaysOf(): { ms: number; inOrder: boolean }[] {
    const { drop, duplicate, reorder, delayMs } = this.faults;
    if (this.random.uniform() < drop) {
      this.lost++;
      return [];
    }
    const copies = this.random.uniform() < duplicate ? 2 : 1;
    return Array.from({ length: copies }, () => {
      const isLate = this.random.uniform() < reorder;
      const ms = delayMs[0] + this.random.uniform() * (delayMs[1] - delayMs[0]);
      return { ms: isLate ? ms * (1 + 4 * this.random.uniform()) : ms, inOrder: !isLate };
    });
  }

  private async connect(node: string, address: string): Promise<Link> {
    const far = address.slice("sim:".length);
    const [leastMs, mostMs] = this.faults.delayMs;
    const isCut = this.isCut(node, far);
    const waitMs = isCut ? connectTimeoutMs : leastMs + this.random.uniform() * (mostMs - leastMs);
    await new Promise<void>((resolve) => this.clock.after(waitMs, resolve));
    const accept = this.accepts.get(address);
    if (isCut || accept === undefined) {
      throw rpcError("rpc-unreachable", `nobody answers at ${address}: start the service.`);
    }
    const [mine, theirs] = [new FaultyLink(this, node, far), new FaultyLink(this, far, node)];
    mine.other = theirs;
    theirs.other = mine;
    this.links.add(mine).add(theirs);
    accept(theirs);
    return mine;
  }
}
