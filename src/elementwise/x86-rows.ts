/**
 * @file The frame of the row kernels: a task takes a run of rows; an operation gives the results of
 * a row vector by vector; a sink stores them. Widths are compiled in, addresses and strides are
 * arguments. No row's code depends on another row, nor on how many there are.
 */
import {
  Assembler,
  absPs,
  bf16FromExactPs,
  bf16FromPs,
  broadcastLane0,
  type Gpr,
  type Isa,
  type Mem,
  mem,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  rax,
  rbx,
  rcx,
  rdi,
  rdx,
  reduceMaxPs,
  roundToE4m3,
  rsi,
  storeWords,
  type Tail,
  type Vec,
  VectorBuilder,
} from "../codegen/index.ts";
import { f8e4m3Max } from "../tensor/index.ts";
import { groupColumns } from "./checks.ts";

/** Byte offsets of the arguments, 64 bits each; strides in bytes. */
export const rowArguments = {
  rows: 0,
  rowsPerTask: 8,
  source0: 16,
  stride0: 24,
  source1: 32,
  stride1: 40,
  values: 48,
  valuesStride: 56,
  scales: 64,
  scalesStride: 72,
  /** int32 per row: the row of the sink, or of source 0, that it stands for. */
  rowIndex: 80,
  experts: 88,
  expertsStride: 96,
  slots: 104,
  slotsStride: 112,
  weights: 120,
  weightsStride: 128,
  /** Where an operation puts what it finds out about rows. */
  results: 136,
  /** A float32. */
  scale: 144,
  bytes: 152,
} as const;

/** What is compiled into a row kernel besides its operation. */
export interface RowSpec {
  readonly columns: number;
  /** None: all that the operation finds out is in its results. */
  readonly sink: "f32" | "bf16" | "f8e4m3" | "f8e4m3 powers" | "none";
  /** Whether `rowIndex` is used, and for what. */
  readonly indexed: "no" | "sink" | "source";
}

/** An operation on rows: it emits code that gives the results of a row, a vector at a time. */
export interface RowOperation {
  /** Float32 (or other) rows that it reads as `source(0)` and `source(1)`. */
  readonly sources: 1 | 2;
  /** Emits what comes once, before all rows. */
  start?(kernel: RowKernel): void;
  /**
   * Emits what a row needs before its first vector. May use the registers that `temporaries` names.
   */
  startRow?(kernel: RowKernel): void;
  /** Emits dst = the results at the current column plus `disp`. */
  vector(kernel: RowKernel, dst: Vec, disp: number, tail?: Tail): void;
}

/**
 * Registers that an operation may use between vectors; `column` is the frame's while vectors run.
 */
export const temporaries: readonly Gpr[] = [rcx, rdx, rsi, rdi];

const [args, row, rowEnd, scratch, column]: Gpr[] = [rbx, r12, r13, r14, rax];
const sourceRows: readonly Gpr[] = [r8, r9];
const [values, scales]: Gpr[] = [r10, r11];

/** Where in scratch memory the operation keeps what it must; a group of results lies before it. */
const keptStart = 4 * groupColumns;

/** Bytes of scratch memory that a row kernel may use; those of its operation come last. */
export const rowScratch: Readonly<Record<"bytes" | "keptBytes", number>> = {
  bytes: keptStart + 4096,
  keptBytes: 4096,
};

/** See the file's header. */
export class RowKernel {
  readonly asm: Assembler = new Assembler();
  readonly v: VectorBuilder;
  readonly spec: RowSpec;
  private readonly operation: RowOperation;

  constructor(isa: Isa, spec: RowSpec, operation: RowOperation) {
    this.v = new VectorBuilder(this.asm, isa);
    this.spec = spec;
    this.operation = operation;
  }

  /** The index of the current row. */
  get row(): Gpr {
    return row;
  }

  /** An argument. */
  argument(name: keyof typeof rowArguments): Mem {
    return mem(args, { disp: rowArguments[name] });
  }

  /** Memory of the operation in scratch, at `disp` bytes. */
  kept(disp: number): Mem {
    return mem(scratch, { disp: keptStart + disp });
  }

  /** Where the float32 operands of the current column plus `disp` lie in source `index`. */
  source(index: number, disp: number): Mem {
    return mem(sourceRows[index], { index: column, scale: 4, disp: 4 * disp });
  }

  /** Where the current column plus `disp` goes in a float32 sink. */
  sinkPlace(disp: number): Mem {
    return mem(values, { index: column, scale: 4, disp: 4 * disp });
  }

  /** Emits where the current row's results lie, each of `bytes`; then `result` says the place. */
  addressOfResults(bytes: number): void {
    const { asm } = this;
    asm.imul(rcx, row, bytes);
    asm.add(rcx, this.argument("results"));
  }

  /** The current row's results at `disp` bytes, until `rcx` is used for something else. */
  result(disp: number): Mem {
    return mem(rcx, { disp });
  }

  /** The same of a source of bf16. */
  halfSource(index: number, disp: number): Mem {
    return mem(sourceRows[index], { index: column, scale: 2, disp: 2 * disp });
  }

  /** The same at `base`. */
  columnAt(base: Gpr, disp: number): Mem {
    return mem(base, { index: column, scale: 4, disp: 4 * disp });
  }

  /** The code of the kernel. */
  emit(): Uint8Array {
    const { asm, v } = this;
    v.kernel([rbx, r12, r13, r14], () => {
      const [next, end] = [asm.label("row"), asm.label("end")];
      asm.mov(args, rdi);
      asm.mov(scratch, rdx);
      asm.mov(row, rsi);
      asm.imul(row, this.argument("rowsPerTask"));
      asm.mov(rowEnd, row);
      asm.add(rowEnd, this.argument("rowsPerTask"));
      asm.mov(rcx, this.argument("rows"));
      asm.cmp(rowEnd, rcx);
      asm.cmovg(rowEnd, rcx);
      asm.cmp(row, rowEnd);
      asm.jge(end);
      this.operation.start?.(this);
      asm.bind(next);
      this.emitRowAddresses();
      this.operation.startRow?.(this);
      this.emitRow();
      asm.inc(row);
      asm.cmp(row, rowEnd);
      asm.jl(next);
      asm.bind(end);
    });
    return asm.finish();
  }

  /** dst = base + stride * index. */
  addressOf(
    dst: Gpr,
    base: keyof typeof rowArguments,
    stride: keyof typeof rowArguments,
    index: Gpr,
  ): void {
    const { asm } = this;
    asm.mov(dst, this.argument(stride));
    asm.imul(dst, index);
    asm.add(dst, this.argument(base));
  }

  private emitRowAddresses(): void {
    const { asm, spec } = this;
    const index = spec.indexed === "no" ? row : rcx;
    if (index === rcx) {
      asm.mov(rcx, this.argument("rowIndex"));
      asm.movsxd(rcx, mem(rcx, { index: row, scale: 4 }).d);
    }
    const [sourceRow, sinkRow] = spec.indexed === "sink" ? [row, index] : [index, row];
    this.addressOf(sourceRows[0], "source0", "stride0", sourceRow);
    if (this.operation.sources > 1) this.addressOf(sourceRows[1], "source1", "stride1", row);
    if (spec.sink !== "none") this.addressOf(values, "values", "valuesStride", sinkRow);
    if (spec.sink.startsWith("f8")) this.addressOf(scales, "scales", "scalesStride", sinkRow);
  }

  /** Runs `body` for runs of `step` columns, as a loop, and once for what is left. */
  eachRun(step: number, body: (columns: number) => void): void {
    const { asm } = this;
    const whole = Math.floor(this.spec.columns / step);
    asm.xor(column.d, column.d);
    if (whole > 0) {
      asm.align(32);
      const next = asm.here("columns");
      body(step);
      asm.add(column.d, step);
      if (whole > 1) {
        asm.cmp(column.d, whole * step);
        asm.jb(next);
      }
    }
    if (this.spec.columns % step > 0) body(this.spec.columns % step);
  }

  private emitRow(): void {
    const { v, spec } = this;
    if (spec.sink === "none") return;
    if (spec.sink.startsWith("f8")) {
      this.eachRun(groupColumns, (columns) => this.emitGroup(columns));
      return;
    }
    this.eachRun(4 * v.lanes, (columns) => {
      v.eachVector(columns, (disp, tail) => {
        v.scope(() => {
          const result = v.take("result");
          this.operation.vector(this, result, disp, tail);
          if (spec.sink === "f32") this.storeSingle(result, disp, tail);
          else this.storeHalf(result, disp, tail);
        });
      });
    });
  }

  private storeSingle(result: Vec, disp: number, tail?: Tail): void {
    this.v.store(this.sinkPlace(disp), result, tail);
  }

  private storeHalf(result: Vec, disp: number, tail?: Tail): void {
    const { v } = this;
    bf16FromPs(v, v.half(result), result);
    storeWords(v, mem(values, { index: column, scale: 2, disp: 2 * disp }), v.half(result), tail);
  }

  /** One group of an e4m3 sink: its results to scratch, its scale, then the rounded quotients. */
  private emitGroup(columns: number): void {
    const { asm, v } = this;
    v.scope(() => {
      const [amax, scale] = v.take("group", 2);
      v.fill(amax, 1e-4);
      for (let disp = 0; disp < groupColumns; disp += v.lanes) {
        if (disp < columns) continue;
        v.zero(scale);
        v.store(mem(scratch, { disp: 4 * disp }), scale);
      }
      v.eachVector(columns, (disp, tail) => {
        v.scope(() => {
          const result = v.take("result");
          this.operation.vector(this, result, disp, tail);
          if (tail) clearBeyond(v, result, tail);
          v.store(mem(scratch, { disp: 4 * disp }), result);
          absPs(v, result, result);
          // The maximum of a NaN and a number is the second operand: a NaN takes no part.
          asm.vmaxps(amax, result, amax);
        });
      });
      reduceMaxPs(v, amax, amax);
      this.emitScale(amax, scale);
      broadcastLane0(v, scale, amax);
      for (let disp = 0; disp < groupColumns; disp += v.lanes) {
        v.scope(() => {
          const [quotient, rounded] = v.take("quotient", 2);
          v.load(quotient, mem(scratch, { disp: 4 * disp }));
          asm.vdivps(quotient, quotient, scale);
          roundToE4m3(v, rounded, quotient);
          bf16FromExactPs(v, v.half(rounded), rounded);
          const place = mem(values, { index: column, scale: 2, disp: 2 * disp });
          asm.vmovups(place, v.half(rounded));
        });
      }
    });
  }

  /** Lane 0 of `amax` becomes the scale, which is stored; clobbers `spare`. */
  private emitScale(amax: Vec, spare: Vec): void {
    const { asm, spec } = this;
    const constant = (value: number) => mem(asm.constant(Float32Array.of(value)));
    asm.vmovss(spare.x, constant(f8e4m3Max));
    asm.vdivss(amax.x, amax.x, spare.x);
    if (spec.sink === "f8e4m3 powers") {
      // All ones below the exponent carry into it, unless it is a power of two; 2^127 is the last.
      asm.vmovd(rcx.d, amax.x);
      asm.add(rcx.d, 0x7fffff);
      asm.and(rcx.d, 0x7f800000);
      asm.mov(rdx.d, 0x7f000000);
      asm.cmp(rcx.d, rdx.d);
      asm.cmova(rcx.d, rdx.d);
      asm.vmovd(amax.x, rcx.d);
    }
    asm.mov(rcx.d, column.d);
    asm.shr(rcx.d, Math.log2(groupColumns));
    asm.vmovss(mem(scales, { index: rcx, scale: 4 }), amax.x);
  }
}

/** Lanes of `vec` beyond the tail become zero. */
export function clearBeyond(v: VectorBuilder, vec: Vec, tail: Tail): void {
  if (tail.mask) v.asm.vmovaps(vec, vec, { mask: tail.mask, zero: true });
  else v.and(vec, vec, tail.lanes!);
}

/** Lane 0 of sums[0] = the sum of 16 lanes, lane i to lane i + half; clobbers all. */
export function foldDoubles(v: VectorBuilder, sums: readonly Vec[], spare: Vec): void {
  const { asm } = v;
  const sum = sums[0];
  for (let half = sums.length / 2; half >= 1; half /= 2) {
    for (let i = 0; i < half; i++) asm.vaddpd(sums[i], sums[i], sums[i + half]);
  }
  if (v.avx512) {
    asm.vextractf64x4(spare.y, sum, 1);
    asm.vaddpd(sum.y, sum.y, spare.y);
  }
  asm.vextractf128(spare.x, sum.y, 1);
  asm.vaddpd(sum.x, sum.x, spare.x);
  asm.vunpckhpd(spare.x, sum.x, sum.x);
  asm.vaddsd(sum.x, sum.x, spare.x);
}
