/**
 * @file A warp as a fiber: a program counter over flat steps, a register file for 32 lanes in
 * lock-step, a mask with its stack, two vector clocks, and what it waits for.
 */
import type { Node, RegisterType, SpecialName } from "../ir.ts";
import type { Step } from "../ops/op.ts";
import { describePosition } from "../position.ts";
import { EmulatorFault, type FaultCode } from "./fault.ts";
import type { AsyncOperation, Cta, Machine } from "./machine.ts";
import { joinClock } from "./mbarrier.ts";
import type { Actor, Region } from "./shadow.ts";

/** What a warp waits for. */
interface Wait {
  readonly ready: () => boolean;
  readonly then: () => void;
  readonly describe: () => string;
}

/** The bulk operations of one lane: those not committed, and committed groups, oldest first. */
export interface BulkQueue {
  open: AsyncOperation[];
  groups: AsyncOperation[][];
}

/** The tensor-core operations of a warp. */
export class MmaQueue {
  readonly agent: number;
  /** Groups committed so far; operations in flight belong to a group number. */
  committed = 0;
  /** The newest operation, after which the next one runs. */
  last: AsyncOperation | undefined;
  pending: { group: number; registers: readonly number[]; operation: AsyncOperation }[] = [];
  /** When the last `wgmma.fence` came, in steps of the warp; before the first one, never. */
  fence = -1;
  /** Descriptors of every wgmma in order, to be the same in the four warps of a warpgroup. */
  readonly log: string[] = [];

  private open = 0;

  constructor(agent: number) {
    this.agent = agent;
  }

  /** The clock of the group that is open. */
  epoch(machine: Machine): number {
    this.open ||= machine.nextEpoch(this.agent);
    return this.open;
  }

  commit(): void {
    this.committed++;
    this.open = 0;
  }
}

/** One warp. */
export class Warp implements Actor {
  readonly machine: Machine;
  readonly cta: Cta;
  readonly index: number;
  readonly agent: number;
  /** Its place in a schedule by priorities. */
  readonly priority: number;
  readonly async = false;
  readonly clock: Uint32Array;
  readonly fenced: Uint32Array;
  readonly u32: Uint32Array;
  readonly s32: Int32Array;
  readonly f32: Float32Array;
  readonly stack: { outer: number; other: number }[] = [];
  readonly mma: MmaQueue;
  readonly bulk: Map<number, BulkQueue> = new Map();
  readonly plainCopies: BulkQueue = { open: [], groups: [] };
  /** Clock at the last fence of acquire-release kind, published by later relaxed writes. */
  releaseFence: Uint32Array | undefined;
  /** What relaxed reads have seen, learnt at the next fence. */
  readonly seen: Uint32Array;
  /** When each fragment register was last touched by an ordinary step. */
  readonly touched: Int32Array;
  /** Which generation of the cluster barrier this warp has arrived at and must wait for. */
  clusterGeneration = -1;
  mask = -1;
  pc = 0;
  steps = 0;
  waiting: Wait | undefined;
  done = false;
  current!: Step;

  constructor(cta: Cta, index: number, agent: number, priority: number) {
    this.priority = priority;
    this.cta = cta;
    this.machine = cta.machine;
    this.index = index;
    this.agent = agent;
    const { agents, program } = this.machine;
    this.clock = new Uint32Array(agents);
    this.clock[agent] = this.machine.nextEpoch(agent);
    this.fenced = new Uint32Array(agents);
    this.seen = new Uint32Array(agents);
    this.u32 = program.image.slice();
    this.s32 = new Int32Array(this.u32.buffer);
    this.f32 = new Float32Array(this.u32.buffer);
    this.touched = new Int32Array(program.registers).fill(-1);
    this.mma = new MmaQueue(agent + 1);
  }

  get node(): Node {
    return this.current.node;
  }

  /** `warp 5 (math) of block 0`. */
  get name(): string {
    const role = this.machine.kernel.roles.find(
      ({ firstWarp, warps }) => this.index >= firstWarp && this.index < firstWarp + warps,
    );
    return `warp ${this.index}${role ? ` (${role.name})` : ""} of block ${this.cta.id}`;
  }

  describe(): string {
    return `${this.name} at ${describePosition(this.current.node.at)} (${this.current.node.kind})`;
  }

  fault(code: FaultCode, message: string): never {
    throw new EmulatorFault(code, `${this.describe()}: ${message}`);
  }

  /** Calls `fn` for every lane that is on. */
  each(fn: (lane: number) => void): void {
    for (let l = 0; l < 32; l++) if ((this.mask >>> l) & 1) fn(l);
  }

  /** The only lane that is on; for instructions that one thread issues. */
  singleLane(what: string): number {
    const { mask } = this;
    if ((mask & (mask - 1)) !== 0) {
      this.fault("divergence", `${what} is issued by ${popCount(mask)} lanes; elect one`);
    }
    return 31 - Math.clz32(mask);
  }

  needFullMask(what: string): void {
    if (this.mask !== -1) {
      this.fault(
        "divergence",
        `${what} needs all 32 lanes, but only ${popCount(this.mask)} are here`,
      );
    }
  }

  /** The one value that all lanes hold. */
  uniform(at: number, what: string): number {
    const first = 31 - Math.clz32(this.mask & -this.mask);
    const value = this.u32[at + first];
    this.each((l) => {
      if (this.u32[at + l] !== value) this.fault("divergence", `${what} differs between lanes`);
    });
    return value;
  }

  pushBranch(on: number, otherwise: number): void {
    const off = this.mask & ~on;
    this.stack.push({ outer: this.mask, other: off });
    if (on !== 0) this.mask = on;
    else {
      this.mask = off;
      this.stack[this.stack.length - 1].other = 0;
      this.pc = otherwise;
    }
  }

  special(name: SpecialName, lane: number): number {
    const { block, grid, rank } = this.cta;
    switch (name) {
      case "tid.x":
        return this.index * 32 + lane;
      case "laneid":
        return lane;
      case "ctaid.x":
        return block[0];
      case "ctaid.y":
        return block[1];
      case "ctaid.z":
        return block[2];
      case "nctaid.x":
        return grid[0];
      case "cluster_ctarank":
        return rank;
    }
  }

  loadParam(index: number, at: number, type: RegisterType): void {
    const value = this.machine.paramValue(index);
    this.each((l) => {
      if (type === "f32") this.f32[at + l] = value;
      else this.u32[at + l] = value;
      if (type === "u64") this.u32[at + 32 + l] = Math.floor(value / 2 ** 32);
    });
  }

  /** Goes to sleep until `ready`; then `then` runs and the next step follows. */
  waitFor(ready: () => boolean, then: () => void, describe: () => string): void {
    if (ready()) then();
    else this.waiting = { ready, then, describe };
  }

  /** What others may learn from this warp now; what it does next is newer. */
  release(): void {
    this.clock[this.agent] = this.machine.nextEpoch(this.agent);
  }

  /** Everything this warp has done so far is seen by asynchronous operations ordered after it. */
  proxyFence(): void {
    this.fenced[this.agent] = this.clock[this.agent];
    this.release();
  }

  acquireFrom(clock: Uint32Array, fenced?: Uint32Array): void {
    joinClock(this.clock, clock);
    if (fenced) joinClock(this.fenced, fenced);
  }

  /** Where a shared address points: own block, or a peer through a mapped address. */
  sharedAt(address: number, bytes: number): { region: Region; offset: number; cta: Cta } {
    const window = address >>> 24;
    const cta = window === 0 ? this.cta : this.cta.cluster.ctas[window - 1];
    const offset = (address & 0xffffff) - (cta?.shared.base ?? 0);
    if (!cta || offset < 0 || offset + bytes > cta.shared.u8.length) {
      this.fault("out-of-bounds", `${bytes} bytes at shared address ${address} are not there`);
    }
    if (cta.exited) this.fault("race", `block ${cta.id}, whose memory is used, has ended`);
    return { region: cta.shared, offset, cta };
  }

  globalAt(low: number, high: number, bytes: number): { region: Region; offset: number } {
    const found = this.machine.global.find(low + high * 2 ** 32, bytes);
    if (!found) {
      this.fault(
        "out-of-bounds",
        `${bytes} bytes at global address 0x${(low + high * 2 ** 32).toString(16)} belong to no buffer`,
      );
    }
    return found;
  }
}

/** Bits set in a mask. */
function popCount(mask: number): number {
  let count = 0;
  for (let m = mask; m !== 0; m &= m - 1) count++;
  return count;
}
