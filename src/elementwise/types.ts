/** @file The contract of the element-wise workshop: what lies between two matrix products. */
import type { Tensor } from "../tensor/index.ts";

/**
 * Where a kernel's result goes, in the form that the next GEMM wants; see `Activations` of
 * `deep-gemm`, which a sink of the same type is structurally.
 * For `f8e4m3`, per row and 128 columns: amax = max(|x|, 1e-4), scale = amax / 448 (rounded up to a
 * power of two where `powerOfTwoScales`), value = e4m3(x / scale), round to nearest even, as
 * `quantiseBlocks` of `tensor` does with rows of one: a NaN stays one and takes no part in amax; an
 * infinity makes its group's scale infinite, hence itself NaN and the rest zero (with powers of two
 * the scale is 2^127, the infinity 448 and the rest zero).
 */
export type Sink =
  | { readonly type: "f32"; readonly values: Tensor<"f32"> }
  | { readonly type: "bf16"; readonly values: Tensor<"bf16"> }
  | {
      readonly type: "f8e4m3";
      /** e4m3 values held as bf16, row stride a multiple of 128, zeroed beyond the last column. */
      readonly values: Tensor<"bf16">;
      readonly scales: Tensor<"f32">;
      readonly powerOfTwoScales?: boolean;
    };

/** A rotary embedding of some heads of some tokens; see `rotate`. */
export interface Rotation {
  /**
   * First element: the rotary part of the first token's first head. A step of the first dimension
   * is a token.
   */
  readonly from: Tensor<"f32">;
  /** Elements from one head to the next in `from`. */
  readonly fromHeadStride: number;
  /** First element: where the rotary part of row 0's first head goes. May be `from` itself. */
  readonly to: Tensor<"f32"> | Tensor<"bf16">;
  /** Elements from one head to the next in `to`. */
  readonly toHeadStride: number;
  readonly heads: number;
  /** Width of the rotary part, even. */
  readonly dim: number;
  /** `[positions, dim]`: dim / 2 cosines, then dim / 2 sines. */
  readonly cosSin: Tensor<"f32">;
  /** Position of each token, a row of `cosSin`. */
  readonly positions: Tensor<"i32">;
  readonly tokens: number;
  /** Row of `to` that each token goes to; token t goes to row t without it. */
  readonly toRows?: Tensor<"i32">;
}

/** The weighted sum of a token's experts; see `combineExperts`. */
export interface Combination {
  /** `[slots, hidden]`: what the experts gave. */
  readonly y: Tensor<"f32">;
  /** `[tokens, k]`: the row of `y` that holds the answer of a token's j-th expert. */
  readonly slotOf: Tensor<"i32">;
  /** `[tokens, k]`. */
  readonly weights: Tensor<"f32">;
  /** `[tokens, hidden]`: what the shared experts gave, added with weight 1. */
  readonly shared?: Tensor<"f32">;
  readonly tokens: number;
  /** `[tokens, hidden]`, added to. */
  readonly to: Tensor<"f32">;
}

/** One step of Adam or AdamW; see `adamStep`. Tensors have equally many elements, and no gaps. */
export interface AdamStep {
  /** Updated in place, as are the two moments. */
  readonly parameters: Tensor<"f32">;
  readonly gradients: Tensor<"f32">;
  /** Running mean of the gradients. */
  readonly firstMoment: Tensor<"f32">;
  /** Running mean of their squares. */
  readonly secondMoment: Tensor<"f32">;
  /** From 1: how many steps the moments have seen, this one included. */
  readonly step: number;
  readonly learningRate: number;
  /** Default 0.9 and 0.95. */
  readonly beta1?: number;
  readonly beta2?: number;
  /** Default 1e-8. */
  readonly eps?: number;
  /** Default 0. */
  readonly weightDecay?: number;
  /** `decoupled` (AdamW, the default) shrinks the parameters; `l2` (Adam) adds to the gradients. */
  readonly decay?: "decoupled" | "l2";
  /** Factor of the gradients, such as that of clipping by norm; default 1. */
  readonly gradientScale?: number;
}

/** The loss of predicted tokens, and its gradient; see `softmaxCrossEntropy`. */
export interface CrossEntropy {
  /** `[rows, classes]`. */
  readonly logits: Tensor<"f32">;
  /** `[rows]`: the class that each row should predict, or `ignoreTarget`. */
  readonly targets: Tensor<"i32">;
  readonly rows: number;
  /** `[rows]`: where the losses go; 0 for ignored rows. */
  readonly losses: Tensor<"f32">;
  /** `[rows, classes]`, where wanted: scale (softmax - 1 at the target). May be `logits`. */
  readonly gradient?: Tensor<"f32">;
  /** Factor of the gradient, such as one over the number of targets; default 1. */
  readonly scale?: number;
  /** Rows with this target have no loss and a gradient of zeros; default -100. */
  readonly ignoreTarget?: number;
}
