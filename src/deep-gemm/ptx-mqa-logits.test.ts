import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../base/index.ts";
import {
  assembleKernel,
  GlobalMemory,
  testSchedules,
  wgmmaCounts,
  whyNoPtxas,
} from "../codegen/index.ts";
import { kernelRunner } from "../device/index.ts";
import { f8e4m3ToF32, f32ToF8e4m3 } from "../tensor/index.ts";
import { type MqaLogitsConfig, mqaLogitsKernel, mqaLogitsLaunch } from "./ptx-mqa-logits.ts";

const seed = Number(process.env.SEED ?? 20261124);
const runner = kernelRunner();

/** Random operands, each query with its own range of keys, and the logits in float64. */
function problemOf({ heads, dim }: MqaLogitsConfig, queries: number, keys: number) {
  const random = new Random(seed + queries + keys);
  const codes = (count: number) =>
    Uint8Array.from({ length: count }, () => f32ToF8e4m3(random.normal()));
  const floats = (count: number) => Float32Array.from({ length: count }, () => random.normal());
  const [q, k] = [codes(queries * heads * dim), codes(keys * dim)];
  const [scales, weights] = [floats(keys), floats(queries * heads)];
  const first = Int32Array.from({ length: queries }, (_, i) =>
    i % 3 === 0 ? 0 : random.below(keys),
  );
  const end = first.map((from, i) => (i % 4 === 1 ? from : from + random.below(keys - from) + 1));
  const logits = new Float64Array(queries * keys).fill(Number.NaN);
  for (let i = 0; i < queries; i++) {
    for (let j = first[i]; j < end[i]; j++) {
      let sum = 0;
      for (let h = 0; h < heads; h++) {
        let dot = 0;
        for (let x = 0; x < dim; x++) {
          dot += f8e4m3ToF32(q[(i * heads + h) * dim + x]) * f8e4m3ToF32(k[j * dim + x]);
        }
        sum += Math.max(0, dot) * weights[i * heads + h];
      }
      logits[i * keys + j] = sum * scales[j];
    }
  }
  return { queries, keys, q, k, scales, weights, first, end, logits };
}

const configs: readonly MqaLogitsConfig[] = [
  { heads: 64, dim: 128 },
  { heads: 32, dim: 64 },
];

for (const config of configs) {
  test(`logits of ${config.heads} heads of ${config.dim} equal float64, and only in range`, () => {
    const kernel = mqaLogitsKernel(config);
    for (const [queries, keys] of [
      [1, 5],
      [9, 300],
    ]) {
      const problem = problemOf(config, queries, keys);
      for (const schedule of testSchedules(0, seed)) {
        const memory = new GlobalMemory();
        const logits = memory.output("logits", queries * keys * 4);
        const place = (name: string, data: ArrayBufferView) => memory.input(name, data).address;
        const at = {
          q: place("q", problem.q),
          keys: place("keys", problem.k),
          scales: place("scales", problem.scales),
          weights: place("weights", problem.weights),
          first: place("first", problem.first),
          end: place("end", problem.end),
          logits: logits.address,
        };
        runner.run(kernel, { ...mqaLogitsLaunch(at, problem, config), memory, schedule });
        problem.logits.forEach((wanted, i) => {
          const got = logits.f32[i];
          // What is not written stays NaN. On a GPU FP8 sums have fewer bits.
          const near =
            Math.abs(got - wanted) <= (runner.onGpu ? 0.3 : 1e-3) + 1e-5 * Math.abs(wanted);
          assert.ok(
            Number.isNaN(wanted) ? Number.isNaN(got) : near,
            `logits[${i}]: ${got}, wanted ${wanted}`,
          );
        });
      }
    }
  });
}

test("ptxas takes them: no spills, no warnings", { skip: whyNoPtxas() }, () => {
  for (const config of configs) {
    const kernel = mqaLogitsKernel(config);
    const { spillBytes, warnings, counts } = assembleKernel(kernel);
    assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] });
    assert.equal(counts.local, 0);
    assert.equal(counts.qgmma, wgmmaCounts(kernel).qgmma);
  }
});
