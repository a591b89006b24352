import assert from "node:assert/strict";
import { test } from "node:test";
import { ceilDiv, Random } from "../base/index.ts";
import {
  assembleKernel,
  emitPtx,
  GlobalMemory,
  testSchedules,
  whyNoPtxas,
} from "../codegen/index.ts";
import { kernelRunner } from "../device/index.ts";
import { bf16ToF32, f32ToBf16 } from "../tensor/index.ts";
import { type PortableConfig, portableBlock, portableGemmKernel } from "./ptx-portable.ts";

const seed = Number(process.env.SEED ?? 20261124);
const runner = kernelRunner();
const configs: readonly PortableConfig[] = [false, true].flatMap((aTransposed) =>
  [false, true].map((bTransposed) => ({
    aTransposed,
    bTransposed,
    output: aTransposed ? "f32" : "bf16",
    accumulate: aTransposed && bTransposed,
  })),
);
const shapes = [
  [8, 8, 8],
  [72, 136, 104],
  [64, 64, 64],
] as const;

for (const config of configs) {
  const kernel = portableGemmKernel(config);
  const { aTransposed, bTransposed, output, accumulate } = config;
  test(`${kernel.name} to ${output}${accumulate ? ", added," : ""} equals float64`, () => {
    for (const [m, n, k] of shapes) {
      const random = new Random(seed + m + n + k);
      const [a, b] = [m * k, n * k].map((count) =>
        Uint16Array.from({ length: count }, () => f32ToBf16(random.normal())),
      );
      const valueA = (i: number, x: number) => bf16ToF32(a[aTransposed ? x * m + i : i * k + x]);
      const valueB = (j: number, x: number) => bf16ToF32(b[bTransposed ? x * n + j : j * k + x]);
      for (const schedule of testSchedules(0, seed).slice(0, 3)) {
        const memory = new GlobalMemory();
        const [atA, atB] = [memory.input("a", a), memory.input("b", b)];
        const d = accumulate
          ? memory.inout("d", new Float32Array(m * n).fill(1))
          : memory.output("d", m * n * (output === "f32" ? 4 : 2));
        const grid = [ceilDiv(n, portableBlock), ceilDiv(m, portableBlock), 1] as const;
        runner.run(kernel, {
          grid,
          memory,
          args: [atA, atB, d].map((x): number => x.address).concat(m, n, k),
          schedule,
        });
        for (let i = 0; i < m; i++) {
          for (let j = 0; j < n; j++) {
            let [sum, magnitude] = [accumulate ? 1 : 0, 1];
            for (let x = 0; x < k; x++) {
              const term = valueA(i, x) * valueB(j, x);
              sum += term;
              magnitude += Math.abs(term);
            }
            const got = output === "f32" ? d.f32[i * n + j] : bf16ToF32(d.u16[i * n + j]);
            const slack = output === "f32" ? 0 : Math.abs(sum) / 256;
            assert.ok(
              Math.abs(got - sum) <= 1e-6 * magnitude + slack,
              `d[${i}, ${j}] = ${got}, wanted ${sum}; ${m} x ${n} x ${k}, seed ${seed}`,
            );
          }
        }
      }
    }
  });
}

test("it is written for Ampere, and ptxas takes it", { skip: whyNoPtxas() }, () => {
  for (const config of configs) {
    const kernel = portableGemmKernel(config);
    assert.deepEqual([emitPtx(kernel).target, emitPtx(kernel).version], ["sm_80", 70]);
    const { spillBytes, warnings, counts } = assembleKernel(kernel, "sm_80");
    assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] }, kernel.name);
    assert.equal(counts.local, 0);
  }
});
