/**
 * @file The builder: what a kernel function gets as `k`. The function runs once and every call
 * appends a node; a `for` of TypeScript unrolls, `k.loop` and `k.if` happen at run time.
 */
import { alignUp, assert } from "../../../base/index.ts";
import type {
  Attributes,
  Kernel,
  MapBox,
  Node,
  NodeKind,
  Operand,
  Ordering,
  Param,
  Register,
  RegisterType,
  RoleInfo,
  Scope,
  Space,
  SpecialName,
  Width,
} from "../ir.ts";
import { aluRows } from "../ops/alu.ts";
import { ops } from "../ops/index.ts";
import type { Op } from "../ops/op.ts";
import { callerPosition } from "../position.ts";
import {
  checkU32,
  F32,
  type F32Like,
  F32Variable,
  Pred,
  U32,
  type U32Like,
  U32Variable,
  U64,
} from "./values.ts";

/** What a kernel is besides its body. */
export interface KernelOptions {
  readonly threads: number;
  readonly clusterSize?: number;
}

/** A role: a range of whole warpgroups, with the registers that each of their threads may use. */
export interface Role {
  readonly name: string;
  readonly warpgroups: number;
  readonly registers?: number;
  readonly body: (firstWarp: number) => void;
}

/** How a memory access is made; what is left out is weak, of the gpu's scope, at no offset. */
export interface AccessOptions {
  readonly order?: Ordering;
  readonly scope?: Scope;
  readonly offset?: number;
  readonly readOnly?: boolean;
}

const noBodies: readonly (readonly Node[])[] = [];
const resultTypes: Readonly<Record<string, RegisterType>> = {
  u: "u32",
  f: "f32",
  l: "u64",
  p: "pred",
};

/** Appends nodes. */
export class Builder {
  readonly params: Param[] = [];
  readonly roleInfos: RoleInfo[] = [];
  readonly threads: number;
  readonly clusterSize: number;
  sharedBytes = 0;
  private readonly allRegisters: Register[] = [];
  private nodes: Node[] = [];
  private readonly head: Node[] = [];
  private readonly specials = new Map<string, U32>();
  private readonly bases: U32[] = [];
  private warpValue: U32 | undefined;

  constructor(options: KernelOptions) {
    this.threads = options.threads;
    this.clusterSize = options.clusterSize ?? 1;
    assert(
      this.threads % 32 === 0 && this.threads > 0 && this.threads <= 1024,
      `${this.threads} threads`,
    );
  }

  // Nodes and registers.

  /** Appends a node; the language's own files use it, kernels need not. */
  node<K extends NodeKind>(
    kind: K,
    attr: Attributes[K],
    dst: readonly Register[] = [],
    src: readonly Operand[] = [],
    bodies: readonly (readonly Node[])[] = noBodies,
  ): void {
    const node: Node<K> = { kind, at: callerPosition(), dst, src, attr, bodies };
    (ops[kind] as unknown as Op<K>).verify(node);
    this.nodes.push(node as unknown as Node);
  }

  register(type: RegisterType): Register {
    const register = { id: this.allRegisters.length, type };
    this.allRegisters.push(register);
    return register;
  }

  private nested(body: () => void): Node[] {
    const outer = this.nodes;
    this.nodes = [];
    body();
    const inner = this.nodes;
    this.nodes = outer;
    return inner;
  }

  /** Builds at the head of the kernel, so that what comes of it is known everywhere. */
  private atHead<T>(build: () => T): T {
    const outer = this.nodes;
    this.nodes = this.head;
    const result = build();
    this.nodes = outer;
    return result;
  }

  alu(fn: string, ...operands: Operand[]): Register {
    const d = this.register(resultTypes[aluRows[fn].types[0]]);
    this.aluInto(d, fn, ...operands);
    return d;
  }

  aluInto(d: Register, fn: string, ...operands: Operand[]): void {
    this.node("Alu", { fn }, [d], operands);
  }

  compare(cmp: Attributes["Compare"]["cmp"], type: string, a: Operand, b: Operand): Pred {
    const d = this.register("pred");
    this.node("Compare", { cmp, type }, [d], [a, b]);
    return new Pred(this, d);
  }

  select<T extends U32 | F32>(p: Pred, a: T, b: T): T {
    const isFloat = a instanceof F32;
    const d = this.register(isFloat ? "f32" : "u32");
    this.node("Select", {}, [d], [p.operand, a.operand, b.operand]);
    return (isFloat ? new F32(this, d) : new U32(this, d)) as T;
  }

  assign(d: Register, value: Operand): void {
    this.node("Move", {}, [d], [value]);
  }

  // Values.

  u32(value: U32Like): U32 {
    if (typeof value !== "number") return value;
    return new U32(this, { type: "u32", value: checkU32(value) });
  }

  f32(value: F32Like): F32 {
    if (typeof value !== "number") return value;
    return new F32(this, { type: "f32", value: Math.fround(value) });
  }

  /** A predicate that is a constant, as an operand. */
  always(value: boolean): Operand {
    return { type: "pred", value: value ? 1 : 0 };
  }

  /** A variable with a first value. */
  variable(value: U32Like): U32Variable {
    const variable = new U32Variable(this, this.register("u32"));
    variable.set(value);
    return variable;
  }

  /** A float32 variable with a first value. */
  floatVariable(value: F32Like): F32Variable {
    const variable = new F32Variable(this, this.register("f32"));
    variable.set(value);
    return variable;
  }

  private special(name: SpecialName): U32 {
    let value = this.specials.get(name);
    if (!value) {
      value = this.atHead(() => {
        const d = this.register("u32");
        this.node("Special", { name }, [d]);
        return new U32(this, d);
      });
      this.specials.set(name, value);
    }
    return value;
  }

  get threadId(): U32 {
    return this.special("tid.x");
  }

  get lane(): U32 {
    return this.special("laneid");
  }

  get blockX(): U32 {
    return this.special("ctaid.x");
  }

  get blockY(): U32 {
    return this.special("ctaid.y");
  }

  get blockZ(): U32 {
    return this.special("ctaid.z");
  }

  get gridX(): U32 {
    return this.special("nctaid.x");
  }

  get clusterRank(): U32 {
    return this.clusterSize === 1 ? this.u32(0) : this.special("cluster_ctarank");
  }

  /** The warp of this thread, known to be the same in all its lanes. */
  get warp(): U32 {
    const { threadId } = this;
    this.warpValue ??= this.atHead(() => this.shuffle(threadId.shr(5), 0));
    return this.warpValue;
  }

  // Parameters.

  private declare(param: Param, type: RegisterType): Register {
    const index = this.params.push(param) - 1;
    return this.atHead(() => {
      const d = this.register(type);
      this.node("Param", { index, map: param.type === "map" }, [d]);
      return d;
    });
  }

  paramU32(name: string): U32 {
    return new U32(this, this.declare({ name, type: "u32" }, "u32"));
  }

  paramF32(name: string): F32 {
    return new F32(this, this.declare({ name, type: "f32" }, "f32"));
  }

  /** A pointer to global memory. */
  paramPointer(name: string): U64 {
    return new U64(this, this.declare({ name, type: "pointer" }, "u64"));
  }

  /** A tensor map; see `TensorMap`. */
  paramMap(name: string, box: MapBox): U64 {
    return new U64(this, this.declare({ name, type: "map", box }, "u64"));
  }

  // Shared memory.

  /** The address of fresh shared memory. */
  shared(bytes: number, alignment: number): U32 {
    if (this.bases.length === 0) {
      this.bases.push(
        this.atHead(() => {
          const d = this.register("u32");
          this.node("SharedBase", {}, [d]);
          return new U32(this, d);
        }),
      );
    }
    const offset = alignUp(this.sharedBytes, alignment);
    this.sharedBytes = offset + bytes;
    assert(
      this.sharedBytes <= 232448,
      `shared memory: got ${this.sharedBytes} bytes, wanted 232448`,
    );
    return this.atHead(() => this.bases[0].add(offset));
  }

  // Control.

  if(condition: Pred, then: () => void, orElse: () => void = () => {}): void {
    this.node("If", {}, [], [condition.operand], [this.nested(then), this.nested(orElse)]);
  }

  /** Runs `body` for 0, 1 ... below `count`, or from `from` in steps of `step`. */
  loop(count: U32Like, body: (i: U32) => void, from: U32Like = 0, step: U32Like = 1): void {
    const i = this.variable(from);
    this.while(
      () => i.lt(count),
      () => {
        body(i);
        i.set(i.add(step));
      },
    );
  }

  /** Runs `body` while the condition, staged once, holds. */
  while(condition: () => Pred, body: () => void): void {
    const inner = this.nested(() => {
      this.node("Break", {}, [], [condition().not().operand]);
      body();
    });
    this.node("Loop", {}, [], [], [inner]);
  }

  /** Stages `body` as a loop that polls until the condition it gives holds. */
  spinUntil(body: () => Pred): void {
    const inner = this.nested(() => {
      this.node("Break", {}, [], [body().operand]);
      this.node("Yield", {});
    });
    this.node("Loop", {}, [], [], [inner]);
  }

  /** One lane of the warp runs `body`. */
  elected(body: () => void): void {
    const d = this.register("pred");
    this.node("Elect", {}, [d]);
    this.if(new Pred(this, d), body);
  }

  /** The first thread of the block runs `body`. */
  firstThread(body: () => void): void {
    this.if(this.threadId.eq(0), body);
  }

  /** Splits the block into roles, in order of warpgroups; they must cover it. */
  roles(roles: readonly Role[]): void {
    const total = roles.reduce((sum, { warpgroups }) => sum + warpgroups, 0);
    assert(total * 128 === this.threads, `roles of ${total} warpgroups in ${this.threads} threads`);
    const group = this.warp.shr(2);
    const even = Math.floor(65536 / this.threads / 8) * 8;
    const stage = (index: number, first: number): void => {
      const { name, warpgroups, registers, body } = roles[index];
      const last = index === roles.length - 1;
      const own = () => {
        this.roleInfos.push({ name, firstWarp: first * 4, warps: warpgroups * 4 });
        if (registers) this.node("SetMaxRegisters", { count: registers, up: registers > even });
        body(first * 4);
      };
      if (last) own();
      else this.if(group.lt(first + warpgroups), own, () => stage(index + 1, first + warpgroups));
    };
    stage(0, 0);
  }

  trap(): void {
    this.node("Trap", {});
  }

  // Warps and barriers.

  /** The value that lane `lane` holds. */
  shuffle<T extends U32 | F32>(
    value: T,
    lane: U32Like,
    mode: Attributes["Shuffle"]["mode"] = "idx",
  ): T {
    const isFloat = value instanceof F32;
    const d = this.register(isFloat ? "f32" : "u32");
    this.node("Shuffle", { mode }, [d], [value.operand, this.u32(lane).operand]);
    return (isFloat ? new F32(this, d) : new U32(this, d)) as T;
  }

  /** Combines a value over groups of `width` neighbouring lanes (a power of two). */
  reduce(value: F32, width: number, combine: (a: F32, b: F32) => F32): F32 {
    let result = value;
    for (let distance = 1; distance < width; distance *= 2) {
      result = combine(result, this.shuffle(result, distance, "bfly"));
    }
    return result;
  }

  any(condition: Pred): Pred {
    const d = this.register("pred");
    this.node("Vote", { mode: "any" }, [d], [condition.operand]);
    return new Pred(this, d);
  }

  /** A bit for each lane of the warp where the condition holds. */
  ballot(condition: Pred): U32 {
    const d = this.register("u32");
    this.node("Vote", { mode: "ballot" }, [d], [condition.operand]);
    return new U32(this, d);
  }

  /** Sum, minimum, maximum or union of an integer over the warp. */
  reduceInteger(value: U32, fn: Attributes["Redux"]["fn"]): U32 {
    const d = this.register("u32");
    this.node("Redux", { fn }, [d], [value.operand]);
    return new U32(this, d);
  }

  syncWarp(): void {
    this.node("SyncWarp", {});
  }

  /** All threads of the block meet. */
  syncThreads(): void {
    this.namedBarrier(0, this.threads).sync();
  }

  /** A barrier of some warps of the block; number 0 is that of `syncThreads`. */
  namedBarrier(id: U32Like, threads: number): { sync: () => void; arrive: () => void } {
    const src = [this.u32(id).operand, this.u32(threads).operand];
    return {
      sync: () => this.node("NamedBarrier", { mode: "sync" }, [], src),
      arrive: () => this.node("NamedBarrier", { mode: "arrive" }, [], src),
    };
  }

  clusterArrive(): void {
    this.node("ClusterBarrier", { mode: "arrive" });
  }

  clusterWait(): void {
    this.node("ClusterBarrier", { mode: "wait" });
  }

  /** All threads of the cluster meet. */
  syncCluster(): void {
    this.clusterArrive();
    this.clusterWait();
  }

  /** The address of the same place in the shared memory of block `rank` of the cluster. */
  mapShared(address: U32, rank: U32Like): U32 {
    const d = this.register("u32");
    this.node("MapShared", {}, [d], [address.operand, this.u32(rank).operand]);
    return new U32(this, d);
  }

  /** Makes what this thread wrote to shared memory visible to asynchronous copies and tensor cores. */
  fenceAsync(): void {
    this.node("Fence", { kind: "proxy.async", scope: "cta" });
  }

  fenceMbarrierInit(): void {
    this.node("Fence", { kind: "mbarrier_init", scope: "cluster" });
  }

  fence(scope: Scope): void {
    this.node("Fence", { kind: "acq_rel", scope });
  }

  /** The launch before this one has finished, or the next one may start. */
  dependentLaunch(what: "wait" | "launch"): void {
    this.node("Pdl", { what });
  }

  // Memory.

  /** One to four words at an address, as integers. */
  load(space: Space, address: U32 | U64, width: Width = 1, options: AccessOptions = {}): U32[] {
    const dst = Array.from({ length: width }, () => this.register("u32"));
    this.node("Load", this.access(space, width, options), dst, [address.operand]);
    return dst.map((d) => new U32(this, d));
  }

  loadF32(space: Space, address: U32 | U64, options: AccessOptions = {}): F32 {
    const d = this.register("f32");
    this.node("Load", this.access(space, 1, options), [d], [address.operand]);
    return new F32(this, d);
  }

  store(
    space: Space,
    address: U32 | U64,
    values: readonly (U32 | F32)[],
    options: AccessOptions = {},
  ): void {
    const attr = this.access(space, values.length as Width, options);
    this.node("Store", attr, [], [address.operand, ...values.map(({ operand }) => operand)]);
  }

  private access(space: Space, width: Width, options: AccessOptions): Attributes["Load"] {
    const { order = "weak", scope = "gpu", offset = 0, readOnly = false } = options;
    return { space, width, order, scope, offset, readOnly, bytes: 4 };
  }

  /** The low halves of integers, two bytes each. */
  loadHalf(space: Space, address: U32 | U64, offset: number = 0): U32 {
    const d = this.register("u32");
    this.node("Load", { ...this.access(space, 1, { offset }), bytes: 2 }, [d], [address.operand]);
    return new U32(this, d);
  }

  storeHalf(space: Space, address: U32 | U64, value: U32, offset: number = 0): void {
    const attr = { ...this.access(space, 1, { offset }), bytes: 2 as const };
    this.node("Store", attr, [], [address.operand, value.operand]);
  }

  /** Adds to a word of memory, and gives what was there. */
  atomicAdd(
    space: Space,
    address: U32 | U64,
    value: U32,
    options: { order?: Ordering; scope?: Scope } = {},
  ): U32 {
    const { order = "relaxed", scope = "gpu" } = options;
    const d = this.register("u32");
    this.node(
      "Atomic",
      { space, fn: "add", type: "u32", order, scope },
      [d],
      [address.operand, value.operand],
    );
    return new U32(this, d);
  }

  /** A 64-bit integer of two halves. */
  pack64(low: U32, high: U32): U64 {
    return new U64(this, this.alu("pack.b64", low.operand, high.operand));
  }

  /** Two float32 rounded to bf16, `low` in the low half. */
  packBf16(low: F32, high: F32): U32 {
    return new U32(this, this.alu("cvt.bf16x2.f32", high.operand, low.operand));
  }

  /** Two float32 rounded to e4m3, saturated, in the low 16 bits; `low` in the lowest 8. */
  packE4m3(low: F32, high: F32): U32 {
    return new U32(this, this.alu("cvt.e4m3x2.f32", high.operand, low.operand));
  }

  /** Writes four 8 x 8 matrices of halves from fragments; each lane gives the address of a row. */
  storeMatrix(address: U32, values: readonly U32[], transposed: boolean = false): void {
    const attr = { count: values.length as 1 | 2 | 4, transposed };
    this.node("StoreMatrix", attr, [], [address.operand, ...values.map(({ operand }) => operand)]);
  }

  loadMatrix(address: U32, count: 1 | 2 | 4, transposed: boolean = false): U32[] {
    const dst = Array.from({ length: count }, () => this.register("u32"));
    this.node("LoadMatrix", { count, transposed }, dst, [address.operand]);
    return dst.map((d) => new U32(this, d));
  }

  /** The finished kernel. */
  finish(name: string): Kernel {
    assert(/^[a-zA-Z]\w*$/.test(name), `kernel name ${name}`);
    return {
      name,
      threads: this.threads,
      clusterSize: this.clusterSize,
      params: this.params,
      sharedBytes: this.sharedBytes,
      registers: this.allRegisters,
      roles: this.roleInfos,
      body: [...this.head, ...this.nodes],
    };
  }
}

/** Runs a kernel function once and gives what it built. */
export function stageKernel(
  name: string,
  options: KernelOptions,
  body: (k: Builder) => void,
): Kernel {
  const k = new Builder(options);
  body(k);
  return k.finish(name);
}
