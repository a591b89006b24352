/** @file The operations of the row kernels; `reference.ts` says what each computes. */
import {
  expPs,
  type Gpr,
  type Mem,
  mem,
  psFromBf16,
  type Tail,
  type Vec,
} from "../codegen/index.ts";
import { foldDoubles, type RowKernel, type RowOperation, temporaries } from "./x86-rows.ts";

const [t0, t1, t2, t3]: readonly Gpr[] = temporaries;

/** y = x. */
export const copy: RowOperation = {
  sources: 1,
  vector(kernel, dst, disp, tail) {
    kernel.v.load(dst, kernel.source(0, disp), tail);
  },
};

/** y = x, where x is bf16. */
export const widen: RowOperation = {
  sources: 1,
  vector(kernel, dst, disp, tail) {
    psFromBf16(kernel.v, dst, kernel.halfSource(0, disp), tail);
  },
};

/** y = x0 + x1. */
export const add: RowOperation = {
  sources: 2,
  vector(kernel, dst, disp, tail) {
    const { asm, v } = kernel;
    kernel.v.load(dst, kernel.source(0, disp), tail);
    v.scope(() => asm.vaddps(dst, dst, operand(kernel, kernel.source(1, disp), tail)));
  },
};

/** y = x0 / (1 + exp(-x0)) * x1. */
export const swiglu: RowOperation = {
  sources: 2,
  vector(kernel, dst, disp, tail) {
    const { asm, v } = kernel;
    v.scope(() => {
      const [gate, one] = v.take("swiglu", 2);
      kernel.v.load(gate, kernel.source(0, disp), tail);
      v.xor(dst, gate, v.u32(0x80000000));
      expPs(v, dst, dst);
      v.fill(one, 1);
      asm.vaddps(dst, dst, one);
      asm.vdivps(dst, gate, dst);
      asm.vmulps(dst, dst, operand(kernel, kernel.source(1, disp), tail));
    });
  },
};

/** The operand at `place`: memory as it is, or its tail in a register that is taken. */
function operand(kernel: RowKernel, place: Mem, tail?: Tail): Mem | Vec {
  if (tail === undefined) return place;
  const loaded = kernel.v.take("operand");
  kernel.v.load(loaded, place, tail);
  return loaded;
}

/** Floats that are squared together: the lanes of the sum. */
const squareLanes = 16;

/** y = x0 * (mean(x0^2) + eps)^(-1/2) * x1: the sum in float64, each step after it in float32. */
export class RmsNorm implements RowOperation {
  readonly sources = 2;
  private readonly eps: number;
  private factor: Vec | undefined;

  constructor(eps: number) {
    this.eps = eps;
  }

  start(kernel: RowKernel): void {
    this.factor = kernel.v.take("factor");
  }

  startRow(kernel: RowKernel): void {
    const { asm, v, spec } = kernel;
    const factor = this.factor!;
    v.scope(() => {
      // 16 lanes of float64: in 2 or 4 registers.
      const registers = squareLanes / (v.lanes / 2);
      const sums = v.take("sums", registers);
      const square = v.take("square");
      for (const sum of sums) v.zero(sum);
      const addSquares = (place: Mem): void => {
        sums.forEach((sum, i) => {
          asm.vcvtps2pd(square, place.plus((i * v.vectorBytes) / 2));
          asm.vfmadd231pd(sum, square, square);
        });
      };
      kernel.eachRun(squareLanes, (columns) => {
        if (columns === squareLanes) {
          addSquares(kernel.source(0, 0));
          return;
        }
        for (let disp = 0; disp < squareLanes; disp += v.lanes) {
          const count = columns - disp;
          v.scope(() => {
            if (count <= 0) v.zero(square);
            else v.loadTail(square, kernel.source(0, disp), v.tail(count));
          });
          v.store(kernel.kept(4 * disp), square);
        }
        addSquares(kernel.kept(0));
      });
      foldDoubles(v, sums, square);
      const [sum, other] = [sums[0].x, square.x];
      const single = (value: number) => mem(asm.constant(Float32Array.of(value)));
      asm.vdivsd(sum, sum, mem(asm.constant(Float64Array.of(spec.columns))));
      asm.vcvtsd2ss(sum, sum, sum);
      asm.vaddss(sum, sum, single(this.eps));
      asm.vsqrtss(sum, sum, sum);
      asm.vmovss(other, single(1));
      asm.vdivss(sum, other, sum);
      asm.vbroadcastss(factor, sum);
    });
  }

  vector(kernel: RowKernel, dst: Vec, disp: number, tail?: Tail): void {
    const { asm, v } = kernel;
    kernel.v.load(dst, kernel.source(0, disp), tail);
    asm.vmulps(dst, dst, this.factor!);
    v.scope(() => asm.vmulps(dst, dst, operand(kernel, kernel.source(1, disp), tail)));
  }
}

/** y = x0 + (x1 or 0, + weights[row, j] * experts[slots[row, j]] for each j in order). */
export class Combine implements RowOperation {
  readonly sources: 1 | 2;
  private readonly k: number;

  constructor(k: number, hasShared: boolean) {
    this.k = k;
    this.sources = hasShared ? 2 : 1;
  }

  /** Keeps, for each expert, the address of its row; the weights are read where they lie. */
  startRow(kernel: RowKernel): void {
    const { asm } = kernel;
    if (this.k === 0) return;
    kernel.addressOf(t0, "slots", "slotsStride", kernel.row);
    for (let j = 0; j < this.k; j++) {
      asm.movsxd(t1, mem(t0, { disp: 4 * j }).d);
      kernel.addressOf(t2, "experts", "expertsStride", t1);
      asm.mov(kernel.kept(8 * j), t2);
    }
    kernel.addressOf(t3, "weights", "weightsStride", kernel.row);
  }

  vector(kernel: RowKernel, dst: Vec, disp: number, tail?: Tail): void {
    const { asm, v } = kernel;
    if (this.sources === 2) kernel.v.load(dst, kernel.source(1, disp), tail);
    else v.zero(dst);
    for (let j = 0; j < this.k; j++) {
      v.scope(() => {
        const weight = v.take("weight");
        asm.mov(t2, kernel.kept(8 * j));
        v.broadcast(weight, mem(t3, { disp: 4 * j }));
        // Not fused: the reference rounds the product.
        asm.vmulps(weight, weight, operand(kernel, kernel.columnAt(t2, disp), tail));
        asm.vaddps(dst, dst, weight);
      });
    }
    v.scope(() => asm.vaddps(dst, dst, operand(kernel, kernel.source(0, disp), tail)));
  }
}
