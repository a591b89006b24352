/**
 * @file Control: structured branches and loops, registers of a role, dependent launches. The
 * emulator keeps a mask of the lanes that are on, and a stack of masks; `lower.ts` puts the marks
 * `If`, `Else`, `EndIf`, `Loop`, `EndLoop` into the flat program.
 */
import { type Op, signature } from "./op.ts";

/** Runs the first body for lanes where the predicate holds, the second for the others. */
export const If: Op<"If"> = {
  verify: signature("<p", (node) => node.bodies.length !== 2 && "an If has two bodies"),
  emit(node, e) {
    const [then, orElse] = node.bodies;
    const otherwise = e.label();
    e.line(`@!${e.name(node.src[0])} bra ${otherwise};`);
    e.block(then);
    if (orElse.length === 0) return e.place(otherwise);
    const end = e.label();
    e.line(`bra ${end};`);
    e.place(otherwise);
    e.block(orElse);
    e.place(end);
  },
  exec(step, warp) {
    const p = step.s[0];
    let on = 0;
    warp.each((l) => {
      if (warp.u32[p + l]) on |= 1 << l;
    });
    warp.pushBranch(on, step.target);
  },
};

/** Repeats its body until no lane is left in it. */
export const Loop: Op<"Loop"> = {
  verify: signature("<", (node) => node.bodies.length !== 1 && "a Loop has one body"),
  emit(node, e) {
    const [start, end] = [e.label(), e.label()];
    e.place(start);
    e.loopEnds.push(end);
    e.block(node.bodies[0]);
    e.loopEnds.pop();
    e.line(`bra ${start};`);
    e.place(end);
  },
  exec(_, warp) {
    warp.stack.push({ outer: warp.mask, other: 0 });
  },
};

/** Lanes where the predicate holds leave the loop in whose body this node stands. */
export const Break: Op<"Break"> = {
  verify: signature("<p"),
  emit(node, e) {
    e.line(`@${e.name(node.src[0])} bra ${e.loopEnds.at(-1)};`);
  },
  exec(step, warp) {
    const p = step.s[0];
    let off = 0;
    warp.each((l) => {
      if (warp.u32[p + l]) off |= 1 << l;
    });
    warp.mask &= ~off;
    if (warp.mask !== 0) return;
    warp.mask = warp.stack.pop()!.outer;
    warp.pc = step.target;
  },
};

/** Ends the launch with an error. */
export const Trap: Op<"Trap"> = {
  verify: signature("<"),
  emit: (_, e) => e.line("trap;"),
  exec(_, warp) {
    warp.fault("trap", "the kernel trapped");
  },
};

/** Lets others go first: stands in loops that poll memory. */
export const Yield: Op<"Yield"> = {
  verify: signature("<"),
  emit: (_, e) => e.line("nanosleep.u32 20;"),
  exec(_, warp) {
    const { machine } = warp;
    const before = machine.progress;
    warp.waitFor(
      () => machine.progress > before,
      () => {},
      () => "others, since it polls memory",
    );
  },
};

/** Gives registers of a warpgroup back to the pool, or takes some; all its warps must do so. */
export const SetMaxRegisters: Op<"SetMaxRegisters"> = {
  verify: signature("<", ({ attr: { count } }) => {
    return (
      (count % 8 !== 0 || count < 24 || count > 256) && `${count} registers: not 24, 32 ... 256`
    );
  }),
  emit(node, e) {
    const { up, count } = node.attr;
    e.line(`setmaxnreg.${up ? "inc" : "dec"}.sync.aligned.u32 ${count};`);
  },
  exec(_, warp) {
    warp.needFullMask("setmaxnreg");
  },
};

/** Waits for the launch before this one, or lets the next one start (programmatic launch). */
export const Pdl: Op<"Pdl"> = {
  verify: signature("<"),
  emit(node, e) {
    e.line(
      node.attr.what === "wait" ? "griddepcontrol.wait;" : "griddepcontrol.launch_dependents;",
    );
  },
  // Launches follow each other in the emulator, so that there is nothing to wait for.
  exec() {},
};
