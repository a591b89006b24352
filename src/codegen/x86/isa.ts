/** @file The vector instruction sets that kernels are emitted for. */

/**
 * What a kernel may use, best first. `avx2`: AVX2, FMA, F16C, BMI1, BMI2. `avx512`: that and F, BW,
 * VL, DQ, CD. `avx512-bf16`: that and BF16, VBMI.
 */
export type Isa = "avx512-bf16" | "avx512" | "avx2";

/** Whether `isa` has 512-bit vectors, 32 registers and mask registers. */
export function hasAvx512(isa: Isa): boolean {
  return isa !== "avx2";
}
