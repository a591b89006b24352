/**
 * @file What the backward pass's program is made for, what it is told, and where it keeps what it
 * works on, see `x86-flash-gradient-program.ts`.
 */
import { alignUp, assert, ceilDiv } from "../base/index.ts";
import { hasAvx512, type Isa } from "../codegen/index.ts";

/** Keys that are taken together. */
export const spanKeys: 64 = 64;

/** Arguments of a launch, see `gradientArguments`. */
export const argumentNames = [
  "tasks",
  "group",
  "causal",
  "qStride",
  "qJump",
  "dOutStride",
  "dOutJump",
  "outStride",
  "outJump",
  "lseStride",
  "lseJump",
  "dqStride",
  "dqJump",
  "kStride",
  "vStride",
  "dkStride",
  "dvStride",
  /** Float32: the factor of scores, and the same times log2(e). */
  "scale",
  "scale2",
] as const;
/** Fields of a task record, see `gradientTask`. */
export const taskNames = [
  "q",
  "dOut",
  "out",
  "lse",
  "dq",
  "k",
  "v",
  "dk",
  "dv",
  "rows",
  "keys",
  /** Keys that the first row sees; may be negative. */
  "visible",
  "sums",
] as const;
/** Words of scratch memory that live across the program's loops. */
export const localNames = [
  "q",
  "dOut",
  "out",
  "lse",
  "dq",
  "head",
  "visible",
  /** Rows left, rows and vectors of the chunk, keys that its first row sees. */
  "left",
  "rows",
  "vectors",
  "first",
  /** Keys that any row of the chunk sees; before the span; in it. */
  "limit",
  "done",
  "count",
  "vector",
  "key",
  /** Address of the span's sums. */
  "sums",
  /** Of a sum: slab, group, and where it is. */
  "slab",
  "group",
  "target",
  "values",
] as const;

type Layout<Names extends readonly string[]> = Readonly<Record<Names[number] | "bytes", number>>;

function layoutOf<const Names extends readonly string[]>(names: Names): Layout<Names> {
  const entries = names.map((name, i) => [name, 8 * i]);
  const bytes = 2 ** Math.ceil(Math.log2(8 * names.length));
  return Object.fromEntries([...entries, ["bytes", bytes]]) as Layout<Names>;
}

/** Byte offsets of the arguments; 64 bits each, strides in bytes. */
export const gradientArguments: Layout<typeof argumentNames> = layoutOf(argumentNames);
/** Byte offsets of a task record. */
export const gradientTask: Layout<typeof taskNames> = layoutOf(taskNames);
/** Byte offsets of them. */
export const locals: Layout<typeof localNames> = layoutOf(localNames);

/** Sizes of a program, and byte offsets into its scratch memory. */
export interface GradientShape {
  readonly isa: Isa;
  readonly isDot: boolean;
  readonly lanes: number;
  readonly vectorBytes: number;
  readonly slabDims: number;
  readonly slabBytes: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly slabsK: number;
  readonly slabsV: number;
  /** Steps of scores and of dp. */
  readonly stepsK: number;
  readonly stepsV: number;
  /** Bytes of a staged row of q or k, and of v or dOut. */
  readonly rowBytesK: number;
  readonly rowBytesV: number;
  readonly rowsMax: number;
  /** Bytes from key to key of p and ds, a row's (or pair of rows') after the other. */
  readonly keyRowBytes: number;
  readonly offsets: Offsets;
}

type Offsets = Readonly<
  Record<
    | "locals"
    | "dqPlaces"
    | "visible"
    | "lse"
    | "delta"
    | "scores"
    | "dp"
    | "p"
    | "ds"
    | "dsPairs"
    | "queries"
    | "dOuts"
    | "queryRows"
    | "dOutRows"
    | "queryPairs"
    | "dOutPairs"
    | "keyRows"
    | "valueRows"
    | "keyPairs"
    | "dq",
    number
  >
>;

function offsetsOf(shape: Omit<GradientShape, "offsets">): { offsets: Offsets; bytes: number } {
  const { isDot, vectorBytes, lanes, slabBytes, slabsK, slabsV, rowsMax } = shape;
  let bytes = 0;
  const take = (size: number): number => {
    const start = bytes;
    bytes = alignUp(start + size, 64);
    return start;
  };
  const vectors = rowsMax / lanes;
  const offsets = {
    locals: take(locals.bytes),
    dqPlaces: take(8 * rowsMax),
    visible: take(4 * rowsMax),
    lse: take(4 * rowsMax),
    delta: take(4 * rowsMax),
    scores: take(spanKeys * vectorBytes),
    dp: take(spanKeys * vectorBytes),
    p: take(spanKeys * shape.keyRowBytes),
    ds: take(spanKeys * shape.keyRowBytes),
    dsPairs: isDot ? take((vectors * spanKeys * vectorBytes) / 2) : 0,
    queries: take(vectors * shape.stepsK * vectorBytes),
    dOuts: take(vectors * shape.stepsV * vectorBytes),
    queryRows: take(rowsMax * shape.rowBytesK),
    dOutRows: take(rowsMax * shape.rowBytesV),
    queryPairs: isDot ? take((slabsK * rowsMax * slabBytes) / 2) : 0,
    dOutPairs: isDot ? take((slabsV * rowsMax * slabBytes) / 2) : 0,
    keyRows: take(spanKeys * shape.rowBytesK),
    valueRows: take(spanKeys * shape.rowBytesV),
    keyPairs: isDot ? take((slabsK * spanKeys * slabBytes) / 2) : 0,
    dq: take(slabsK * rowsMax * slabBytes),
  };
  return { offsets, bytes };
}

/** Sizes for these widths: as many rows, by the powers of two, as fit in scratch memory. */
export function gradientShapeOf(
  isa: Isa,
  dimQk: number,
  headDimV: number,
  scratchBytes: number,
): GradientShape {
  const isDot = isa === "avx512-bf16";
  const lanes = hasAvx512(isa) ? 16 : 8;
  const slabDims = hasAvx512(isa) ? 64 : 16;
  const [slabsK, slabsV] = [ceilDiv(dimQk, slabDims), ceilDiv(headDimV, slabDims)];
  const stepsOf = (dim: number) => (isDot ? ceilDiv(dim, 2) : dim);
  const rowBytesOf = (slabs: number) => slabs * slabDims * (isDot ? 2 : 4);
  let needed = 0;
  for (let rowsMax = isDot ? 128 : 64; rowsMax >= lanes; rowsMax /= 2) {
    const shape = {
      ...{ isa, isDot, lanes, vectorBytes: 4 * lanes, slabDims, slabBytes: 4 * slabDims },
      ...{ dimQk, headDimV, slabsK, slabsV, stepsK: stepsOf(dimQk), stepsV: stepsOf(headDimV) },
      ...{ rowBytesK: rowBytesOf(slabsK), rowBytesV: rowBytesOf(slabsV), rowsMax },
      keyRowBytes: rowsMax * (isDot ? 2 : 4),
    };
    const { offsets, bytes } = offsetsOf(shape);
    if (bytes <= scratchBytes) return { ...shape, offsets };
    needed = bytes;
  }
  assert(
    false,
    `scratchBytes of the device: got ${scratchBytes}, ` +
      `wanted ${needed} for gradients of widths ${dimQk} and ${headDimV}`,
  );
}
