/**
 * @file Casts to e4m3 with scales, see casts.ts. A task takes 128 rows; of each 128 columns it looks
 * for the largest magnitude, over a row, a column or all, and then writes codes. The maximum is one
 * of integers, as magnitudes of float32 are ordered like their bits: so a NaN, whose bits are above
 * all numbers', is kept by itself.
 */
import {
  Assembler,
  e4m3FromExactPs,
  type Gpr,
  type Isa,
  type Mem,
  mem,
  psFromBf16,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  r15,
  rax,
  rbp,
  rbx,
  rcx,
  rdi,
  rdx,
  replaceNan,
  roundToE4m3,
  rsi,
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";

/** Columns and rows of a block. */
export const castBlock: 128 = 128;

/** What shares a scale: 1 x 128, 128 x 1 or 128 x 128. */
export type CastShape = "token" | "channel" | "block";

/** What distinguishes the kernels. */
export interface CastSpec {
  readonly dtype: "f32" | "bf16";
  readonly shape: CastShape;
  readonly powers: boolean;
}

/** Places of the arguments, in 64-bit words; strides in bytes. */
export const castWords = {
  source: 0,
  sourceStride: 1,
  codes: 2,
  codesStride: 3,
  scales: 4,
  scalesStride: 5,
  rows: 6,
  /** Blocks of 128 columns; at least 1. */
  blocks: 7,
} as const;

/** Emits the kernel; task i takes rows from 128 i on, see `Device.launch`. */
export function emitCast(isa: Isa, spec: CastSpec): Uint8Array {
  return new CastKernel(isa, spec).emit();
}

const [source, sourceStride, codes, codesStride]: Gpr[] = [r8, r9, r10, r11];
const [scales, rows, left, blocks, from, to]: Gpr[] = [r12, r13, rcx, rbx, rax, rdx];
/** Rows that the two passes go over: one for tokens, all of the task for the others. */
const [passRows, column]: Gpr[] = [r14, r15];
const scaleRow: Gpr = rbp;

class CastKernel {
  private readonly v: VectorBuilder;
  private readonly asm: Assembler = new Assembler();
  private readonly spec: CastSpec;

  constructor(isa: Isa, spec: CastSpec) {
    this.v = new VectorBuilder(this.asm, isa);
    this.spec = spec;
  }

  private get elementBytes(): number {
    return this.spec.dtype === "f32" ? 4 : 2;
  }

  /** Vectors that share a pass: those of 128 columns, or one, if columns are for themselves. */
  private get vectors(): number {
    return this.spec.shape === "channel" ? 1 : castBlock / this.v.lanes;
  }

  emit(): Uint8Array {
    const { asm, v, spec } = this;
    const word = (name: keyof typeof castWords) => mem(rdi, { disp: castWords[name] * 8 });
    v.kernel([rbx, rbp, r12, r13, r14, r15], () => {
      const scaleRows = spec.shape === "token" ? castBlock : 1;
      asm.mov(scales, rsi);
      asm.imul(scales, word("scalesStride"));
      asm.imul(scales, scales, scaleRows);
      asm.add(scales, word("scales"));
      asm.shl(rsi, Math.log2(castBlock));
      asm.mov(rows, word("rows"));
      asm.sub(rows, rsi);
      asm.mov(left.d, castBlock);
      asm.cmp(rows, left);
      asm.cmova(rows, left);
      for (const [place, stride, name] of [
        [source, sourceStride, "source"],
        [codes, codesStride, "codes"],
      ] as const) {
        asm.mov(stride, word(`${name}Stride`));
        asm.mov(place, rsi);
        asm.imul(place, stride);
        asm.add(place, word(name));
      }
      if (spec.shape !== "token") {
        asm.mov(passRows, rows);
        this.emitRow(word("blocks"));
        return;
      }
      asm.mov(passRows.d, 1);
      v.loop(rows, () => {
        this.emitRow(word("blocks"));
        asm.add(source, sourceStride);
        asm.add(codes, codesStride);
        asm.add(scales, word("scalesStride"));
      });
    });
    return asm.finish();
  }

  /** All blocks of columns of `passRows` rows. */
  private emitRow(blockCount: Mem): void {
    const { asm, v } = this;
    asm.xor(column.d, column.d);
    asm.mov(scaleRow, scales);
    asm.mov(blocks, blockCount);
    if (this.spec.shape === "channel") asm.imul(blocks, blocks, castBlock / v.lanes);
    v.loop(blocks, () => this.emitBlock());
  }

  private emitBlock(): void {
    const { asm, v, spec } = this;
    v.scope(() => {
      const [amax, value] = v.take("amax", 2);
      v.fill(amax, Math.fround(1e-4));
      this.startPass(source, from);
      v.loop(left, () => {
        for (let i = 0; i < this.vectors; i++) {
          this.load(value, i);
          v.and(value, value, v.u32(0x7fffffff));
          asm.vpmaxsd(amax, amax, value);
        }
        asm.add(from, sourceStride);
      });
      if (spec.shape !== "channel") this.maximumOfLanes(amax, value);
      const inverse = this.scaleFrom(amax, value);
      if (spec.shape === "channel") {
        asm.vmovups(mem(scaleRow), amax);
        asm.add(scaleRow, v.vectorBytes);
      } else {
        asm.vmovss(mem(scaleRow), amax.x);
        asm.add(scaleRow, 4);
      }
      this.startPass(source, from);
      asm.mov(to, codes);
      asm.add(to, column);
      v.loop(left, () => {
        for (let i = 0; i < this.vectors; i++) {
          this.load(value, i);
          this.store(value, inverse, i);
        }
        asm.add(from, sourceStride);
        asm.add(to, codesStride);
      });
      asm.add(column, this.vectors * v.lanes);
    });
  }

  private startPass(first: Gpr, walker: Gpr): void {
    const { asm } = this;
    asm.lea(walker, mem(first, { index: column, scale: this.elementBytes as 2 | 4 }));
    asm.mov(left, passRows);
  }

  private load(value: Vec, vector: number): void {
    const { v } = this;
    const place = mem(from, { disp: vector * v.lanes * this.elementBytes });
    if (this.spec.dtype === "f32") v.load(value, place);
    else psFromBf16(v, value, place);
  }

  /** Every lane of `amax` becomes the largest, as integers. */
  private maximumOfLanes(amax: Vec, spare: Vec): void {
    const { asm, v } = this;
    if (v.avx512) {
      asm.vextracti64x4(spare.y, amax, 1);
      asm.vpmaxsd(amax.y, amax.y, spare.y);
    }
    asm.vextracti128(spare.x, amax.y, 1);
    asm.vpmaxsd(amax.x, amax.x, spare.x);
    for (const order of [0b01001110, 0b10110001]) {
      asm.vpshufd(spare.x, amax.x, order);
      asm.vpmaxsd(amax.x, amax.x, spare.x);
    }
    asm.vpbroadcastd(amax, amax.x);
  }

  /** `amax` becomes the scale; returns a register with its inverse. */
  private scaleFrom(amax: Vec, spare: Vec): Vec {
    const { asm, v } = this;
    const inverse = v.take("inverse");
    v.fill(spare, 448);
    asm.vdivps(amax, amax, spare);
    if (this.spec.powers) {
      // Up to the next power of two: a carry out of the mantissa; at most 2^127.
      asm.vpminsd(amax, amax, v.u32(0x7f000000));
      asm.vpaddd(amax, amax, v.u32(0x007fffff));
      v.and(amax, amax, v.u32(0x7f800000));
    }
    v.fill(inverse, 1);
    asm.vdivps(inverse, inverse, amax);
    return inverse;
  }

  private store(value: Vec, inverse: Vec, vector: number): void {
    const { asm, v } = this;
    const place = mem(to, { disp: vector * v.lanes });
    v.scope(() => {
      const [scaled, nan] = v.take("scaled", 2);
      asm.vmulps(scaled, value, inverse);
      // An infinite product is no number: infinity times 0 makes it one that is not.
      v.zero(nan);
      asm.vfmadd213ps(nan, scaled, scaled);
      v.fill(value, Number.NaN);
      replaceNan(v, scaled, nan, value);
      roundToE4m3(v, scaled, scaled);
      e4m3FromExactPs(v, scaled, scaled);
      if (v.avx512) asm.vmovups(place, scaled.x);
      else asm.vmovq(place, scaled.x);
    });
  }
}
