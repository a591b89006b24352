import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { EmulatorFault } from "../emulator/fault.ts";
import { emulate, type Schedule } from "../emulator/machine.ts";
import { GlobalMemory } from "../emulator/memory.ts";
import { testSchedules as schedules } from "../emulator/schedules.ts";
import type { Kernel } from "../ir.ts";
import { mutantsOf } from "../mutate.ts";
import { assembleKernel, wgmmaCounts, whyNoPtxas } from "../ptxas.ts";
import { litmusTests } from "./index.ts";
import type { Litmus } from "./litmus.ts";

const all = litmusTests();

function run(
  litmus: Litmus,
  kernel: Kernel,
  schedule: Schedule,
  numerics?: "hopperFp8",
): Uint32Array {
  const memory = new GlobalMemory();
  const { args, output, expected } = litmus.prepare(memory);
  const grid = [litmus.blocks, 1, 1] as const;
  const mode = numerics ? { numerics } : {};
  emulate(kernel, { grid, memory, args, schedule, stepsMax: 100_000, ...mode });
  return output.u32.slice(0, expected.length);
}

function expectedOf(litmus: Litmus): number[] {
  return [...Array.from(litmus.prepare(new GlobalMemory()).expected)];
}

for (const litmus of all) {
  test(`${litmus.name}: ${litmus.prediction}`, () => {
    const expected = expectedOf(litmus);
    for (const schedule of schedules(4)) {
      const got = run(litmus, litmus.kernel, schedule);
      assert.deepEqual([...got], expected, JSON.stringify(schedule));
    }
  });
}

test("HARDWARE.md lists every test with its prediction", (t) => {
  const path = fileURLToPath(new URL("../HARDWARE.md", import.meta.url)).replace("/dist/", "/src/");
  if (!existsSync(path)) return t.skip("there are no sources here");
  const text = readFileSync(path, "utf8").replaceAll(/ +/g, " ");
  const missing = all.filter(
    ({ name, prediction }) => !text.includes(`| \`${name}\` | ${prediction} |`),
  );
  assert.deepEqual(
    missing.map(({ name }) => name),
    [],
  );
});

test("small addends of an FP8 sum are lost at 14 bits", () => {
  const litmus = all.find(({ name }) => name === "wgmma_e4m3_small_addends")!;
  const got = run(litmus, litmus.kernel, schedules(0)[0], "hopperFp8");
  assert.equal(new Float32Array(got.buffer)[0], 16384);
});

/** Mutants that no schedule can tell from the kernel, by a part of their names, and why. */
const harmless: readonly (readonly [string, string])[] = [
  ["mbarrier_parity: drop MbarWait", "the first wait shows that it does not wait"],
  ["mbarrier_parity: drop Fence", "only ordinary arrivals of the same block use this barrier"],
  ["hand_over_mbarrier: drop Fence", "only ordinary arrivals of the same block use this barrier"],
];

test("of all litmus kernels broken on purpose at least 95 % are flagged", (t) => {
  let flagged = 0;
  const survivors: string[] = [];
  for (const litmus of all) {
    const expected = expectedOf(litmus);
    for (const mutant of mutantsOf(litmus.kernel)) {
      if (isFlagged(litmus, mutant.kernel, expected)) flagged++;
      else survivors.push(`${litmus.name}: ${mutant.name}`);
    }
  }
  const total = flagged + survivors.length;
  t.diagnostic(
    `${flagged} of ${total} mutants flagged; survivors: ${survivors.join("; ") || "none"}`,
  );
  assert.ok(total > 80, `only ${total} mutants`);
  const unexplained = survivors.filter((name) => !harmless.some(([part]) => name.includes(part)));
  assert.deepEqual(unexplained, []);
  assert.ok(flagged >= 0.95 * total);
});

function isFlagged(litmus: Litmus, kernel: Kernel, expected: readonly number[]): boolean {
  return schedules(4).some((schedule) => {
    try {
      const got = run(litmus, kernel, schedule);
      return got.some((word, i) => word !== expected[i]);
    } catch (error) {
      if (error instanceof EmulatorFault) return true;
      throw error;
    }
  });
}

test("ptxas takes every litmus kernel without a warning", { skip: whyNoPtxas() }, () => {
  for (const { kernel } of all) {
    const { spillBytes, warnings, counts } = assembleKernel(kernel);
    assert.deepEqual({ spillBytes, warnings }, { spillBytes: 0, warnings: [] }, kernel.name);
    const { hgmma, qgmma } = counts;
    assert.deepEqual({ hgmma, qgmma }, wgmmaCounts(kernel), kernel.name);
  }
});
