/** @file What the table of node kinds holds for each kind: how to verify, write and execute it. */
import { assert } from "../../../base/index.ts";
import type { Warp } from "../emulator/warp.ts";
import { type Immediate, isRegister, type Node, type NodeKind, type Operand } from "../ir.ts";
import { describePosition } from "../position.ts";

/** A node laid out for the emulator: registers are offsets into the warp's file. */
export interface Step<K extends NodeKind = NodeKind> {
  readonly node: Node<K>;
  readonly attr: Node<K>["attr"];
  readonly exec: (step: Step<K>, warp: Warp) => void;
  /** First lane of each register; a u64 has its upper half 32 further on. */
  readonly d: readonly number[];
  readonly s: readonly number[];
  /** Registers of `d` and `s` that tensor cores use anywhere in this kernel. */
  readonly fragments: readonly number[];
  /** Where control goes on; see `lower.ts`. */
  target: number;
}

/** Writes lines of PTX; `emit.ts` implements it. */
export interface Emitter {
  line(text: string): void;
  label(): string;
  place(label: string): void;
  /** A scratch register of PTX. */
  fresh(type: "b32" | "b64" | "pred"): string;
  name(operand: Operand): string;
  block(nodes: readonly Node[]): void;
  /** Where a loop's breaks lead. */
  loopEnds: string[];
  param(index: number): string;
}

/** Everything that is known about one kind of node. */
export interface Op<K extends NodeKind> {
  /** Throws unless the node is well formed. */
  readonly verify: (node: Node<K>) => void;
  readonly emit: (node: Node<K>, emitter: Emitter) => void;
  readonly exec: (step: Step<K>, warp: Warp) => void;
  /** The least PTX version, times ten; 80 where absent. */
  readonly version?: (attr: Node<K>["attr"]) => number;
}

/** Types as letters: u 32-bit integer, f float32, l 64-bit integer, p predicate, x 32 bits of either. */
type Signature = string;

const letters = { u32: "ux", f32: "fx", u64: "l", pred: "p" } as const;

function fits(operand: Operand, letter: string): boolean {
  return letters[operand.type].includes(letter);
}

/**
 * A verifier for a fixed signature, `"u<u,u"` (destinations, then sources), or one that depends on
 * the attributes. `more` returns what else is wrong.
 */
export function signature<K extends NodeKind>(
  of: Signature | ((attr: Node<K>["attr"]) => Signature),
  more?: (node: Node<K>) => string | false | undefined,
): (node: Node<K>) => void {
  return (node) => {
    const [dst, src] = (typeof of === "string" ? of : of(node.attr)).split("<");
    const wrong = (what: string) =>
      `${node.kind} at ${describePosition(node.at)}: ${what}; wanted ${dst} <- ${src}, got ` +
      `${node.dst.map((r) => r.type).join()} <- ${node.src.map((r) => r.type).join()}`;
    assert(node.dst.length === dst.length, () => wrong(`${node.dst.length} results`));
    assert(node.src.length === src.length, () => wrong(`${node.src.length} operands`));
    node.dst.forEach((r, i) => {
      assert(fits(r, dst[i]), () => wrong(`result ${i}`));
    });
    node.src.forEach((r, i) => {
      assert(fits(r, src[i]), () => wrong(`operand ${i}`));
    });
    const fault = more?.(node);
    assert(!fault, () => `${node.kind} at ${describePosition(node.at)}: ${fault}`);
  };
}

/** The value of an immediate operand, or undefined of a register. */
export function constantOf(operand: Operand): number | undefined {
  return isRegister(operand) ? undefined : (operand as Immediate).value;
}

/** Names in braces, as PTX writes vectors; one alone stands bare. */
export function vector(names: readonly string[]): string {
  return names.length === 1 ? names[0] : `{${names.join(", ")}}`;
}
