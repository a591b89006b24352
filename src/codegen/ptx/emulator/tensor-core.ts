/**
 * @file What a tensor core computes. `exact`: products are exact, their sum over one instruction's k
 * is exact, and adding it to the float32 accumulator rounds once.
 *
 * `hopperFp8` models the accumulation of FP8 on Hopper as DeepSeek-V3's report (arXiv 2412.19437,
 * section 3.3.2) describes it: the addends of an instruction are aligned to the largest exponent
 * among them and truncated to about 14 bits. It says why sums are promoted to float32 every 128 of
 * k; it isn't calibrated on silicon, and claims no bit.
 */

/** How sums are formed; see above. */
export type NumericsMode = "exact" | "hopperFp8";

/** Bits kept of an addend below the leading bit of the largest one. */
const keptBits = 13;

/** d[m x n] += a[m x k] b[n x k], `d` at stride n; a, b hold exact values. */
export function multiplyTile(
  d: Float32Array,
  a: Float32Array,
  b: Float32Array,
  shape: { m: number; n: number; k: number },
  mode: NumericsMode,
): void {
  if (mode === "hopperFp8") multiplyTruncated(d, a, b, shape);
  else multiplyExact(d, a, b, shape);
}

/** Four columns at a time, which halves the time. */
function multiplyExact(
  d: Float32Array,
  a: Float32Array,
  b: Float32Array,
  { m, n, k }: { m: number; n: number; k: number },
): void {
  for (let i = 0; i < m; i++) {
    const row = i * k;
    for (let j = 0; j < n; j += 4) {
      const [b0, b1, b2, b3] = [j * k, (j + 1) * k, (j + 2) * k, (j + 3) * k];
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let x = 0; x < k; x++) {
        const value = a[row + x];
        s0 += value * b[b0 + x];
        s1 += value * b[b1 + x];
        s2 += value * b[b2 + x];
        s3 += value * b[b3 + x];
      }
      const at = i * n + j;
      d[at] += s0;
      d[at + 1] += s1;
      d[at + 2] += s2;
      d[at + 3] += s3;
    }
  }
}

const products = new Float64Array(65);

function multiplyTruncated(
  d: Float32Array,
  a: Float32Array,
  b: Float32Array,
  { m, n, k }: { m: number; n: number; k: number },
): void {
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      products[k] = d[i * n + j];
      let largest = Math.abs(products[k]);
      for (let x = 0; x < k; x++) {
        products[x] = a[i * k + x] * b[j * k + x];
        largest = Math.max(largest, Math.abs(products[x]));
      }
      if (largest === 0) continue;
      const quantum = 2 ** (Math.floor(Math.log2(largest)) - keptBits);
      let sum = 0;
      for (let x = 0; x <= k; x++) sum += Math.trunc(products[x] / quantum);
      d[i * n + j] = sum * quantum;
    }
  }
}
