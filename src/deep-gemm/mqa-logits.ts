/**
 * @file The scores of DeepSeek-V3.2's indexer: many query heads, one key head, in FP8:
 *
 *     logits[i, j] = sum over heads h of max(0, q[i, h] . k[j] * scale[j]) * weights[i, h]
 *
 * A query is a group of `gemm`: its heads are the rows of A, the keys are B with a scale for each
 * column, and instead of storing its rows a task sums them up. Keys are packed at each call: once,
 * not once for each query. Source: DeepSeek-V3.2-Exp's report (the lightning indexer) and
 * github.com/deepseek-ai/DeepGEMM, whose README states shapes and formula.
 */
import { alignUp, assert, ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { type BlockScaled, blockSize, type Tensor, tensorOf, zeros } from "../tensor/index.ts";
import { checkTensor, isCount } from "./checks.ts";
import { widen } from "./convert.ts";
import { rowsMax } from "./heuristics.ts";
import { panelColumns } from "./layout.ts";
import { rowsAt, viewAt } from "./operands.ts";
import type { PackedMatrix } from "./pack.ts";
import { type KeyPanel, packKeys } from "./pack-keys.ts";
import { sumRowsReference } from "./reference.ts";
import { duringCall, temporary } from "./workspace.ts";
import { launchGemm, type PanelGroup } from "./x86.ts";

/** Floats from row to row of logits are a multiple of this, as upstream has it (1024 bytes). */
const strideAlignment = 256;
/** Logits that are computed in one launch: 16 MiB of float32. */
const launchLogits = 4 * 2 ** 20;
/** Tokens of the piece that `getPagedMqaLogitsMetadata` deals out. */
const splitTokens = 256;

/** The keys that one query looks at. */
interface Query {
  /** First key and the end. */
  readonly from: number;
  readonly to: number;
  /** Panel in the packed keys that holds key 0. */
  readonly panel: number;
  /** Column of the logits that key `from` has. */
  readonly column: number;
}

/**
 * Logits, float32 `[seqLen, seqLenKv]`, of queries `q`, e4m3 codes `[seqLen, heads, headDim]`, over
 * keys `kv`, codes `[seqLenKv, headDim]` and scales `[seqLenKv]`. Query i looks at the keys from
 * cuSeqLenKStart[i] to before cuSeqLenKEnd[i] (int32 `[seqLen]`, clamped to the keys there are);
 * `weights` float32 `[seqLen, heads]`. Other logits are -infinity with `cleanLogits`, else 0.
 * With `maxSeqlenK` > 0 logits are compressed, `[seqLen, maxSeqlenK]`: column j is key start + j,
 * and `cleanLogits` must be false. At most 132 heads, headDim at most 128.
 */
export function fp8MqaLogits(
  device: Device,
  q: Tensor<"f8e4m3">,
  kv: BlockScaled,
  weights: Tensor<"f32">,
  cuSeqLenKStart: Tensor<"i32">,
  cuSeqLenKEnd: Tensor<"i32">,
  cleanLogits: boolean = true,
  maxSeqlenK: number = 0,
): Tensor<"f32"> {
  const [seqLen, heads, headDim] = checkTensor("q", q, "f8e4m3", ["seqLen", "heads", "headDim"]);
  checkHeads(heads, headDim);
  const [seqLenKv] = checkTensor("kv.codes", kv?.codes, "f8e4m3", ["seqLenKv", headDim]);
  checkTensor("kv.scales", kv.scales, "f32", [seqLenKv]);
  checkTensor("weights", weights, "f32", [seqLen, heads]);
  checkTensor("cuSeqLenKStart", cuSeqLenKStart, "i32", [seqLen]);
  checkTensor("cuSeqLenKEnd", cuSeqLenKEnd, "i32", [seqLen]);
  assert(isCount(maxSeqlenK), () => `maxSeqlenK: got ${maxSeqlenK}, wanted a count`);
  const compressed = maxSeqlenK > 0;
  assert(!(compressed && cleanLogits), "cleanLogits: got true with maxSeqlenK, wanted false");
  const queries = Array.from({ length: seqLen }, (_, i): Query => {
    const from = Math.max(0, Math.min(seqLenKv, cuSeqLenKStart.data[i]));
    const to = Math.max(from, Math.min(seqLenKv, cuSeqLenKEnd.data[i]));
    assert(
      !compressed || to - from <= maxSeqlenK,
      () => `keys of query ${i}: got ${to - from}, wanted maxSeqlenK, ${maxSeqlenK}, at most`,
    );
    return { from, to, panel: 0, column: compressed ? 0 : from };
  });
  const logits = newLogits(device, seqLen, compressed ? maxSeqlenK : seqLenKv, cleanLogits);
  const panels = Array.from({ length: ceilDiv(seqLenKv, panelColumns) }, (_, i) => ({
    codes: i * panelColumns * kv.codes.stride,
    scales: i * panelColumns,
    width: Math.min(panelColumns, seqLenKv - i * panelColumns),
  }));
  const packed = packKeys(device, kv.codes, kv.scales.data, panels);
  duringCall(device, () => computeLogits(device, q, weights, packed, queries, logits));
  return logits;
}

/**
 * Logits, float32 `[batch * nextN, maxContextLen]`, of queries `q`, e4m3 codes
 * `[batch, nextN, heads, headDim]`, over a paged cache: `kvCache`, bytes (dtype `f8e4m3`)
 * `[blocks, blockKv, 1, headDim + 4]`, whose block holds blockKv times headDim codes, then blockKv
 * float32 scales; blockKv is a multiple of 64 and headDim one of 4. Row b of `blockTable`, int32
 * `[batch, any]`, names the blocks of sequence b. `contextLens`, int32: `[batch, nextN]`, the keys
 * that each query looks at; or `[batch]`, those of the last query, one less for each before.
 * `weights` float32 `[batch * nextN, heads]`. `scheduleMeta`, from `getPagedMqaLogitsMetadata`, is
 * upstream's plan of work; threads share the work by themselves here, so only its shape is looked
 * at. Other logits are -infinity with `cleanLogits`, else 0.
 */
export function fp8PagedMqaLogits(
  device: Device,
  q: Tensor<"f8e4m3">,
  kvCache: Tensor<"f8e4m3">,
  weights: Tensor<"f32">,
  contextLens: Tensor<"i32">,
  blockTable: Tensor<"i32">,
  scheduleMeta: Tensor<"i32"> | undefined,
  maxContextLen: number,
  cleanLogits: boolean = false,
): Tensor<"f32"> {
  const [batch, nextN, heads, headDim] = checkTensor("q", q, "f8e4m3", ["b", "nextN", "h", "d"]);
  checkHeads(heads, headDim);
  const cacheShape = ["blocks", "blockKv", 1, headDim + 4];
  const [blocks, blockKv] = checkTensor("kvCache", kvCache, "f8e4m3", cacheShape);
  assert(
    blockKv > 0 && blockKv % panelColumns === 0 && headDim % 4 === 0,
    () => `blockKv and headDim: got ${blockKv}, ${headDim}, wanted multiples of 64 and 4`,
  );
  const isContiguous = kvCache.stride === headDim + 4;
  assert(isContiguous, () => `rows of kvCache: got ${kvCache.stride}, wanted ${headDim + 4}`);
  checkTensor("weights", weights, "f32", [batch * nextN, heads]);
  const isOne = contextLens?.shape?.length === 1;
  checkTensor("contextLens", contextLens, "i32", isOne ? [batch] : [batch, nextN]);
  const [, tableWidth] = checkTensor("blockTable", blockTable, "i32", [batch, "any"]);
  if (scheduleMeta !== undefined) checkTensor("scheduleMeta", scheduleMeta, "i32", ["sms + 1", 2]);
  assert(isCount(maxContextLen), () => `maxContextLen: got ${maxContextLen}, wanted a count`);
  if (batch * nextN === 0) return newLogits(device, 0, maxContextLen, cleanLogits);
  const panels: KeyPanel[] = [];
  const queries: Query[] = [];
  const blockBytes = blockKv * (headDim + 4);
  for (let b = 0; b < batch; b++) {
    const lengths = lengthsOf(contextLens, b, nextN, isOne);
    const longest = Math.max(0, ...lengths);
    const most = Math.min(maxContextLen, tableWidth * blockKv);
    assert(longest <= most, () => `contextLens of ${b}: got ${longest}, wanted ${most} at most`);
    const first = panels.length;
    for (const to of lengths) queries.push({ from: 0, to, panel: first, column: 0 });
    for (let i = 0; i < ceilDiv(longest, blockKv); i++) {
      const block = blockTable.data[b * blockTable.stride + i];
      assert(
        block >= 0 && block < blocks,
        () => `blockTable[${b}][${i}]: got ${block}, wanted 0..${blocks - 1}`,
      );
      for (let row = 0; row < blockKv; row += panelColumns) {
        const scales = (block * blockBytes + blockKv * headDim) / 4 + row;
        panels.push({ codes: block * blockBytes + row * headDim, scales, width: panelColumns });
      }
    }
  }
  const logits = newLogits(device, batch * nextN, maxContextLen, cleanLogits);
  const codes = viewAt(kvCache, 0, [blocks * blockKv, headDim], headDim);
  const packed = packKeys(device, codes, floatsOf(kvCache), panels);
  duringCall(device, () => computeLogits(device, q, weights, packed, queries, logits));
  return logits;
}

/**
 * Where each of `numSms` workers begins when the queries' keys, in pieces of 256, are dealt out
 * evenly: int32 `[numSms + 1, 2]`, the row of `contextLens` and the piece within it; the last
 * entry is the end. `contextLens` int32 `[batch, nextN]` (the longest of a row counts) or `[batch]`;
 * `blockKv` divides 256. Pure.
 */
export function getPagedMqaLogitsMetadata(
  contextLens: Tensor<"i32">,
  blockKv: number,
  numSms: number,
): Tensor<"i32"> {
  const isOne = contextLens?.shape?.length === 1;
  const [batch, nextN = 1] = checkTensor(
    "contextLens",
    contextLens,
    "i32",
    isOne ? ["batch"] : ["batch", "nextN"],
  );
  assert(nextN > 0, "nextN of contextLens: got 0, wanted at least 1");
  const divides = isCount(blockKv) && blockKv > 0 && splitTokens % blockKv === 0;
  assert(divides, () => `blockKv: got ${blockKv}, wanted a divisor of ${splitTokens}`);
  assert(
    isCount(numSms) && numSms > 0 && numSms < 2 ** 20,
    () => `numSms: got ${numSms}, wanted 1 to 2^20`,
  );
  const pieces = Array.from({ length: batch }, (_, b) => {
    const lengths = lengthsOf(contextLens, b, isOne ? 1 : nextN, isOne);
    return ceilDiv(Math.max(0, ...lengths), splitTokens);
  });
  const all = pieces.reduce((sum, count) => sum + count, 0);
  const meta = zeros("i32", [numSms + 1, 2]);
  let [row, before] = [0, 0];
  for (let worker = 0; worker <= numSms; worker++) {
    const piece = Math.floor((all * worker) / numSms);
    while (row < batch && piece >= before + pieces[row]) before += pieces[row++];
    meta.data[2 * worker] = row;
    meta.data[2 * worker + 1] = piece - before;
  }
  return meta;
}

/** The keys that each query of sequence `b` looks at. */
function lengthsOf(contextLens: Tensor<"i32">, b: number, nextN: number, isOne: boolean): number[] {
  const { data, stride } = contextLens;
  return Array.from({ length: nextN }, (_, i) =>
    Math.max(0, isOne ? data[b] - (nextN - 1 - i) : data[b * stride + i]),
  );
}

function checkHeads(heads: number, headDim: number): void {
  assert(
    heads > 0 && heads <= rowsMax && headDim > 0 && headDim <= blockSize,
    () => `heads, headDim: got ${heads}, ${headDim}, wanted 1..${rowsMax} and 1..${blockSize}`,
  );
}

/** The cache's memory as float32, for its scales. */
function floatsOf({ data }: Tensor<"f8e4m3">): Float32Array {
  assert(
    data.byteOffset % 4 === 0,
    () => `kvCache: got data at byte ${data.byteOffset}, wanted a multiple of 4`,
  );
  return new Float32Array(data.buffer, data.byteOffset, data.length >> 2);
}

function newLogits(device: Device, rows: number, width: number, clean: boolean): Tensor<"f32"> {
  const stride = Math.max(1, alignUp(width, strideAlignment));
  const whole = zeros("f32", [rows, stride], (bytes) => device.allocate(bytes));
  if (clean) whole.data.fill(Number.NEGATIVE_INFINITY);
  return tensorOf("f32", [rows, width], whole.data, stride);
}

function computeLogits(
  device: Device,
  q: Tensor<"f8e4m3">,
  weights: Tensor<"f32">,
  packed: PackedMatrix | undefined,
  queries: readonly Query[],
  logits: Tensor<"f32">,
): void {
  if (packed === undefined) return;
  const heads = weights.shape[1];
  const values = widen(device, q);
  const ones = temporary(device, "f32", [heads, 1]);
  ones.data.fill(1);
  const panelsOf = ({ from, to }: Query) =>
    to > from ? ceilDiv(to, panelColumns) - Math.floor(from / panelColumns) : 0;
  const widest = Math.max(1, ...queries.map(panelsOf)) * panelColumns;
  const together = Math.max(1, Math.min(queries.length, Math.floor(launchLogits / widest)));
  const sums = temporary(device, "f32", [together, widest]);
  for (let first = 0; first < queries.length; first += together) {
    const some = queries.slice(first, first + together);
    const groups = some.map((query, i): PanelGroup => {
      const row = first + i;
      return {
        a: { type: "f8e4m3", values: rowsAt(values, row * heads, heads), scales: ones },
        m: heads,
        b: packed,
        d: rowsAt(sums, i, 1),
        firstPanel: query.panel + Math.floor(query.from / panelColumns),
        panels: panelsOf(query),
        rowWeights: rowsAt(weights, row, 1),
      };
    });
    if (device.isa === undefined) for (const group of groups) sumRowsReference(group, packed);
    else launchGemm(device, device.isa, groups);
    some.forEach(({ from, to, column }, i) => {
      const start = i * widest + (from % panelColumns);
      const place = (first + i) * logits.stride + column;
      logits.data.set(sums.data.subarray(start, start + to - from), place);
    });
  }
}
