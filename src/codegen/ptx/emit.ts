/**
 * @file Writes a kernel as PTX, at the lowest version and target that it needs: old drivers
 * refuse what is newer than they are.
 */
import type { Immediate, Kernel, Node, NodeKind, Operand } from "./ir.ts";
import { isRegister, walk } from "./ir.ts";
import { ops } from "./ops/index.ts";
import type { Emitter, Op } from "./ops/op.ts";
import { sourceOf } from "./position.ts";

/** The text of a kernel and what it needs. */
export interface PtxSource {
  readonly text: string;
  /** PTX version times ten. */
  readonly version: number;
  /** `sm_90a` where instructions of Hopper alone are used, otherwise the oldest that has all. */
  readonly target: string;
}

const cell = new Float32Array(1);
const bits = new Uint32Array(cell.buffer);

/** float32 as PTX writes it exactly. */
function floatLiteral(value: number): string {
  cell[0] = value;
  return `0f${bits[0].toString(16).toUpperCase().padStart(8, "0")}`;
}

const prefixes = { u32: "%r", f32: "%f", u64: "%d", pred: "%p" } as const;
const hopperOnly = new Set<NodeKind>(["WgFence", "WgMma", "WgCommit", "WgWait", "SetMaxRegisters"]);
const sinceHopper = new Set<NodeKind>([
  "MbarInit",
  "MbarWait",
  "ClusterBarrier",
  "MapShared",
  "TmaLoad",
  "TmaStore",
  "BulkCopy",
  "StoreAsync",
  "StoreMatrix",
  "Elect",
  "Pdl",
]);

class TextEmitter implements Emitter {
  readonly lines: string[] = [];
  loopEnds: string[] = [];
  private readonly kernel: Kernel;
  private readonly names = new Map<number, string>();
  private readonly counts = { b32: 0, b64: 0, pred: 0 };
  private labels = 0;
  /** Sources named by `.loc`, in the order of their numbers, where lines are wanted. */
  readonly files: string[] | undefined;
  private lastLine = "";

  constructor(kernel: Kernel, withLines: boolean) {
    this.kernel = kernel;
    this.files = withLines ? [] : undefined;
    const next = { u32: 0, f32: 0, u64: 0, pred: 0 };
    for (const { id, type } of kernel.registers) {
      this.names.set(id, `${prefixes[type]}${next[type]++}`);
    }
    for (const [type, count] of Object.entries(next)) {
      const kind = { u32: "b32", f32: "f32", u64: "b64", pred: "pred" }[type];
      if (count > 0) this.line(`.reg .${kind} ${prefixes[type as keyof typeof next]}<${count}>;`);
    }
  }

  line(text: string): void {
    this.lines.push(`  ${text}`);
  }

  label(): string {
    return `L${this.labels++}`;
  }

  place(label: string): void {
    this.lines.push(`${label}:`);
  }

  fresh(type: "b32" | "b64" | "pred"): string {
    return `%${{ b32: "x", b64: "y", pred: "q" }[type]}${this.counts[type]++}`;
  }

  /** Declarations of scratch registers, known only at the end. */
  scratch(): string[] {
    const names = { b32: "x", b64: "y", pred: "q" } as const;
    return (["b32", "b64", "pred"] as const)
      .filter((type) => this.counts[type] > 0)
      .map((type) => `  .reg .${type} %${names[type]}<${this.counts[type]}>;`);
  }

  name(operand: Operand): string {
    if (isRegister(operand)) return this.names.get(operand.id)!;
    const { type, value } = operand as Immediate;
    return type === "f32" ? floatLiteral(value) : String(value);
  }

  param(index: number): string {
    return paramName(this.kernel, index);
  }

  /** Says which line of TypeScript follows, where it isn't the one before. */
  private locate(node: Node): void {
    const { files } = this;
    if (!files) return;
    const { file, line } = sourceOf(node.at);
    if (!files.includes(file)) files.push(file);
    const text = `.loc ${files.indexOf(file) + 1} ${line} 0`;
    if (text !== this.lastLine) this.line(text);
    this.lastLine = text;
  }

  block(nodes: readonly Node[]): void {
    for (const node of nodes) {
      const op = ops[node.kind] as unknown as Op<NodeKind>;
      this.locate(node);
      op.emit(node, this);
    }
  }
}

function paramName(kernel: Kernel, index: number): string {
  return `${kernel.name}_${kernel.params[index].name}`;
}

function declareParam(kernel: Kernel, index: number): string {
  const { type } = kernel.params[index];
  const name = paramName(kernel, index);
  if (type === "map") return `.param .align 64 .b8 ${name}[128]`;
  return `.param .${type === "pointer" ? "u64" : type} ${name}`;
}

/** The lowest version and target for a kernel. */
function needs(kernel: Kernel): { version: number; target: string } {
  let version = 70;
  let target = "sm_80";
  const atLeast = (wanted: number, name?: string) => {
    version = Math.max(version, wanted);
    if (name && target !== "sm_90a") target = name;
  };
  if (kernel.clusterSize > 1) atLeast(80, "sm_90");
  walk(kernel.body, (node) => {
    if (hopperOnly.has(node.kind)) atLeast(80, "sm_90a");
    else if (sinceHopper.has(node.kind)) atLeast(80, "sm_90");
    // Multicast assembles for sm_90, with the advice to ask for sm_90a.
    if (node.kind === "TmaLoad" && (node as Node<"TmaLoad">).attr.multicast) atLeast(80, "sm_90a");
    const { version: own } = ops[node.kind] as unknown as Op<NodeKind>;
    if (own) atLeast(own(node.attr));
    if (node.kind === "Alu" && (node as Node<"Alu">).attr.fn.includes("e4m3")) {
      // FP8 came with Ada, in PTX 8.1 (for Hopper in 8.0, but one text serves both).
      atLeast(81, target === "sm_80" ? "sm_89" : undefined);
    }
  });
  return { version, target };
}

/**
 * The PTX of a kernel, with its name as entry point and dynamic shared memory. `lines` names the line
 * of TypeScript of each statement, for debuggers and profilers.
 */
export function emitPtx(kernel: Kernel, options: { lines?: boolean } = {}): PtxSource {
  const { version, target } = needs(kernel);
  const emitter = new TextEmitter(kernel, options.lines ?? false);
  emitter.block(kernel.body);
  emitter.line("ret;");
  const params = kernel.params.map((_, index) => `  ${declareParam(kernel, index)}`).join(",\n");
  const cluster =
    kernel.clusterSize > 1
      ? `\n.explicitcluster\n.reqnctapercluster ${kernel.clusterSize}, 1, 1`
      : "";
  const text = [
    `.version ${Math.floor(version / 10)}.${version % 10}`,
    `.target ${target}`,
    ".address_size 64",
    "",
    ...(kernel.sharedBytes > 0 ? [".extern .shared .align 1024 .b8 shared[];", ""] : []),
    `.visible .entry ${kernel.name}(`,
    params,
    ")",
    // Without both of the next two, ptxas drops setmaxnreg with no more than a remark.
    `.reqntid ${kernel.threads}, 1, 1`,
    `.minnctapersm 1${cluster}`,
    "{",
    ...emitter.scratch(),
    ...emitter.lines,
    "}",
    ...(emitter.files ?? []).map((file, i) => `.file ${i + 1} "${file}"`),
    "",
  ].join("\n");
  return { text, version, target };
}
