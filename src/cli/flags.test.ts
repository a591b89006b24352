import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type Flags, parseFlags, UsageError } from "./flags.ts";

const table = {
  model: { type: "text", short: "m", value: "DIR", default: "here", help: "" },
  out: { type: "text", value: "FILE", help: "" },
  port: { type: "whole", value: "N", min: 0, max: 65_535, default: 8000, help: "" },
  temperature: { type: "number", value: "T", min: -1, max: 2, help: "" },
  memory: { type: "bytes", value: "SIZE", min: 1, help: "" },
  key: { type: "list", value: "KEY", help: "" },
  rung: { type: "choice", choices: ["reference", "x86"], help: "" },
  mtp: { type: "switch", default: true, help: "" },
  json: { type: "switch", help: "" },
} as const satisfies Flags;

test("what is not given has its default, or is undefined", () => {
  const { flags, operands } = parseFlags([], table);
  assert.deepEqual(operands, []);
  assert.deepEqual(flags, {
    model: "here",
    out: undefined,
    port: 8000,
    temperature: undefined,
    memory: undefined,
    key: [],
    rung: undefined,
    mtp: true,
    json: false,
  });
});

test("values come after a blank or an equals sign, in any order, operands between", () => {
  const argv = ["a", "--port=1", "-m", "x", "--temperature", "-0.5", "--key", "k1", "b"];
  const { flags, operands } = parseFlags(
    [...argv, "--key=--k2", "--no-mtp", "--json", "--rung", "x86", "--", "--port"],
    table,
  );
  assert.deepEqual(operands, ["a", "b", "--port"]);
  assert.deepEqual([flags.port, flags.model, flags.temperature], [1, "x", -0.5]);
  assert.deepEqual([flags.key, flags.mtp, flags.json], [["k1", "--k2"], false, true]);
  assert.equal(flags.rung, "x86");
});

test("sizes take units, binary and decimal", () => {
  const sizes = { "100": 100, "1k": 1024, "2KiB": 2048, "1.5GiB": 1.5 * 2 ** 30, "3gb": 3e9 };
  for (const [text, bytes] of Object.entries(sizes)) {
    assert.equal(parseFlags([`--memory=${text}`], table).flags.memory, bytes);
  }
});

const faults: readonly (readonly [argv: string[], says: string])[] = [
  [["--prot", "1"], "There is no flag --prot: did you mean --port?"],
  [["--no-mpt"], "There is no flag --no-mpt: did you mean --no-mtp?"],
  [["--no-port"], "There is no flag --no-port: did you mean --port?"],
  [["--something"], "There is no flag --something: --help lists what there is."],
  [["-x"], "There is no flag -x: --help lists what there is."],
  [["--port"], "--port needs a value: add N after it."],
  [["--out", "--json"], "--out needs a value: add FILE after it."],
  [["--rung"], "--rung needs a value: add reference|x86 after it."],
  [["--rung=cuda"], '--rung: got "cuda", wanted reference or x86.'],
  [["--json=1"], '--json takes no value: leave "=1" out.'],
  [["--port=8000.5"], '--port: got "8000.5", wanted a whole number from 0 to 65535.'],
  [["--port=-1"], '--port: got "-1", wanted a whole number from 0 to 65535.'],
  [["--port="], '--port: got "", wanted a whole number from 0 to 65535.'],
  [["--port=0x10"], '--port: got "0x10", wanted a whole number from 0 to 65535.'],
  [["--temperature=NaN"], '--temperature: got "NaN", wanted a number from -1 to 2.'],
  [["--temperature=Infinity"], '--temperature: got "Infinity", wanted a number from -1 to 2.'],
  [["--memory=2furlongs"], '--memory: got "2furlongs", wanted a size such as 512MiB, at least 1.'],
  [["--memory=0"], '--memory: got "0", wanted a size such as 512MiB, at least 1.'],
];

test("each mistake is one sentence that names the flag", () => {
  for (const [argv, says] of faults) {
    assert.throws(
      () => parseFlags(argv, table),
      (error: unknown) => error instanceof UsageError && error.message === says,
      `${argv.join(" ")}: wanted ${says}`,
    );
  }
});

test("numbers are read as JavaScript writes them, or refused", () => {
  fc.assert(
    fc.property(fc.double({ min: -1, max: 2, noNaN: true }), (value) => {
      const { flags } = parseFlags([`--temperature=${value}`], table);
      assert.equal(flags.temperature, Number(`${value}`));
    }),
  );
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        const { temperature } = parseFlags([`--temperature=${text}`], table).flags;
        assert.ok(Number.isFinite(temperature));
      } catch (error) {
        assert.ok(error instanceof UsageError);
      }
    }),
  );
});
