/**
 * @file Copies rows of keys or values to scratch memory for `flash-x86`: gathered, widened to
 * float32 or decoded from FP8, padded with zeros to what the products read.
 */
import {
  type Assembler,
  e4m3HalfScale,
  type Gpr,
  type Mem,
  mem,
  psFromBf16,
  psFromE4m3,
  rax,
  rcx,
  roundToBf16,
  type Vec,
  type VectorBuilder,
} from "../codegen/index.ts";
import { latentFp8 } from "./latent-fp8.ts";
import type { FlashShape } from "./x86-flash-layout.ts";

/** Copies the bf16 row of `width` at `from` to `to`, zeros up to `padded` elements. */
export function emitStagedRow(
  v: VectorBuilder,
  shape: Pick<FlashShape, "isDot">,
  { from, to }: Readonly<Record<"from" | "to", Gpr>>,
  width: number,
  padded: number,
): void {
  const elements = shape.isDot ? 2 * v.lanes : v.lanes;
  v.scope(() => {
    const value = v.take("row");
    for (let first = 0; first < padded; first += elements) {
      const place = mem(to, { disp: (first / elements) * v.vectorBytes });
      emitPart(v, shape, value, mem(from, { disp: 2 * first }), width - first);
      v.store(place, value);
    }
  });
}

/** value = the first `count` elements at `place`, or a vector of them; the rest zero. */
function emitPart(
  v: VectorBuilder,
  shape: Pick<FlashShape, "isDot">,
  value: Vec,
  place: Mem,
  count: number,
): void {
  const { asm } = v;
  const elements = shape.isDot ? 2 * v.lanes : v.lanes;
  if (count <= 0) {
    v.zero(value);
  } else if (!shape.isDot) {
    v.scope(() => psFromBf16(v, value, place, count < elements ? v.tail(count) : undefined));
  } else if (count >= elements) {
    v.load(value, place);
  } else {
    v.scope(() => {
      const mask = v.takeMask("row");
      asm.kmovd(mask, mem(asm.constant(Uint32Array.of(2 ** count - 1))));
      asm.vmovdqu16(value, place, { mask, zero: true });
    });
  }
}

/** Decodes the FP8 row at `from` to `to`: values rounded to bf16, as upstream's are. */
export function emitStagedFp8(
  v: VectorBuilder,
  shape: FlashShape,
  { from, to }: Readonly<Record<"from" | "to", Gpr>>,
): void {
  const { asm } = v;
  const { nopeDim, ropeDim, scaleBlock, scaleBytes, ropeBytes } = latentFp8;
  const targetBytes = shape.isDot ? 2 : 4;
  v.scope(() => {
    const [first, second, scale, rounded] = v.take("fp8", 4);
    for (let at = 0; at < nopeDim; at += 2 * v.lanes) {
      if (at % scaleBlock === 0) {
        v.broadcast(scale, mem(from, { disp: scaleBytes + 4 * (at / scaleBlock) }));
        asm.vmulps(scale, scale, v.f32(e4m3HalfScale));
      }
      psFromE4m3(v, [first, second], mem(from, { disp: at }), { scaled: false });
      for (const value of [first, second]) asm.vmulps(value, value, scale);
      const place = mem(to, { disp: at * targetBytes });
      if (shape.isDot) {
        asm.vcvtne2ps2bf16(first, second, first);
        v.store(place, first);
        continue;
      }
      [first, second].forEach((value, i) => {
        roundToBf16(v, rounded, value);
        asm.vpslld(rounded, rounded, 16);
        v.store(place.plus(i * v.vectorBytes), rounded);
      });
    }
    const elements = shape.isDot ? 2 * v.lanes : v.lanes;
    for (let at = 0; at < ropeDim; at += elements) {
      emitPart(v, shape, first, mem(from, { disp: ropeBytes + 2 * at }), elements);
      v.store(mem(to, { disp: (nopeDim + at) * targetBytes }), first);
    }
  });
}

/**
 * Interleaves the values of the bf16 rows at `from` and `other` (zeros where there is none) to pairs
 * at `to`, the slabs `spanKeys / 2` pairs apart.
 */
export function emitPairedRows(
  v: VectorBuilder,
  shape: Pick<
    FlashShape,
    "isDot" | "stagedValue" | "headDimV" | "slabDims" | "spanKeys" | "slabBytes"
  >,
  { from, other, to }: { readonly from: Gpr; readonly other: Gpr | undefined; readonly to: Gpr },
): void {
  const { asm } = v;
  const elements = 2 * v.lanes;
  v.scope(() => {
    const [low, high, second] = v.take("pairs", 3);
    for (let first = 0; first < shape.stagedValue; first += elements) {
      const count = shape.headDimV - first;
      emitPart(v, shape, low, mem(from, { disp: 2 * first }), count);
      if (other) emitPart(v, shape, second, mem(other, { disp: 2 * first }), count);
      else v.zero(second);
      asm.vpunpckhwd(high, low, second);
      asm.vpunpcklwd(low, low, second);
      const slab = Math.floor(first / shape.slabDims);
      const disp = slab * (shape.spanKeys / 2) * shape.slabBytes + 4 * (first % shape.slabDims);
      v.store(mem(to, { disp }), low);
      v.store(mem(to, { disp: disp + v.vectorBytes }), high);
    }
  });
}

/**
 * Writes the bf16 row of `dim` elements at `from` to one lane: the first pair (or float32) at `to`,
 * each next a vector on. Clobbers both, rax and rcx.
 */
export function emitTransposedRow(
  asm: Assembler,
  { isDot, vectorBytes }: Pick<FlashShape, "isDot" | "vectorBytes">,
  { from, to }: Readonly<Record<"from" | "to", Gpr>>,
  dim: number,
): void {
  const bytes = isDot ? 4 : 2;
  const step = (index: number): void => {
    const source = mem(from, { disp: bytes * index });
    if (isDot) {
      asm.mov(rax.d, source.d);
    } else {
      asm.movzx(rax.d, source.w);
      asm.shl(rax.d, 16);
    }
    asm.mov(mem(to, { disp: index * vectorBytes }).d, rax.d);
  };
  const turn = 8;
  const whole = isDot ? Math.floor(dim / 2) : dim;
  if (whole >= turn) {
    asm.mov(rcx.d, Math.floor(whole / turn));
    const loop = asm.here("transpose");
    for (let i = 0; i < turn; i++) step(i);
    asm.add(from, turn * bytes);
    asm.add(to, turn * vectorBytes);
    asm.dec(rcx.d);
    asm.jne(loop);
  }
  for (let i = 0; i < whole % turn; i++) step(i);
  if (isDot && dim % 2 === 1) {
    // The last of an odd width: its partner stays zero.
    asm.movzx(rax.d, mem(from, { disp: bytes * (whole % turn) }).w);
    asm.mov(mem(to, { disp: (whole % turn) * vectorBytes }).d, rax.d);
  }
}
