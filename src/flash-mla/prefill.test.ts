import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import { type Device, openDevice } from "../device/index.ts";
import { bf16ToF32, type Tensor, tensorOf } from "../tensor/index.ts";
import {
  flashAttnVarlenBackward,
  flashAttnVarlenFunc,
  flashAttnVarlenKvpackedFunc,
  flashAttnVarlenQkvpackedFunc,
  type VarlenGradients,
  type VarlenResult,
} from "./index.ts";
import { atEdge, checkClose, openAll, poisoned, randomBf16, valuesOf } from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
console.log(`seed ${seed}`);
const { reference, machines } = openAll();
after(() => {
  for (const device of [reference, ...machines]) device.close();
});

/** Upstream's tolerances of out and gradients, and of lse. */
const wide = { absolute: 1e-3, relative: 8.01 / 128, cosine: 7e-6 };
const narrow = { absolute: 1e-6, relative: 2.01 / 65536 };

/** Sizes of a call; lengths are those of [queries, keys] of each sequence. */
interface Case {
  readonly headsQ: number;
  readonly headsK: number;
  readonly dimQk: number;
  readonly headDimV: number;
  readonly lengths: readonly (readonly [number, number])[];
  readonly causal: boolean;
  readonly pad: number;
}

interface Problem {
  readonly sizes: Case;
  readonly q: Tensor<"bf16">;
  readonly k: Tensor<"bf16">;
  readonly v: Tensor<"bf16">;
  readonly dOut: Tensor<"bf16">;
  readonly starts: readonly [Tensor<"i32">, Tensor<"i32">, number, number];
}

function startsOf(lengths: readonly number[]): Tensor<"i32"> {
  let sum = 0;
  const starts = Int32Array.from([0, ...lengths.map((length) => (sum += length))]);
  return tensorOf("i32", [starts.length], starts);
}

function makeProblem(random: Random, sizes: Case): Problem {
  const { headsQ, headsK, dimQk, headDimV, lengths, pad } = sizes;
  const [queries, keys] = [lengths.map(([q]) => q), lengths.map(([, k]) => k)];
  const [totalQ, totalKv] = [queries, keys].map((list) => list.reduce((x, y) => x + y, 0));
  return {
    sizes,
    q: randomBf16(random, [totalQ, headsQ, dimQk], pad),
    k: randomBf16(random, [totalKv, headsK, dimQk], pad),
    v: randomBf16(random, [totalKv, headsK, headDimV], pad),
    dOut: randomBf16(random, [totalQ, headsQ, headDimV], pad),
    starts: [startsOf(queries), startsOf(keys), Math.max(0, ...queries), Math.max(0, ...keys)],
  };
}

function forward(device: Device, { sizes, q, k, v, starts }: Problem): VarlenResult {
  const { headsQ, headDimV, causal, pad } = sizes;
  return flashAttnVarlenFunc(device, q, k, v, ...starts, {
    softmaxScale: (sizes.dimQk + 100) ** -0.5,
    causal,
    out: poisoned("bf16", [q.shape[0], headsQ, headDimV], pad),
    lse: poisoned("f32", [q.shape[0], headsQ], pad),
  });
}

function backward(device: Device, problem: Problem, result: VarlenResult): VarlenGradients {
  const { sizes, q, k, v, dOut, starts } = problem;
  const { causal, pad } = sizes;
  return flashAttnVarlenBackward(device, dOut, q, k, v, result.out, result.lse, ...starts, {
    softmaxScale: (sizes.dimQk + 100) ** -0.5,
    causal,
    dq: poisoned("bf16", q.shape, pad),
    dk: poisoned("bf16", k.shape, pad),
    dv: poisoned("bf16", v.shape, pad),
  });
}

const widths = [
  [192, 128],
  [128, 128],
  [64, 64],
  [40, 24],
  [37, 29],
  [24, 70],
  [1, 1],
] as const;
const lengthsOf = [
  [[1, 1]],
  [
    [64, 64],
    [0, 5],
    [3, 0],
    [17, 65],
  ],
  [
    [130, 130],
    [1, 200],
  ],
  [[50, 20]],
] as const;

function* edgeCases(): Generator<Case> {
  const heads = [
    [1, 1],
    [4, 2],
    [3, 3],
    [6, 2],
  ];
  let turn = 0;
  for (const [dimQk, headDimV] of widths) {
    for (const lengths of lengthsOf) {
      const [headsQ, headsK] = heads[(turn + Math.floor(turn / 4)) % 4];
      const causal = turn % 3 !== 2;
      yield { headsQ, headsK, dimQk, headDimV, lengths, causal, pad: [0, 3][turn % 2] };
      turn++;
    }
  }
}

test("forward and backward agree with the reference on every instruction set", () => {
  const random = new Random(seed);
  for (const sizes of edgeCases()) {
    const problem = makeProblem(random, sizes);
    const wanted = forward(reference, problem);
    const gradients = backward(reference, problem, wanted);
    for (const device of machines) {
      const what = `${device.isa} ${JSON.stringify(sizes)} seed ${seed}`;
      // Weights of few dimensions err alike: the cosine is upstream's for its widths.
      const { cosine, ...elementwise } = wide;
      const tolerance = sizes.headDimV < 16 ? elementwise : { ...elementwise, cosine };
      const got = forward(device, problem);
      checkClose(`${what} out`, got.out, wanted.out, tolerance);
      checkClose(`${what} lse`, got.lse, wanted.lse, narrow);
      const { dq, dk, dv } = backward(device, problem, wanted);
      // Short sequences have large weights, and so larger steps of bf16 than upstream's tests meet.
      const short = { ...tolerance, absolute: 2e-3 };
      checkClose(`${what} dv`, dv, gradients.dv, short);
      checkClose(`${what} dq`, dq, gradients.dq, short);
      checkClose(`${what} dk`, dk, gradients.dk, short);
    }
  }
});

/** sum dOut out of float64 attention, the function whose gradient backward is. */
function lossOf(
  { sizes, dOut, starts }: Problem,
  q: Float64Array,
  k: Float64Array,
  v: Float64Array,
): number {
  const { headsQ, headsK, dimQk, headDimV, lengths, causal } = sizes;
  const gradient = valuesOf(dOut);
  let loss = 0;
  lengths.forEach(([queries, keys], s) => {
    for (let i = 0; i < queries * headsQ; i++) {
      const [token, head] = [Math.floor(i / headsQ), i % headsQ];
      const row = starts[0].data[s] * headsQ + i;
      const visible = causal ? Math.max(0, keys - queries + token + 1) : keys;
      const keyRow = (t: number) =>
        (starts[1].data[s] + t) * headsK + Math.floor((head * headsK) / headsQ);
      const weights = Array.from({ length: visible }, (_, t) => {
        let dot = 0;
        for (let d = 0; d < dimQk; d++) dot += q[row * dimQk + d] * k[keyRow(t) * dimQk + d];
        return Math.exp(dot * (dimQk + 100) ** -0.5);
      });
      const sum = weights.reduce((x, y) => x + y, 0);
      weights.forEach((weight, t) => {
        for (let d = 0; d < headDimV; d++) {
          loss += (weight / sum) * v[keyRow(t) * headDimV + d] * gradient[row * headDimV + d];
        }
      });
    }
  });
  return loss;
}

test("the reference's gradients are those of the float64 loss, by finite differences", () => {
  const random = new Random(seed);
  for (const causal of [false, true]) {
    const lengths = [
      [5, 9],
      [4, 4],
      [3, 1],
    ] as const;
    const sizes = { headsQ: 4, headsK: 2, dimQk: 6, headDimV: 5, lengths, causal, pad: 1 };
    const problem = makeProblem(random, sizes);
    const result = forward(reference, problem);
    const gradients = backward(reference, problem, result);
    const values = (["q", "k", "v"] as const).map((name) =>
      Float64Array.from(valuesOf(problem[name])),
    );
    const [q, k, v] = values;
    (["dq", "dk", "dv"] as const).forEach((name, which) => {
      const got = valuesOf(gradients[name]);
      const step = 1e-4;
      for (let i = 0; i < got.length; i++) {
        const before = values[which][i];
        values[which][i] = before + step;
        const above = lossOf(problem, q, k, v);
        values[which][i] = before - step;
        const below = lossOf(problem, q, k, v);
        values[which][i] = before;
        const wanted = (above - below) / (2 * step);
        const error = Math.abs(got[i] - wanted);
        // out, which delta is made of, is bf16, and so is the gradient.
        assert.ok(
          error <= 2 ** -7 * Math.abs(wanted) + 2e-4,
          `${name}[${i}]: got ${got[i]}, wanted ${wanted}, seed ${seed}`,
        );
      }
    });
  }
});

test("the same bits on every run and any number of threads", () => {
  const lengths = [
    [70, 90],
    [33, 33],
  ] as const;
  const sizes = { headsQ: 4, headsK: 2, dimQk: 64, headDimV: 64, lengths, causal: true, pad: 0 };
  const problem = makeProblem(new Random(seed), sizes);
  for (const device of machines) {
    const single = openDevice({ isa: device.isa!, threads: 1 });
    const wanted = forward(single, problem);
    const gradients = backward(single, problem, wanted);
    for (let run = 0; run < 3; run++) {
      const result = forward(device, problem);
      assert.deepEqual(result.out.data, wanted.out.data);
      assert.deepEqual(result.lse.data, wanted.lse.data);
      const got = backward(device, problem, result);
      for (const name of ["dq", "dk", "dv"] as const) {
        assert.deepEqual(got[name].data, gradients[name].data);
      }
    }
    single.close();
  }
});

test("packed operands are the same as separate ones", () => {
  const lengths = [[20, 20]] as const;
  const sizes = { headsQ: 2, headsK: 2, dimQk: 24, headDimV: 16, lengths, causal: true, pad: 0 };
  const problem = makeProblem(new Random(seed), sizes);
  const pack = (parts: readonly Tensor<"bf16">[]) => {
    const width = parts.reduce((sum, part) => sum + part.shape[2], 0);
    const data = new Uint16Array(40 * width);
    for (let row = 0; row < 40; row++) {
      let at = row * width;
      for (const { data: from, shape } of parts) {
        data.set(from.subarray(row * shape[2], (row + 1) * shape[2]), at);
        at += shape[2];
      }
    }
    return tensorOf("bf16", [20, 2, width], data);
  };
  const { q, k, v, starts } = problem;
  const options = { causal: true, softmaxScale: 124 ** -0.5 };
  for (const device of [reference, ...machines]) {
    const wanted = forward(device, problem);
    const qkv = pack([q, k, v]);
    const one = flashAttnVarlenQkvpackedFunc(device, qkv, starts[0], 20, 24, options);
    const two = flashAttnVarlenKvpackedFunc(device, q, pack([k, v]), ...starts, 24, options);
    for (const { out, lse } of [one, two]) {
      assert.deepEqual(out.data, wanted.out.data);
      assert.deepEqual(lse.data, wanted.lse.data);
    }
    assert.throws(
      () => flashAttnVarlenQkvpackedFunc(device, qkv, starts[0], 20, 32, options),
      /headDimQk: got 32/,
    );
  }
});

test("nothing beyond the last element of an operand is touched", () => {
  const random = new Random(seed);
  for (const [dimQk, headDimV] of widths) {
    const lengths = [
      [3, 9],
      [66, 67],
    ] as const;
    const sizes = { headsQ: 2, headsK: 1, dimQk, headDimV, lengths, causal: true, pad: 0 };
    const problem = makeProblem(random, sizes);
    for (const device of machines) {
      const wanted = forward(device, problem);
      const gradients = backward(device, problem, wanted);
      const [q, k, v] = [atEdge(problem.q), atEdge(problem.k), atEdge(problem.v)];
      const dOut = atEdge(problem.dOut);
      const options = { causal: true, softmaxScale: (dimQk + 100) ** -0.5 };
      const out = atEdge(poisoned("bf16", wanted.out.shape));
      const lse = atEdge(poisoned("f32", wanted.lse.shape));
      flashAttnVarlenFunc(device, q, k, v, ...problem.starts, { ...options, out, lse });
      assert.deepEqual(out.data, wanted.out.data);
      const [dq, dk, dv] = [q, k, v].map(({ shape }) => atEdge(poisoned("bf16", shape)));
      const all = { ...options, dq, dk, dv };
      flashAttnVarlenBackward(device, dOut, q, k, v, out, lse, ...problem.starts, all);
      assert.deepEqual(dq.data, gradients.dq.data);
      assert.deepEqual(dk.data, gradients.dk.data);
      assert.deepEqual(dv.data, gradients.dv.data);
    }
  }
});

test("what does not fit together is refused in words", () => {
  const lengths = [[4, 6]] as const;
  const sizes = { headsQ: 2, headsK: 1, dimQk: 8, headDimV: 4, lengths, causal: false, pad: 0 };
  const { q, k, v, dOut, starts } = makeProblem(new Random(seed), sizes);
  const i32 = (...values: number[]) => tensorOf("i32", [values.length], Int32Array.from(values));
  for (const device of [reference, ...machines]) {
    const call = (...change: Partial<[Tensor<"i32">, Tensor<"i32">, number, number]>) => {
      const lengthsOf = starts.map((one, i) => change[i] ?? one) as unknown as typeof starts;
      return flashAttnVarlenFunc(device, q, k, v, ...lengthsOf);
    };
    const { out, lse } = call();
    assert.throws(() => call(i32(0, 5)), /cuSeqlensQo: got 0..5, wanted 0..4/);
    assert.throws(() => call(i32(0, 5, 4), i32(0, 0, 6)), /cuSeqlensQo\[1\]: got a sequence of 5/);
    assert.throws(() => call(i32(0, 4), i32(0, 6), 3), /got a sequence of 4, wanted 0..3/);
    assert.throws(() => call(i32(0, 4), i32(0, 3, 6)), /shape of cuSeqlensKv/);
    const three = poisoned("bf16", [6, 3, 8]);
    assert.throws(
      () => flashAttnVarlenFunc(device, q, three, poisoned("bf16", [6, 3, 4]), ...starts),
      /heads of q: got 2/,
    );
    assert.throws(
      () => flashAttnVarlenBackward(device, q, q, k, v, out, lse, ...starts),
      /shape of dOut/,
    );
    assert.throws(
      () => flashAttnVarlenBackward(device, dOut, q, k, v, out, lse, ...starts, { dk: q }),
      /shape of dk/,
    );
    assert.ok(out.data.every((code) => Number.isFinite(bf16ToF32(code))));
  }
});
