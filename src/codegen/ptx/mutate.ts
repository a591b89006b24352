/**
 * @file Breaks kernels on purpose, to test the tester: each mutant lacks one fence, wait, arrival or
 * commit, waits for the wrong phase, or announces too few bytes. The emulator must object to it.
 *
 * Not mutated: `SyncWarp`, since the lanes of a warp run in lock-step here, and `Pdl`, since launches
 * follow each other.
 */
import type { Kernel, Node, NodeKind, Operand, Register } from "./ir.ts";
import { describePosition } from "./position.ts";

/** A broken kernel and what was done to it. */
export interface Mutant {
  readonly name: string;
  readonly kernel: Kernel;
}

const droppable = new Set<NodeKind>([
  "Fence",
  "NamedBarrier",
  "ClusterBarrier",
  "MbarInit",
  "MbarArrive",
  "MbarExpect",
  "MbarWait",
  "WgFence",
  "WgCommit",
  "WgWait",
  "BulkCommit",
  "BulkWait",
  "CpAsyncCommit",
  "CpAsyncWait",
]);

/** The body with `target` replaced by `nodes`. */
function replace(body: readonly Node[], target: Node, nodes: readonly Node[]): Node[] {
  return body.flatMap((node) => {
    if (node === target) return nodes;
    if (node.bodies.length === 0) return [node];
    return [{ ...node, bodies: node.bodies.map((inner) => replace(inner, target, nodes)) }];
  });
}

/** `node` with one operand computed by `fn` of it and a constant. */
function withOperand(
  node: Node,
  index: number,
  fn: string,
  constant: number,
  fresh: Register,
): Node[] {
  const operand = node.src[index];
  const src = [...node.src];
  src[index] = fresh;
  const by: Operand = { type: "u32", value: constant };
  const change: Node<"Alu"> = {
    kind: "Alu",
    at: node.at,
    dst: [fresh],
    src: [operand, by],
    attr: { fn },
    bodies: [],
  };
  return [change, { ...node, src }];
}

/** All mutants of a kernel. */
export function mutantsOf(kernel: Kernel): Mutant[] {
  const mutants: Mutant[] = [];
  const fresh: Register = { id: kernel.registers.length, type: "u32" };
  const add = (what: string, node: Node, nodes: readonly Node[]): void => {
    mutants.push({
      name: `${what} ${node.kind}${detail(node)} at ${describePosition(node.at)}`,
      kernel: {
        ...kernel,
        registers: [...kernel.registers, fresh],
        body: replace(kernel.body, node, nodes),
      },
    });
  };
  const visit = (nodes: readonly Node[]): void => {
    for (const node of nodes) {
      if (droppable.has(node.kind)) add("drop", node, []);
      if (node.kind === "MbarWait") add("flip", node, withOperand(node, 1, "xor.b32", 1, fresh));
      if (node.kind === "MbarExpect")
        add("shrink", node, withOperand(node, 1, "sub.u32", 16, fresh));
      for (const body of node.bodies) visit(body);
    }
  };
  visit(kernel.body);
  return mutants;
}

function detail(node: Node): string {
  const attr = node.attr as Partial<Record<string, unknown>>;
  const words = [attr.kind ?? attr.mode ?? ""].filter(Boolean);
  return words.length > 0 ? ` ${words.join(" ")}` : "";
}
