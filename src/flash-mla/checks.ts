/**
 * @file Checks of the door: a wrong address would kill the process, so nothing passes unchecked.
 */
import { assert, assertEqual, ceilDiv } from "../base/index.ts";
import type { DType, Tensor } from "../tensor/index.ts";
import { type MlaCall, type MlaSequence, pageTokens } from "./types.ts";

/** Dimensions of a call that passed `checkCall`. */
export interface MlaShape {
  readonly tokens: number;
  readonly heads: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly pages: number;
}

const arrays = {
  f32: Float32Array,
  bf16: Uint16Array,
  f8e4m3: Uint8Array,
  f8e5m2: Uint8Array,
  ue8m0: Uint8Array,
  i32: Int32Array,
} as const;

/** Throws unless `tensor` is of `dtype` and `shape` and its memory reaches its last element. */
export function checkTensor(
  what: string,
  tensor: Tensor,
  dtype: DType,
  shape: readonly number[],
): void {
  assertEqual(tensor?.dtype, dtype, `dtype of ${what}`);
  assert(
    tensor.shape?.length === shape.length && shape.every((size, i) => tensor.shape[i] === size),
    () => `shape of ${what}: got [${tensor.shape}], wanted [${shape}]`,
  );
  const last = shape.at(-1) ?? 0;
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  const needed = rows === 0 || last === 0 ? 0 : (rows - 1) * tensor.stride + last;
  assert(
    tensor.data instanceof arrays[dtype],
    () => `data of ${what}: wanted a ${arrays[dtype].name}`,
  );
  assert(
    Number.isSafeInteger(tensor.stride) && tensor.stride >= last && needed <= tensor.data.length,
    () =>
      `${what}: got ${tensor.data.length} elements in rows of ${tensor.stride}, wanted ${needed}`,
  );
}

/** The sizes of `tensor`, of which there are as many as `names`, each a count. */
export function sizesOf(what: string, tensor: Tensor, names: string): number[] {
  const count = names.split(", ").length;
  assert(
    Array.isArray(tensor?.shape) &&
      tensor.shape.length === count &&
      tensor.shape.every((size) => Number.isSafeInteger(size) && size >= 0),
    () => `shape of ${what}: got [${tensor?.shape}], wanted [${names}]`,
  );
  return [...tensor.shape];
}

/** Throws unless `value` is a positive, finite factor of scores. */
export function checkScale(value: number): void {
  assert(
    Number.isFinite(value) && value > 0,
    () => `softmaxScale: got ${value}, wanted a positive number`,
  );
}

/** A sequence's queries are rows of `q`, and each page that its context needs is in the cache. */
function checkSequence(sequence: MlaSequence, index: number, shape: MlaShape): void {
  assert(
    sequence?.blockTable instanceof Int32Array,
    () => `sequences[${index}].blockTable: wanted an Int32Array`,
  );
  const { queryStart, queryCount, contextLength, blockTable } = sequence;
  for (const [name, value] of Object.entries({ queryStart, queryCount, contextLength })) {
    assert(
      Number.isSafeInteger(value) && value >= 0,
      () => `sequences[${index}].${name}: got ${value}, wanted a count`,
    );
  }
  assert(
    queryStart + queryCount <= shape.tokens,
    () => `sequences[${index}]: got queries ${queryStart}+${queryCount} of ${shape.tokens} tokens`,
  );
  const pages = ceilDiv(contextLength, pageTokens);
  assert(
    blockTable.length >= pages,
    () => `sequences[${index}].blockTable: got ${blockTable.length} pages, wanted ${pages}`,
  );
  for (let i = 0; i < pages; i++) {
    const page = blockTable[i];
    assert(
      page >= 0 && page < shape.pages,
      () => `sequences[${index}].blockTable[${i}]: got ${page}, wanted 0..${shape.pages - 1}`,
    );
  }
}

/** Checks every operand of a call against every other, and names its dimensions. */
export function checkCall(call: MlaCall): MlaShape {
  assert(typeof call === "object" && call !== null, () => `call: got ${call}, wanted an object`);
  const { q, kvCache, headDimV, out, lse } = call;
  const [tokens, heads, dimQk] = sizesOf("q", q, "tokens, heads, dimQk");
  assert(
    Number.isSafeInteger(headDimV) && headDimV >= 1 && headDimV <= dimQk,
    () => `headDimV: got ${headDimV}, wanted 1..${dimQk}`,
  );
  checkScale(call.softmaxScale);
  const [pages] = sizesOf("kvCache", kvCache, `pages, ${pageTokens}, dimQk`);
  const shape = { tokens, heads, dimQk, headDimV, pages };
  checkTensor("q", q, "f32", [tokens, heads, dimQk]);
  const cacheType = kvCache.dtype === "bf16" ? "bf16" : "f32";
  checkTensor("kvCache", kvCache, cacheType, [pages, pageTokens, dimQk]);
  checkTensor("out", out, "f32", [tokens, heads, headDimV]);
  if (lse !== undefined) checkTensor("lse", lse, "f32", [tokens, heads]);
  assert(Array.isArray(call.sequences), () => `sequences: got ${call.sequences}, wanted a list`);
  call.sequences.forEach((sequence, i) => {
    checkSequence(sequence, i, shape);
  });
  return shape;
}
