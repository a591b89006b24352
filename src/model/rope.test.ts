import assert from "node:assert/strict";
import { test } from "node:test";
import { RopeTable, ropeFrequencies, softmaxScale, type YarnScaling } from "./rope.ts";

const yarn: YarnScaling = {
  factor: 40,
  originalMaxPositionEmbeddings: 4096,
  betaFast: 32,
  betaSlow: 1,
  mscale: 1,
  mscaleAllDim: 1,
};

test("DeepSeek-V3's attention scale is 0.135234", () => {
  assert.ok(Math.abs(softmaxScale(192, yarn) - 0.135234) < 1e-6);
  assert.equal(softmaxScale(64, undefined), 0.125);
});

test("YaRN leaves dimensions up to 10 alone and stretches those from 23 by 40", () => {
  const plain = ropeFrequencies({ dim: 64, theta: 10000 });
  const stretched = ropeFrequencies({ dim: 64, theta: 10000, yarn });
  for (let i = 0; i < 32; i++) {
    const ratio = plain[i] / stretched[i];
    if (i <= 10) assert.ok(Math.abs(ratio - 1) < 1e-6, `${i}: ${ratio}`);
    else if (i >= 23) assert.ok(Math.abs(ratio - 40) < 1e-4, `${i}: ${ratio}`);
    else assert.ok(ratio > 1 && ratio < 40, `${i}: ${ratio}`);
  }
});

test("the table grows and keeps what it had", () => {
  const table = new RopeTable({ dim: 8, theta: 100 }, (bytes) => new ArrayBuffer(bytes));
  const before = [...table.upTo(3).data.subarray(0, 24)];
  const grown = table.upTo(5000);
  assert.ok(grown.shape[0] >= 5000);
  assert.deepEqual([...grown.data.subarray(0, 24)], before);
  assert.ok(Math.abs(grown.data[4999 * 8] - Math.cos(4999)) < 1e-3);
});
