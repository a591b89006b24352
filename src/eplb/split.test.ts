import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BaleenError, Random } from "../base/index.ts";
import { balanceExperts, gpuLoads, splitTokens, zipfLoads } from "./index.ts";

/** The least peak by the theorem behind the certificate: the worst set of experts, all of them tried. */
function leastPeak(weight: readonly number[], row: readonly number[], numGpus: number): number {
  let worst = 0;
  for (let set = 1; set < 2 ** weight.length; set++) {
    const load = weight.reduce((sum, w, e) => sum + ((set >> e) & 1) * w, 0);
    const gpus = new Set<number>();
    row.forEach((expert, slot) => {
      if ((set >> expert) & 1) gpus.add(Math.floor((slot * numGpus) / row.length));
    });
    worst = Math.max(worst, load / gpus.size);
  }
  return worst;
}

test("the split is whole, and as good as the worst set of experts allows", () => {
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(1, 10, 1000), fc.boolean(), (seed, size, whole) => {
      const random = new Random(seed);
      const experts = 1 + random.below(7);
      const numGpus = 1 + random.below(5);
      const slotsPerGpu = Math.ceil(experts / numGpus) + random.below(3);
      const weight = Array.from({ length: experts }, () =>
        whole ? random.below(size) : size * random.uniform(),
      );
      const row = random.shuffle(
        Array.from({ length: numGpus * slotsPerGpu }, (_, slot) =>
          slot < experts ? slot : random.below(experts),
        ),
      );
      const [split] = splitTokens([weight], [row], numGpus, { whole });
      const wanted = leastPeak(weight, row, numGpus);
      const peak = whole ? Math.ceil(wanted - 1e-9) : wanted;
      assert.ok(Math.abs(split.peak - peak) <= 1e-9 * (1 + peak), `${split.peak}, wanted ${peak}`);
      weight.forEach((load, expert) => {
        const sent = split.slots.filter((_, slot) => row[slot] === expert);
        const sum = sent.reduce((x, y) => x + y, 0);
        assert.ok(Math.abs(sum - load) <= 1e-9 * (1 + load), `expert ${expert}: ${sum} of ${load}`);
      });
      if (whole) assert.ok(split.slots.every(Number.isInteger));
      assert.ok(split.slots.every((load) => load >= 0));
      const { certificate } = split;
      const proved = certificate.load / certificate.gpus.length;
      if (whole) assert.ok(proved <= split.peak && split.peak < proved + 1);
      else assert.ok(Math.abs(proved - wanted) <= 1e-9 * (1 + wanted));
      row.forEach((expert, slot) => {
        const gpu = Math.floor((slot * numGpus) / row.length);
        if (certificate.experts.includes(expert)) assert.ok(certificate.gpus.includes(gpu));
      });
    }),
    { seed: 11, numRuns: 300 },
  );
});

test("a batch's split beats equal shares on the placement made for the averages", () => {
  const weight = zipfLoads({ seed: 3, layers: 6, exponent: 0.8 });
  const { phy2log } = balanceExperts(weight, 320, 1, 1, 32);
  const random = new Random(5);
  const batch = weight.map((row) =>
    row.map((load) =>
      Math.max(0, Math.round(load / 128 + Math.sqrt(load / 128) * random.normal())),
    ),
  );
  const equal = gpuLoads(batch, phy2log, 32).map((loads) => Math.max(...loads));
  let saved = 0;
  splitTokens(batch, phy2log, 32, { whole: true }).forEach(
    ({ peak, slots, certificate }, layer) => {
      assert.ok(peak <= Math.ceil(equal[layer]));
      saved += equal[layer] - peak;
      assert.equal(peak, Math.ceil(certificate.load / certificate.gpus.length));
      assert.equal(
        slots.reduce((sum, load) => sum + load, 0),
        batch[layer].reduce((sum, load) => sum + load, 0),
      );
    },
  );
  const mean = batch.flat().reduce((sum, load) => sum + load, 0) / batch.length / 32;
  assert.ok(saved / batch.length > 0.005 * mean, `${saved / batch.length} of ${mean} saved`);
});

test("wrong input gets one sentence that names the field", () => {
  const wrong: [() => unknown, RegExp][] = [
    [() => splitTokens([[1, 2]], [[0, 0]], 2), /^phy2log\[0\] has no slot of expert 1/],
    [
      () => splitTokens([[1, 2]], [[0, 2]], 2),
      /^phy2log\[0\]\[1\] is 2: give an expert from 0 to 1/,
    ],
    [() => splitTokens([[1, 2]], [], 2), /^phy2log has 0 layers, weight has 1/],
    [() => splitTokens([[1, 2]], [[0, 1]], 3), /^numGpus is 3 for 2 slots/],
    [() => splitTokens([[1, 0.5]], [[0, 1]], 2, { whole: true }), /^weight\[0\]\[1\] is 0.5/],
  ];
  for (const [call, message] of wrong) {
    assert.throws(call, (error) => error instanceof BaleenError && message.test(error.message));
  }
});
