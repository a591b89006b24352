/**
 * @file The two products of the kernel, on a group of up to R heads of one query, where R is a
 * quarter of a vector's lanes: scores of 4 keys, and values of some vectors of dimensions.
 *
 * Every tile of a group performs the same operations in the same order on each output, whatever the
 * number of rows: that is what makes the result batch-invariant, so keep to it.
 */
import {
  type Assembler,
  type Gpr,
  hasAvx512,
  type Isa,
  type Mem,
  mem,
  psFromBf16,
  rax,
  rcx,
  rdi,
  rdx,
  rsi,
  type Tail,
  type Vec,
  type VectorBuilder,
} from "../codegen/index.ts";

/** What distinguishes kernels; strides in elements, that of `lse` 0 where it is not wanted. */
export interface MlaKernelSpec {
  readonly dtype: "f32" | "bf16";
  readonly heads: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly qStride: number;
  readonly outStride: number;
  readonly kvStride: number;
  readonly lseStride: number;
}

/** Keys of a score tile. */
export const tileKeys = 4;
/** Vectors of dimensions of a full value tile. */
export const tileVectors = 4;

/** Rows of a full group on an instruction set. */
export function groupRowsOf(isa: Isa): number {
  return (hasAvx512(isa) ? 16 : 8) / tileKeys;
}

/** Rows of a full group. */
export function groupRows(v: VectorBuilder): number {
  return v.lanes / tileKeys;
}

/** Bytes of a cache element. */
export function cacheBytes(spec: MlaKernelSpec): number {
  return spec.dtype === "bf16" ? 2 : 4;
}

/** dst = the float32 or bf16 numbers of the cache at `place`, as float32; zeros beyond `tail`. */
function loadCache(v: VectorBuilder, spec: MlaKernelSpec, dst: Vec, place: Mem, tail?: Tail): void {
  if (spec.dtype === "f32") v.load(dst, place, tail);
  else psFromBf16(v, dst, place, tail);
}

/** Vectors of the loop over dimensions that make one turn of it. */
const unrolled = 4;

/** Emits `step(0..count-1)`, as a loop where that is shorter; `advance(n)` moves on by n steps. */
function emitSteps(
  asm: Assembler,
  count: number,
  step: (index: number) => void,
  advance: (steps: number) => void,
): void {
  let rest = count;
  if (count >= 3 * unrolled) {
    asm.mov(rax.d, Math.floor(count / unrolled));
    asm.align(32);
    const loop = asm.here("dimensions");
    for (let i = 0; i < unrolled; i++) step(i);
    advance(unrolled);
    asm.dec(rax.d);
    asm.jne(loop);
    rest = count % unrolled;
  }
  for (let i = 0; i < rest; i++) step(i);
  advance(rest);
}

/**
 * The tile of scores: `rows` queries at rdi against 4 keys at rsi, to `to`; clobbers both and rax.
 */
export function emitScoreTile(v: VectorBuilder, spec: MlaKernelSpec, rows: number, to: Mem): void {
  const { asm } = v;
  const rowBytes = spec.kvStride * cacheBytes(spec);
  const vectorBytes = v.lanes * cacheBytes(spec);
  v.scope(() => {
    // Sum (key, row) is number key * R + row, and so is its lane in the end; rows that the group
    // lacks stay zero.
    const sums = v.take("sums", v.lanes);
    const keys = v.take("keys", tileKeys);
    const query = v.take("query");
    for (const sum of sums) v.zero(sum);
    const step = (index: number, tail?: Tail): void => {
      keys.forEach((key, i) => {
        const disp = i * rowBytes + index * vectorBytes;
        loadCache(v, spec, key, mem(rsi, { disp }), tail);
      });
      for (let row = 0; row < rows; row++) {
        const place = mem(rdi, { disp: 4 * row * spec.qStride + index * v.vectorBytes });
        v.load(query, place, tail);
        keys.forEach((key, i) => {
          v.fma(sums[i * groupRows(v) + row], query, key);
        });
      }
    };
    const advance = (steps: number): void => {
      if (steps === 0) return;
      asm.add(rdi, steps * v.vectorBytes);
      asm.add(rsi, steps * vectorBytes);
    };
    emitSteps(asm, Math.floor(spec.dimQk / v.lanes), step, advance);
    const rest = spec.dimQk % v.lanes;
    if (rest > 0) v.scope(() => step(0, v.tail(rest)));
    addLanes(v, sums, query);
    v.store(to, sums[0]);
  });
}

/** Lane i of sums[0] = the sum of the lanes of sums[i], for as many vectors as there are lanes. */
function addLanes(v: VectorBuilder, sums: readonly Vec[], spare: Vec): void {
  const { asm } = v;
  type Shuffle = (dst: Vec, a: Vec, b: Vec) => void;
  const merge = (distance: number, low: Shuffle, high: Shuffle): void => {
    for (let i = 0; i < sums.length; i += 2 * distance) {
      const [a, b] = [sums[i], sums[i + distance]];
      low(spare, a, b);
      high(a, a, b);
      asm.vaddps(a, spare, a);
    }
  };
  // Neighbouring singles, then pairs, within 128 bits; then the 128-bit quarters or halves.
  merge(
    1,
    (dst, a, b) => asm.vunpcklps(dst, a, b),
    (dst, a, b) => asm.vunpckhps(dst, a, b),
  );
  merge(
    2,
    (dst, a, b) => asm.vunpcklpd(dst, a, b),
    (dst, a, b) => asm.vunpckhpd(dst, a, b),
  );
  if (v.avx512) {
    const evens: Shuffle = (dst, a, b) => asm.vshuff32x4(dst, a, b, 0b10_00_10_00);
    const odds: Shuffle = (dst, a, b) => asm.vshuff32x4(dst, a, b, 0b11_01_11_01);
    merge(4, evens, odds);
    merge(8, evens, odds);
  } else {
    merge(
      4,
      (dst, a, b) => asm.vperm2f128(dst, a, b, 0x20),
      (dst, a, b) => asm.vperm2f128(dst, a, b, 0x31),
    );
  }
}

/** Operands of a value tile; it clobbers `values`, `weights` and `count`. */
export const valueTile: Readonly<Record<"out" | "values" | "weights" | "count", Gpr>> = {
  /** Address of the first row's results. */
  out: rdi,
  /** Address of the first key's values. */
  values: rsi,
  /** Address of the first key's weights, R to a key. */
  weights: rdx,
  /** Keys, at least 1. */
  count: rcx,
};

/**
 * The tile of values: out[row] = out[row] * scales[row] + sum over keys of weight * value, for
 * `elements` dimensions, at most 4 vectors of them.
 */
export function emitValueTile(
  v: VectorBuilder,
  spec: MlaKernelSpec,
  rows: number,
  elements: number,
  scales: Mem,
): void {
  const { asm } = v;
  const { out, values, weights, count } = valueTile;
  const vectors = Math.ceil(elements / v.lanes);
  const rest = elements % v.lanes;
  v.scope(() => {
    const tail = rest > 0 ? v.tail(rest) : undefined;
    const tailOf = (vector: number) => (vector === vectors - 1 ? tail : undefined);
    const sums = v.take("sums", rows * vectors);
    const loaded = v.take("values", vectors);
    const weight = v.take("weight");
    const eachSum = (
      visit: (sum: Vec, place: Mem, tail: Tail | undefined, row: number) => void,
    ) => {
      sums.forEach((sum, i) => {
        const [row, vector] = [Math.floor(i / vectors), i % vectors];
        const disp = 4 * row * spec.outStride + vector * v.vectorBytes;
        visit(sum, mem(out, { disp }), tailOf(vector), row);
      });
    };
    eachSum((sum, place, part, row) => {
      v.broadcast(weight, scales.plus(4 * row));
      if (part) v.load(sum, place, part);
      asm.vmulps(sum, weight, part ? sum : place);
    });
    asm.align(32);
    const loop = asm.here("keys");
    loaded.forEach((value, i) => {
      const disp = i * v.lanes * cacheBytes(spec);
      loadCache(v, spec, value, mem(values, { disp }), tailOf(i));
    });
    for (let row = 0; row < rows; row++) {
      v.broadcast(weight, mem(weights, { disp: 4 * row }));
      loaded.forEach((value, i) => {
        v.fma(sums[row * vectors + i], weight, value);
      });
    }
    asm.add(values, spec.kvStride * cacheBytes(spec));
    asm.add(weights, 4 * groupRows(v));
    asm.dec(count.d);
    asm.jne(loop);
    eachSum((sum, place, part) => v.store(place, sum, part));
  });
}
