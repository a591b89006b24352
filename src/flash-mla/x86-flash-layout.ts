/**
 * @file What the code of `flash-x86` is made for, and where a task keeps what it works on.
 *
 * A task is some rows (queries of a key head: tokens times the heads of its group) that see the same
 * keys. Rows are lanes: a vector is one key's scores of 16 (AVX2: 8) rows, so that softmax is
 * vertical and nothing is ever transposed in memory but the queries, once a task. Keys are taken in
 * spans, these in runs of 64 rows that lie together (a page of the cache).
 */
import { alignUp, assert, ceilDiv } from "../base/index.ts";
import { hasAvx512, type Isa } from "../codegen/index.ts";

/** What distinguishes programs. */
export interface FlashSpec {
  readonly isa: Isa;
  /** What the key table lists: runs of 64 rows, or each row. */
  readonly source: "pages" | "rows";
  /** What a key row is: bf16, or 656 bytes of FP8 with scales and bf16 (`latent-fp8.ts`). */
  readonly row: "bf16" | "fp8";
  readonly dimQk: number;
  readonly headDimV: number;
  /** Bytes from key row to key row, and from value row to value row, within a run. */
  readonly keyStride: number;
  readonly valueStride: number;
  /** Values are rows of their own (a second table), not the first elements of the keys. */
  readonly ownValues: boolean;
}

/** Rows of keys that lie together. */
export const runKeys = 64;
/** Rows of a value tile at most. */
export const valueTileRows = 6;

/** Byte offsets of the arguments of all tasks of a launch. */
export const argumentLayout = {
  tasks: 0,
  /** Heads of a group: rows of one token. */
  group: 8,
  /** Keys that a row sees more than the row of the token before: 1 where causal, else 0. */
  causal: 16,
  qStride: 24,
  qJump: 32,
  /** Float32: factor of scores in base 2, softmaxScale * log2(e). */
  scale: 40,
  bytes: 64,
} as const;

/** Byte offsets of a task record, 64 bits each; strides and jumps in bytes. */
export const taskLayout = {
  /** Addresses of the first row's query and results. */
  q: 0,
  out: 8,
  lse: 16,
  /** Address of its largest score, or 0. */
  maxLogits: 24,
  /** Tables of addresses of keys and values. */
  keys: 32,
  values: 40,
  keyCount: 48,
  /** Keys that the first row sees, counted from the task's first key; may be negative. */
  visible: 56,
  rows: 64,
  /** Which of its group's heads the first row is. */
  head: 72,
  /** From one head's results to the next, and what to add from a group's last to the next token. */
  outStride: 80,
  outJump: 88,
  lseStride: 96,
  lseJump: 104,
  /** Address of the first head's sink, or 0. */
  sinks: 112,
  /** 1: float32 results in the program's own order of dimensions, to be combined. */
  partial: 120,
  /** Table of keys whose first two runs will be read next, by another task. */
  next: 128,
  bytes: 256,
} as const;

/** Sizes that follow from a spec and the scratch memory, and byte offsets into that memory. */
export interface FlashShape extends FlashSpec {
  /** Whether pairs of bf16 are multiplied by `vdpbf16ps`; else float32. */
  readonly isDot: boolean;
  readonly lanes: number;
  readonly vectorBytes: number;
  /** Steps of a score: pairs of dimensions, or dimensions. */
  readonly steps: number;
  /** Dimensions of a value tile, and how many tiles there are. */
  readonly slabDims: number;
  readonly slabs: number;
  readonly slabBytes: number;
  /** Whether value tiles read keys, two by two; else pairs, or float32, in scratch memory. */
  readonly valuesInRuns: boolean;
  /** Whether keys are copied to scratch memory: decoded, widened, gathered. */
  readonly stagesKeys: boolean;
  /** Bytes from key to key as the products read them; elements of a staged row. */
  readonly keyBytes: number;
  readonly stagedKey: number;
  readonly valueBytes: number;
  readonly stagedValue: number;
  /** Rows of a task at most, keys of a span. */
  readonly rowsMax: number;
  readonly spanKeys: number;
  readonly offsets: ScratchOffsets;
  readonly scratchBytes: number;
}

/** Where a task keeps what it works on. */
interface ScratchOffsets {
  /** 64-bit words of the program's own. */
  readonly locals: number;
  /** A record of each row: addresses of its results; then vectors over rows. */
  readonly rows: number;
  readonly visible: number;
  readonly max: number;
  readonly sum: number;
  /** The sum of the weights as they were rounded, where they are; else as `sum`. */
  readonly rounded: number;
  readonly factor: number;
  readonly sink: number;
  readonly lse: number;
  /** Queries `[row vector][step][lane]`, scores `[2][key][lane]`. */
  readonly queries: number;
  readonly scores: number;
  /** Weights `[row vector][step][lane]`; results `[slab][row][slabDims]`. */
  readonly weights: number;
  readonly out: number;
  readonly keys: number;
  readonly values: number;
  /** Values in pairs of keys, `[slab][pair][slabDims]`. */
  readonly pairs: number;
}

/** Bytes of the record of a row in scratch memory: addresses of its results, lse, largest score. */
export const rowRecord = { out: 0, lse: 8, maxLogits: 16, bytes: 24 } as const;

/** Bytes from row to row that do not fall on the same lines of the nearest cache. */
function spread(bytes: number): number {
  return bytes % 2048 === 0 ? bytes + 64 : bytes;
}

type Sizes = Omit<FlashShape, "rowsMax" | "spanKeys" | "offsets" | "scratchBytes">;

function sizesOf(spec: FlashSpec): Sizes {
  const { isa, dimQk, headDimV, ownValues } = spec;
  const isDot = isa === "avx512-bf16";
  const lanes = hasAvx512(isa) ? 16 : 8;
  const slabDims = hasAvx512(isa) ? 64 : 16;
  const slabs = ceilDiv(headDimV, slabDims);
  const elementBytes = isDot ? 2 : 4;
  // Products read whole pairs and slabs, up to 64 rows: what is not so is copied and padded.
  const irregular = dimQk % 2 !== 0 || headDimV % slabDims !== 0 || spec.keyStride > 2 ** 20;
  const stagesKeys =
    !isDot || spec.source === "rows" || spec.row === "fp8" || ownValues || irregular;
  const keyWidth = ownValues ? dimQk : Math.max(dimQk, slabs * slabDims);
  const stagedKey = alignUp(keyWidth, 64);
  const stagedValue = slabs * slabDims;
  const staged = (elements: number) => spread(elements * elementBytes);
  const keyBytes = stagesKeys ? staged(stagedKey) : spec.keyStride;
  const valuesInRuns = isDot && !ownValues;
  return {
    ...spec,
    isDot,
    lanes,
    vectorBytes: 4 * lanes,
    steps: isDot ? ceilDiv(dimQk, 2) : dimQk,
    slabDims,
    slabs,
    slabBytes: 4 * slabDims,
    valuesInRuns,
    stagesKeys,
    keyBytes,
    stagedKey,
    valueBytes: ownValues ? staged(stagedValue) : keyBytes,
    stagedValue,
  };
}

function offsetsOf(
  sizes: Sizes,
  rowsMax: number,
  spanKeys: number,
): { offsets: ScratchOffsets; scratchBytes: number } {
  const { isDot, vectorBytes, slabs, slabBytes } = sizes;
  let end = 0;
  const take = (bytes: number): number => {
    const start = end;
    end = alignUp(start + bytes, 64);
    return start;
  };
  const vectors = rowsMax / sizes.lanes;
  const weightSteps = isDot ? spanKeys / 2 : spanKeys;
  const [locals, rows] = [take(256), take(rowsMax * rowRecord.bytes)];
  const [visible, max, sum] = [take(4 * rowsMax), take(4 * rowsMax), take(4 * rowsMax)];
  const offsets = {
    locals,
    rows,
    visible,
    max,
    sum,
    rounded: isDot ? take(4 * rowsMax) : sum,
    factor: take(4 * rowsMax),
    sink: take(4 * rowsMax),
    lse: take(4 * rowsMax),
    scores: take(2 * spanKeys * vectorBytes),
    weights: take(vectors * weightSteps * vectorBytes),
    queries: take(vectors * sizes.steps * vectorBytes),
    out: take(slabs * rowsMax * slabBytes),
    keys: sizes.stagesKeys ? take(spanKeys * sizes.keyBytes) : 0,
    values: sizes.ownValues && !isDot ? take(spanKeys * sizes.valueBytes) : 0,
    pairs: isDot && sizes.ownValues ? take(slabs * (spanKeys / 2) * slabBytes) : 0,
  };
  return { offsets, scratchBytes: end };
}

/** The most that pays: 128 rows of DeepSeek's widths and two pages fill half of a 1 MiB cache. */
const rowsMost = 128;
const spanMost = 128;

/**
 * Sizes and offsets for `spec` in `scratchBytes` of scratch memory: as many rows and keys as fit, by
 * the powers of two. Throws where not even one vector of rows fits.
 */
export function flashShapeOf(spec: FlashSpec, scratchBytes: number): FlashShape {
  const sizes = sizesOf(spec);
  const most = sizes.isDot ? rowsMost : rowsMost / 2;
  for (let spanKeys = spanMost; spanKeys >= 16; spanKeys /= 2) {
    for (let rowsMax = most; rowsMax >= sizes.lanes; rowsMax /= 2) {
      // Short spans cost more than few rows do.
      if (spanKeys < spanMost && rowsMax > sizes.lanes) continue;
      const layout = offsetsOf(sizes, rowsMax, spanKeys);
      if (layout.scratchBytes <= scratchBytes) return { ...sizes, rowsMax, spanKeys, ...layout };
    }
  }
  const { scratchBytes: needed } = offsetsOf(sizes, sizes.lanes, 16);
  assert(
    false,
    `scratchBytes of the device: got ${scratchBytes}, ` +
      `wanted ${needed} for widths ${spec.dimQk} and ${spec.headDimV}`,
  );
}
