/** @file The kernels that only training needs: the Adam step and the cross-entropy. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import fc from "fast-check";
import { ceilDiv, Random } from "../base/index.ts";
import { openDevice } from "../device/index.ts";
import { map, pageBytes, unmap, viewAt } from "../native/index.ts";
import { columnsOf, type Tensor, tensorOf, zeros } from "../tensor/index.ts";
import { type AdamStep, adamStep, type CrossEntropy, softmaxCrossEntropy } from "./index.ts";

const seed = Number(process.env.SEED ?? 20260102);
const reference = openDevice({ rung: "reference" });
const best = openDevice({ threads: 2 });
const machines = best.rung === "x86" ? [best, openDevice({ isa: "avx2", threads: 1 })] : [];
const devices = [reference, ...machines];
after(() => {
  for (const device of devices) device.close();
});

/** Whether two arrays have the same bits, all NaNs being one. */
function assertSame(got: Float32Array, wanted: Float32Array, what: string): void {
  const at = wanted.findIndex((value, i) => !Object.is(value, got[i]));
  assert.equal(
    at,
    -1,
    `${what}, element ${at}: got ${got[at]}, wanted ${wanted[at]}, seed ${seed}`,
  );
}

/** Memory that ends where a page ends that is not there: a step beyond is fatal. */
function atEdge(shape: readonly number[]): Tensor<"f32"> {
  const count = shape.reduce((product, size) => product * size, 1);
  const mapped = Math.max(1, ceilDiv(4 * count, pageBytes)) * pageBytes;
  const address = map(mapped + pageBytes);
  unmap(address + mapped, pageBytes);
  const data = new Float32Array(viewAt(address, mapped), mapped - 4 * count, count);
  return tensorOf("f32", shape, data);
}

const make = (shape: readonly number[]): Tensor<"f32"> =>
  machines.length > 0 ? atEdge(shape) : zeros("f32", shape);

const sizes = [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 1000, 70_001];
const settings: readonly Partial<AdamStep>[] = [
  {},
  { step: 1, weightDecay: 0.1, beta2: 0.999 },
  { step: 1000, weightDecay: 0.1, decay: "l2", gradientScale: 0.37 },
  { step: 3, learningRate: 0, beta1: 0, beta2: 0, eps: 0 },
];

function adamCall(count: number, setting: Partial<AdamStep>): AdamStep {
  const random = new Random(seed + count);
  const special = [0, -0, 1e-45, -1e-40, 3e38, 1e20, Number.NaN, Number.POSITIVE_INFINITY];
  const filled = (positive: boolean): Tensor<"f32"> => {
    const tensor = make([count]);
    for (let i = 0; i < count; i++) {
      const odd = random.below(50) === 0;
      const value = odd ? special[random.below(special.length)] : random.normal();
      tensor.data[i] = positive ? value * value : value;
    }
    return tensor;
  };
  const tensors = {
    parameters: filled(false),
    gradients: filled(false),
    firstMoment: filled(false),
    secondMoment: filled(true),
  };
  return { ...tensors, step: 7, learningRate: 1e-3, ...setting };
}

test("the Adam step gives the reference's bits for every size and setting", () => {
  for (const setting of settings) {
    for (const count of sizes) {
      const wanted = adamCall(count, setting);
      adamStep(reference, wanted);
      for (const device of machines) {
        const got = adamCall(count, setting);
        adamStep(device, got);
        for (const what of ["parameters", "gradients", "firstMoment", "secondMoment"] as const) {
          const name = `${what} of ${count}, ${device.isa}, ${JSON.stringify(setting)}`;
          assertSame(got[what].data, wanted[what].data, name);
        }
      }
    }
  }
});

test("twenty steps follow the formula in float64", () => {
  for (const device of devices) {
    for (const decay of ["decoupled", "l2"] as const) {
      const random = new Random(seed);
      const [count, learningRate, weightDecay] = [37, 0.01, 0.1];
      const [parameters, gradients, firstMoment, secondMoment] = [0, 1, 2, 3].map(() =>
        zeros("f32", [count], device.allocate),
      );
      parameters.data.forEach((_, i) => {
        parameters.data[i] = random.normal();
      });
      const [p, m, v] = [
        Array.from(parameters.data),
        new Float64Array(count),
        new Float64Array(count),
      ];
      for (let step = 1; step <= 20; step++) {
        for (let i = 0; i < count; i++) {
          gradients.data[i] = random.normal();
          let g = gradients.data[i] * 0.5;
          if (decay === "l2") g += weightDecay * p[i];
          else p[i] *= 1 - learningRate * weightDecay;
          m[i] = 0.9 * m[i] + 0.1 * g;
          v[i] = 0.95 * v[i] + 0.05 * g * g;
          const root = Math.sqrt(v[i] / (1 - 0.95 ** step)) + 1e-8;
          p[i] -= (learningRate * (m[i] / (1 - 0.9 ** step))) / root;
        }
        const moments = { firstMoment, secondMoment, step, decay };
        const options = { learningRate, weightDecay, gradientScale: 0.5 };
        adamStep(device, { parameters, gradients, ...moments, ...options });
      }
      p.forEach((wanted, i) => {
        const got = parameters.data[i];
        assert.ok(Math.abs(got - wanted) < 2e-6, `${device.description}: ${got}, wanted ${wanted}`);
      });
    }
  }
});

const widths = [1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 300, 2049];

interface MadeCall {
  readonly call: CrossEntropy;
  /** The logits as they were. */
  readonly before: Float32Array;
}

/** Rows of logits of very different sizes, poisoned between them; every fifth row has no target. */
function madeCall(
  rows: number,
  classes: number,
  gradient: "none" | "apart" | "in place",
): MadeCall {
  const random = new Random(seed + rows * 31 + classes);
  const padding = gradient === "apart" ? 0 : 3;
  const whole = make([rows, classes + padding]);
  whole.data.fill(Number.NaN);
  const logits = columnsOf(whole, 0, classes);
  const targets = zeros("i32", [rows]);
  for (let r = 0; r < rows; r++) {
    const scale = 10 ** (random.below(5) - 2);
    for (let i = 0; i < classes; i++) whole.data[r * whole.stride + i] = random.normal() * scale;
    if (r % 7 === 2) whole.data[r * whole.stride + random.below(classes)] = -Infinity;
    targets.data[r] = r % 5 === 4 ? -100 : random.below(classes);
  }
  const losses = make([rows]);
  losses.data.fill(Number.NaN);
  const apart = make([rows, classes]);
  apart.data.fill(Number.NaN);
  const place = { none: undefined, apart, "in place": logits }[gradient];
  const call = { logits, targets, rows, losses, scale: 0.25, ...(place && { gradient: place }) };
  return { call, before: whole.data.slice() };
}

test("losses and gradients are those of float64, wherever the gradient goes", () => {
  for (const device of devices) {
    for (const classes of widths) {
      for (const gradient of ["none", "apart", "in place"] as const) {
        const { call, before } = madeCall(11, classes, gradient);
        softmaxCrossEntropy(device, call);
        for (let r = 0; r < call.rows; r++) {
          checkRow(call, before, r, `${device.description}, ${classes} classes, row ${r}`);
        }
      }
    }
  }
});

function checkRow(call: CrossEntropy, before: Float32Array, row: number, what: string): void {
  const { logits, targets, losses, gradient, scale = 1 } = call;
  const classes = logits.shape[1];
  const start = row * logits.stride;
  const x = Array.from(before.subarray(start, start + classes));
  const target = targets.data[row];
  const max = Math.max(...x);
  const sum = x.reduce((total, value) => total + Math.exp(value - max), 0);
  const wanted = target < 0 ? 0 : Math.log(sum) + max - x[target];
  const bound = 3e-7 * Math.max(1, Math.abs(wanted));
  const close = (a: number, b: number, by: number): boolean =>
    Object.is(a, b) || a === b || Math.abs(a - b) <= by;
  assert.ok(close(losses.data[row], wanted, bound), `${what}: loss ${losses.data[row]}, ${wanted}`);
  if (gradient === undefined) return;
  x.forEach((value, i) => {
    const share = Math.exp(value - max) / sum - (i === target ? 1 : 0);
    const slope = target < 0 ? 0 : scale * share;
    const got = gradient.data[row * gradient.stride + i];
    // The difference from the maximum is a float32 before its exponential is taken.
    const relative = 1e-6 + 1.2e-7 * (max - value);
    assert.ok(
      close(got, slope, (relative * Math.abs(slope) || 0) + 1e-44),
      `${what}: ${got}, wanted ${slope}`,
    );
  });
  const beyond = gradient.data.subarray(
    row * gradient.stride + classes,
    (row + 1) * gradient.stride,
  );
  assert.ok(beyond.every(Number.isNaN), `${what}: written beyond the last class`);
}

test("the bits are the same on every instruction set, alone and among many rows", () => {
  if (machines.length === 0) return;
  for (const classes of widths) {
    const calls = machines.map((device) => {
      const { call } = madeCall(120, classes, "apart");
      softmaxCrossEntropy(device, call);
      return call;
    });
    const [first, ...others] = calls;
    for (const { losses, gradient } of others) {
      assertSame(losses.data, first.losses.data, `losses of ${classes} classes`);
      assertSame(gradient!.data, first.gradient!.data, `gradients of ${classes} classes`);
    }
    const { call } = madeCall(120, classes, "apart");
    const row = 57;
    const part = call.logits.data.subarray(row * classes, (row + 1) * classes);
    const alone = { ...call, rows: 1, logits: tensorOf("f32", [1, classes], part) };
    const targets = tensorOf("i32", [1], call.targets.data.subarray(row, row + 1));
    softmaxCrossEntropy(best, { ...alone, targets });
    assert.ok(Object.is(call.losses.data[0], first.losses.data[row]));
    const wanted = first.gradient!.data.subarray(row * classes, (row + 1) * classes);
    assertSame(call.gradient!.data.subarray(0, classes), wanted, "gradient alone");
  }
});

test("a NaN or an infinity shows in its row's loss and gradient, and in no other", () => {
  for (const device of devices) {
    for (const special of [Number.NaN, Infinity]) {
      for (const place of [0, 17, 39]) {
        const logits = make([3, 40]);
        logits.data[40 + place] = special;
        const [losses, gradient] = [make([3]), make([3, 40])];
        softmaxCrossEntropy(device, {
          logits,
          targets: zeros("i32", [3]),
          rows: 3,
          losses,
          gradient,
        });
        assert.deepEqual(Array.from(losses.data, Number.isNaN), [false, true, false]);
        assert.ok(Number.isNaN(gradient.data[40 + place]));
        assert.ok(!gradient.data.subarray(0, 40).some(Number.isNaN));
      }
    }
  }
});

/** Things that callers give by mistake in place of numbers and shapes. */
const hostile = fc.oneof(
  fc.constantFrom(-1, 0, 0.5, Number.NaN, Infinity, 2 ** 31, 2 ** 53, -100),
  fc.integer({ min: -5, max: 40 }),
);

/** Runs `work`; whatever it refuses must be refused by an assertion that says got and wanted. */
function refusesOrRuns(work: () => void): void {
  try {
    work();
  } catch (error) {
    assert.match(String(error), /^Error: assertion failed: .+/);
  }
}

test("hostile shapes, targets and numbers are refused, and nothing crashes", () => {
  fc.assert(
    fc.property(
      fc.record({ rows: hostile, classes: fc.nat(20), given: fc.nat(8), scale: hostile }),
      fc.array(hostile, { minLength: 8, maxLength: 8 }),
      fc.constantFrom("none", "apart", "narrow", "lying"),
      ({ rows, classes, given, scale }, wanted, kind) => {
        const logits = make([given, classes]);
        const targets = zeros("i32", [given]);
        wanted.slice(0, given).forEach((target, i) => {
          targets.data[i] = target;
        });
        const gradient = {
          none: undefined,
          apart: make([given, classes]),
          narrow: make([given, Math.max(0, classes - 1)]),
          lying: { ...make([given, classes]), shape: [given + 3, classes] },
        }[kind];
        const losses = make([given]);
        const call = { logits, targets, rows, losses, scale, ...(gradient && { gradient }) };
        for (const device of devices) refusesOrRuns(() => softmaxCrossEntropy(device, call));
      },
    ),
    { seed, numRuns: 300 },
  );
  fc.assert(
    fc.property(
      fc.array(fc.nat(40), { minLength: 4, maxLength: 4 }),
      fc.record({ step: hostile, learningRate: hostile, beta1: hostile, eps: hostile }),
      fc.boolean(),
      (counts, numbers, equal) => {
        const [parameters, gradients, firstMoment, secondMoment] = counts.map((count) =>
          make([equal ? counts[0] : count]),
        );
        const call = { parameters, gradients, firstMoment, secondMoment, ...numbers };
        for (const device of devices) refusesOrRuns(() => adamStep(device, call));
      },
    ),
    { seed, numRuns: 300 },
  );
});

test("mistakes are named", () => {
  const logits = zeros("f32", [2, 4]);
  const call = { logits, targets: zeros("i32", [2]), rows: 2, losses: zeros("f32", [2]) };
  const targets = zeros("i32", [2]);
  targets.data[1] = 4;
  const cases: [RegExp, () => void][] = [
    [/targets\[1\]: got 4, wanted 0\.\.3/, () => softmaxCrossEntropy(best, { ...call, targets })],
    [
      /rows of logits: got 2, wanted at least 3/,
      () => softmaxCrossEntropy(best, { ...call, rows: 3 }),
    ],
    [/scale: got NaN/, () => softmaxCrossEntropy(best, { ...call, scale: Number.NaN })],
    [/step: got 0, wanted 1 or more/, () => adamStep(best, adamCall(3, { step: 0 }))],
    [/beta2: got 1, wanted/, () => adamStep(best, adamCall(3, { beta2: 1 }))],
    [
      /elements of gradients: got 2, wanted 3/,
      () => adamStep(best, adamCall(3, { gradients: zeros("f32", [2]) })),
    ],
  ];
  for (const [message, work] of cases) assert.throws(work, message);
});
