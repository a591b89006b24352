import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ceilDiv } from "../base/index.ts";
import { hopperFp8Card, planGemm, stagesThatFit } from "./ptx-heuristics.ts";

const seed = Number(process.env.SEED ?? 20261124);

test("every plan is one that the kernel takes", () => {
  const shapes = fc.record({
    m: fc.integer({ min: 1, max: 9000 }),
    n: fc.integer({ min: 8, max: 33000 }),
  });
  fc.assert(
    fc.property(shapes, (shape) => {
      const { blockM, blockN, stages, multicast, blocks } = planGemm(shape);
      assert.ok(blockN % 16 === 0 && blockN <= 192 && stages >= 3 && stages <= 8);
      assert.ok(stages * ((blockM + blockN) * 128 + blockM * 4) + blockM * blockN * 2 < 232448);
      assert.ok(blocks >= 1 && blocks <= hopperFp8Card.numSms);
      if (multicast !== "none") {
        assert.equal(blocks % 2, 0);
        const tiles = multicast === "a" ? ceilDiv(shape.n, blockN) : ceilDiv(shape.m, blockM);
        assert.equal(tiles % 2, 0);
      }
    }),
    { seed, numRuns: 300 },
  );
});

test("few rows take small blocks, and widths that are no powers of two keep processors busy", () => {
  assert.equal(planGemm({ m: 1, n: 7168 }).blockM, 64);
  const { blockM, blockN } = planGemm({ m: 128, n: 7168 });
  const tiles = ceilDiv(128, blockM) * ceilDiv(7168, blockN);
  assert.ok(tiles <= 132 && tiles > 100, `${tiles} tiles of ${blockM} x ${blockN}`);
});

test("large products share operands in clusters of two", () => {
  const plan = planGemm({ m: 4096, n: 7168 });
  assert.notEqual(plan.multicast, "none");
  assert.ok(plan.blockM === 128 && plan.blockN >= 112, JSON.stringify(plan));
  assert.ok(stagesThatFit(plan.blockM, plan.blockN) >= 4);
});
