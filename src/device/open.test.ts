import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { workerUrl } from "../base/index.ts";
import { type CpuWords, chooseIsa, isaOf, isas, probeCpu } from "./cpu.ts";
import { openDevice } from "./index.ts";
import { x86Absence } from "./open.ts";
import { defaultThreads, numbersIn, processorsOfQuota, usableProcessors } from "./processors.ts";
import { exercise } from "./testing.ts";

const skip = x86Absence() ?? false;

const bits = (...set: number[]): number => set.reduce((word, bit) => (word | (1 << bit)) >>> 0, 0);

/** A processor and system with everything that `avx512-bf16` needs, and nothing more. */
const full: CpuWords = {
  leafMax: 7,
  leaf1Ecx: bits(12, 27, 28, 29),
  leaf7Ebx: bits(3, 5, 8, 16, 17, 28, 30, 31),
  leaf7Ecx: bits(1),
  leaf7Sub1Eax: bits(5),
  savedState: bits(1, 2, 5, 6, 7),
};

test("each instruction set needs each of its bits", () => {
  assert.equal(isaOf(full), "avx512-bf16");
  const without = (word: keyof CpuWords, bit: number) =>
    isaOf({ ...full, [word]: (full[word] & ~bits(bit)) >>> 0 });
  for (const bit of [12, 27, 28, 29]) assert.equal(without("leaf1Ecx", bit), undefined);
  for (const bit of [3, 5, 8]) assert.equal(without("leaf7Ebx", bit), undefined);
  for (const bit of [1, 2]) assert.equal(without("savedState", bit), undefined);
  for (const bit of [16, 17, 28, 30, 31]) assert.equal(without("leaf7Ebx", bit), "avx2");
  for (const bit of [5, 6, 7]) assert.equal(without("savedState", bit), "avx2");
  assert.equal(without("leaf7Ecx", 1), "avx512");
  assert.equal(without("leaf7Sub1Eax", 5), "avx512");
  assert.equal(isaOf({ ...full, leafMax: 6 }), undefined);
});

test("the probe agrees with what the system says about the processor", { skip }, () => {
  const info = readFileSync("/proc/cpuinfo", "utf8");
  const flags = new Set(/^flags\s*:\s*(.*)$/m.exec(info)?.[1].split(" "));
  const has = (...names: string[]) => names.every((name) => flags.has(name));
  const avx2 = has("avx", "avx2", "fma", "f16c", "bmi1", "bmi2");
  const avx512 = avx2 && has("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd");
  const bf16 = avx512 && has("avx512_bf16", "avx512vbmi");
  const wanted = bf16 ? "avx512-bf16" : avx512 ? "avx512" : avx2 ? "avx2" : undefined;
  assert.equal(isaOf(probeCpu()), wanted);
});

test("a lesser instruction set can be asked for, a better one is refused", () => {
  assert.equal(chooseIsa(undefined, "avx512"), "avx512");
  assert.equal(chooseIsa("avx2", "avx512"), "avx2");
  assert.throws(() => chooseIsa("avx512-bf16", "avx512"), {
    code: "isa-unavailable",
    message: /avx512-bf16 was asked for, but this processor's best is avx512/,
  });
});

const best = skip ? undefined : isaOf(probeCpu());
for (const isa of best ? isas.slice(isas.indexOf(best)) : []) {
  test(`a device with ${isa} forced says so and launches`, () => {
    const device = openDevice({ isa, threads: 2 });
    assert.deepEqual([device.rung, device.isa, device.threads], ["x86", isa, 2]);
    assert.equal(device.description, `x86 (${isa}), 2 threads`);
    exercise(device, { launches: 50, seed: 1 });
    device.close();
  });
}

test("the reference rung gives memory and refuses code", () => {
  const device = openDevice({ rung: "reference" });
  assert.deepEqual([device.rung, device.isa, device.threads], ["reference", undefined, 1]);
  assert.equal(device.description, "reference: asked for");
  assert.ok(new Uint8Array(device.allocate(100)).every((byte) => byte === 0));
  assert.throws(() => device.load(new Uint8Array([0xc3]), "k"), /load of k: the reference rung/);
  assert.throws(() => device.launch(1, 1, 1), /launch: the reference rung/);
  device.close();
});

test("wrong options are refused with what was wanted", () => {
  assert.throws(() => openDevice({ threads: 0 }), /threads of a device: got 0, wanted 1 to 1024/);
  assert.throws(() => openDevice({ threads: 1.5 }), /got 1.5/);
  assert.throws(() => openDevice({ isa: "sse" as never }), /got "sse", wanted one of avx512-bf16/);
  assert.throws(() => openDevice({ scratchBytes: -1 }), /scratchBytes: got -1/);
  assert.throws(() => openDevice({ spinUs: Number.NaN }), /spinUs: got NaN/);
});

/** The environment without wishes of whoever runs the tests. */
const plainEnvironment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith("BALEEN_")),
);

/** Opens a device in a process of its own, and gives its fields or its error's code and message. */
function openedWith(env: Record<string, string>, options: object = {}): Record<string, unknown> {
  const program = `
    import { openDevice } from ${JSON.stringify(workerUrl(import.meta.url, "./index").href)};
    try {
      const { rung, isa, threads, description } = openDevice(${JSON.stringify(options)});
      console.log(JSON.stringify({ rung, isa, threads, description }));
    } catch ({ code, message }) {
      console.log(JSON.stringify({ code, message }));
    }`;
  const run = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    env: { ...plainEnvironment, ...env },
    encoding: "utf8",
  });
  assert.equal(run.status, 0, run.stderr);
  return JSON.parse(run.stdout);
}

test("without a native layer the reference serves, one line says why, and x86 is refused", () => {
  const env = { BALEEN_NO_NATIVE: "1" };
  assert.deepEqual(openedWith(env), {
    rung: "reference",
    threads: 1,
    description: "reference: BALEEN_NO_NATIVE=1 forbids it, kernels run in plain TypeScript",
  });
  assert.deepEqual(openedWith(env, { rung: "x86" }), {
    code: "rung-unavailable",
    message:
      "rung x86 was asked for, but BALEEN_NO_NATIVE=1 forbids it: use rung auto or reference.",
  });
});

test("the environment chooses what the options leave open", { skip }, () => {
  const env = { BALEEN_ISA: "avx2", BALEEN_THREADS: "3", BALEEN_RUNG: "x86" };
  const opened = openedWith(env);
  assert.equal(opened.description, "x86 (avx2), 3 threads");
  assert.equal(openedWith(env, { threads: 1 }).description, "x86 (avx2), 1 thread");
  assert.equal(openedWith({ BALEEN_RUNG: "reference" }).rung, "reference");
  const bad = [
    [{ BALEEN_ISA: "mmx" }, /BALEEN_ISA is "mmx": set it to one of avx512-bf16/],
    [{ BALEEN_THREADS: "many" }, /BALEEN_THREADS is "many": set it to a number from 1 to 1024/],
    [{ BALEEN_RUNG: "gpu" }, /BALEEN_RUNG is "gpu": set it to one of auto, x86, reference/],
  ] as const;
  for (const [variables, message] of bad) {
    const { code, message: got } = openedWith(variables);
    assert.equal(code, "bad-environment");
    assert.match(String(got), message);
  }
});

test("threads by default: at least one, no more than the processors that can run", () => {
  assert.ok(defaultThreads() >= 1 && defaultThreads() <= usableProcessors());
  assert.deepEqual(numbersIn("0-3,8,10-11"), [0, 1, 2, 3, 8, 10, 11]);
  assert.equal(processorsOfQuota("150000 100000"), 2);
  assert.equal(processorsOfQuota("5000 100000"), 1);
  assert.equal(processorsOfQuota("max 100000"), undefined);
  assert.equal(processorsOfQuota("-1 100000"), undefined);
  assert.equal(processorsOfQuota("undefined undefined"), undefined);
});
