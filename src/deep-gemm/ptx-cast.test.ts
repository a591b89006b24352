import assert from "node:assert/strict";
import { test } from "node:test";
import { ceilDiv, Random } from "../base/index.ts";
import { assembleKernel, emitPtx, GlobalMemory, whyNoPtxas } from "../codegen/index.ts";
import { kernelRunner } from "../device/index.ts";
import { fromF32, quantiseBlocks, toF32 } from "../tensor/index.ts";
import { castKernel, castLaunch } from "./ptx-cast.ts";
import { getMnMajorTmaAlignedTensor } from "./scale-layouts.ts";
import { randomMatrix } from "./testing.ts";

const seed = Number(process.env.SEED ?? 20261124);
const runner = kernelRunner();

for (const from of ["f32", "bf16"] as const) {
  for (const powerOfTwoScales of [false, true]) {
    const config = { from, powerOfTwoScales };
    test(`casting ${from} to FP8${powerOfTwoScales ? ", powers of two," : ""} gives the reference's bits`, () => {
      for (const [m, k] of [
        [1, 16],
        [7, 272],
        [30, 384],
      ]) {
        const matrix = randomMatrix(new Random(seed + m), m, k);
        // A row of zeros, one of tiny values, one of large ones.
        matrix.data.fill(0, 0, Math.min(k, 128));
        for (let i = 2 * k; i < matrix.data.length && i < 4 * k; i++) {
          matrix.data[i] *= i < 3 * k ? 1e-9 : 1e20;
        }
        const held = fromF32(matrix, "bf16");
        const x = from === "f32" ? matrix : toF32(held);
        const wanted = quantiseBlocks(x, { blockRows: 1, powerOfTwoScales });
        const scales = getMnMajorTmaAlignedTensor(wanted.scales);
        const memory = new GlobalMemory();
        const codes = memory.output("codes", m * k);
        const out = memory.output("scales", scales.data.byteLength);
        const source = memory.input("x", from === "f32" ? matrix.data : held.data);
        const at = { x: source.address, codes: codes.address, scales: out.address };
        runner.run(castKernel(config), { ...castLaunch(at, { m, k }), memory });
        assert.deepEqual(
          codes.bytes.subarray(0, m * k),
          wanted.codes.data,
          `${m} x ${k}, seed ${seed}`,
        );
        for (let block = 0; block < ceilDiv(k, 128); block++) {
          const start = block * scales.stride;
          const row = out.f32.subarray(start, start + m);
          assert.deepEqual(
            row,
            scales.data.subarray(start, start + m),
            `${m} x ${k}, seed ${seed}`,
          );
        }
      }
    });
  }
}

test("ptxas takes the cast: no spills, no warnings", { skip: whyNoPtxas() }, () => {
  const kernel = castKernel({ from: "bf16", powerOfTwoScales: true });
  const { spillBytes, warnings } = assembleKernel(kernel, "sm_89");
  assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] });
  assert.equal(emitPtx(kernel).target, "sm_89");
});
