/**
 * @file The two products of `flash-x86`.
 *
 * Scores: lanes are rows, a key's elements are broadcast from where they lie, the queries stand as
 * `[step][lane]`. Values: lanes are dimensions, a row's weights are broadcast. Where pairs are
 * multiplied, two keys' values must be interleaved: shuffles do it in the shadow of the products, in
 * every tile anew, since storing what the first tile made was slower where keys come from memory.
 * Interleaving within 128-bit lanes permutes the dimensions; storing the result
 * as bf16 puts them back (`x86-flash-results.ts`).
 */
import {
  type Assembler,
  bcst,
  type Gpr,
  hasAvx512,
  type Label,
  mem,
  r8,
  r9,
  r10,
  r11,
  r12,
  r13,
  r14,
  rax,
  rcx,
  rdi,
  rdx,
  type Vec,
  ymm,
  zmm,
} from "../codegen/index.ts";
import { type FlashShape, runKeys } from "./x86-flash-layout.ts";

/** Vectors of rows that a score tile can take together. */
export function scoreVectorsMax(shape: Pick<FlashShape, "isa">): number {
  return hasAvx512(shape.isa) ? 2 : 1;
}

/** Keys of a score tile; a divisor of 16, so that tiles never cross a run. */
export function scoreTileKeys(shape: Pick<FlashShape, "isa">, vectors: number): number {
  return hasAvx512(shape.isa) ? 16 / vectors : 8;
}

/** Operands of a score tile, all clobbered but `aheadStep`. */
export const scoreTile: Readonly<
  Record<"queries" | "keys" | "scores" | "ahead" | "aheadStep", Gpr>
> = {
  /** Addresses of the first vector's queries, of the first key, and of its scores. */
  queries: r8,
  keys: r9,
  scores: r10,
  /** A place to ask for at every other step, and bytes to the next. */
  ahead: rdx,
  aheadStep: r11,
};

const unrolled = 4;

function vectorOf(shape: Pick<FlashShape, "isa">): (code: number) => Vec {
  return hasAvx512(shape.isa) ? zmm : ymm;
}

/** acc += a * b, of pairs of bf16 or of float32. */
function multiply(
  asm: Assembler,
  shape: Pick<FlashShape, "isDot">,
  acc: Vec,
  a: Vec,
  b: Vec,
): void {
  if (shape.isDot) asm.vdpbf16ps(acc, a, b);
  else asm.vfmadd231ps(acc, a, b);
}

/** What of a shape score tiles depend on. */
export type ScoreTileShape = Pick<
  FlashShape,
  "isa" | "isDot" | "vectorBytes" | "steps" | "keyBytes" | "stagesKeys" | "spanKeys"
>;

/**
 * Scores of `scoreTileKeys` keys against `vectors` vectors of rows, unscaled, each key's at the
 * next vector of `scores` (the second vector of rows `spanKeys` further on). `pairs`: on the way,
 * interleaves the keys' values two by two. Clobbers rax.
 */
export function emitScoreTile(asm: Assembler, shape: ScoreTileShape, vectors: number): void {
  new ScoreTile(asm, shape, vectors).emit();
}

class ScoreTile {
  private readonly asm: Assembler;
  private readonly shape: ScoreTileShape;
  private readonly vectors: number;
  private readonly vec: (code: number) => Vec;
  private readonly tileKeys: number;
  private readonly sums: number;
  /**
   * Two loads a cycle limit the processor where each product broadcasts from memory: every fourth
   * key's elements are then loaded four at a time, and broadcast by a shuffle.
   */
  private readonly hasQuads: boolean;

  constructor(asm: Assembler, shape: ScoreTileShape, vectors: number) {
    this.asm = asm;
    this.shape = shape;
    this.vectors = vectors;
    this.vec = vectorOf(shape);
    this.tileKeys = scoreTileKeys(shape, vectors);
    this.sums = this.tileKeys * vectors;
    this.hasQuads = vectors === 1 && hasAvx512(shape.isa);
  }

  emit(): void {
    const { asm, shape, vec, sums, vectors } = this;
    for (let i = 0; i < sums; i++) asm.vxorps(vec(i).x, vec(i).x, vec(i).x);
    const rest = shape.steps;
    if (rest >= unrolled) {
      this.loop(Math.floor(rest / unrolled), () => {
        this.turn();
        this.advance(unrolled);
      });
    }
    for (let i = 0; i < rest % unrolled; i++) this.step(i, false);
    for (let i = 0; i < sums; i++) {
      const [key, v] = [Math.floor(i / vectors), i % vectors];
      const disp = (key + v * shape.spanKeys) * shape.vectorBytes;
      asm.vmovups(mem(scoreTile.scores, { disp }), vec(i));
    }
  }

  private loop(count: number, body: () => void): void {
    const { asm } = this;
    asm.mov(rax.d, count);
    asm.align(32);
    const loop = asm.here("steps");
    body();
    asm.dec(rax.d);
    asm.jne(loop);
  }

  private advance(count: number): void {
    this.asm.add(scoreTile.queries, count * this.shape.vectorBytes);
    this.asm.add(scoreTile.keys, 4 * count);
  }

  /** Four steps. */
  private turn(): void {
    const { asm, shape, tileKeys } = this;
    if (this.hasQuads) {
      for (let key = 3; key < tileKeys; key += 4) {
        const place = mem(scoreTile.keys, { disp: key * shape.keyBytes });
        asm.vbroadcasti32x4(this.quad(key), place);
      }
    }
    for (let i = 0; i < unrolled; i++) this.step(i, this.hasQuads);
  }

  private quad(key: number): Vec {
    return this.vec(this.sums + 1 + (key >> 2));
  }

  private step(index: number, isQuad: boolean): void {
    const { asm, shape, vectors, vec, sums } = this;
    const { steps, vectorBytes, keyBytes } = shape;
    const { queries, keys, ahead, aheadStep } = scoreTile;
    const queryOf = (v: number) => vec(sums + v);
    for (let v = 0; v < vectors; v++) {
      const disp = (index + v * steps) * vectorBytes;
      asm.vmovups(queryOf(v), mem(queries, { disp }));
    }
    if (!shape.stagesKeys && index % 2 === 0) {
      asm.prefetcht0(mem(ahead));
      asm.add(ahead, aheadStep);
    }
    const spares = hasAvx512(shape.isa) ? 4 : 6;
    for (let key = 0; key < this.tileKeys; key++) {
      const place = mem(keys, { disp: key * keyBytes + 4 * index });
      if (isQuad && key % 4 === 3) {
        const value = vec(sums + 5 + ((key >> 2) % 2));
        asm.vpshufd(value, this.quad(key), 0x55 * index);
        multiply(asm, shape, vec(key), queryOf(0), value);
      } else if (vectors === 1 && hasAvx512(shape.isa)) {
        if (shape.isDot) asm.vdpbf16ps(vec(key), queryOf(0), bcst(place));
        else asm.vfmadd231ps(vec(key), queryOf(0), bcst(place));
      } else {
        const value = vec(sums + vectors + (key % spares));
        asm.vbroadcastss(value, place);
        for (let v = 0; v < vectors; v++) {
          multiply(asm, shape, vec(key * vectors + v), queryOf(v), value);
        }
      }
    }
  }
}

/** Operands of a value tile; all but `aheadStep` are clobbered, and so is rax. */
export const valueTile: Readonly<
  Record<
    "weights" | "values" | "out" | "factors" | "steps" | "ahead" | "aheadStep" | "runs" | "slab",
    Gpr
  >
> = {
  /** Addresses of the first row's weights, results, and factor of its past results. */
  weights: r8,
  out: r10,
  factors: r11,
  /** Address of the slab's values (pairs of keys, or float32 rows), and how many. */
  values: r9,
  steps: rcx,
  /** A place to ask for at each step, and bytes to the next. */
  ahead: rdx,
  aheadStep: r12,
  /** Where values are rows: the table of runs, the slab's bytes into a row; steps are keys. */
  runs: r13,
  slab: r14,
};

/** What of a shape value tiles depend on. */
export type ValueTileShape = Pick<
  FlashShape,
  "isa" | "isDot" | "vectorBytes" | "slabBytes" | "valueBytes" | "stagesKeys"
> & {
  /**
   * Values are bf16 rows of the runs in a table, not pairs in scratch memory: two rows are
   * interleaved on the way, of which the shuffles cost nothing beside the products.
   */
  readonly valuesInRuns?: boolean;
  /** Bytes from step to step and from row to row of the weights; default `[step][lane]`. */
  readonly weightStep?: number;
  readonly weightRow?: number;
};

/**
 * A subroutine: results of `rows` rows and a slab of dimensions = factor * results + weights *
 * values.
 */
export function emitValueTile(asm: Assembler, shape: ValueTileShape, rows: number): Label {
  asm.align(64);
  const label = asm.here(`values-${rows}`);
  const { out, factors } = valueTile;
  const vec = vectorOf(shape);
  const vectors = shape.slabBytes / shape.vectorBytes;
  const factor = vec(rows * vectors);
  for (let row = 0; row < rows; row++) {
    asm.vbroadcastss(factor, mem(factors, { disp: 4 * row }));
    for (let v = 0; v < vectors; v++) {
      const disp = row * shape.slabBytes + v * shape.vectorBytes;
      asm.vmulps(vec(row * vectors + v), factor, mem(out, { disp }));
    }
  }
  if (shape.valuesInRuns) emitRuns(asm, shape, rows);
  else emitSteps(asm, shape, rows);
  for (let row = 0; row < rows; row++) {
    for (let v = 0; v < vectors; v++) {
      const disp = row * shape.slabBytes + v * shape.vectorBytes;
      asm.vmovups(mem(out, { disp }), vec(row * vectors + v));
    }
  }
  asm.ret();
  return label;
}

/** One step of all rows, the values in the registers behind the sums. */
function emitProducts(asm: Assembler, shape: ValueTileShape, rows: number, step: number): void {
  const { weightStep = shape.vectorBytes, weightRow = 4 } = shape;
  const vec = vectorOf(shape);
  const vectors = shape.slabBytes / shape.vectorBytes;
  const spare = rows * vectors + vectors;
  if (!shape.stagesKeys) {
    asm.prefetcht0(mem(valueTile.ahead));
    asm.add(valueTile.ahead, valueTile.aheadStep);
  }
  for (let row = 0; row < rows; row++) {
    const weight = vec(spare + (hasAvx512(shape.isa) ? row % 2 : 0));
    const disp = step * weightStep + row * weightRow;
    asm.vbroadcastss(weight, mem(valueTile.weights, { disp }));
    for (let v = 0; v < vectors; v++) {
      multiply(asm, shape, vec(row * vectors + v), vec(rows * vectors + v), weight);
    }
  }
}

/** Steps over pairs in scratch memory, or over rows of float32. */
function emitSteps(asm: Assembler, shape: ValueTileShape, rows: number): void {
  const { weights, values, steps } = valueTile;
  const vec = vectorOf(shape);
  const vectors = shape.slabBytes / shape.vectorBytes;
  const stride = shape.isDot ? shape.slabBytes : shape.valueBytes;
  const step = (index: number): void => {
    for (let v = 0; v < vectors; v++) {
      const disp = index * stride + v * shape.vectorBytes;
      asm.vmovups(vec(rows * vectors + v), mem(values, { disp }));
    }
    emitProducts(asm, shape, rows, index);
  };
  const advance = (count: number): void => {
    asm.add(values, count * stride);
    asm.add(weights, count * (shape.weightStep ?? shape.vectorBytes));
  };
  const [rest, end] = [asm.label("rest"), asm.label("end")];
  asm.mov(rax.d, steps.d);
  asm.shr(rax.d, 1);
  asm.je(rest);
  asm.align(32);
  const loop = asm.here("steps");
  step(0);
  step(1);
  advance(2);
  asm.dec(rax.d);
  asm.jne(loop);
  asm.bind(rest);
  asm.test(steps.d, 1);
  asm.je(end);
  step(0);
  asm.bind(end);
}

/** Steps over the rows of the runs, two by two; the last may lack its second. */
function emitRuns(asm: Assembler, shape: ValueTileShape, rows: number): void {
  const { weights, values, steps, runs, slab } = valueTile;
  const vec = vectorOf(shape);
  const { valueBytes, vectorBytes } = shape;
  const pairs = rdi;
  const step = (index: number, isWhole: boolean): void => {
    // Two vectors of bf16 a row make four of pairs.
    for (let half = 0; half < 2; half++) {
      const [low, high] = [vec(rows * 4 + 2 * half), vec(rows * 4 + 2 * half + 1)];
      const upper = vec(rows * 4 + 4);
      const place = mem(values, { disp: 2 * index * valueBytes + half * vectorBytes });
      asm.vmovups(low, place);
      if (isWhole) asm.vmovups(upper, place.plus(valueBytes));
      else asm.vpxord(upper, upper, upper);
      asm.vpunpckhwd(high, low, upper);
      asm.vpunpcklwd(low, low, upper);
    }
    emitProducts(asm, shape, rows, index);
  };
  const advance = (count: number): void => {
    asm.add(values, 2 * count * valueBytes);
    asm.add(weights, count * vectorBytes);
  };
  const [single, odd, next] = ["single", "odd", "next"].map((name) => asm.label(name));
  const run = asm.here("run");
  asm.mov(values, mem(runs));
  asm.add(runs, 8);
  asm.add(values, slab);
  asm.mov(rax.d, runKeys);
  asm.cmp(steps.d, rax.d);
  asm.cmovb(rax.d, steps.d);
  asm.mov(pairs.d, rax.d);
  asm.shr(pairs.d, 2);
  asm.je(single);
  asm.align(32);
  const loop = asm.here("pairs");
  step(0, true);
  step(1, true);
  advance(2);
  asm.dec(pairs.d);
  asm.jne(loop);
  asm.bind(single);
  asm.test(rax.d, 2);
  asm.je(odd);
  step(0, true);
  advance(1);
  asm.bind(odd);
  asm.test(rax.d, 1);
  asm.je(next);
  step(0, false);
  asm.bind(next);
  asm.sub(steps.d, runKeys);
  asm.jg(run);
}
