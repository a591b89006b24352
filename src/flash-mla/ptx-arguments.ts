/** @file Arguments and grids of the decoding kernels' launches: pure, for the emulator or a device. */
import { ceilDiv } from "../base/index.ts";
import type { TensorView } from "../codegen/index.ts";
import { combineRows } from "./ptx-combine.ts";
import { type DecodeConfig, tileRows } from "./ptx-decode.ts";
import { pageTokens } from "./types.ts";

/** Sizes of a decoding call. */
export interface DecodeSizes extends DecodeConfig {
  readonly batch: number;
  /** Query tokens of a request; query heads; key heads. */
  readonly queries: number;
  readonly headsQ: number;
  readonly headsK: number;
  readonly pages: number;
  readonly pagesPerRequest: number;
  /** Rows of the metadata. */
  readonly parts: number;
  readonly softmaxScale: number;
  readonly causal: boolean;
}

/** Where the operands lie; shapes as `mlaDecodeKernel` and `DecodeParams` have them. */
export type DecodeAddresses = Readonly<
  Record<
    | "q"
    | "cache"
    | "out"
    | "lse"
    | "blockTable"
    | "cacheSeqlens"
    | "metadata"
    | "numSplits"
    | "outParts"
    | "lseParts",
    number
  >
>;

/** What a launch takes. */
export interface LaunchArguments {
  readonly grid: readonly [number, number, number];
  readonly args: readonly (number | TensorView)[];
}

/** The launch of the decoding kernel. */
export function decodeLaunch(at: DecodeAddresses, sizes: DecodeSizes): LaunchArguments {
  const { batch, queries, headsQ, headsK, pages, pagesPerRequest, dimQk, dimV } = sizes;
  const rows = (queries * headsQ) / headsK;
  const matrices = (address: number, width: number): TensorView => ({
    address,
    dims: [width, rows, batch * headsK],
    strideBytes: [2 * width, 2 * width * rows],
  });
  const keyBytes = 2 * dimQk;
  const cache: TensorView = {
    address: at.cache,
    dims: [dimQk, pageTokens, headsK, pages],
    strideBytes: [keyBytes * headsK, keyBytes, keyBytes * headsK * pageTokens],
  };
  const args = [
    matrices(at.q, dimQk),
    cache,
    matrices(at.out, dimV),
    at.blockTable,
    at.cacheSeqlens,
    at.metadata,
    at.numSplits,
    at.outParts,
    at.lseParts,
    at.lse,
    pagesPerRequest,
    headsK,
    rows,
    headsQ / headsK,
    queries,
    Number(sizes.causal),
    sizes.softmaxScale * Math.LOG2E,
  ];
  return { grid: [ceilDiv(rows, tileRows), headsK, sizes.parts], args };
}

/** The launch of the kernel that combines the parts. */
export function combineLaunch(at: DecodeAddresses, sizes: DecodeSizes): LaunchArguments {
  const { batch, queries, headsQ, headsK } = sizes;
  const rows = (queries * headsQ) / headsK;
  const args = [at.outParts, at.lseParts, at.numSplits, at.out, at.lse, headsK, rows];
  return { grid: [ceilDiv(rows, combineRows), headsK, batch], args };
}
