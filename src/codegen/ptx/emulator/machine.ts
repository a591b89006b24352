/**
 * @file The machine: blocks in clusters, warps as fibers, asynchronous operations as agents of
 * their own, and a schedule that decides who goes next.
 *
 * A launch runs its clusters a few at a time. Every warp has two agents, itself and its tensor-core
 * operations; copies take agents from a pool, reused in turn. When nobody can go on, the report
 * names what each warp waits for.
 */
import { assert, Random } from "../../../base/index.ts";
import type { Kernel, MapBox, Node } from "../ir.ts";
import { describePosition } from "../position.ts";
import { EmulatorFault } from "./fault.ts";
import { lowerKernel, type Program } from "./lower.ts";
import type { Mbarrier } from "./mbarrier.ts";
import type { GlobalMemory, OpenMemory } from "./memory.ts";
import { type Actor, Region, type ShadowContext } from "./shadow.ts";
import type { NumericsMode } from "./tensor-core.ts";
import { Warp } from "./warp.ts";

/** Who runs next, and when asynchronous operations complete. */
export interface Schedule {
  /** `priority` always runs the first that can, in a random order: the others starve. */
  readonly warps: "round-robin" | "reversed" | "run-to-block" | "random" | "priority";
  readonly async: "early" | "late" | "random";
  readonly seed: number;
}

/** A tensor in global memory, as a map describes it: extents and strides, innermost first. */
export interface TensorView {
  readonly address: number;
  readonly dims: readonly number[];
  /** Bytes from one index to the next of every dimension but the first. */
  readonly strideBytes: readonly number[];
}

/** What a launch needs besides the kernel. */
export interface Launch {
  readonly grid: readonly [number, number, number];
  readonly memory: GlobalMemory;
  /** In the order of the kernel's parameters: numbers, addresses, tensors. */
  readonly args: readonly (number | TensorView)[];
  readonly schedule?: Partial<Schedule>;
  readonly numerics?: NumericsMode;
  /** Clusters that run at the same time. */
  readonly resident?: number;
  readonly stepsMax?: number;
}

/** Shared memory starts behind what the system keeps for itself, as on Hopper. */
const sharedBase = 1024;
const asyncSlots = 64;

/** A named barrier of a block. */
export interface NamedBarrierState {
  arrived: number;
  wanted: number;
  generation: number;
  clock: Uint32Array;
  fenced: Uint32Array;
  done: { clock: Uint32Array; fenced: Uint32Array };
}

/** Blocks that run together and see each other's shared memory. */
export interface Cluster {
  readonly ctas: Cta[];
  readonly barrier: NamedBarrierState;
}

/** A block. */
export class Cta {
  readonly machine: Machine;
  readonly cluster: Cluster;
  readonly rank: number;
  readonly id: number;
  readonly block: readonly [number, number, number];
  readonly grid: readonly [number, number, number];
  readonly shared: Region;
  readonly mbarriers: Map<number, Mbarrier> = new Map();
  readonly unfenced: Mbarrier[] = [];
  readonly named: Map<number, NamedBarrierState> = new Map();
  readonly warps: Warp[] = [];
  exited = false;

  constructor(machine: Machine, cluster: Cluster, rank: number, id: number) {
    this.machine = machine;
    this.cluster = cluster;
    this.rank = rank;
    this.id = id;
    this.grid = machine.launch.grid;
    const [x, y] = this.grid;
    this.block = [id % x, Math.floor(id / x) % y, Math.floor(id / x / y)];
    const bytes = Math.max(16, Math.ceil(machine.kernel.sharedBytes / 16) * 16);
    this.shared = new Region(machine.context, {
      name: `shared memory of block ${id}`,
      base: sharedBase,
      buffer: new Uint8Array(bytes).fill(0xff).buffer,
      mutable: true,
      written: false,
    });
  }
}

/** A fresh barrier of warps. */
export function newBarrier(agents: number): NamedBarrierState {
  const zero = () => new Uint32Array(agents);
  return {
    arrived: 0,
    wanted: 0,
    generation: 0,
    clock: zero(),
    fenced: zero(),
    done: { clock: zero(), fenced: zero() },
  };
}

/** One asynchronous operation: stages that run at some time, in order. */
export class AsyncOperation implements Actor {
  readonly async: boolean;
  readonly agent: number;
  readonly clock: Uint32Array;
  readonly fenced: Uint32Array;
  readonly node: Node;
  readonly issuer: string;
  /** Runs only after this one is done. */
  after: AsyncOperation | undefined;
  /** How many stages are over; all: done. */
  stage = 0;
  private readonly stages: readonly ((self: AsyncOperation) => void)[];

  constructor(
    warp: Warp,
    agent: number,
    epoch: number,
    stages: readonly ((self: AsyncOperation) => void)[],
    proxy: "async" | "generic" = "async",
  ) {
    this.async = proxy === "async";
    this.agent = agent;
    this.clock = warp.clock.slice();
    this.fenced = warp.fenced.slice();
    this.clock[agent] = epoch;
    this.node = warp.current.node;
    this.issuer = warp.name;
    this.stages = stages;
  }

  get done(): boolean {
    return this.stage === this.stages.length;
  }

  get ready(): boolean {
    if (this.after?.done) this.after = undefined;
    return this.after === undefined;
  }

  run(): void {
    this.stages[this.stage](this);
    this.stage++;
  }

  describe(): string {
    return `${this.node.kind} issued by ${this.issuer} at ${describePosition(this.node.at)}`;
  }
}

/** One launch. */
export class Machine {
  readonly kernel: Kernel;
  readonly launch: Launch;
  readonly program: Program;
  readonly agents: number;
  readonly context: ShadowContext;
  readonly global: OpenMemory;
  readonly numerics: NumericsMode;
  /** What synchronising accesses to global memory have published, by address. */
  readonly published: Map<string, { cta: Cta; scope: number; clock: Uint32Array }[]> = new Map();
  private readonly schedule: Schedule;
  private readonly random: Random;
  private readonly epochs: Uint32Array;
  private readonly names: string[] = [];
  private readonly slots: number;
  private readonly freePlaces: number[] = [];
  private nextSlot = 0;
  private warps: Warp[] = [];
  private pending: AsyncOperation[] = [];
  private nextCluster = 0;
  private turn = 0;
  private steps = 0;
  /** Steps and operations that have run. */
  progress = 0;

  constructor(kernel: Kernel, launch: Launch) {
    this.kernel = kernel;
    this.launch = launch;
    this.numerics = launch.numerics ?? "exact";
    this.schedule = { warps: "round-robin", async: "random", seed: 1, ...launch.schedule };
    this.random = new Random(this.schedule.seed);
    this.program = lowerKernel(kernel);
    assert(launch.args.length === kernel.params.length, () => {
      const names = kernel.params.map(({ name }) => name).join();
      return `${kernel.name}: got ${launch.args.length} arguments, wanted ${names}`;
    });
    const resident = Math.min(launch.resident ?? 4, this.clusters);
    for (let place = resident - 1; place >= 0; place--) this.freePlaces.push(place);
    this.slots = resident * kernel.clusterSize * (kernel.threads / 32) * 2;
    this.agents = this.slots + asyncSlots;
    this.epochs = new Uint32Array(this.agents);
    const nameOf = (agent: number) => this.names[agent] ?? `agent ${agent}`;
    this.context = { agents: this.agents, nameOf, sites: [] };
    this.global = launch.memory.open(this.context);
  }

  private get clusters(): number {
    const [x, y, z] = this.launch.grid;
    assert(x % this.kernel.clusterSize === 0, `grid of ${x}: not whole clusters`);
    return (x * y * z) / this.kernel.clusterSize;
  }

  nextEpoch(agent: number): number {
    return ++this.epochs[agent];
  }

  /** The map of parameter `index`, with what the kernel says of its boxes. */
  tensor(index: number): TensorView & MapBox {
    const view = this.launch.args[index];
    assert(typeof view === "object", `${this.kernel.params[index].name}: wanted a tensor`);
    return { ...view, ...this.kernel.params[index].box! };
  }

  paramValue(index: number): number {
    const value = this.launch.args[index];
    // A map is named by its index; `TmaLoad` and the like look it up.
    return typeof value === "number" ? value : index;
  }

  /** An operation of a copy engine, to run at some later time. */
  submit(
    warp: Warp,
    stages: readonly ((self: AsyncOperation) => void)[],
    proxy?: "generic",
  ): AsyncOperation {
    const agent = this.slots + this.nextSlot;
    this.nextSlot = (this.nextSlot + 1) % asyncSlots;
    const operation = new AsyncOperation(warp, agent, this.nextEpoch(agent), stages, proxy);
    this.names[agent] = operation.describe();
    return this.enqueue(operation, warp);
  }

  /** Puts an operation among those in flight; what its warp does from now on is newer. */
  enqueue(operation: AsyncOperation, warp: Warp): AsyncOperation {
    this.pending.push(operation);
    warp.release();
    return operation;
  }

  private startCluster(): void {
    const { clusterSize, threads } = this.kernel;
    const place = this.freePlaces.pop()!;
    const cluster: Cluster = { ctas: [], barrier: newBarrier(this.agents) };
    const first = this.nextCluster++ * clusterSize;
    for (let rank = 0; rank < clusterSize; rank++) {
      const cta = new Cta(this, cluster, rank, first + rank);
      cluster.ctas.push(cta);
      for (let index = 0; index < threads / 32; index++) {
        const slot = ((place * clusterSize + rank) * (threads / 32) + index) * 2;
        const warp = new Warp(cta, index, slot, this.random.uint32());
        this.names[slot] = warp.name;
        this.names[slot + 1] = `a tensor-core operation of ${warp.name}`;
        cta.warps.push(warp);
        this.warps.push(warp);
      }
    }
  }

  /** Called by the last step of a warp. */
  exit(warp: Warp): void {
    if (warp.mma.pending.length > 0) {
      warp.fault("unfinished", "the warp ends with wgmma operations that it did not wait for");
    }
    for (const { open, groups } of warp.bulk.values()) {
      if (open.length + groups.length > 0) {
        warp.fault("unfinished", "the warp ends before its bulk stores have read shared memory");
      }
    }
    if (warp.clusterGeneration >= 0) {
      warp.fault(
        "unfinished",
        "the warp arrived at the cluster's barrier and ends without waiting",
      );
    }
    warp.done = true;
    const { cta } = warp;
    if (!cta.warps.every(({ done }) => done)) return;
    cta.exited = true;
    for (const barrier of cta.mbarriers.values()) {
      if (!barrier.balanced) {
        throw new EmulatorFault("unfinished", `block ${cta.id} ends with ${barrier.describe()}`);
      }
    }
    for (const [id, barrier] of cta.named) {
      if (barrier.arrived > 0) {
        throw new EmulatorFault(
          "unfinished",
          `block ${cta.id} ends with arrivals at barrier ${id}`,
        );
      }
    }
    if (!cta.cluster.ctas.every(({ exited }) => exited)) return;
    this.warps = this.warps.filter((other) => other.cta.cluster !== cta.cluster);
    const perCluster = this.kernel.clusterSize * (this.kernel.threads / 32) * 2;
    this.freePlaces.push(Math.floor(cta.cluster.ctas[0].warps[0].agent / perCluster));
  }

  /** Runs to the end, or throws an `EmulatorFault`. */
  run(): void {
    for (;;) {
      while (this.freePlaces.length > 0 && this.nextCluster < this.clusters) this.startCluster();
      if (this.schedule.async === "early") while (this.runOperation()) {}
      if (this.schedule.async === "random" && this.random.below(4) === 0) this.runOperation();
      const warp = this.pickWarp();
      if (warp) this.runWarp(warp);
      else if (!this.runOperation()) {
        if (this.warps.length > 0) this.reportDeadlock();
        return;
      }
    }
  }

  /** Runs a stage of one asynchronous operation that may run; early and late ones in order. */
  private runOperation(): boolean {
    const ready = this.pending.filter((operation) => operation.ready);
    if (ready.length === 0) return false;
    const index = this.schedule.async === "random" ? this.random.below(ready.length) : 0;
    const operation = ready[index];
    operation.run();
    this.progress++;
    if (operation.done) this.pending.splice(this.pending.indexOf(operation), 1);
    return true;
  }

  private isRunnable(warp: Warp): boolean {
    return !warp.done && (warp.waiting === undefined || warp.waiting.ready());
  }

  private pickWarp(): Warp | undefined {
    const { warps, schedule } = this;
    const count = warps.length;
    if (schedule.warps === "random") {
      const runnable = warps.filter((warp) => this.isRunnable(warp));
      return runnable.length > 0 ? runnable[this.random.below(runnable.length)] : undefined;
    }
    if (schedule.warps === "priority") {
      let first: Warp | undefined;
      for (const warp of warps) {
        if (this.isRunnable(warp) && !(first && first.priority <= warp.priority)) first = warp;
      }
      return first;
    }
    const back = schedule.warps === "reversed";
    for (let i = 0; i < count; i++) {
      const at = (this.turn + i) % count;
      const warp = warps[back ? count - 1 - at : at];
      if (!this.isRunnable(warp)) continue;
      this.turn = at + (schedule.warps === "run-to-block" ? 0 : 1);
      return warp;
    }
    return undefined;
  }

  private runWarp(warp: Warp): void {
    const { warps } = this.schedule;
    let quantum = warps === "run-to-block" ? Infinity : 16;
    if (warps === "random") quantum = 1 + this.random.below(32);
    if (warp.waiting) {
      const { then } = warp.waiting;
      warp.waiting = undefined;
      then();
    }
    const { steps } = this.program;
    const limit = this.launch.stepsMax ?? 20_000_000;
    for (; quantum > 0 && !warp.waiting && !warp.done; quantum--) {
      const step = steps[warp.pc++];
      warp.current = step;
      warp.steps++;
      if (step.fragments.length > 0) this.checkFragments(warp, step.fragments);
      this.progress++;
      step.exec(step, warp);
      if (++this.steps > limit) warp.fault("step-budget", `no end after ${limit} steps`);
      if (this.schedule.async === "early" && this.pending.length > 0) return;
    }
  }

  /** Ordinary steps may not touch registers that a tensor-core operation in flight uses. */
  private checkFragments(warp: Warp, fragments: readonly number[]): void {
    for (const slot of fragments) {
      warp.touched[slot] = warp.steps;
      for (const { registers, operation } of warp.mma.pending) {
        if (registers.includes(slot * 32)) {
          warp.fault(
            "wgmma-misuse",
            `a register of ${operation.describe()}, not waited for, is used`,
          );
        }
      }
    }
  }

  private reportDeadlock(): never {
    const lines = this.warps
      .filter(({ done }) => !done)
      .map(
        (warp) =>
          `  ${warp.name} at ${describePosition(warp.node.at)} waits for ${warp.waiting?.describe()}`,
      );
    throw new EmulatorFault("deadlock", `nobody can go on:\n${lines.join("\n")}`);
  }
}

/**
 * Runs a kernel to its end. Throws an `EmulatorFault` for whatever the kernel does wrong under this
 * schedule; other schedules may show more.
 */
export function emulate(kernel: Kernel, launch: Launch): void {
  new Machine(kernel, launch).run();
}
