/** @file DeepGEMM's einsum: the three products that DeepSeek's models need beside plain ones. */
import { assert } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import type { Tensor } from "../tensor/index.ts";
import { checkTensor } from "./checks.ts";
import { gemm } from "./gemm.ts";
import { matrixAt, placeC, viewAt } from "./operands.ts";
import { packForCall } from "./pack.ts";
import { duringCall } from "./workspace.ts";

/** Expressions that `einsum` knows. */
export type EinsumExpression = "bmk,bnk->mn" | "bhr,hdr->bhd" | "bhd,hdr->bhr";

/**
 * Writes to float32 D the product of bf16 A and B that `expression` names, letters being sizes:
 * - `bmk,bnk->mn`: D = sum over b of A[b] B[b]^T (+ C). C, float32 `[m, n]`, may be D.
 * - `bhr,hdr->bhd`: D[b, h] = A[b, h] B[h]^T, without C.
 * - `bhd,hdr->bhr`: D[b, h] = A[b, h] B[h], without C.
 */
export function einsum(
  device: Device,
  expression: EinsumExpression,
  a: Tensor<"bf16">,
  b: Tensor<"bf16">,
  d: Tensor<"f32">,
  c?: Tensor<"f32">,
): void {
  if (expression === "bmk,bnk->mn") {
    sumOfProducts(device, a, b, d, c);
    return;
  }
  const isKnown = expression === "bhr,hdr->bhd" || expression === "bhd,hdr->bhr";
  assert(
    isKnown,
    () =>
      `expression: got ${JSON.stringify(expression)}, ` +
      'wanted "bmk,bnk->mn", "bhr,hdr->bhd" or "bhd,hdr->bhr"',
  );
  assert(c === undefined, () => `c of ${expression}: wanted none`);
  productsOfHeads(device, a, b, d, expression === "bhd,hdr->bhr");
}

function sumOfProducts(
  device: Device,
  a: Tensor<"bf16">,
  b: Tensor<"bf16">,
  d: Tensor<"f32">,
  c: Tensor<"f32"> | undefined,
): void {
  const [batch, m, k] = checkTensor("a", a, "bf16", ["b", "m", "k"]);
  const [, n] = checkTensor("b", b, "bf16", [batch, "n", k]);
  checkTensor("d", d, "f32", [m, n]);
  let accumulate = placeC(c, d);
  if (m === 0 || n === 0) return;
  if (!accumulate && (batch === 0 || k === 0)) {
    for (let i = 0; i < m; i++) d.data.fill(0, i * d.stride, i * d.stride + n);
  }
  // One after the other: they add to the same D.
  for (let i = 0; i < batch && k > 0; i++) {
    duringCall(device, () => {
      const packed = packForCall(device, { weight: matrixAt(b, i) }, "bf16");
      gemm(device, [{ a: { type: "bf16", values: matrixAt(a, i) }, m, b: packed, d, accumulate }]);
    });
    accumulate = true;
  }
}

function productsOfHeads(
  device: Device,
  a: Tensor<"bf16">,
  b: Tensor<"bf16">,
  d: Tensor<"f32">,
  transposed: boolean,
): void {
  const [batch, heads, depth] = checkTensor("a", a, "bf16", ["b", "h", transposed ? "d" : "r"]);
  const shape = checkTensor("b", b, "bf16", transposed ? [heads, depth, "r"] : [heads, "d", depth]);
  const width = shape[transposed ? 2 : 1];
  checkTensor("d", d, "f32", [batch, heads, width]);
  if (batch === 0 || width === 0) return;
  if (depth === 0) {
    for (let i = 0; i < batch * heads; i++) d.data.fill(0, i * d.stride, i * d.stride + width);
    return;
  }
  duringCall(device, () => {
    const groups = Array.from({ length: heads }, (_, head) => ({
      a: {
        type: "bf16" as const,
        values: viewAt(a, head * a.stride, [batch, depth], heads * a.stride),
      },
      m: batch,
      b: packForCall(device, { weight: matrixAt(b, head), transposed }, "bf16"),
      d: viewAt(d, head * d.stride, [batch, width], heads * d.stride),
    }));
    gemm(device, groups);
  });
}
