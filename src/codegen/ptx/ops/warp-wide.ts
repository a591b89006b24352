/** @file Nodes by which the lanes of one warp exchange values. All lanes must take part. */
import { type Op, signature } from "./op.ts";

const scratch = new Uint32Array(32);

/** `dst` = `a` of another lane; operands `a, lane or distance`. */
export const Shuffle: Op<"Shuffle"> = {
  verify: signature("x<xu", (node) => node.dst[0].type !== node.src[0].type && "types differ"),
  emit(node, e) {
    const [a, b] = node.src.map((operand) => e.name(operand));
    const { mode } = node.attr;
    const bound = mode === "up" ? 0 : 31;
    e.line(`shfl.sync.${mode}.b32 ${e.name(node.dst[0])}, ${a}, ${b}, ${bound}, -1;`);
  },
  exec(step, warp) {
    warp.needFullMask("shfl.sync");
    const [a, b] = step.s;
    const { mode } = step.attr;
    for (let l = 0; l < 32; l++) {
      const by = warp.u32[b + l];
      let from =
        mode === "bfly" ? l ^ by : mode === "up" ? l - by : mode === "down" ? l + by : by & 31;
      if (from < 0 || from > 31) from = l;
      scratch[l] = warp.u32[a + from];
    }
    warp.u32.set(scratch, step.d[0]);
  },
};

/** `dst` = whether any or all lanes hold a predicate, or a bit for each lane. */
export const Vote: Op<"Vote"> = {
  verify: signature((attr) => (attr.mode === "ballot" ? "u<p" : "p<p")),
  emit(node, e) {
    const { mode } = node.attr;
    const type = mode === "ballot" ? "b32" : "pred";
    e.line(`vote.sync.${mode}.${type} ${e.name(node.dst[0])}, ${e.name(node.src[0])}, -1;`);
  },
  exec(step, warp) {
    warp.needFullMask("vote.sync");
    let set = 0;
    for (let l = 0; l < 32; l++) if (warp.u32[step.s[0] + l]) set |= 1 << l;
    const { mode } = step.attr;
    const value = mode === "ballot" ? set : Number(mode === "any" ? set !== 0 : set === -1);
    warp.u32.fill(value, step.d[0], step.d[0] + 32);
  },
};

/** `dst` = true in exactly one lane, always the same. */
export const Elect: Op<"Elect"> = {
  verify: signature("p<"),
  emit(node, e) {
    e.line(`elect.sync _|${e.name(node.dst[0])}, -1;`);
  },
  exec(step, warp) {
    warp.needFullMask("elect.sync");
    for (let l = 0; l < 32; l++) warp.u32[step.d[0] + l] = l === 0 ? 1 : 0;
  },
};

/** `dst` = sum, minimum, maximum or union of `a` over the lanes. */
export const Redux: Op<"Redux"> = {
  verify: signature("u<u"),
  emit(node, e) {
    const { fn } = node.attr;
    const type = fn === "or" ? "b32" : "u32";
    e.line(`redux.sync.${fn}.${type} ${e.name(node.dst[0])}, ${e.name(node.src[0])}, -1;`);
  },
  exec(step, warp) {
    warp.needFullMask("redux.sync");
    const a = step.s[0];
    let value = warp.u32[a];
    for (let l = 1; l < 32; l++) {
      const next = warp.u32[a + l];
      if (step.attr.fn === "add") value += next;
      else if (step.attr.fn === "or") value |= next;
      else value = step.attr.fn === "min" ? Math.min(value, next) : Math.max(value, next);
    }
    warp.u32.fill(value, step.d[0], step.d[0] + 32);
  },
};

/** Orders the lanes of a warp among themselves. Lanes run in lock-step here, so nothing waits. */
export const SyncWarp: Op<"SyncWarp"> = {
  verify: signature("<"),
  emit: (_, e) => e.line("bar.warp.sync -1;"),
  exec(_, warp) {
    warp.needFullMask("bar.warp.sync");
  },
};
