import assert from "node:assert/strict";
import { test } from "node:test";
import { Random } from "../base/index.ts";
import {
  assembleKernel,
  EmulatorFault,
  GlobalMemory,
  type Kernel,
  mutantsOf,
  type Schedule,
  testSchedules,
  wgmmaCounts,
  whyNoPtxas,
} from "../codegen/index.ts";
import { kernelRunner } from "../device/index.ts";
import { bf16ToF32, f32ToBf16 } from "../tensor/index.ts";
import { type Bf16Config, bf16Arguments, bf16GemmKernel } from "./ptx-bf16.ts";

const seed = Number(process.env.SEED ?? 20261124);
const runner = kernelRunner();
/** A broken kernel may hang a GPU. */
const emulatorOnly = runner.onGpu ? "broken kernels run in the emulator only" : false;

/** A product with random operands; `[rows, k]` each, and the answer in float64. */
function problemOf(m: number, n: number, k: number) {
  const random = new Random(seed + m * 31 + n * 7 + k);
  const matrix = (count: number) =>
    Uint16Array.from({ length: count }, () => f32ToBf16(random.normal()));
  const [a, b] = [matrix(m * k), matrix(n * k)];
  const values = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let x = 0; x < k; x++)
        values[i * n + j] += bf16ToF32(a[i * k + x]) * bf16ToF32(b[j * k + x]);
    }
  }
  return { m, n, k, a, b, values };
}

type Problem = ReturnType<typeof problemOf>;

function transposed(data: Uint16Array, rows: number, columns: number): Uint16Array {
  return Uint16Array.from(
    { length: data.length },
    (_, i) => data[(i % rows) * columns + Math.floor(i / rows)],
  );
}

/** The output as numbers; where it is added to, d was 1 before. */
function run(
  kernel: Kernel,
  config: Bf16Config,
  problem: Problem,
  schedule: Schedule,
): Float32Array {
  const { m, n, k, a, b } = problem;
  const memory = new GlobalMemory();
  const bytes = config.output === "bf16" ? 2 : 4;
  const d = config.accumulate
    ? memory.inout("d", new Float32Array(m * n).fill(1))
    : memory.output("d", m * n * bytes);
  const at = {
    a: memory.input("a", config.aTransposed ? transposed(a, m, k) : a).address,
    b: memory.input("b", config.bTransposed ? transposed(b, n, k) : b).address,
    d: d.address,
  };
  const args = bf16Arguments(at, { m, n, k, groups: 1 }, config);
  runner.run(kernel, { grid: [2, 1, 1], memory, args, schedule, stepsMax: 1e6 });
  if (config.output === "f32") return d.f32.slice(0, m * n);
  return Float32Array.from(d.u16.subarray(0, m * n), bf16ToF32);
}

function difference(got: Float32Array, { values }: Problem, added: number): number {
  let [both, squares] = [0, 0];
  got.forEach((value, i) => {
    const wanted = values[i] + added;
    both += 2 * value * wanted;
    squares += value * value + wanted * wanted;
  });
  return 1 - both / squares;
}

const plain = {
  blockM: 64,
  stages: 3,
  rasterGroup: 8,
  multicast: "none",
  grouping: "dense",
  output: "bf16",
  accumulate: false,
} as const;
const layouts = [false, true].flatMap((aTransposed) =>
  [false, true].map((bTransposed) => ({ aTransposed, bTransposed })),
);
const configs: readonly Bf16Config[] = [
  ...layouts.map((layout) => ({ ...plain, blockN: 64, ...layout })),
  ...layouts.map(
    (layout, i): Bf16Config => ({
      ...plain,
      ...layout,
      blockM: 128,
      blockN: [96, 48, 128, 32][i],
      stages: 2,
      multicast: i % 2 === 0 ? "a" : "b",
      output: "f32",
      accumulate: i > 1,
    }),
  ),
];

for (const config of configs) {
  const { blockM, blockN, multicast, output, accumulate } = config;
  const kernel = bf16GemmKernel(config);
  const how = `${blockM} x ${blockN}, multicast ${multicast}, ${output}${accumulate ? ", added" : ""}`;
  test(`${kernel.name} in blocks of ${how} equals float64`, () => {
    const shapes = [
      [8, 16, 8],
      [blockM + 8, blockN + 24, 200],
    ] as const;
    for (const [m, n, k] of shapes) {
      const problem = problemOf(m, n, k);
      for (const schedule of testSchedules(0, seed + m)) {
        const got = run(kernel, config, problem, schedule);
        const off = difference(got, problem, accumulate ? 1 : 0);
        const where = `${m} x ${n} x ${k}, seed ${seed}, ${JSON.stringify(schedule)}`;
        // Upstream's limit is 1e-5; float32 sums are nearer.
        assert.ok(off < (output === "f32" ? 1e-10 : 1e-5), `difference ${off} at ${where}`);
      }
    }
  });
}

test("every broken bf16 kernel is flagged", { skip: emulatorOnly }, (t) => {
  const config = { ...configs[3], blockN: 32, stages: 2 };
  const kernel = bf16GemmKernel(config);
  const problem = problemOf(72, 40, 320);
  const schedules = testSchedules(2, seed);
  const mutants = mutantsOf(kernel);
  const survivors = mutants.filter(
    (mutant) =>
      !schedules.some((schedule) => {
        try {
          return !(difference(run(mutant.kernel, config, problem, schedule), problem, 0) < 1e-5);
        } catch (error) {
          if (error instanceof EmulatorFault) return true;
          throw error;
        }
      }),
  );
  t.diagnostic(`${mutants.length - survivors.length} of ${mutants.length} mutants flagged`);
  assert.deepEqual(
    survivors.map(({ name }) => name),
    [],
  );
});

test("ptxas takes them: no spills, no warnings", { skip: whyNoPtxas() }, () => {
  const wide = layouts.map(
    (layout) => ({ ...plain, ...layout, blockM: 128, blockN: 256 }) as const,
  );
  for (const config of [...configs, ...wide]) {
    const kernel = bf16GemmKernel(config);
    const { spillBytes, warnings, counts } = assembleKernel(kernel);
    const where = `${kernel.name} ${config.blockM} x ${config.blockN}`;
    assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] }, where);
    assert.equal(counts.local, 0, where);
    assert.equal(counts.hgmma, wgmmaCounts(kernel).hgmma, where);
    assert.equal(counts.hgmma, 4, where);
  }
});
