/**
 * @file The innermost kernel: up to 6 rows of A times one block of a panel (64 columns, at most 128
 * of k), added to totals `[rows, 64]` in scratch memory.
 * Registers of 512 bits: 24 accumulators (6 rows of 4 vectors), 4 for B, 2 for A, 2 for constants.
 * Of 256 bits: the 64 columns are done in strips of 8 to 12 accumulators, 2 for B, 2 for the rest.
 * **The order of operations on an output depends on nothing but k**: one accumulator, k ascending,
 * started from the total (where blocks are scaled: from zero, then total += sum * scale). That is
 * what makes the product batch-invariant, so every variant must keep to it.
 */
import {
  type Assembler,
  bcst,
  type Gpr,
  hasAvx512,
  type Isa,
  type Label,
  type Mem,
  mem,
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
  rdx,
  rsi,
  rsp,
  type Vec,
  ymm,
  zmm,
} from "../codegen/index.ts";
import { f8e4m3ToF32, f32ToBf16 } from "../tensor/index.ts";
import type { ActivationType } from "./types.ts";

/** Rows of a full tile. */
export const tileRows: 6 = 6;
/**
 * Steps of a full block: k for f32 weights, pairs of k for the others. For FP8 these are the 128 of
 * k that share a scale; for all, 16 KiB of B, which leaves the first-level cache room for the rest.
 */
export const blockSteps: 64 = 64;
/** Bytes of one step of a panel: 64 columns of float32, or of pairs of bf16. */
export const stepBytes: 256 = 256;

/** What distinguishes kernels: the instruction set and the operands. */
export interface KernelSpec {
  readonly isa: Isa;
  readonly activation: ActivationType;
  readonly weights: "f32" | "bf16" | "f8e4m3";
  /** FP8: whether each column of a panel has its own scale, rather than all 64 the same. */
  readonly columnScales: boolean;
  /** What becomes of totals: rows of D, or one row, see `emitReluSum`. */
  readonly output: "rows" | "reluSum";
}

/**
 * Where a tile takes B from. `panel`: the layout of f32 or of bf16 pairs, in the stream or decoded.
 * `shared`: the same, for one row block of several, which asks for a share of the stream ahead.
 * `codes`: packed FP8, decoded in registers. `keep`: as `codes`, for the first row block of
 * several: the decoded block stays in scratch memory for the others, and a share of the stream is
 * asked for.
 */
export type Source = "panel" | "shared" | "codes" | "keep";

/**
 * Operands of a tile. It leaves `aStride`, `aScale`, `aScaleStride`, `bScale`, `odd` and
 * `aheadStep` as they are, and clobbers the others, r9, rax and all vector registers.
 */
export interface TileArguments {
  /** Address of A's first row at this block; bytes from row to row. */
  readonly a: Gpr;
  readonly aStride: Gpr;
  /**
   * Address of the first row's scale of this block; bytes from row to row; address of B's scale,
   * or of its 64 scales.
   */
  readonly aScale: Gpr;
  readonly aScaleStride: Gpr;
  readonly bScale: Gpr;
  /** Address of the block of B; of the totals; where `keep` puts the decoded block. */
  readonly b: Gpr;
  readonly totals: Gpr;
  readonly keep: Gpr;
  /** Whole steps; and whether half a pair follows (0 or 1). */
  readonly steps: Gpr;
  readonly odd: Gpr;
  /** Which place of the stream to ask for next, where one of several; bytes from step to step. */
  readonly ahead: Gpr;
  readonly aheadStep: Gpr;
}

/** The registers that a tile takes its operands in. */
export const tileArguments: TileArguments = {
  a: r8,
  aStride: r10,
  aScale: r14,
  aScaleStride: r15,
  bScale: rsi,
  b: r11,
  totals: r12,
  keep: rdx,
  steps: rcx,
  odd: r13,
  ahead: rbp,
  aheadStep: rbx,
};

/** Whether FP8 is decoded within the tile, by a byte permutation over a table of 128 entries. */
export function decodesInRegisters(spec: KernelSpec): boolean {
  return spec.weights === "f8e4m3" && spec.isa === "avx512-bf16";
}

/** Whether a step is a pair of k. */
export function isPaired(spec: KernelSpec): boolean {
  return spec.weights !== "f32";
}

/** Bytes of B in a step of the packed stream. */
export function streamStepBytes(spec: KernelSpec): number {
  return spec.weights === "f8e4m3" ? stepBytes / 2 : stepBytes;
}

/** Bytes of scratch memory of a decoded block; the totals lie behind it. */
export const keptBytes: number = blockSteps * stepBytes;

/** Passes of a tile over its steps: strips of columns, where these are more than accumulators. */
export function stripsOf(spec: KernelSpec, rows: number): number {
  return hasAvx512(spec.isa) || rows === 1 ? 1 : rows === 2 ? 2 : 4;
}

/** Bytes of A in one step. */
export function activationStepBytes(spec: KernelSpec): number {
  return isPaired(spec) && spec.activation === "f32" ? 8 : 4;
}

/** Emits one tile of `rows` rows as a subroutine that takes `tileArguments`; returns its label. */
export function emitTile(asm: Assembler, spec: KernelSpec, rows: number, source: Source): Label {
  asm.align(64);
  const label = asm.here(`tile-${rows}-${source}`);
  new Tile(asm, spec, rows, source).emit();
  return label;
}

/** How far ahead of their use codes are asked for; other streams the processor foresees better. */
const codesAheadBytes = 8192;
/** Steps of the loop's body. */
const unrolled = 4;

/** bf16 codes of the e4m3 codes 0 to 127; the sign is put in afterwards. */
const bf16OfCode = Array.from({ length: 128 }, (_, code) => f32ToBf16(f8e4m3ToF32(code)));
const highBytes = Uint8Array.from(bf16OfCode, (bits) => bits >> 8);
const lowBytes = Uint8Array.from(bf16OfCode, (bits) => bits & 255);
/** A truth table of `vpternlogd`: first | (second & third). */
const orAnd = 0xf8;

const { a, aStride, aScale, aScaleStride, b, bScale, totals, keep, steps, odd } = tileArguments;
const { ahead, aheadStep } = tileArguments;
/** Address of A's row 3. */
const aLower: Gpr = r9;
const counter: Gpr = rax;

/** Whether the two k of a pair are multiplied, or the first alone where k is odd and ends. */
type Halves = "both" | "first";

class Tile {
  private readonly asm: Assembler;
  private readonly spec: KernelSpec;
  private readonly rows: number;
  private readonly source: Source;
  private readonly wide: boolean;
  private readonly vec: (code: number) => Vec;
  /** Vectors with accumulators: all of the 64 columns, or of a strip of them. */
  private readonly vectors: number;
  /** Vectors of B in registers at a time. */
  private readonly group: number;
  /** Whether pairs are multiplied by `vdpbf16ps`. */
  private readonly isDot: boolean;
  // Constants in memory: tables of 128 bytes, and masks of 32 bits.
  private readonly highBytes: Label;
  private readonly lowBytes: Label;
  private readonly signs: Label;
  private readonly upperHalves: Label;

  constructor(asm: Assembler, spec: KernelSpec, rows: number, source: Source) {
    this.asm = asm;
    this.spec = spec;
    this.rows = rows;
    this.source = source;
    this.wide = hasAvx512(spec.isa);
    this.vec = this.wide ? zmm : ymm;
    this.vectors = stepBytes / this.vectorBytes / stripsOf(spec, rows);
    this.group = this.wide && !this.decodes ? 4 : 2;
    this.isDot = spec.isa === "avx512-bf16" && spec.activation !== "f32";
    this.highBytes = asm.constant(highBytes);
    this.lowBytes = asm.constant(lowBytes);
    this.signs = asm.constant(Uint32Array.of(0x80808080));
    this.upperHalves = asm.constant(Uint32Array.of(0xffff0000));
  }

  private get decodes(): boolean {
    return this.source === "codes" || this.source === "keep";
  }

  private get vectorBytes(): number {
    return this.wide ? 64 : 32;
  }

  private get bStepBytes(): number {
    return this.decodes ? stepBytes / 2 : stepBytes;
  }

  private accumulator(row: number, vector: number): Vec {
    return this.vec(row * this.vectors + vector);
  }

  /** Registers beside the accumulators, of which there are at most 24, or 12 of 256 bits. */
  private spare(index: number): Vec {
    return this.vec((this.wide ? 24 : 12) + index);
  }

  /** All ones in the upper half of each 32 bits: the second of a pair of bf16, as float32. */
  private get upperHalf(): Vec {
    return this.vec(this.wide ? 31 : 15);
  }

  emit(): void {
    const { asm } = this;
    const strips = stripsOf(this.spec, this.rows);
    this.loadConstants();
    if (strips === 1) {
      this.emitStrip();
    } else {
      asm.push(strips);
      const next = asm.here("strip");
      for (const walker of [a, b, steps]) asm.push(walker);
      this.emitStrip();
      for (const walker of [steps, b, a]) asm.pop(walker);
      asm.add(b, this.vectors * this.vectorBytes);
      asm.add(totals, this.vectors * this.vectorBytes);
      if (this.spec.columnScales) asm.add(bScale, this.vectors * this.vectorBytes);
      asm.dec(mem(rsp));
      asm.jne(next);
      asm.pop(counter);
      if (this.spec.columnScales) asm.sub(bScale, stepBytes);
    }
    asm.ret();
  }

  private loadConstants(): void {
    const { asm } = this;
    if (this.decodes) {
      asm.vmovups(this.highTable, mem(this.highBytes));
      asm.vmovups(this.lowTable, mem(this.lowBytes));
    } else if (isPaired(this.spec) && !this.isDot) {
      asm.vbroadcastss(this.upperHalf, mem(this.upperHalves));
    }
  }

  private emitStrip(): void {
    const { asm } = this;
    this.startAccumulators();
    if (this.rows > 3) {
      asm.lea(aLower, mem(a, { index: aStride, scale: 2 }));
      asm.add(aLower, aStride);
    }
    const [rest, halfStep, done] = ["rest", "half", "done"].map((name) => asm.label(name));
    asm.mov(counter, steps);
    asm.shr(counter, Math.log2(unrolled));
    asm.je(rest);
    asm.align(32);
    const loop = asm.here("loop");
    for (let step = 0; step < unrolled; step++) this.emitStep(step, "both");
    this.advance(unrolled);
    asm.dec(counter);
    asm.jne(loop);
    asm.bind(rest);
    asm.and(steps, unrolled - 1);
    asm.je(halfStep);
    const single = asm.here("single");
    this.emitStep(0, "both");
    this.advance(1);
    asm.dec(steps);
    asm.jne(single);
    asm.bind(halfStep);
    if (isPaired(this.spec)) {
      asm.test(odd, odd);
      asm.je(done);
      this.emitStep(0, "first");
    }
    asm.bind(done);
    this.finishAccumulators();
  }

  private advance(count: number): void {
    const { asm } = this;
    asm.add(a, count * activationStepBytes(this.spec));
    if (this.rows > 3) asm.add(aLower, count * activationStepBytes(this.spec));
    asm.add(b, count * this.bStepBytes);
    if (this.source === "keep") asm.add(keep, count * stepBytes);
  }

  /** Each accumulator with the place of its total, and of its first column in bytes. */
  private *accumulators(): Generator<[row: number, accumulator: Vec, place: Mem, column: number]> {
    for (let row = 0; row < this.rows; row++) {
      for (let vector = 0; vector < this.vectors; vector++) {
        const column = vector * this.vectorBytes;
        const disp = row * stepBytes + column;
        yield [row, this.accumulator(row, vector), mem(totals, { disp }), column];
      }
    }
  }

  private startAccumulators(): void {
    const { asm } = this;
    for (const [, accumulator, place] of this.accumulators()) {
      if (this.spec.weights !== "f8e4m3") asm.vmovups(accumulator, place);
      else asm.vxorps(accumulator.x, accumulator.x, accumulator.x);
    }
  }

  private finishAccumulators(): void {
    const { asm, spec } = this;
    const [left, scale, walker] = [this.spare(0), this.spare(1), rax];
    const scalesRows = spec.activation === "f8e4m3";
    if (scalesRows) asm.mov(walker, aScale);
    else if (spec.weights === "f8e4m3") asm.vbroadcastss(scale, mem(bScale));
    let current = -1;
    for (const [row, accumulator, place, column] of this.accumulators()) {
      if (scalesRows && row !== current) {
        if (spec.columnScales) {
          asm.vbroadcastss(left, mem(walker));
        } else {
          asm.vmovss(scale.x, mem(walker));
          asm.vmulss(scale.x, scale.x, mem(bScale));
          asm.vbroadcastss(scale, scale.x);
        }
        asm.add(walker, aScaleStride);
        current = row;
      }
      if (spec.columnScales) {
        if (scalesRows) asm.vmulps(scale, left, mem(bScale, { disp: column }));
        else asm.vmovups(scale, mem(bScale, { disp: column }));
      }
      if (spec.weights === "f8e4m3") asm.vfmadd213ps(accumulator, scale, place);
      asm.vmovups(place, accumulator);
    }
  }

  private emitStep(step: number, halves: Halves): void {
    for (let first = 0; first < this.vectors; first += this.group) {
      if (this.decodes) this.decode(step, first);
      this.prefetch(step, first);
      if (!isPaired(this.spec)) {
        this.multiply(first, this.loadB(step, first), (row) => this.loadSingle(step, row));
      } else if (this.isDot) {
        const pairs = this.decodes ? this.decoded : this.loadB(step, first);
        this.multiply(first, pairs, (row) => this.loadPair(step, row, halves));
      } else {
        this.multiplyHalves(step, first, halves);
      }
    }
  }

  private prefetch(step: number, first: number): void {
    const { asm } = this;
    if (this.source === "codes") {
      asm.prefetcht0(mem(b, { disp: step * this.bStepBytes + first * 32 + codesAheadBytes }));
    } else if (this.source !== "panel" && first === 0) {
      asm.prefetcht0(mem(ahead));
      asm.add(ahead, aheadStep);
    }
  }

  /** Multiplies a group of vectors of B with each row's value of A, broadcast. */
  private multiply(first: number, weights: readonly Vec[], load: (row: number) => Vec): void {
    for (let row = 0; row < this.rows; row++) {
      const value = load(row);
      weights.forEach((vector, i) => {
        const accumulator = this.accumulator(row, first + i);
        if (this.isDot) this.asm.vdpbf16ps(accumulator, value, vector);
        else this.asm.vfmadd231ps(accumulator, value, vector);
      });
    }
  }

  /** Pairs by two fused multiply-adds: the first halves shifted up, then the second masked. */
  private multiplyHalves(step: number, first: number, halves: Halves): void {
    const { asm } = this;
    const from = (i: number) => (this.decodes ? this.decoded[i] : this.placeOfB(step, first + i));
    const targets = Array.from({ length: this.group }, (_, i) => this.halfTarget(i));
    targets.forEach((target, i) => {
      const pairs = from(i);
      if (this.wide || !("base" in pairs)) {
        asm.vpslld(target, pairs, 16);
      } else {
        asm.vmovups(target, pairs);
        asm.vpslld(target, target, 16);
      }
    });
    this.multiply(first, targets, (row) => this.loadHalf(step, row, 0, halves));
    if (halves === "first") return;
    targets.forEach((target, i) => {
      const pairs = from(i);
      if (this.wide && !("base" in pairs)) {
        asm.vpandd(target, pairs, bcst(mem(this.upperHalves)));
      } else if (this.wide) {
        asm.vpandd(target, this.upperHalf, pairs);
      } else {
        asm.vpand(target, this.upperHalf, pairs);
      }
    });
    this.multiply(first, targets, (row) => this.loadHalf(step, row, 1, halves));
  }

  /** Where vector `i` of a group has one half of its pairs as float32. */
  private halfTarget(i: number): Vec {
    return this.decodes ? this.spare([1, 3][i]) : this.spare(i);
  }

  private placeOfB(step: number, vector: number): Mem {
    return mem(b, { disp: step * stepBytes + vector * this.vectorBytes });
  }

  private loadB(step: number, first: number): Vec[] {
    return Array.from({ length: this.group }, (_, i) => {
      this.asm.vmovups(this.spare(i), this.placeOfB(step, first + i));
      return this.spare(i);
    });
  }

  // While decoding, spare registers 0 to 2 are temporaries; 0 and 2 are left with the pairs of the
  // two vectors, 1 and 3 take halves, 4 is A, 5 and 6 are the tables' first halves.
  private get decoded(): readonly Vec[] {
    return [this.spare(2), this.spare(0)];
  }

  private get highTable(): Vec {
    return this.spare(5);
  }

  private get lowTable(): Vec {
    return this.spare(6);
  }

  /** Decodes 64 codes to two vectors of bf16 pairs; NaN codes become NaN, as in the table. */
  private decode(step: number, first: number): void {
    const { asm } = this;
    const [high, low, codes] = [this.spare(0), this.spare(1), this.spare(2)];
    const place = mem(b, { disp: step * this.bStepBytes + first * 32 });
    for (const register of [codes, high, low]) asm.vmovdqu32(register, place);
    asm.vpermi2b(high, this.highTable, mem(this.highBytes, { disp: 64 }));
    asm.vpermi2b(low, this.lowTable, mem(this.lowBytes, { disp: 64 }));
    asm.vpternlogd(high, codes, bcst(mem(this.signs)), orAnd);
    asm.vpunpcklbw(codes, low, high);
    asm.vpunpckhbw(high, low, high);
    if (this.source !== "keep") return;
    this.decoded.forEach((pairs, i) => {
      asm.vmovups(mem(keep, { disp: step * stepBytes + (first + i) * 64 }), pairs);
    });
  }

  /** The register that takes row `row`'s value of A. */
  private aRegister(row: number): Vec {
    return this.spare(this.decodes ? 4 : (this.wide ? 4 : 2) + (this.wide ? row % 2 : 0));
  }

  private placeOfA(step: number, row: number, bytes: number): Mem {
    const disp = step * activationStepBytes(this.spec) + bytes;
    const base = row < 3 ? a : aLower;
    if (row % 3 === 0) return mem(base, { disp });
    return mem(base, { index: aStride, scale: row % 3 === 1 ? 1 : 2, disp });
  }

  private loadSingle(step: number, row: number): Vec {
    const value = this.aRegister(row);
    this.asm.vbroadcastss(value, this.placeOfA(step, row, 0));
    return value;
  }

  private loadPair(step: number, row: number, halves: Halves): Vec {
    const value = this.aRegister(row);
    if (halves === "both") {
      this.asm.vpbroadcastd(value, this.placeOfA(step, row, 0));
    } else {
      // What lies behind the last element is not A's: two bytes are read, and the partner is zero.
      this.asm.vpbroadcastw(value, this.placeOfA(step, row, 0));
      this.asm.vpsrld(value, value, 16);
    }
    return value;
  }

  /** One of a pair, as float32. */
  private loadHalf(step: number, row: number, half: 0 | 1, halves: Halves): Vec {
    const { asm } = this;
    const value = this.aRegister(row);
    if (this.spec.activation === "f32") {
      asm.vbroadcastss(value, this.placeOfA(step, row, half * 4));
    } else if (half === 1) {
      asm.vpbroadcastd(value, this.placeOfA(step, row, 0));
      if (this.wide) asm.vpandd(value, value, this.upperHalf);
      else asm.vpand(value, value, this.upperHalf);
    } else {
      if (halves === "both") asm.vpbroadcastd(value, this.placeOfA(step, row, 0));
      else asm.vpbroadcastw(value, this.placeOfA(step, row, 0));
      asm.vpslld(value, value, 16);
    }
    return value;
  }
}
