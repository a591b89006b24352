import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { assembleSample, assembleWithGnu } from "./testing/gnu-as.ts";
import { textOfSample } from "./testing/listing.ts";
import { samplesOf } from "./testing/samples.ts";

/** Lines of `hex  instruction`, written by GNU as; lies in `src`, since tsc copies no data. */
const listing = resolve(
  dirname(fileURLToPath(import.meta.url)),
  "../../..",
  join("src", "codegen", "x86", "golden.txt"),
);
const howToUpdate =
  "after a change of the tables, UPDATE_GOLDEN=1 node bin/test.js golden writes the listing anew";

/** A seed from the row's text, so that a new row leaves the others' samples alone. */
function seedOf(rowName: string): number {
  let hash = 0;
  for (const letter of rowName) hash = (Math.imul(hash, 31) + letter.charCodeAt(0)) | 0;
  return hash >>> 0;
}

const skip = existsSync(listing) || process.env.UPDATE_GOLDEN ? false : "there are no sources here";

test("every form of every row gives the bytes that GNU as gave", { skip }, () => {
  const samples = samplesOf(1, seedOf);
  const texts = samples.map(textOfSample);
  if (process.env.UPDATE_GOLDEN) {
    const hex = assembleWithGnu(texts);
    writeFileSync(listing, texts.map((line, i) => `${hex[i]}  ${line}\n`).join(""));
  }
  const golden = new Map<string, string>();
  for (const line of readFileSync(listing, "utf8").trimEnd().split("\n")) {
    const [hex, text] = line.split("  ");
    golden.set(text, hex);
  }
  assert.ok(texts.length > 2000, `only ${texts.length} samples`);
  samples.forEach((sample, i) => {
    assert.equal(assembleSample(sample), golden.get(texts[i]), `${texts[i]}: ${howToUpdate}`);
  });
  const stale = golden.size - new Set(texts).size;
  assert.equal(stale, 0, `${stale} lines of the listing belong to no row: ${howToUpdate}`);
});
