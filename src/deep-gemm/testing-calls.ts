/**
 * @file A valid call of every function of this room's door, with fresh operands: what the fuzz
 * mutates, and what runs between guard pages.
 */
import type { Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { type BlockScaled, type DType, elementCount, type Tensor, zeros } from "../tensor/index.ts";
import * as deepGemm from "./index.ts";

/** Sizes of a call's operands. */
export interface CallSizes {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/** A call: the function's name, its arguments after the device, and how to make the call. */
export interface Call {
  readonly name: string;
  readonly args: unknown[];
  readonly run: (args: unknown[]) => unknown;
}

/** Names of the door that have no call here, taking no operands; beside those of GPUs. */
export const withoutOperands: readonly string[] = [
  "getMkAlignmentForContiguousLayout",
  "getTheoreticalMkAlignmentForContiguousLayout",
  "setMkAlignmentForContiguousLayout",
];

/** Makes operands of fresh values. */
class Operands {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  private readonly random: Random;
  private readonly place: Place;

  constructor(random: Random, { m, n, k }: CallSizes, place: Place) {
    this.random = random;
    this.place = place;
    this.m = m;
    this.n = n;
    this.k = k;
  }

  private fill<D extends DType>(dtype: D, shape: number[], value: () => number): Tensor<D> {
    const tensor = zeros(dtype, shape);
    for (let i = 0; i < elementCount(shape); i++) tensor.data[i] = value();
    return this.place(tensor);
  }

  f32 = (...shape: number[]): Tensor<"f32"> => this.fill("f32", shape, () => this.random.normal());
  bf16 = (...shape: number[]): Tensor<"bf16"> =>
    this.fill("bf16", shape, () => 0x3f80 + this.random.below(64));
  codes = (...shape: number[]): Tensor<"f8e4m3"> =>
    this.fill("f8e4m3", shape, () => this.random.below(0x7f));
  powers = (...shape: number[]): Tensor<"f32"> =>
    this.fill("f32", shape, () => 2 ** (this.random.below(20) - 10));
  ints = (values: readonly number[], shape: number[] = [values.length]): Tensor<"i32"> => {
    let at = 0;
    return this.fill("i32", shape, () => values[at++]);
  };
  rows8 = (...shape: number[]): BlockScaled => ({
    codes: this.codes(...shape),
    scales: this.f32(...shape.slice(0, -1), blocks(shape.at(-1)!)),
  });
  blocks8 = (...shape: number[]): BlockScaled => ({
    codes: this.codes(...shape),
    scales: this.f32(...shape.slice(0, -2), blocks(shape.at(-2)!), blocks(shape.at(-1)!)),
  });
  indices = (): Tensor<"i32"> =>
    this.ints(Array.from({ length: this.m }, () => this.random.below(3) - 1));
  masks = (): Tensor<"i32"> => this.ints([this.random.below(this.m + 1), this.m]);
}

function blocks(size: number): number {
  return Math.ceil(size / 128);
}

type Place = <D extends DType>(tensor: Tensor<D>) => Tensor<D>;
type NamedArguments = [name: keyof typeof deepGemm, ...args: unknown[]];

/** One call of each function. `place` may put a tensor somewhere else, such as between guards. */
export function everyCall(
  device: Device,
  random: Random,
  sizes: CallSizes,
  place: Place = (tensor) => tensor,
): Call[] {
  const operands = new Operands(random, sizes, place);
  const calls = [
    ...denseCalls(device, operands),
    ...groupedCalls(operands),
    ...otherCalls(operands),
    ...layoutCalls(operands),
  ];
  const functions: Record<string, unknown> = { ...deepGemm };
  return calls.map(([name, ...args]) => {
    const call = functions[name] as (...all: unknown[]) => unknown;
    const takesDevice = !pure.includes(name);
    return { name, args, run: (all) => (takesDevice ? call(device, ...all) : call(...all)) };
  });
}

function denseCalls(
  device: Device,
  { m, n, k, f32, bf16, rows8, blocks8 }: Operands,
): NamedArguments[] {
  return [
    ["packWeights", [{ weight: f32(n, k) }, { weight: f32(3, k) }], "f32"],
    ["gemm", [groupOf(device, { a: f32(m, k), b: f32(n, k), d: f32(m, n) })]],
    ["prepareGemm", [groupOf(device, { a: f32(m, k), b: f32(n, k), d: f32(m, n) })]],
    ["f32GemmNt", f32(m, k), bf16(n, k), f32(m, n), f32(m, n)],
    ["bf16GemmNt", bf16(m, k), bf16(n, k), f32(m, n)],
    ["bf16GemmNn", bf16(m, k), bf16(k, n), f32(m, n), f32(m, n)],
    ["bf16GemmTn", bf16(k, m), bf16(k, n), f32(m, n)],
    ["bf16GemmTt", bf16(k, m), bf16(n, k), f32(m, n)],
    ["fp8GemmNt", rows8(m, k), blocks8(n, k), f32(m, n)],
  ];
}

function groupedCalls(operands: Operands): NamedArguments[] {
  const { m, n, k, f32, bf16, codes, ints, rows8, blocks8, indices, masks } = operands;
  const ks = [k, 0, 3];
  const sum = k + 3;
  const sums = blocks(k) + 1;
  return [
    ["mGroupedF32GemmNtContiguous", f32(m, k), f32(2, n, k), f32(m, n), indices()],
    ["mGroupedBf16GemmNtContiguous", bf16(m, k), bf16(2, n, k), f32(m, n), indices()],
    ["mGroupedBf16GemmNnContiguous", bf16(m, k), bf16(2, k, n), f32(m, n), indices()],
    ["mGroupedFp8GemmNtContiguous", rows8(m, k), blocks8(2, n, k), f32(m, n), indices()],
    ["mGroupedF32GemmNtMasked", f32(2, m, k), f32(2, n, k), f32(2, m, n), masks(), m],
    ["mGroupedBf16GemmNtMasked", bf16(2, m, k), bf16(2, n, k), f32(2, m, n), masks(), m],
    ["mGroupedFp8GemmNtMasked", rows8(2, m, k), blocks8(2, n, k), f32(2, m, n), masks(), m],
    ["kGroupedBf16GemmTnContiguous", bf16(sum, m), bf16(sum, n), f32(3, m, n), ks, ints(ks)],
    [
      "kGroupedFp8GemmTnContiguous",
      { codes: codes(sum, m), scales: f32(sums, m) },
      { codes: codes(sum, n), scales: f32(sums, n) },
      f32(3, m, n),
      ks,
      ints(ks),
    ],
    [
      "kGroupedFp8GemmNtContiguous",
      { codes: codes(sum * m), scales: f32(sums, m) },
      { codes: codes(sum * n), scales: f32(sums, n) },
      f32(3, m, n),
      ks,
      ints(ks),
    ],
  ];
}

function otherCalls({
  m,
  n,
  k,
  f32,
  bf16,
  codes,
  ints,
  powers,
  rows8,
}: Operands): NamedArguments[] {
  const depth = Math.min(128, Math.ceil(k / 4) * 4);
  const [heads, keys] = [Math.min(m, 8), n];
  return [
    ["einsum", "bmk,bnk->mn", bf16(2, m, k), bf16(2, n, k), f32(m, n)],
    ["einsum", "bhr,hdr->bhd", bf16(m, 2, k), bf16(2, n, k), f32(m, 2, n)],
    ["einsum", "bhd,hdr->bhr", bf16(m, 2, k), bf16(2, k, n), f32(m, 2, n)],
    [
      "fp8MqaLogits",
      codes(2, heads, depth),
      { codes: codes(keys, depth), scales: f32(keys) },
      f32(2, heads),
      ints([0, 1]),
      ints([keys, keys]),
      true,
      0,
    ],
    [
      "fp8PagedMqaLogits",
      codes(2, 1, heads, depth),
      codes(3, 64, 1, depth + 4),
      f32(2, heads),
      ints([65, 2], [2, 1]),
      ints([2, 0, 1, -9], [2, 2]),
      undefined,
      128,
      true,
    ],
    ["getPagedMqaLogitsMetadata", ints([1000, 3], [2, 1]), 64, 4],
    ["perTokenCastToFp8", f32(m, k), false, rows8(m, k)],
    ["perChannelCastToFp8", bf16(m, k), true],
    ["perBlockCastToFp8", f32(m, k), true],
    ["ceilToUe8m0", 3],
    ["packUe8m0ToInt", powers(m, 8)],
  ];
}

function layoutCalls({ m, k, f32, ints, powers }: Operands): NamedArguments[] {
  const ks = [k, 0, 3];
  const sums = blocks(k) + 1;
  return [
    ["getTmaAlignedSize", m, 4],
    ["getMnMajorTmaAlignedTensor", f32(m, k)],
    ["getMnMajorTmaAlignedPackedUe8m0Tensor", powers(2, m, 5)],
    ["getKGroupedMnMajorTmaAlignedPackedUe8m0Tensor", powers(sums, 4 * m), ints(ks), ks, 128],
    [
      "unpackMnMajorUe8m0Tensor",
      ints(
        Array.from({ length: 2 * m }, () => 0x7f),
        [2, m],
      ),
      7,
    ],
  ];
}

/** Functions that take no device. */
const pure: readonly string[] = [
  "ceilToUe8m0",
  "packUe8m0ToInt",
  "getTmaAlignedSize",
  "getMnMajorTmaAlignedTensor",
  "getMnMajorTmaAlignedPackedUe8m0Tensor",
  "getKGroupedMnMajorTmaAlignedPackedUe8m0Tensor",
  "unpackMnMajorUe8m0Tensor",
  "getPagedMqaLogitsMetadata",
];

function groupOf(
  device: Device,
  { a, b, d }: { a: Tensor<"f32">; b: Tensor<"f32">; d: Tensor<"f32"> },
): deepGemm.GemmGroup {
  const packed = deepGemm.packWeights(device, [{ weight: b }], "f32");
  return { a: { type: "f32", values: a }, m: a.shape[0], b: packed, d };
}
