/**
 * @file The `ptx` rung's second step of decoding: requests whose keys were shared out to several
 * parts get their results combined, each part weighing 2^(its log2 sum).
 *
 *     out = sum_i 2^(lse_i - max) out_i / sum_i 2^(lse_i - max)
 *
 * A warp takes a row. Parts are added in order, so the result does not depend on the schedule. What
 * one part has written alone is not looked at. Runs on every NVIDIA GPU since Ampere.
 */
import { assert } from "../base/index.ts";
import { type Kernel, stageKernel, type U32 } from "../codegen/index.ts";

/** Warps of a block, hence rows. */
export const combineRows = 4;

/**
 * Stages the kernel for values of `dimV`, a multiple of 128. Grid: ceil(rows / 4), key heads, batch.
 */
export function mlaCombineKernel(dimV: number): Kernel {
  assert(dimV % 128 === 0, `dimV: got ${dimV}, wanted a multiple of 128`);
  return stageKernel("mla_combine", { threads: 32 * combineRows }, (k) => {
    const [outParts, lseParts] = [k.paramPointer("out_parts"), k.paramPointer("lse_parts")];
    const numSplits = k.paramPointer("num_splits");
    const [out, lse] = [k.paramPointer("out"), k.paramPointer("lse")];
    const [keyHeads, rows] = [k.paramU32("key_heads"), k.paramU32("rows")];
    k.dependentLaunch("wait");
    const word = (index: U32) => k.load("global", numSplits.at(index, 4), 1, { readOnly: true })[0];
    const [first, end] = [word(k.blockZ), word(k.blockZ.add(1))];
    const row = k.blockX.mul(combineRows).add(k.warp);
    const isMine = row.lt(rows).and(end.sub(first).gt(1));
    k.if(isMine, () => {
      const rowOf = (split: U32) => split.mad(keyHeads, k.blockY).mad(rows, row);
      const lseOf = (split: U32) => k.loadF32("global", lseParts.at(rowOf(split), 4));
      const largest = k.floatVariable(Number.NEGATIVE_INFINITY);
      k.loop(end, (split) => largest.set(largest.max(lseOf(split))), first);
      const nothing = largest.eq(Number.NEGATIVE_INFINITY);
      const base = nothing.select(k.f32(0), largest);

      const sum = k.floatVariable(0);
      const values = Array.from({ length: dimV / 32 }, () => k.floatVariable(0));
      k.loop(
        end,
        (split) => {
          const weight = lseOf(split).sub(base).exp2();
          sum.set(sum.add(weight));
          const at = outParts.at(rowOf(split).mad(dimV, k.lane.mul(4)), 4);
          for (let i = 0; i < dimV / 128; i++) {
            k.load("global", at, 4, { offset: 512 * i }).forEach((part, j) => {
              values[4 * i + j].addProduct(part.asF32(), weight);
            });
          }
        },
        first,
      );

      const factor = nothing.select(k.f32(0), k.f32(1).div(sum));
      const target = k.blockZ.mad(keyHeads, k.blockY).mad(rows, row);
      const at = out.at(target.mad(dimV, k.lane.mul(4)), 2);
      for (let i = 0; i < dimV / 128; i++) {
        const four = values.slice(4 * i, 4 * i + 4).map((value) => value.mul(factor));
        const pairs = [k.packBf16(four[0], four[1]), k.packBf16(four[2], four[3])];
        k.store("global", at, pairs, { offset: 256 * i });
      }
      const natural = base.add(sum.log2()).mul(Math.LN2);
      const known = nothing.select(k.f32(Number.POSITIVE_INFINITY), natural);
      k.if(k.lane.eq(0), () => k.store("global", lse.at(target, 4), [known]));
    });
  });
}
