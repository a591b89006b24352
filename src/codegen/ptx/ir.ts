/**
 * @file The intermediate representation of a GPU kernel: structured nodes over mutable virtual
 * registers. `dsl/` builds it, the table in `ops/` says for each kind of node how it is verified,
 * written as PTX and executed, `emit.ts` and `emulator/` walk it.
 *
 * There is no optimiser here beyond folding of constants: the driver's `ptxas` does that.
 */

/** What a virtual register holds; integers carry no sign, the operation decides. */
export type RegisterType = "u32" | "f32" | "u64" | "pred";

/** A mutable virtual register, one value a lane. */
export interface Register {
  readonly id: number;
  readonly type: RegisterType;
}

/** A constant operand. */
export interface Immediate {
  readonly value: number;
  readonly type: RegisterType;
}

/** What a node reads. */
export type Operand = Register | Immediate;

/** Whether an operand is a register. */
export function isRegister(operand: Operand): operand is Register {
  return "id" in operand;
}

/** Where in the TypeScript source a node comes from; see `describePosition`. */
export interface Position {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

/** Element types of tiles and tensor maps. */
export type ElementType = "e4m3" | "bf16" | "f32" | "u32";

/** Bytes of an element. */
export const elementBytes: Readonly<Record<ElementType, number>> = {
  e4m3: 1,
  bf16: 2,
  f32: 4,
  u32: 4,
};

/** Bytes of the span within which 16-byte chunks are permuted; 0: not at all. */
export type Swizzle = 0 | 32 | 64 | 128;

/** How far a fence or a synchronising access reaches. */
export type Scope = "cta" | "cluster" | "gpu" | "sys";

/** How a global or shared access orders what stands around it. */
export type Ordering = "weak" | "relaxed" | "acquire" | "release" | "acq_rel";

/** The memory that an access names by its address. */
export type Space = "global" | "shared" | "shared::cluster";

/** Bits of an access to memory: how many registers of 32 bits one lane moves. */
export type Width = 1 | 2 | 4;

/** What a `Special` node reads. */
export type SpecialName =
  | "tid.x"
  | "ctaid.x"
  | "ctaid.y"
  | "ctaid.z"
  | "nctaid.x"
  | "laneid"
  | "cluster_ctarank";

/** What each kind of node carries besides its registers. Node kinds are the keys. */
export interface Attributes {
  // Control. A `Loop` runs until a `Break` directly in its body leaves no lane.
  If: { readonly role?: string };
  Loop: object;
  Break: object;
  Trap: object;
  Yield: object;
  SetMaxRegisters: { readonly count: number; readonly up: boolean };
  Pdl: { readonly what: "wait" | "launch" };
  // Values.
  Special: { readonly name: SpecialName };
  Param: { readonly index: number; readonly map: boolean };
  SharedBase: object;
  Move: object;
  Alu: { readonly fn: string };
  Compare: { readonly cmp: "eq" | "ne" | "lt" | "le" | "gt" | "ge"; readonly type: string };
  Select: object;
  // Across the lanes of a warp.
  Shuffle: { readonly mode: "idx" | "bfly" | "up" | "down" };
  Vote: { readonly mode: "any" | "all" | "ballot" };
  Elect: object;
  Redux: { readonly fn: "add" | "min" | "max" | "or" };
  SyncWarp: object;
  // Memory.
  Load: MemoryAttributes;
  Store: MemoryAttributes;
  Atomic: {
    readonly space: Space;
    readonly fn: "add" | "cas" | "exch" | "max";
    readonly type: "u32" | "f32";
    readonly order: Ordering;
    readonly scope: Scope;
  };
  Fence: { readonly kind: "acq_rel" | "proxy.async" | "mbarrier_init"; readonly scope: Scope };
  LoadMatrix: { readonly count: 1 | 2 | 4; readonly transposed: boolean };
  StoreMatrix: { readonly count: 1 | 2 | 4; readonly transposed: boolean };
  // Barriers.
  MbarInit: { readonly count: number };
  MbarInval: object;
  MbarArrive: { readonly remote: boolean };
  MbarExpect: { readonly arrive: boolean };
  MbarWait: { readonly scope: "cta" | "cluster" };
  NamedBarrier: { readonly mode: "sync" | "arrive" };
  ClusterBarrier: { readonly mode: "arrive" | "wait" };
  MapShared: object;
  // Copies by the tensor memory accelerator and in bulk.
  PrefetchMap: object;
  TmaLoad: { readonly rank: number; readonly multicast: boolean; readonly hint: CacheHint };
  TmaStore: { readonly rank: number; readonly reduce: boolean };
  BulkCopy: { readonly direction: "load" | "store" | "peer" };
  BulkCommit: object;
  BulkWait: { readonly pending: number; readonly readOnly: boolean };
  StoreAsync: { readonly width: Width };
  CpAsync: { readonly bytes: 4 | 8 | 16 };
  CpAsyncCommit: object;
  CpAsyncWait: { readonly pending: number };
  // Tensor cores.
  WgFence: object;
  WgMma: WgmmaAttributes;
  WgCommit: object;
  WgWait: { readonly pending: number };
  MmaSync: { readonly type: "bf16" };
}

/** How long a loaded line should stay in the second-level cache. */
export type CacheHint = "none" | "evict_first" | "evict_last";

/** Attributes of `Load` and `Store`. */
export interface MemoryAttributes {
  readonly space: Space;
  readonly width: Width;
  readonly order: Ordering;
  readonly scope: Scope;
  /** A constant number of bytes added to the address. */
  readonly offset: number;
  /** Read through the path for data that no one writes while the kernel runs. */
  readonly readOnly: boolean;
  /** 2: one lane moves half a register (the low half); else whole registers. */
  readonly bytes: 2 | 4;
}

/** Attributes of `WgMma`: D (64 x n, float32) (+)= A (64 x k) B (k x n), k = 32 bytes. */
export interface WgmmaAttributes {
  readonly n: number;
  readonly type: "e4m3" | "bf16";
  /** A comes from registers: 4 of them before the descriptor of B. */
  readonly aInRegisters: boolean;
  /** Which operands are stored with k as the slow dimension; bf16 only. */
  readonly aTransposed: boolean;
  readonly bTransposed: boolean;
}

/** The kinds of nodes. */
export type NodeKind = keyof Attributes;

/** One node. Which registers stand where, each kind's docstring in `ops/` says. */
export interface Node<K extends NodeKind = NodeKind> {
  readonly kind: K;
  readonly at: Position;
  readonly dst: readonly Register[];
  readonly src: readonly Operand[];
  readonly attr: Attributes[K];
  /** Bodies of `If` (two) and `Loop` (one). */
  readonly bodies: readonly (readonly Node[])[];
}

/** A parameter of a kernel, in the order of its declaration. */
export interface Param {
  readonly name: string;
  readonly type: "u32" | "f32" | "pointer" | "map";
  /** Of a map: what its boxes must be. */
  readonly box?: MapBox;
}

/** What a kernel expects of a tensor map; the launcher encodes the map from it. */
export interface MapBox {
  readonly type: ElementType;
  /** Elements of a box, innermost dimension first. */
  readonly box: readonly number[];
  readonly swizzle: Swizzle;
}

/** A range of warps that runs one role, for reports. */
export interface RoleInfo {
  readonly name: string;
  readonly firstWarp: number;
  readonly warps: number;
}

/** A staged kernel: complete, verified, ready to be written as PTX or emulated. */
export interface Kernel {
  readonly name: string;
  readonly threads: number;
  readonly clusterSize: number;
  readonly params: readonly Param[];
  readonly sharedBytes: number;
  readonly registers: readonly Register[];
  readonly roles: readonly RoleInfo[];
  readonly body: readonly Node[];
}

/** Calls `visit` for every node, parents first. */
export function walk(nodes: readonly Node[], visit: (node: Node) => void): void {
  for (const node of nodes) {
    visit(node);
    for (const body of node.bodies) walk(body, visit);
  }
}
