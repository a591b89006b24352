/**
 * Both tests run in a child process, this file again: what they look for would kill the process.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { BaleenError, Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { allocateGuarded, nativeAbsence } from "../native/index.ts";
import {
  bytesPerElement,
  type DType,
  elementCount,
  type Tensor,
  tensorOf,
} from "../tensor/index.ts";
import * as deepGemm from "./index.ts";
import { openAll } from "./testing.ts";
import { type Call, everyCall, withoutOperands } from "./testing-calls.ts";

const skip = nativeAbsence() ?? false;
const role = process.env.BALEEN_ROBUSTNESS_ROLE;
const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);

/** Tells the parent what is about to run, before the process can die of it. */
function announce(what: string): void {
  writeSync(1, `${what}\n`);
}

function runChild(name: string): void {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    BALEEN_ROBUSTNESS_ROLE: name,
    SEED: `${seed}`,
  };
  // Without the variables by which the test runner knows its children.
  delete env.NODE_TEST_CONTEXT;
  const file = fileURLToPath(import.meta.url);
  const child = spawnSync(process.execPath, [file], { env, encoding: "utf8", maxBuffer: 2 ** 28 });
  const last = child.stdout.trimEnd().split("\n").slice(-2).join("; ");
  assert.equal(
    child.status,
    0,
    `seed ${seed}: ended by ${child.signal ?? child.status} after: ${last}\n${child.stderr}`,
  );
  console.log(`seed ${seed}; ${last}`);
}

/** What no number, string or tensor should be. */
const hostile: readonly unknown[] = [
  undefined,
  null,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  -1,
  0,
  1,
  1.5,
  127,
  1000,
  2 ** 31,
  2 ** 32 + 1,
  2 ** 53,
  -(2 ** 60),
  "x",
  "f32",
  "bf16",
  "f8e4m3",
  "constructor",
  true,
  [],
  {},
  [1, 2],
  [2 ** 31, 0],
  new Uint8Array(3),
  new Float32Array(5),
  new Int32Array([-5, 2 ** 31 - 1, 7]),
];

/** Every place below `value` that can be replaced: arguments, fields, elements of indices. */
function placesOf(value: unknown, path: (string | number)[] = []): (string | number)[][] {
  if (typeof value !== "object" || value === null || path.length > 5) return [];
  if (ArrayBuffer.isView(value)) {
    if (!(value instanceof Int32Array)) return [];
    return Array.from(value, (_, i) => [...path, i]);
  }
  if (!Array.isArray(value) && Object.getPrototypeOf(value) !== Object.prototype) return [];
  return Object.entries(value).flatMap(([key, inner]) => [
    [...path, key],
    ...placesOf(inner, [...path, key]),
  ]);
}

/** A copy of `value` in which the place `path` holds `substitute`. */
function withSubstitute(value: unknown, path: (string | number)[], substitute: unknown): unknown {
  if (path.length === 0) return substitute;
  const [key, ...rest] = path;
  if (ArrayBuffer.isView(value)) {
    const copy = (value as Int32Array).slice();
    copy[key as number] = Number(substitute);
    return copy;
  }
  const copy = (Array.isArray(value) ? [...value] : { ...(value as object) }) as never[];
  const inner = copy[key as number];
  copy[key as number] = withSubstitute(inner, rest, substitute) as never;
  // A tensor whose data was copied must name the copy's address, or it would be refused for that.
  if (key === "data" && rest.length > 0) {
    const { dtype, shape, stride, data } = copy as unknown as Tensor;
    return tensorOf<DType>(dtype, shape, data, stride);
  }
  return copy;
}

function isTyped(error: unknown): boolean {
  if (error instanceof BaleenError) return true;
  return error instanceof Error && error.message.startsWith("assertion failed: ");
}

function attempt(device: Device, call: Call, args: unknown[], what: string): void {
  const startMs = performance.now();
  try {
    call.run(args);
  } catch (error) {
    if (!isTyped(error)) {
      announce(`${device.description}: ${call.name} ${what}`);
      throw error;
    }
  }
  const ms = performance.now() - startMs;
  assert.ok(ms < 5000, `${device.description}: ${call.name} ${what}: took ${ms} ms`);
}

function fuzz(): void {
  for (const device of openAll(announce)) {
    const calls = everyCall(device, new Random(seed), { m: 5, n: 67, k: 131 });
    const places = calls.map(({ args }) => placesOf(args));
    let count = 0;
    const mutation = fc.record({
      call: fc.nat(calls.length - 1),
      changes: fc.array(fc.record({ place: fc.nat(), value: fc.nat(hostile.length - 1) }), {
        minLength: 1,
        maxLength: 3,
      }),
    });
    const property = fc.property(mutation, ({ call, changes }) => {
      let args: unknown = calls[call].args;
      const paths = places[call];
      for (const { place, value } of changes) {
        const path = paths[place % paths.length];
        try {
          args = withSubstitute(args, path, hostile[value]);
        } catch {
          // An earlier change took the place away.
        }
      }
      count++;
      const what = JSON.stringify(
        changes.map(({ place }) => paths[place % paths.length].join(".")),
      );
      attempt(device, calls[call], args as unknown[], what);
    });
    fc.assert(property, { seed, numRuns: device.isa === undefined ? 400 : 3000 });
    // And each place once by each hostile value, where there is one change only.
    calls.forEach((call, i) => {
      for (const path of places[i]) {
        const value = hostile[count++ % hostile.length];
        attempt(device, call, withSubstitute(call.args, path, value) as unknown[], path.join("."));
      }
    });
    announce(`${device.description}: ${count} hostile calls`);
    device.close();
  }
}

/** The same tensor between guard pages. */
function guarded<D extends DType>(tensor: Tensor<D>, side: "start" | "end"): Tensor<D> {
  const count = elementCount(tensor.shape);
  if (count === 0) return tensor;
  const buffer = allocateGuarded(count * bytesPerElement[tensor.dtype], side);
  const { data } = tensor;
  const copy = new (data.constructor as Float32ArrayConstructor)(buffer);
  copy.set(data.subarray(0, count));
  return tensorOf(tensor.dtype, tensor.shape, copy as Tensor["data"] as Tensor<D>["data"]);
}

/** `device`, whose memory lies between guard pages too: what the room allocates for itself. */
function guardedDevice(device: Device, side: "start" | "end"): Device {
  const allocate = (bytes: number) =>
    allocateGuarded(Math.ceil(Math.max(1, bytes) / 64) * 64, side);
  return Object.create(device, { allocate: { value: allocate } });
}

function guards(): void {
  let count = 0;
  for (const device of openAll(announce).slice(1)) {
    for (const side of ["end", "start"] as const) {
      const inside = guardedDevice(device, side);
      for (const [m, n, k] of [
        [1, 1, 1],
        [2, 65, 127],
        [7, 64, 128],
        [13, 200, 258],
        [64, 67, 131],
      ]) {
        const random = new Random(seed);
        const place = <D extends DType>(tensor: Tensor<D>) => guarded(tensor, side);
        for (const { name, args, run } of everyCall(inside, random, { m, n, k }, place)) {
          announce(`${device.description}: ${name} ${m} x ${n} x ${k}, guarded at its ${side}`);
          run(args);
          count++;
        }
      }
    }
    device.close();
  }
  announce(`${count} guarded calls`);
}

if (role === "fuzz") fuzz();
else if (role === "guards") guards();
else {
  test("hostile operands end in typed errors, never in the end of the process", { skip }, () => {
    runChild("fuzz");
  });
  test("no kernel touches what lies before or behind its operands", { skip }, () => {
    runChild("guards");
  });
  test("every function of the door is called here", () => {
    const [reference] = openAll(() => {});
    const calls = everyCall(reference, new Random(1), { m: 1, n: 1, k: 1 });
    const names = new Set([...withoutOperands, ...calls.map(({ name }) => name)]);
    // What belongs to GPUs is tested beside its code.
    const door = readFileSync(new URL("./index.js", import.meta.url), "utf8");
    for (const [, exported] of door.matchAll(/export \{([^}]*)\} from "\.\/ptx-/g)) {
      for (const name of exported.split(",")) names.add(name.trim());
    }
    assert.deepEqual(
      Object.keys(deepGemm).filter((name) => !names.has(name)),
      [],
    );
  });
}
