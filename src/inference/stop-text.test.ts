import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StopScanner } from "./stop-text.ts";

/** The answer before its first stop, by trying every end position. */
function naive(text: string, stops: readonly string[]): { shown: string; stop?: string } {
  for (let end = 1; end <= text.length; end++) {
    const found = stops
      .filter((stop) => text.slice(0, end).endsWith(stop))
      .sort((x, y) => y.length - x.length);
    if (found.length > 0) return { shown: text.slice(0, end - found[0].length), stop: found[0] };
  }
  return { shown: text };
}

const letters = fc.string({ unit: fc.constantFrom("a", "b", "c"), maxLength: 40 });
const stops = fc.array(
  fc.string({ unit: fc.constantFrom("a", "b", "c"), minLength: 1, maxLength: 6 }),
  { maxLength: 4 },
);

test("stops are found wherever the text is cut, and what may become one is not shown", () => {
  fc.assert(
    fc.property(fc.array(letters, { maxLength: 8 }), stops, (pieces, strings) => {
      const scanner = new StopScanner(strings);
      const wanted = naive(pieces.join(""), strings);
      let shown = "";
      let stop: string | undefined;
      for (const piece of pieces) {
        const scan = scanner.push(piece);
        shown += scan.text;
        assert.ok(wanted.shown.startsWith(shown), `leaked ${shown}, wanted ${wanted.shown}`);
        stop = scan.stop;
        if (stop !== undefined) break;
      }
      if (stop === undefined) shown += scanner.flush();
      assert.deepEqual({ shown, stop }, { stop: undefined, ...wanted });
    }),
    { numRuns: 2000 },
  );
});

test("text is held back no longer than it may be part of a stop", () => {
  const scanner = new StopScanner(["\n\nEnd"]);
  assert.deepEqual(scanner.push("one\n"), { text: "one" });
  assert.deepEqual(scanner.push("\n"), { text: "" });
  assert.deepEqual(scanner.push("\n"), { text: "\n" });
  assert.deepEqual(scanner.push("Ends"), { text: "", stop: "\n\nEnd" });
});

test("a stop string of 10,000 characters costs no more than its length", () => {
  const scanner = new StopScanner(["a".repeat(10_000)]);
  let shown = 0;
  for (let i = 0; i < 2000; i++) shown += scanner.push(`${"a".repeat(99)}b`).text.length;
  assert.equal(shown, 200_000);
});
