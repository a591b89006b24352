import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { blockSize, type Tensor } from "../tensor/index.ts";
import { type PackedType, panelColumns, panelElements, panelIndex } from "./layout.ts";
import { PackedMatrix, packWeights } from "./pack.ts";
import { combinations, openAll, randomWeights, strided } from "./testing.ts";
import type { WeightMatrix } from "./types.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const devices = openAll(console.log);
after(() => {
  for (const device of devices) device.close();
});

test("the places of a panel's elements are a permutation, whatever k", () => {
  for (const dtype of ["f32", "bf16", "f8e4m3"] as const) {
    for (const k of [1, 2, 3, 64]) {
      const places = new Set<number>();
      for (let i = 0; i < k * panelColumns; i++) {
        places.add(panelIndex(dtype, Math.floor(i / panelColumns), i % panelColumns));
      }
      assert.equal(places.size, k * panelColumns);
      assert.ok(Math.max(...places) < panelElements(dtype, k));
    }
  }
});

for (const device of devices) {
  test(`${device.isa ?? "reference"}: packed weights hold each element at its place`, () => {
    console.log(`seed ${seed}`);
    const random = new Random(seed);
    for (const { activation, weights } of combinations) {
      for (const [n, k] of [
        [1, 1],
        [64, 64],
        [65, 65],
        [128, 33],
        [200, 127],
        [130, 259],
      ]) {
        const matrices = [0, 1].map((part) => {
          const { operand } = randomWeights(random, weights, n + part, k);
          return part === 0 ? operand : unaligned(device, operand);
        });
        const packed = packWeights(device, matrices, activation);
        assert.ok(packed instanceof PackedMatrix);
        checkStream(packed, matrices, `${weights} [${n}, ${k}]`);
      }
    }
  });
}

/** The same weights in rows further apart, at an address that is no multiple of the vectors'. */
function unaligned(device: Device, matrix: WeightMatrix): WeightMatrix {
  const { weight } = matrix;
  if (weight.dtype === "f8e4m3") return matrix;
  const moved = strided<"f32" | "bf16">(device, weight, weight.shape[1] + 7);
  return { weight: moved as Tensor<"bf16"> };
}

function checkStream(packed: PackedMatrix, matrices: readonly WeightMatrix[], name: string): void {
  const { dtype, k, panelBytes } = packed;
  const wanted = new (packed.stream.data.constructor as Uint8ArrayConstructor)(
    packed.stream.data.length,
  );
  matrices.forEach((matrix, part) => {
    const { weight } = matrix as { weight: Tensor<PackedType> };
    for (let row = 0; row < weight.shape[0]; row++) {
      const panel = packed.columns[part] / panelColumns + Math.floor(row / panelColumns);
      const start = panel * panelElements(dtype, k);
      for (let i = 0; i < k; i++) {
        wanted[start + panelIndex(dtype, i, row % panelColumns)] =
          weight.data[row * weight.stride + i];
      }
      if (!("scales" in matrix)) continue;
      const blocks = Math.ceil(k / blockSize);
      const { data } = matrix.scales;
      const scales = data.subarray(Math.floor(row / blockSize) * blocks).subarray(0, blocks);
      assert.deepEqual(packed.scales!.data.slice(panel * blocks, (panel + 1) * blocks), scales);
    }
  });
  assert.deepEqual(packed.stream.data, wanted as typeof packed.stream.data, name);
  assert.equal(packed.stream.data.byteLength, packed.panels * panelBytes);
}
