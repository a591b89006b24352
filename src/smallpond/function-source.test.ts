import assert from "node:assert/strict";
import { test } from "node:test";
import { fn, membersRead, outerNames, shipFunction } from "./function-source.ts";

test("names that lie outside a function are found, all others are not", () => {
  const cases: [string, string[]][] = [
    ["(r) => r.a + 1", []],
    ["r => r.a + rate", ["rate"]],
    ["({ a, b: { c }, ...rest }) => [a, c, rest]", []],
    ["({ a }) => ({ a, total: a * factor })", ["factor"]],
    ["(r) => ({ rate: r.rate })", []],
    [
      "(r) => { const { x, y: [z] } = r; let i = 0, j = x; for (const k of z) i += k; return i + j; }",
      [],
    ],
    ["(r) => { for (const k of items) r.a += k; }", ["items"]],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a function's source
    ["(r) => `${r.a} of ${limit}`", ["limit"]],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: a function's source
    ["(r) => `a ${`b ${r.a ? `c ${deep}` : '}'}`}`", ["deep"]],
    ["(r) => /rate[/]x/.test(r.a) ? 1 / r.b / 2 : 0", []],
    ["(r) => r.a ? yes : no", ["yes", "no"]],
    ["function f(r) { return r.a > 0 ? f({ a: r.a - 1 }) : Math.max(1, JSON.parse('1')); }", []],
    ["function* (r) { yield helper(r); }", ["helper"]],
    ["async (r) => { try { return await fetch(r.u) } catch (error) { return error.message } }", []],
    ["(r) => { class A extends Map { get(k) { return super.get(k) } } return new A() }", []],
    ["(r) => ({ go(x) { return x }, get y() { return 1 } })", []],
    ["(r, i = start) => r", []],
    ["(r) => { // rate\n /* other */ return 'rate' + \"o'ther\" }", []],
    ["(r) => r?.a?.[key]", ["key"]],
    ["(r) => 0x1f + 1_000n + 1e5 + .5", []],
  ];
  for (const [source, wanted] of cases) assert.deepEqual(outerNames(source), wanted, source);
});

test("the members of a row that a function reads are found, or else all are taken", () => {
  const cases: [string, string[] | undefined][] = [
    ["(r) => r.a + r?.b + r['c']", ["a", "b", "c"]],
    ["r => r.a.b", ["a"]],
    ["({ a, b: x, c = 3 }) => a", ["a", "b", "c"]],
    ["function name(row, i) { return row.a }", ["a"]],
    ["({ a, ...rest }) => a", undefined],
    ["(r) => ({ ...r })", undefined],
    ["(r) => r[k]", undefined],
    ["(r) => JSON.stringify(r)", undefined],
    ["() => 1", []],
    ["(r) => [1].map((r) => r)", undefined],
    ["function (r) { return arguments[0].x }", undefined],
  ];
  for (const [source, wanted] of cases) assert.deepEqual(membersRead(source), wanted, source);
});

test("a function over an outer variable is refused with the variable's name", () => {
  const rate = 1.19;
  assert.throws(() => shipFunction((row: { price: number }) => row.price * rate), {
    code: "closure-refused",
    message: /The function uses rate,/,
  });
  assert.throws(() => shipFunction(Math.max as () => unknown), { code: "closure-refused" });
  assert.throws(() => shipFunction(fn("file:///nowhere.ts", "f")), { code: "input-missing" });
  const shipped = shipFunction(fn(import.meta.url, "f"));
  assert.ok(shipped.kind === "module" && shipped.digest.length === 64);
});
