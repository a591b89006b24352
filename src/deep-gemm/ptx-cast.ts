/**
 * @file The `ptx` rung's cast of activations to FP8: a scale for each row and 128 columns, written in
 * the layout that the FP8 product reads (rows of scales contiguous along m).
 *
 *     scale = max(|x|, 1e-4) / 448, rounded up to a power of two if asked      code = e4m3(x / scale)
 *
 * A warp takes 128 columns of a row, four a lane. Every step is a correctly rounded float32
 * operation, so the bits are those of `quantiseBlocks`. Needs no Hopper, only FP8 (Ada and later).
 */
import { alignUp, assert, ceilDiv } from "../base/index.ts";
import { type Builder, type F32, type Kernel, stageKernel, type U32 } from "../codegen/index.ts";

/** What a cast is specialised for. */
export interface CastConfig {
  readonly from: "bf16" | "f32";
  readonly powerOfTwoScales: boolean;
}

/** Rows of a block. */
const rowsPerBlock = 4;

/** Stages the kernel; parameters: pointers x, codes, scales, then m, k, and the pitch of scales. */
export function castKernel({ from, powerOfTwoScales }: CastConfig): Kernel {
  return stageKernel(`cast_${from}_to_fp8`, { threads: 32 * rowsPerBlock }, (k) => {
    const [x, codes, scales] = ["x", "codes", "scales"].map((name) => k.paramPointer(name));
    const [m, width, pitch] = [k.paramU32("m"), k.paramU32("k"), k.paramU32("pitch")];
    const row = k.blockY.mul(rowsPerBlock).add(k.warp);
    const column = k.blockX.mul(128).add(k.lane.mul(4));
    k.if(row.lt(m), () => {
      const index = row.mad(width, column);
      const isInside = column.lt(width);
      const values = Array.from({ length: 4 }, () => k.floatVariable(0));
      k.if(isInside, () => {
        const loaded =
          from === "f32" ? loadFloats(k, x.at(index, 4)) : loadHalves(k, x.at(index, 2));
        values.forEach((value, i) => {
          value.set(loaded[i]);
        });
      });
      const largest = values.map((value) => value.abs()).reduce((a, b) => a.max(b));
      const amax = k.reduce(largest, 32, (a, b) => a.max(b)).max(1e-4);
      const exact = amax.div(448);
      // Up to the next power of two: any mantissa carries into the exponent, none is left.
      const scale = powerOfTwoScales ? exact.asU32().add(0x7fffff).and(0x7f800000).asF32() : exact;
      const quotients = values.map((value) => value.div(scale));
      k.if(isInside, () => {
        const low = k.packE4m3(quotients[0], quotients[1]);
        const high = k.packE4m3(quotients[2], quotients[3]);
        k.store("global", codes.at(index, 1), [low.or(high.shl(16))]);
      });
      k.if(k.lane.eq(0), () => k.store("global", scales.at(k.blockX.mad(pitch, row), 4), [scale]));
    });
  });
}

function loadFloats(k: Builder, address: Parameters<Builder["load"]>[1]): F32[] {
  return k.load("global", address, 4, { readOnly: true }).map((word) => word.asF32());
}

/** Widens four bf16: each is the upper half of a float32. */
function loadHalves(k: Builder, address: Parameters<Builder["load"]>[1]): F32[] {
  const pairs: U32[] = k.load("global", address, 2, { readOnly: true });
  return pairs.flatMap((pair) => [pair.shl(16).asF32(), pair.and(0xffff0000).asF32()]);
}

/** Grid and arguments of a cast of `[m, k]`; k a multiple of 16. */
export function castLaunch(
  at: { readonly x: number; readonly codes: number; readonly scales: number },
  { m, k }: { readonly m: number; readonly k: number },
): { grid: [number, number, number]; args: number[] } {
  assert(k % 16 === 0, `k: got ${k}, wanted a multiple of 16`);
  const grid: [number, number, number] = [ceilDiv(k, 128), ceilDiv(m, rowsPerBlock), 1];
  return { grid, args: [at.x, at.codes, at.scales, m, k, alignUp(m, 4)] };
}
