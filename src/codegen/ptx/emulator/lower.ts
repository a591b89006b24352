/** @file Lays a kernel out for the emulator: flat steps with jump targets, registers as offsets. */
import { assert } from "../../../base/index.ts";
import { isRegister, type Kernel, type Node, type Operand, walk } from "../ir.ts";
import { ops } from "../ops/index.ts";
import type { Step } from "../ops/op.ts";
import { describePosition } from "../position.ts";
import type { Warp } from "./warp.ts";

/** A kernel as the emulator runs it. */
export interface Program {
  readonly steps: readonly Step[];
  /** The register file of a fresh warp: constants in place, everything else a NaN pattern. */
  readonly image: Uint32Array;
  /** Slots of 32 lanes before the constants. */
  readonly registers: number;
}

const poison = 0x7fbadbad;
const cell = new Float32Array(1);
const bits = new Uint32Array(cell.buffer);

function execElse(step: Step, warp: Warp): void {
  const top = warp.stack[warp.stack.length - 1];
  if (top.other === 0) {
    warp.pc = step.target;
    return;
  }
  warp.mask = top.other;
  top.other = 0;
}

function execEndIf(_: Step, warp: Warp): void {
  warp.mask = warp.stack.pop()!.outer;
}

function execEndLoop(step: Step, warp: Warp): void {
  warp.pc = step.target;
}

function execExit(_: Step, warp: Warp): void {
  warp.machine.exit(warp);
}

class Lowering {
  readonly steps: Step[] = [];
  private readonly slots = new Map<number, number>();
  private readonly constants = new Map<string, number>();
  private readonly fragmentIds = new Set<number>();
  private readonly values: { slot: number; low: number; high: number; wide: boolean }[] = [];
  private next = 0;
  readonly registers: number;

  constructor(kernel: Kernel) {
    for (const { id, type } of kernel.registers) {
      this.slots.set(id, this.next);
      this.next += type === "u64" ? 2 : 1;
    }
    this.registers = this.next;
    walk(kernel.body, (node) => {
      if (node.kind !== "WgMma") return;
      for (const r of [...node.dst, ...node.src.slice(0, -2)]) {
        if (isRegister(r)) this.fragmentIds.add(r.id);
      }
    });
  }

  private slotOf(operand: Operand): number {
    if (isRegister(operand)) return this.slots.get(operand.id)! * 32;
    const { type, value } = operand;
    const key = `${type === "f32" ? "f" : type === "u64" ? "l" : "u"}${Object.is(value, -0) ? "-0" : value}`;
    let slot = this.constants.get(key);
    if (slot === undefined) {
      slot = this.next;
      this.constants.set(key, slot);
      cell[0] = value;
      const low = type === "f32" ? bits[0] : value >>> 0;
      const wide = type === "u64";
      this.values.push({ slot, low, high: Math.floor(value / 2 ** 32), wide });
      this.next += wide ? 2 : 1;
    }
    return slot * 32;
  }

  private push(node: Node, exec: Step["exec"]): Step {
    const touched = node.kind === "WgMma" ? [] : [...node.dst, ...node.src];
    const step: Step = {
      node,
      attr: node.attr,
      exec,
      d: node.dst.map((r) => this.slotOf(r)),
      s: node.src.map((r) => this.slotOf(r)),
      fragments: touched
        .filter((r) => isRegister(r) && this.fragmentIds.has(r.id))
        .map((r) => this.slotOf(r) / 32),
      target: -1,
    };
    this.steps.push(step);
    return step;
  }

  lower(nodes: readonly Node[], loopBreaks?: Step[]): void {
    for (const node of nodes) {
      const step = this.push(node, ops[node.kind].exec as unknown as Step["exec"]);
      if (node.kind === "If") this.lowerIf(node, step);
      if (node.kind === "Loop") this.lowerLoop(node);
      if (node.kind === "Break") {
        assert(loopBreaks, `Break at ${describePosition(node.at)} is not directly in a Loop`);
        loopBreaks.push(step);
      }
    }
  }

  private lowerIf(node: Node, step: Step): void {
    const [then, orElse] = node.bodies;
    const mark = { ...node, src: [] };
    this.lower(then);
    if (orElse.length > 0) {
      const otherwise = this.push(mark, execElse);
      step.target = this.steps.length;
      this.lower(orElse);
      otherwise.target = this.steps.length;
    } else step.target = this.steps.length;
    this.push(mark, execEndIf);
  }

  private lowerLoop(node: Node): void {
    const start = this.steps.length;
    const breaks: Step[] = [];
    this.lower(node.bodies[0], breaks);
    this.push(node, execEndLoop).target = start;
    for (const step of breaks) step.target = this.steps.length;
  }

  finish(last: Node): Program {
    this.push({ ...last, dst: [], src: [] }, execExit);
    const image = new Uint32Array(this.next * 32).fill(poison);
    for (const { slot, low, high, wide } of this.values) {
      image.fill(low, slot * 32, slot * 32 + 32);
      if (wide) image.fill(high, slot * 32 + 32, slot * 32 + 64);
    }
    return { steps: this.steps, image, registers: this.registers };
  }
}

const programs = new WeakMap<Kernel, Program>();

/** The flat program of a kernel, made once. */
export function lowerKernel(kernel: Kernel): Program {
  let program = programs.get(kernel);
  if (!program) {
    const lowering = new Lowering(kernel);
    lowering.lower(kernel.body);
    program = lowering.finish(kernel.body[kernel.body.length - 1]);
    programs.set(kernel, program);
  }
  return program;
}
