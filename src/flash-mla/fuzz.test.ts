/**
 * Hostile shapes, strides, dtypes, lengths, indices and numbers at every public function, in a child
 * process, as a wrong address would end it: errors in words only, and the child lives to the end.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { BaleenError, Random } from "../base/index.ts";
import { type Device, openDevice } from "../device/index.ts";
import { type Tensor, tensorOf } from "../tensor/index.ts";
import {
  dequantiseKvCache,
  flashAttnVarlenBackward,
  flashAttnVarlenFunc,
  flashAttnVarlenKvpackedFunc,
  flashAttnVarlenQkvpackedFunc,
  flashMlaSparseFwd,
  flashMlaWithKvCache,
  getMlaMetadata,
  mlaAttention,
  quantiseKvCache,
} from "./index.ts";
import { makeCache, poisoned, randomBf16 } from "./testing.ts";

/** One public function with operands that fit together. */
interface Door {
  readonly name: string;
  readonly args: () => unknown[];
  readonly run: (device: Device, args: never[]) => unknown;
}

const i32 = (shape: number[], fill: (i: number) => number) => {
  const count = shape.reduce((product, size) => product * size, 1);
  return tensorOf(
    "i32",
    shape,
    Int32Array.from({ length: count }, (_, i) => fill(i)),
  );
};

const random = new Random(1);

function doorOf(run: (device: Device, ...args: never[]) => unknown, args: () => unknown[]): Door {
  return { name: run.name, args, run: (device, given) => run(device, ...given) };
}

function pureDoorOf(run: (...args: never[]) => unknown, args: () => unknown[]): Door {
  return { name: run.name, args, run: (_, given) => run(...given) };
}

function fp8(): Tensor<"f8e4m3"> {
  return quantiseKvCache(randomBf16(random, [2, 8, 1, 576]));
}

function metadata(topk?: number): unknown[] {
  const options = topk === undefined ? { threads: 3 } : { threads: 3, topk };
  const made = getMlaMetadata(
    i32([2], (i) => [70, 5][i]),
    4,
    1,
    options,
  );
  return [made.tileSchedulerMetadata, made.numSplits];
}

function decodeDoors(): Door[] {
  return [
    pureDoorOf(getMlaMetadata, () => [i32([2], (i) => [70, 5][i]), 4, 1, { threads: 3, topk: 9 }]),
    pureDoorOf(quantiseKvCache, () => [randomBf16(random, [2, 8, 1, 576])]),
    pureDoorOf(dequantiseKvCache, () => [fp8()]),
    doorOf(flashMlaWithKvCache, () => {
      const { kCache, blockTable, cacheSeqlens } = makeCache(random, [70, 5], 1, 40);
      const q = randomBf16(random, [2, 2, 2, 40]);
      const options = {
        softmaxScale: 0.1,
        causal: true,
        attnSink: poisoned("f32", [2]),
        out: poisoned("bf16", [2, 2, 2, 24]),
        lse: poisoned("f32", [2, 2, 2]),
      };
      return [q, kCache, blockTable, cacheSeqlens, 24, ...metadata(), options];
    }),
    doorOf(flashMlaWithKvCache, () => {
      const q = randomBf16(random, [2, 2, 2, 576]);
      const options = {
        isFp8Kvcache: true,
        indices: i32([2, 2, 70], (i) => (i % 17) - 1),
        topkLength: i32([2], () => 70),
      };
      return [q, fp8(), undefined, undefined, 512, ...metadata(70), options];
    }),
    doorOf(mlaAttention, () => {
      const { kCache, blockTable } = makeCache(random, [70, 5], 1, 40);
      const sequences = [0, 1].map((i) => ({
        queryStart: i,
        queryCount: 1,
        contextLength: [70, 5][i],
        blockTable: blockTable.data.slice(i * blockTable.stride, (i + 1) * blockTable.stride),
      }));
      const q = tensorOf("f32", [2, 3, 40], new Float32Array(240).fill(0.1));
      const kvCache = { ...kCache, shape: [kCache.shape[0], 64, 40] };
      const [out, lse] = [poisoned("f32", [2, 3, 24]), poisoned("f32", [2, 3])];
      return [{ q, kvCache, sequences, headDimV: 24, softmaxScale: 0.1, out, lse }];
    }),
  ];
}

function prefillDoors(): Door[] {
  const starts = () => [i32([3], (i) => [0, 4, 9][i]), i32([3], (i) => [0, 7, 70][i]), 5, 63];
  const qkv = () => [
    randomBf16(random, [9, 2, 24]),
    randomBf16(random, [70, 1, 24]),
    randomBf16(random, [70, 1, 16]),
  ];
  return [
    doorOf(flashMlaSparseFwd, () => [
      randomBf16(random, [3, 4, 40]),
      randomBf16(random, [9, 2, 40]),
      i32([3, 2, 6], (i) => (i % 11) - 1),
      0.2,
      24,
      { topkLength: i32([3], (i) => 2 * i) },
    ]),
    doorOf(flashAttnVarlenFunc, () => [...qkv(), ...starts(), { causal: true }]),
    doorOf(flashAttnVarlenKvpackedFunc, () => [
      randomBf16(random, [9, 2, 24]),
      randomBf16(random, [70, 1, 40]),
      ...starts(),
      24,
      {},
    ]),
    doorOf(flashAttnVarlenQkvpackedFunc, () => [
      randomBf16(random, [9, 2, 64]),
      i32([3], (i) => [0, 4, 9][i]),
      5,
      24,
      {},
    ]),
    doorOf(flashAttnVarlenBackward, () => [
      randomBf16(random, [9, 2, 16]),
      ...qkv(),
      randomBf16(random, [9, 2, 16]),
      tensorOf("f32", [9, 2], new Float32Array(18)),
      ...starts(),
      { causal: true, dk: poisoned("bf16", [70, 1, 24]) },
    ]),
  ];
}

/** A place in the operands that can be changed. */
interface Leaf {
  readonly holder: Record<string | number, unknown>;
  readonly key: string | number;
}

const isTyped = (value: unknown): value is Int32Array => ArrayBuffer.isView(value);

/** Every number, string, boolean, tensor and element of an index array below `value`, but addresses. */
function leavesOf(holder: Record<string | number, unknown>, into: Leaf[] = []): Leaf[] {
  for (const key of Object.keys(holder)) {
    const value = holder[key];
    if (key === "address") continue;
    into.push({ holder, key });
    if (isTyped(value)) {
      if (value instanceof Int32Array) {
        for (let i = 0; i < Math.min(6, value.length); i++) {
          into.push({ holder: value as unknown as Record<number, unknown>, key: i });
        }
      }
    } else if (typeof value === "object" && value !== null) {
      leavesOf(value as Record<string, unknown>, into);
    }
  }
  return into;
}

const numbers = [
  -1,
  0,
  1,
  2,
  3,
  5,
  63,
  64,
  65,
  71,
  576,
  1.5,
  -0.5,
  2 ** 20,
  2 ** 31,
  2 ** 32,
  2 ** 53,
];
const odd = [Number.NaN, Number.POSITIVE_INFINITY, -(2 ** 31), 2147483647, -7];
const hostile = fc.oneof(
  fc.constantFrom(...numbers, ...odd),
  fc.constantFrom("bf16", "f32", "f8e4m3", "i32", undefined, true),
);

/** Changes one leaf: arrays of elements are cut short (from the front they would move). */
function change({ holder, key }: Leaf, value: unknown): void {
  const old = holder[key];
  if (isTyped(old)) {
    holder[key] = old.subarray(0, typeof value === "number" ? Math.abs(value % 50) : 0);
  } else if (Array.isArray(old)) {
    holder[key] = typeof value === "number" ? [...old, value] : old.slice(1);
  } else if (typeof old !== "object" || value === undefined) {
    holder[key] = value;
  }
}

/** Runs in the child. */
function fuzz(seed: number, runs: number): void {
  const devices = [openDevice({ threads: 2 })];
  if (devices[0].isa !== undefined) devices.push(openDevice({ isa: "avx2", threads: 1 }));
  const all = [...decodeDoors(), ...prefillDoors()];
  for (const { name, args, run } of all) {
    for (const device of devices) {
      try {
        run(device, args() as never[]);
      } catch (error) {
        throw new Error(`${name} refuses good operands: ${error}`);
      }
    }
  }
  const counts = { refused: 0, accepted: 0 };
  const step = fc.record({ leaf: fc.nat(), value: hostile });
  fc.assert(
    fc.property(
      fc.nat(all.length - 1),
      fc.array(step, { minLength: 1, maxLength: 3 }),
      (which, steps) => {
        const door = all[which];
        // Tensors are copied, so that shapes and strides can be written.
        const args = door.args().map(unfreeze);
        for (const { leaf, value } of steps) {
          const leaves = leavesOf(args as unknown as Record<string, unknown>);
          change(leaves[leaf % leaves.length], value);
        }
        for (const device of devices) {
          try {
            door.run(device, args as never[]);
            counts.accepted++;
          } catch (error) {
            counts.refused++;
            const isWords =
              error instanceof BaleenError || /^assertion failed: ./.test((error as Error).message);
            if (!isWords) throw new Error(`${door.name}: ${(error as Error).stack}`);
          }
        }
      },
    ),
    { seed, numRuns: runs },
  );
  console.log(JSON.stringify(counts));
}

function unfreeze(value: unknown): unknown {
  if (isTyped(value) || typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(unfreeze);
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, unfreeze(one)]));
}

if (process.env.FLASH_MLA_FUZZ) {
  fuzz(Number(process.env.FLASH_MLA_FUZZ), Number(process.env.RUNS ?? 1500));
} else {
  test("hostile operands are refused in words, and end no process", () => {
    const seed = Number(process.env.SEED ?? 1 + (Date.now() % 1e6));
    console.log(`seed ${seed}`);
    const { status, signal, stdout, stderr } = spawnSync(
      process.execPath,
      [fileURLToPath(import.meta.url)],
      { env: { ...process.env, FLASH_MLA_FUZZ: String(seed) }, encoding: "utf8" },
    );
    const what = `seed ${seed}, signal ${signal}: ${stderr.slice(0, 2000)}`;
    assert.equal(status, 0, what);
    const { refused, accepted } = JSON.parse(stdout.trim().split("\n").at(-1)!);
    assert.ok(refused > 100 && accepted > 100, `refused ${refused}, accepted ${accepted}, ${what}`);
  });
}
