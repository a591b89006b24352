import assert from "node:assert/strict";
import { test } from "node:test";
import { GlobalMemory, litmusTests } from "../../codegen/index.ts";
import { kernelRunner } from "./staged.ts";

/** Some outcomes are questions to the hardware, not claims; they are printed. */
const questions = new Set(["wgmma_e4m3_small_addends"]);
const { run, onGpu } = kernelRunner();
const skip = onGpu ? false : "npm run gpu runs these on a GPU; the emulator's are in codegen/ptx";

for (const { name, prediction, kernel, blocks, prepare } of onGpu ? litmusTests() : []) {
  test(`${name}: ${prediction}`, (t) => {
    for (let round = 0; round < 20; round++) {
      const memory = new GlobalMemory();
      const { args, output, expected } = prepare(memory);
      run(kernel, { grid: [blocks, 1, 1], memory, args });
      const got = [...output.u32.subarray(0, expected.length)];
      if (questions.has(name)) {
        const first = output.f32[0];
        const predicted = new Float32Array(Uint32Array.from(expected).buffer)[0];
        t.diagnostic(`${name}: got ${first}, exact float32 would be ${predicted}`);
        return;
      }
      assert.deepEqual(got, [...Array.from(expected)], `round ${round}`);
    }
  });
}

test("the litmus tests ran on a GPU", { skip }, () => assert.ok(onGpu));
