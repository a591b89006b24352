/**
 * @file From totals to D: clearing them before a panel, storing them or their weighted sum behind
 * it.
 */
import {
  type Assembler,
  type Gpr,
  hasAvx512,
  type Isa,
  k1,
  k2,
  k3,
  k4,
  type Label,
  type Mem,
  mem,
  r11,
  type Vec,
  ymm,
  zmm,
} from "../codegen/index.ts";
import { panelColumns } from "./layout.ts";

/** Bytes of a row of totals. */
const rowBytes = panelColumns * 4;
/** Masks of the four vectors of a partial panel. */
const masks = [k1, k2, k3, k4];

/** Registers of the operands; all but `dStride` and `width` are clobbered. */
interface Totals {
  /** Address of totals `[rows, 64]`; number of rows, at least 1. */
  readonly totals: Gpr;
  readonly rows: Gpr;
}

/** `Totals` with where they go. */
interface Destination extends Totals {
  /** Address of the first row, at the panel; bytes from row to row. */
  readonly d: Gpr;
  readonly dStride: Gpr;
  /** Columns that exist, 1 to 64. */
  readonly width: Gpr;
}

/** The vectors of 64 columns, each with its offset in bytes. */
function vectorsOf(isa: Isa): [Vec, number][] {
  return hasAvx512(isa)
    ? Array.from({ length: 4 }, (_, i) => [zmm(i), i * 64])
    : Array.from({ length: 8 }, (_, i) => [ymm(i), i * 32]);
}

/** Emits: totals = 0. */
export function emitClear(asm: Assembler, isa: Isa, { totals, rows }: Totals): void {
  const vectors = vectorsOf(isa);
  const [zero] = vectors[0];
  asm.vxorps(zero.x, zero.x, zero.x);
  const next = asm.here("clear");
  for (const [, disp] of vectors) asm.vmovups(mem(totals, { disp }), zero);
  asm.add(totals, rowBytes);
  asm.dec(rows);
  asm.jne(next);
}

/**
 * Emits: D = totals, or D += totals where the 64-bit word at `accumulate` is not 0. Clobbers r11.
 */
export function emitStore(asm: Assembler, isa: Isa, places: Destination, accumulate: Mem): void {
  const [partial, done] = [asm.label("partial"), asm.label("stored")];
  asm.cmp(places.width, panelColumns);
  asm.jne(partial);
  emitRows(asm, isa, places, accumulate, "whole", done);
  asm.bind(partial);
  emitMasks(asm, isa, places.width);
  emitRows(asm, isa, places, accumulate, "partial", done);
  asm.bind(done);
}

/**
 * Emits: the row at d = sum over the rows of max(0, totals) times the row's weight, rows ascending;
 * the float32 weights lie where the 64-bit word at `rowWeights` points. NaN stays NaN. Clobbers
 * `dStride` and r11, too.
 */
export function emitReluSum(asm: Assembler, isa: Isa, places: Destination, rowWeights: Mem): void {
  const { totals, rows, d, dStride: weights, width } = places;
  const vectors = vectorsOf(isa);
  const free = (index: number) => (hasAvx512(isa) ? zmm : ymm)(vectors.length + index);
  const [zero, weight, value] = [free(0), free(1), free(2)];
  for (const [sum] of [...vectors, [zero]] as [Vec][]) asm.vxorps(sum.x, sum.x, sum.x);
  asm.mov(weights, rowWeights);
  const next = asm.here("row");
  asm.vbroadcastss(weight, mem(weights));
  for (const [sum, disp] of vectors) {
    // Of a NaN and another number, the second operand comes out.
    asm.vmaxps(value, zero, mem(totals, { disp }));
    asm.vfmadd231ps(sum, value, weight);
  }
  asm.add(totals, rowBytes);
  asm.add(weights, 4);
  asm.dec(rows);
  asm.jne(next);
  const [partial, done] = [asm.label("partial"), asm.label("summed")];
  asm.cmp(width, panelColumns);
  asm.jne(partial);
  for (const [sum, disp] of vectors) asm.vmovups(mem(d, { disp }), sum);
  asm.jmp(done);
  asm.bind(partial);
  emitMasks(asm, isa, width);
  vectors.forEach(([sum, disp], i) => {
    emitMasked(asm, sum, mem(d, { disp }), false, i);
  });
  asm.bind(done);
}

function emitRows(
  asm: Assembler,
  isa: Isa,
  { totals, rows, d, dStride }: Destination,
  accumulate: Mem,
  extent: "whole" | "partial",
  done: Label,
): void {
  const add = asm.label("add");
  asm.cmp(accumulate, 0);
  asm.jne(add);
  for (const adds of [false, true]) {
    if (adds) asm.bind(add);
    const next = asm.here("store");
    vectorsOf(isa).forEach(([vector, disp], i) => {
      asm.vmovups(vector, mem(totals, { disp }));
      const place = mem(d, { disp });
      if (extent === "partial") {
        emitMasked(asm, vector, place, adds, i);
      } else {
        if (adds) asm.vaddps(vector, vector, place);
        asm.vmovups(place, vector);
      }
    });
    asm.add(totals, rowBytes);
    asm.add(d, dStride);
    asm.dec(rows);
    asm.jne(next);
    asm.jmp(done);
  }
}

/**
 * Masks of the columns that exist: in k1 to k4, or where r11 points, one vector after the other.
 */
function emitMasks(asm: Assembler, isa: Isa, width: Gpr): void {
  if (hasAvx512(isa)) {
    asm.mov(r11, -1);
    asm.bzhi(r11, r11, width);
    for (const mask of masks) {
      asm.kmovw(mask, r11.d);
      asm.shr(r11, 16);
    }
  } else {
    // The last `width` of 64 ones, then 64 zeros.
    const ones = new Int32Array(2 * panelColumns).fill(-1, 0, panelColumns);
    asm.lea(r11, mem(asm.constant(ones)));
    asm.shl(width, 2);
    asm.sub(r11, width);
    asm.add(r11, rowBytes);
  }
}

function emitMasked(asm: Assembler, vector: Vec, place: Mem, adds: boolean, index: number): void {
  if (vector.bits === 512) {
    const mask = masks[index];
    if (adds) asm.vaddps(vector, vector, place, { mask });
    asm.vmovups(place, vector, { mask });
    return;
  }
  const [mask, before] = [ymm(8), ymm(9)];
  asm.vmovups(mask, mem(r11, { disp: index * 32 }));
  if (adds) {
    asm.vmaskmovps(before, mask, place);
    asm.vaddps(vector, vector, before);
  }
  asm.vmaskmovps(place, mask, vector);
}
