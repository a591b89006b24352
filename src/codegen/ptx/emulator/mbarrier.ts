/**
 * @file The `mbarrier` of shared memory: phases that complete when all arrivals have come and all
 * announced bytes have been delivered, each carrying the clocks of those who arrived.
 */
import type { Node } from "../ir.ts";
import { describePosition } from "../position.ts";
import { EmulatorFault } from "./fault.ts";
import type { Actor } from "./shadow.ts";

/** Makes `into` at least `from`, component by component. */
export function joinClock(into: Uint32Array, from: Uint32Array): void {
  for (let i = 0; i < into.length; i++) if (from[i] > into[i]) into[i] = from[i];
}

/** One barrier object. */
export class Mbarrier {
  readonly name: string;
  readonly count: number;
  /** Completed phases. */
  phases = 0;
  /** Arrivals that the current phase still wants. */
  missing: number;
  /** Bytes announced and not delivered; negative where delivery came first. */
  bytes = 0;
  /** Whether the initialisation is visible to the asynchronous proxy and to the cluster. */
  fenced = false;
  private readonly initAgent: number;
  private readonly initClock: number;
  private readonly initNode: Node;
  private readonly clock: Uint32Array;
  private readonly fencedClock: Uint32Array;
  private doneClock: Uint32Array;
  private doneFenced: Uint32Array;

  constructor(name: string, count: number, actor: Actor) {
    this.name = name;
    this.count = count;
    this.missing = count;
    this.initAgent = actor.agent;
    this.initClock = actor.clock[actor.agent];
    this.initNode = actor.node;
    this.clock = new Uint32Array(actor.clock.length);
    this.fencedClock = new Uint32Array(actor.clock.length);
    this.doneClock = this.clock.slice();
    this.doneFenced = this.clock.slice();
  }

  /** Throws unless `actor` may know that the barrier exists. */
  checkVisible(actor: Actor, remote: boolean): void {
    const known = actor.agent === this.initAgent || actor.clock[this.initAgent] >= this.initClock;
    const fenced = this.fenced || !(actor.async || remote);
    if (known && fenced) return;
    throw new EmulatorFault(
      "mbarrier-misuse",
      `${actor.describe()} uses ${this.name}, initialised at ` +
        `${describePosition(this.initNode.at)}, ` +
        (known
          ? "without fence.mbarrier_init (or fence.proxy.async) between"
          : "not ordered after that"),
    );
  }

  /** `actor` arrives; its history becomes that of the phase. */
  arrive(actor: Actor): void {
    if (this.missing === 0) {
      throw new EmulatorFault(
        "mbarrier-misuse",
        `${actor.describe()} arrives at ${this.name}, which wants no more than ${this.count} arrivals a phase`,
      );
    }
    joinClock(this.clock, actor.clock);
    joinClock(this.fencedClock, actor.fenced);
    this.missing--;
    this.completeIfDone();
  }

  /** Announces bytes of the current phase. */
  expect(bytes: number): void {
    this.bytes += bytes;
  }

  /** An asynchronous copy has delivered bytes: its writes (agent, clock) belong to the phase. */
  deliver(actor: Actor, bytes: number): void {
    this.bytes -= bytes;
    const { agent } = actor;
    this.clock[agent] = Math.max(this.clock[agent], actor.clock[agent]);
    this.completeIfDone();
  }

  private completeIfDone(): void {
    if (this.missing !== 0 || this.bytes !== 0) return;
    this.phases++;
    this.missing = this.count;
    this.doneClock = this.clock.slice();
    this.doneFenced = this.fencedClock.slice();
  }

  /** Whether the phase of this parity has completed, as `try_wait.parity` sees it. */
  isDone(parity: number): boolean {
    return (this.phases & 1) !== parity;
  }

  /** What an observer of the completed phase learns. */
  acquire(actor: Actor): void {
    joinClock(actor.clock, this.doneClock);
    joinClock(actor.fenced, this.doneFenced);
  }

  /** For reports. */
  describe(): string {
    return (
      `${this.name}: ${this.phases} phases complete, ${this.missing} of ${this.count} arrivals ` +
      `and ${this.bytes} bytes missing`
    );
  }

  /** Whether it rests between two phases. */
  get balanced(): boolean {
    return this.missing === this.count && this.bytes === 0;
  }
}
