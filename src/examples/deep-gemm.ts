/**
 * @file Matrix products on the CPU: FP8 with block scales, the experts of a layer in one launch, a
 * weight gradient, the indexer's logits. Run: node dist/examples/deep-gemm.js
 */
import {
  type Activations,
  bf16GemmNt,
  fp8GemmNt,
  fp8MqaLogits,
  kGroupedBf16GemmTnContiguous,
  mGroupedFp8GemmNtContiguous,
  packWeights,
  perBlockCastToFp8,
  perTokenCastToFp8,
  prepareGemm,
} from "baleen/deep-gemm";
import { openDevice } from "baleen/device";
import { fromF32, type Tensor, tensorOf, zeros } from "baleen/tensor";

const device = openDevice();
console.log(`device: ${device.description.replace(/ \(.*/, "")}`);
let state = 1;
const random = (...shape: number[]): Tensor<"f32"> => {
  const tensor = zeros("f32", shape, (bytes) => device.allocate(bytes));
  for (let i = 0; i < tensor.data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    tensor.data[i] = state / 2 ** 31 - 1;
  }
  return tensor;
};
const output = (...shape: number[]) => zeros("f32", shape, (bytes) => device.allocate(bytes));
const differenceOf = (x: Float32Array, y: Float32Array) => {
  const both = x.reduce((sum, value, i) => sum + value * y[i], 0);
  const squares = x.reduce((sum, value, i) => sum + value * value + y[i] * y[i], 0);
  return 1 - (2 * both) / squares;
};

// The same product in bf16 and, cast with a scale for each 128 of k, in FP8.
const [m, n, k] = [64, 256, 512];
const [a, b] = [random(m, k), random(n, k)];
const [exact, eight] = [output(m, n), output(m, n)];
bf16GemmNt(device, fromF32(a, "bf16"), fromF32(b, "bf16"), exact);
fp8GemmNt(device, perTokenCastToFp8(device, a, false), perBlockCastToFp8(device, b, false), eight);
console.log(
  `FP8 beside bf16: ${differenceOf(exact.data, eight.data) < 1e-3 ? "within" : "beyond"} 1e-3`,
);

// Weights that are used more than once are packed once; a product may be laid out once, too.
const packed = packWeights(device, [{ weight: b }], "f32");
const left: Activations = { type: "f32", values: a };
const prepared = prepareGemm(device, [{ a: left, m, b: packed, d: exact }]);
prepared.run();
console.log(`packed weights: ${packed.bytes} bytes, read once a product`);

// Three experts; rows of -1 are padding. Experts 0 and 2 got rows.
const experts = [0, 1, 2].map(() => {
  const { codes, scales } = perBlockCastToFp8(device, random(n, k), false);
  return packWeights(device, [{ weight: codes, scales }], "f8e4m3");
});
const expertOf = tensorOf("i32", [6], Int32Array.of(0, 0, 0, -1, 2, 2));
const tokens = perTokenCastToFp8(device, random(6, k), false);
const routed = output(6, n);
mGroupedFp8GemmNtContiguous(device, tokens, experts, routed, expertOf);
const isZero = routed.data.subarray(3 * n, 4 * n).every((value) => value === 0);
console.log(`experts: row 3 is padding and ${isZero ? "was left alone" : "was written"}`);

// The experts' weight gradients, added to what is there: D[g] += X_g^T Y_g.
const rows = [3, 0, 2];
const gradient = output(3, k, n);
const [x, y] = [fromF32(random(5, k), "bf16"), fromF32(random(5, n), "bf16")];
const layout = tensorOf("i32", [3], Int32Array.from(rows));
kGroupedBf16GemmTnContiguous(device, x, y, gradient, rows, layout, gradient);
const largest = rows.map((_, g) =>
  gradient.data.subarray(g * k * n, (g + 1) * k * n).reduce((x, y) => Math.max(x, Math.abs(y)), 0),
);
console.log(`gradients: ${largest.map((value) => (value === 0 ? "zero" : "some")).join(", ")}`);

// Which of 300 keys does each of two queries score highest?
const codesOf = (values: Tensor<"f32">) => fromF32(values, "f8e4m3");
const heads = codesOf(random(2, 8 * 64));
const keys = { codes: codesOf(random(300, 64)), scales: output(300) };
keys.scales.data.fill(1);
const starts = tensorOf("i32", [2], Int32Array.of(0, 0));
const ends = tensorOf("i32", [2], Int32Array.of(300, 150));
const q = { ...heads, shape: [2, 8, 64], stride: 64 };
const logits = fp8MqaLogits(device, q, keys, random(2, 8), starts, ends);
for (const query of [0, 1]) {
  const row = logits.data.subarray(query * logits.stride, query * logits.stride + 300);
  const best = row.indexOf(row.reduce((most, value) => Math.max(most, value)));
  console.log(`query ${query}: key ${best} of ${ends.data[query]}`);
}
device.close();
