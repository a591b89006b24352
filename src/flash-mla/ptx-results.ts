/**
 * @file How a decoding kernel's side writes its half of a tile: whole results as bf16 by a copy that
 * clips at the last row, partial ones as float32 for the kernel that combines them.
 */
import {
  type Accumulator,
  type Builder,
  commitStores,
  type F32,
  firstRow,
  type SharedTile,
  type TensorMap,
  type U32,
  waitStores,
} from "../codegen/index.ts";
import type { DecodeParams, Request } from "./ptx-requests.ts";

/** What a side has when its keys are done. */
export interface SideResult {
  readonly side: "left" | "right";
  readonly out: Accumulator;
  readonly maximum: readonly F32[];
  /** Of both sides, for this thread's rows. */
  readonly sum: readonly F32[];
  readonly request: Request;
  /** Memory for this side's half in bf16. */
  readonly room: SharedTile;
  readonly params: DecodeParams;
  readonly dimV: number;
}

/** ln 2. */
const ln2 = Math.LN2;

/** Divides by the sums and writes; every thread of the side is here. */
export function writeResult(k: Builder, result: SideResult, map: TensorMap): void {
  const { out, sum, request, side, dimV } = result;
  // No visible key: zeros.
  const factors = sum.map((value) => value.eq(0).select(k.f32(0), k.f32(1).div(value)));
  out.each((value, { half }) => value.scale(factors[half]));
  const firstColumn = side === "left" ? 0 : dimV / 2;
  k.if(
    request.isSplit.ne(0),
    () => writePart(k, result, firstColumn),
    () => writeWhole(k, result, map, firstColumn),
  );
}

/** Calls `body` for this thread's rows that exist. */
function forEachRow(
  k: Builder,
  { request, params }: SideResult,
  body: (row: U32, half: 0 | 1) => void,
): void {
  for (const half of [0, 1] as const) {
    const row = request.firstRow.add(firstRow(k)).add(8 * half);
    k.if(row.lt(params.rows), () => body(row, half));
  }
}

function writePart(k: Builder, result: SideResult, firstColumn: number): void {
  const { out, sum, maximum, request, params, side, dimV } = result;
  const matrix = request.split.mad(params.keyHeads, k.blockY).mul(params.rows);
  forEachRow(k, result, (row, wanted) => {
    const at = matrix.add(row);
    const column = k.lane.and(3).mul(2).add(firstColumn);
    const address = params.outParts.at(at.mad(dimV, column), 4);
    out.each((value, { half, column: offset, index }) => {
      if (half !== wanted || index % 2 !== 0) return;
      k.store("global", address, [value, out.values[index + 1]], { offset: 4 * offset });
    });
    if (side !== "left") return;
    // log2 of the sum of powers; log2 of 0 is -infinity, which weighs nothing.
    const lse = maximum[wanted].fma(request.scale, sum[wanted].log2());
    k.if(k.lane.and(3).eq(0), () => k.store("global", params.lseParts.at(at, 4), [lse]));
  });
}

function writeWhole(k: Builder, result: SideResult, map: TensorMap, firstColumn: number): void {
  const { out, sum, maximum, request, room, params, side } = result;
  const barrier = k.namedBarrier(side === "left" ? 5 : 6, 128);
  const first = (body: () => void) => k.if(k.warp.and(3).eq(0), () => k.elected(body));
  out.storeTo(room);
  k.fenceAsync();
  barrier.sync();
  first(() => {
    map.store(room, [firstColumn, request.firstRow, request.index]);
    commitStores(k);
    waitStores(k, "read");
  });
  if (side === "left") {
    forEachRow(k, result, (row, half) => {
      const lse = maximum[half].fma(request.scale, sum[half].log2()).mul(ln2);
      const known = sum[half].eq(0).select(k.f32(Number.POSITIVE_INFINITY), lse);
      const at = params.lse.at(request.index.mad(params.rows, row), 4);
      k.if(k.lane.and(3).eq(0), () => k.store("global", at, [known]));
    });
  }
}
