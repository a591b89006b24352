import assert from "node:assert/strict";
import { test } from "node:test";
import { assembleSample, assembleWithGnu, gnuAsAbsence } from "./testing/gnu-as.ts";
import { textOfSample } from "./testing/listing.ts";
import { samplesOf } from "./testing/samples.ts";

test("every row with random operands gives the bytes of GNU as", { skip: gnuAsAbsence }, () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  console.log(`seed ${seed} (SEED=${seed} repeats it)`);
  const samples = samplesOf(5, () => seed);
  const lines = samples.map(textOfSample);
  const wanted = assembleWithGnu(lines);
  const wrong = samples.flatMap((sample, i) => {
    const got = assembleSample(sample);
    return got === wanted[i] ? [] : [`${lines[i]}: got ${got}, wanted ${wanted[i]}`];
  });
  const shown = wrong.slice(0, 40).join("\n");
  assert.equal(wrong.length, 0, `${wrong.length} of ${lines.length} differ:\n${shown}`);
});
