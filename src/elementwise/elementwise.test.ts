import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ceilDiv, Random } from "../base/index.ts";
import { type Device, openDevice } from "../device/index.ts";
import { map, pageBytes, unmap, viewAt } from "../native/index.ts";
import {
  columnsOf,
  type DType,
  f8e4m3ToF32,
  quantiseBlocks,
  rowsOf,
  type Tensor,
  tensorOf,
  zeros,
} from "../tensor/index.ts";
import { benchElementwise } from "./elementwise.bench.ts";
import {
  addRows,
  castRows,
  combineExperts,
  gatherRows,
  rmsNorm,
  rotate,
  type Sink,
  swiglu,
} from "./index.ts";

const seed = Number(process.env.SEED ?? 20260101);
const reference = openDevice({ rung: "reference" });
const best = openDevice({ threads: 2 });
const machines = best.rung === "x86" ? [best, openDevice({ isa: "avx2", threads: 1 })] : [];
after(() => {
  for (const device of [reference, ...machines]) device.close();
});
if (machines.length === 0) console.log(`machine code is not tested: ${best.description}`);

type Matrix = Tensor<"f32"> | Tensor<"bf16">;

const widths = [1, 7, 16, 31, 128, 129, 256, 300, 1408];
const sinkTypes = ["f32", "bf16", "f8e4m3", "f8e4m3 of powers of two"] as const;

/** Bits of every element, with one code for all NaNs: only being NaN is promised of those. */
function bitsOf(tensor: Tensor): number[] {
  const { dtype, data } = tensor;
  if (dtype === "f32") {
    const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
    return Array.from(bits, (b) => ((b & 0x7fffffff) > 0x7f800000 ? -1 : b));
  }
  return Array.from(data, (b) => (dtype === "bf16" && (b & 0x7fff) > 0x7f80 ? -1 : b));
}

/** Normal values with rows `padding` elements apart; every seventh row has special ones too. */
function randomRows(
  random: Random,
  rows: number,
  columns: number,
  padding: number = 3,
): Tensor<"f32"> {
  const whole = zeros("f32", [rows, columns + padding], reference.allocate);
  const special = [0, -0, 1e-45, -1e-40, 1e-38, 3e38, -3e38, 464, 448.1, 2 ** -9, 2 ** -10, 1e-4];
  for (let i = 0; i < whole.data.length; i++) {
    const scale = 10 ** (random.below(5) - 2);
    whole.data[i] = random.normal() * scale;
    if (Math.floor(i / (columns + padding)) % 7 === 3 && random.below(4) === 0) {
      whole.data[i] = special[random.below(special.length)];
    }
  }
  return columnsOf(whole, 0, columns);
}

function int32(
  values: readonly number[],
  shape: readonly number[] = [values.length],
): Tensor<"i32"> {
  const tensor = zeros("i32", shape, reference.allocate);
  tensor.data.set(values);
  return tensor;
}

/** A poisoned destination: NaN everywhere, with more room than is needed. */
function poisoned<D extends DType>(dtype: D, rows: number, columns: number): Tensor<D> {
  const tensor = zeros(dtype, [rows, columns], reference.allocate);
  tensor.data.fill(dtype === "f32" ? Number.NaN : 0x7fff);
  return tensor;
}

/** A tensor of one of two dtypes, as a union: `zeros` of a union type is not one. */
function poisonedOf(dtype: "f32" | "bf16", rows: number, columns: number): Matrix {
  return dtype === "f32" ? poisoned(dtype, rows, columns) : poisoned(dtype, rows, columns);
}

function poisonedSink(kind: (typeof sinkTypes)[number], rows: number, columns: number): Sink {
  if (kind === "f32") return { type: kind, values: poisoned("f32", rows, columns + 5) };
  if (kind === "bf16") return { type: kind, values: poisoned("bf16", rows, columns + 5) };
  return {
    type: "f8e4m3",
    values: poisoned("bf16", rows, 128 * (ceilDiv(columns, 128) + 1)),
    scales: poisoned("f32", rows, ceilDiv(columns, 128) + 2),
    powerOfTwoScales: kind !== "f8e4m3",
  };
}

function tensorsOf(sink: Sink): Tensor[] {
  return sink.type === "f8e4m3" ? [sink.values, sink.scales] : [sink.values];
}

/**
 * Runs `work` with equal inputs on the reference and on each machine device; all bits must agree.
 */
function oracle(what: string, work: (device: Device, random: Random) => readonly Tensor[]): void {
  const wanted = work(reference, new Random(seed)).map(bitsOf);
  for (const device of machines) {
    const got = work(device, new Random(seed)).map(bitsOf);
    wanted.forEach((bits, i) => {
      const at = bits.findIndex((b, j) => b !== got[i][j]);
      assert.equal(
        at,
        -1,
        `${what}, ${device.isa}, result ${i}, element ${at}: ` +
          `got ${got[i][at]?.toString(16)}, wanted ${bits[at]?.toString(16)}, seed ${seed}`,
      );
    });
  }
}

/** Every sink and width, few rows and many. */
function overSinks(
  work: (device: Device, random: Random, sink: Sink, rows: number, columns: number) => void,
  what: string,
): void {
  for (const kind of sinkTypes) {
    for (const columns of widths) {
      for (const rows of columns === 129 ? [0, 1, 5, 300] : [1, 9]) {
        oracle(`${what} to ${kind}, ${rows} x ${columns}`, (device, random) => {
          const sink = poisonedSink(kind, rows + 2, columns);
          work(device, random, sink, rows, columns);
          return tensorsOf(sink);
        });
      }
    }
  }
}

test("castRows gives the reference's bits for every sink, width and special value", () => {
  overSinks((device, random, sink, rows, columns) => {
    castRows(device, randomRows(random, rows, columns), rows, sink);
  }, "castRows");
});

test("NaN and infinity in a quantised row do what the contract says", () => {
  for (const special of [Number.NaN, Infinity, -Infinity]) {
    for (const kind of sinkTypes) {
      for (const place of [0, 128, 150, 255, 299]) {
        oracle(`castRows of ${special} at ${place} to ${kind}`, (device, random) => {
          const x = randomRows(random, 4, 300);
          x.data[2 * x.stride + place] = special;
          const sink = poisonedSink(kind, 4, 300);
          castRows(device, x, 4, sink);
          return tensorsOf(sink);
        });
      }
    }
  }
  const x = zeros("f32", [1, 256]);
  x.data.fill(2);
  x.data[3] = Number.NaN;
  x.data[130] = Infinity;
  const sink = poisonedSink("f8e4m3", 1, 256) as Extract<Sink, { type: "f8e4m3" }>;
  castRows(reference, x, 1, sink);
  assert.deepEqual([...sink.scales.data.subarray(0, 2)], [Math.fround(2 / 448), Infinity]);
  const codes = bitsOf(sink.values);
  assert.deepEqual([codes[2], codes[3], codes[4]], [0x43e0, -1, 0x43e0]);
  assert.deepEqual([codes[129], codes[130], codes[131]], [0, -1, 0]);
});

test("a quantised row is what quantiseBlocks makes of it, zeros beyond the last column", () => {
  const random = new Random(seed);
  for (const powerOfTwoScales of [false, true]) {
    const x = randomRows(random, 15, 300);
    const blocks = quantiseBlocks(x, { blockRows: 1, powerOfTwoScales });
    const sink = poisonedSink(powerOfTwoScales ? sinkTypes[3] : "f8e4m3", 15, 300);
    castRows(reference, x, 15, sink);
    assert.ok(sink.type === "f8e4m3");
    for (let r = 0; r < 15; r++) {
      for (let g = 0; g < 3; g++) {
        assert.equal(sink.scales.data[r * sink.scales.stride + g], blocks.scales.data[r * 3 + g]);
      }
      for (let i = 0; i < 384; i++) {
        const code: number = sink.values.data[r * sink.values.stride + i];
        const value: number = new Float32Array(Uint32Array.of(code << 16).buffer)[0];
        assert.equal(value, i < 300 ? f8e4m3ToF32(blocks.codes.data[r * 300 + i]) : 0);
      }
    }
  }
});

test("rmsNorm gives the reference's bits for every sink and width, scattered or not", () => {
  for (const scatter of [false, true]) {
    overSinks(
      (device, random, sink, rows, columns) => {
        const x = randomRows(random, rows, columns);
        const weight = zeros("f32", [columns], reference.allocate);
        weight.data.forEach((_, i) => {
          weight.data[i] = 1 + 0.1 * random.normal();
        });
        const order = random.shuffle(Array.from({ length: rows + 2 }, (_, i) => i));
        const toRows = scatter ? int32(order.slice(0, rows)) : undefined;
        rmsNorm(device, x, weight, 1e-6, rows, sink, toRows);
      },
      `rmsNorm ${scatter ? "scattered" : "in order"}`,
    );
  }
});

test("rmsNorm is x / sqrt(mean x^2 + eps) * weight to float32 precision", () => {
  const random = new Random(seed);
  for (const columns of widths) {
    const x = randomRows(random, 2, columns);
    const weight = randomRows(random, 1, columns, 0);
    const sink = poisonedSink("f32", 2, columns);
    rmsNorm(reference, x, tensorOf("f32", [columns], weight.data), 1e-5, 2, sink);
    for (let r = 0; r < 2; r++) {
      const row = Array.from(x.data.subarray(r * x.stride, r * x.stride + columns));
      const mean = row.reduce((sum, value) => sum + value * value, 0) / columns;
      row.forEach((value, i) => {
        const wanted = (value / Math.sqrt(mean + 1e-5)) * weight.data[i];
        const got = sink.values.data[r * sink.values.stride + i];
        assert.ok(Math.abs(got - wanted) <= 3e-7 * Math.abs(wanted), `${got} against ${wanted}`);
      });
    }
  }
});

test("swiglu is within a few units in the last place of float64, over the whole range", () => {
  const columns = 1408;
  const random = new Random(seed);
  const both = randomRows(random, 9, 2 * columns);
  both.data.forEach((value, i) => {
    if (Math.abs(value) > 1e30) both.data[i] = 1e30 * Math.sign(value);
  });
  const gate = columnsOf(both, 0, columns);
  const up = columnsOf(both, columns, 2 * columns);
  for (const value of [0, -0, 88, -87, -88, -89, -103, -104, -120, 120, -1e30, 1e-30]) {
    gate.data[random.below(columns)] = value;
  }
  for (const device of [reference, ...machines]) {
    const sink = poisonedSink("f32", 9, columns);
    swiglu(device, gate, up, 9, sink);
    for (let r = 0; r < 9; r++) {
      for (let i = 0; i < columns; i++) {
        const [g, u] = [gate.data[r * gate.stride + i], up.data[r * up.stride + i]];
        const wanted = (g / (1 + Math.exp(-g))) * u;
        const got = sink.values.data[r * sink.values.stride + i];
        const bound = 6e-7 * Math.abs(wanted) + 4e-37 * Math.max(1, Math.abs(u));
        assert.ok(
          Math.abs(got - wanted) <= bound || Math.fround(wanted) === got,
          `${device.description}: silu(${g}) * ${u}: got ${got}, wanted ${wanted}, seed ${seed}`,
        );
      }
    }
  }
});

test("swiglu to a narrow sink is the cast of swiglu to float32", () => {
  for (const device of [reference, ...machines]) {
    for (const kind of sinkTypes) {
      for (const columns of widths) {
        const both = randomRows(new Random(seed), 4, 2 * columns);
        const [gate, up] = [columnsOf(both, 0, columns), columnsOf(both, columns, 2 * columns)];
        const direct = poisonedSink(kind, 4, columns);
        swiglu(device, gate, up, 4, direct);
        const exact = poisonedSink("f32", 4, columns) as Extract<Sink, { type: "f32" }>;
        swiglu(device, gate, up, 4, exact);
        const cast = poisonedSink(kind, 4, columns);
        castRows(reference, columnsOf(exact.values, 0, columns), 4, cast);
        assert.deepEqual(tensorsOf(direct).map(bitsOf), tensorsOf(cast).map(bitsOf));
      }
    }
  }
});

test("rotate gives the reference's bits for odd shapes, strides, scattering and bf16", () => {
  for (const dim of [2, 6, 16, 30, 32, 64, 66]) {
    for (const [tokens, heads] of [
      [1, 1],
      [5, 3],
      [130, 4],
    ]) {
      for (const dtype of ["f32", "bf16"] as const) {
        oracle(`rotate ${tokens} x ${heads} x ${dim} to ${dtype}`, (device, random) => {
          const q = randomRows(random, tokens, heads * (dim + 5), 7);
          const from = columnsOf(q, 4, q.shape[1]);
          const to = poisonedOf(dtype, tokens + 3, heads * (dim + 2));
          const positions = Array.from({ length: tokens }, () => random.below(40));
          const order = random.shuffle(Array.from({ length: tokens + 3 }, (_, i) => i));
          rotate(device, {
            from,
            fromHeadStride: dim + 5,
            to,
            toHeadStride: dim + 2,
            heads,
            dim,
            cosSin: randomRows(random, 40, dim),
            positions: int32(positions),
            tokens,
            ...(heads === 3 ? {} : { toRows: int32(order) }),
          });
          return [to];
        });
      }
    }
  }
});

test("rotate turns pairs by the angle of the position, in place too", () => {
  for (const device of [reference, ...machines]) {
    const heads = zeros("f32", [2, 3, 4], reference.allocate);
    heads.data.set(Array.from({ length: 24 }, (_, i) => i + 1));
    const before = heads.data.slice();
    const cosSin = zeros("f32", [3, 2], reference.allocate);
    for (let p = 0; p < 3; p++) cosSin.data.set([Math.cos(p), Math.sin(p)], 2 * p);
    const part = columnsOf(heads, 2, 4);
    rotate(device, {
      from: part,
      fromHeadStride: 4,
      to: part,
      toHeadStride: 4,
      heads: 3,
      dim: 2,
      cosSin,
      positions: int32([2, 1]),
      tokens: 2,
    });
    for (let t = 0; t < 2; t++) {
      for (let h = 0; h < 3; h++) {
        const at = 12 * t + 4 * h;
        assert.deepEqual([...heads.data.subarray(at, at + 2)], [...before.subarray(at, at + 2)]);
        const [x0, x1] = [before[at + 2], before[at + 3]];
        const [c, s] = [Math.cos(2 - t), Math.sin(2 - t)];
        assert.ok(Math.abs(heads.data[at + 2] - (x0 * c - x1 * s)) < 1e-5);
        assert.ok(Math.abs(heads.data[at + 3] - (x1 * c + x0 * s)) < 1e-5);
      }
    }
  }
});

test("gatherRows copies and widens rows exactly", () => {
  for (const [from, to] of [
    ["f32", "f32"],
    ["bf16", "bf16"],
    ["bf16", "f32"],
  ] as const) {
    for (const columns of widths) {
      for (const rows of [1, 5, 200]) {
        oracle(`gatherRows ${from} to ${to}, ${rows} x ${columns}`, (device, random) => {
          const table = poisonedOf(from, 17, columns + 3);
          for (let i = 0; i < table.data.length; i++) table.data[i] = random.below(65536);
          const index = int32(Array.from({ length: rows }, () => random.below(17)));
          const target = poisonedOf(to, rows + 1, columns + 5);
          gatherRows(device, columnsOf(table, 0, columns) as Matrix, index, rows, target);
          return [target];
        });
      }
    }
  }
  const table = zeros("bf16", [2, 2]);
  table.data.set([0x3f80, 0xc000, 0x0001, 0x7f80]);
  const target = zeros("f32", [1, 2]);
  gatherRows(reference, table, int32([1]), 1, target);
  assert.deepEqual([...target.data], [2 ** -133, Infinity]);
});

test("combineExperts and addRows give the reference's bits", () => {
  for (const columns of widths) {
    for (const [tokens, k] of [
      [1, 1],
      [3, 4],
      [70, 6],
      [2, 0],
    ]) {
      for (const withShared of [false, true]) {
        oracle(`combineExperts ${tokens} x ${columns}, ${k} experts`, (device, random) => {
          const y = randomRows(random, tokens * k + 3, columns);
          const slots = Array.from({ length: tokens * k }, () => random.below(tokens * k + 3));
          const weights = randomRows(random, tokens, k, 2);
          const to = columnsOf(randomRows(random, tokens + 1, columns + 4), 0, columns);
          const shared = withShared ? { shared: randomRows(random, tokens, columns) } : {};
          const slotOf = int32(slots, [tokens, k]);
          combineExperts(device, { y, slotOf, weights, ...shared, tokens, to });
          return [to];
        });
      }
    }
    for (const rows of [1, 4, 150]) {
      oracle(`addRows ${rows} x ${columns}`, (device, random) => {
        const to = randomRows(random, rows + 1, columns);
        addRows(device, randomRows(random, rows, columns), rows, to);
        return [to];
      });
    }
  }
  const [y, weights, to] = [zeros("f32", [3, 1]), zeros("f32", [1, 2]), zeros("f32", [1, 1])];
  y.data.set([2, 3, 5]);
  weights.data.set([10, 100]);
  to.data[0] = 1;
  const shared = zeros("f32", [1, 1]);
  shared.data[0] = 7;
  combineExperts(reference, { y, slotOf: int32([2, 0], [1, 2]), weights, shared, tokens: 1, to });
  assert.equal(to.data[0], 1 + 7 + 50 + 200);
});

test("a row's bits are the same alone and among 300, whoever computes it", () => {
  const [rows, columns] = [300, 1408];
  for (const device of machines) {
    for (const kind of sinkTypes) {
      const random = new Random(seed);
      const both = randomRows(random, rows, 2 * columns);
      const [gate, up] = [columnsOf(both, 0, columns), columnsOf(both, columns, 2 * columns)];
      const weight = tensorOf("f32", [columns], randomRows(random, 1, columns, 0).data);
      const [norms, activations] = [0, 1].map(() => poisonedSink(kind, rows, columns));
      rmsNorm(device, gate, weight, 1e-6, rows, norms);
      swiglu(device, gate, up, rows, activations);
      for (const r of [0, 1, 149, 299]) {
        const [norm, activation] = [0, 1].map(() => poisonedSink(kind, 1, columns));
        rmsNorm(device, rowsOf(gate, r, r + 1), weight, 1e-6, 1, norm);
        swiglu(device, rowsOf(gate, r, r + 1), rowsOf(up, r, r + 1), 1, activation);
        for (const [batch, alone] of [
          [norms, norm],
          [activations, activation],
        ]) {
          tensorsOf(batch).forEach((tensor, i) => {
            const row = tensor.data.slice(r * tensor.stride, (r + 1) * tensor.stride);
            const bits = bitsOf({ ...tensor, data: row } as Tensor);
            assert.deepEqual(bits, bitsOf(tensorsOf(alone)[i]), `${kind}, row ${r}`);
          });
        }
      }
    }
  }
});

/** Memory that ends where a page ends that is not there: a step beyond is fatal. */
function allocateAtEdge(bytes: number): ArrayBuffer {
  const mapped = ceilDiv(bytes, pageBytes) * pageBytes;
  const address = map(mapped + pageBytes);
  unmap(address + mapped, pageBytes);
  return viewAt(address, mapped);
}

/** A tensor whose last element is the last of such memory. */
function atEdge<D extends "f32" | "bf16">(dtype: D, rows: number, columns: number): Tensor<D> {
  const count = rows * columns;
  const bytes = count * (dtype === "f32" ? 4 : 2);
  const buffer = allocateAtEdge(bytes);
  const start = buffer.byteLength - bytes;
  const data =
    dtype === "f32"
      ? new Float32Array(buffer, start, count).fill(1.5)
      : new Uint16Array(buffer, start, count);
  return tensorOf(dtype, [rows, columns], data as Tensor<D>["data"]);
}

test("nothing beyond the last element of an operand is touched", () => {
  for (const device of machines) {
    for (const columns of widths) {
      const [x, to] = [atEdge("f32", 3, columns), atEdge("f32", 3, columns)];
      const weight = tensorOf("f32", [columns], atEdge("f32", 1, columns).data);
      const narrow = atEdge("bf16", 3, columns);
      const padded = atEdge("bf16", 3, 128 * ceilDiv(columns, 128));
      const scales = atEdge("f32", 3, ceilDiv(columns, 128));
      const all: Sink[] = [
        { type: "f32", values: to },
        { type: "bf16", values: narrow },
        { type: "f8e4m3", values: padded, scales },
      ];
      for (const sink of all) {
        castRows(device, x, 3, sink);
        rmsNorm(device, x, weight, 0, 3, sink);
        swiglu(device, x, atEdge("f32", 3, columns), 3, sink);
      }
      const [index, positions] = [int32([2, 1, 2]), int32([0, 1, 2])];
      gatherRows(device, x, index, 3, to);
      gatherRows(device, narrow, index, 3, atEdge("bf16", 3, columns));
      gatherRows(device, narrow, index, 3, to);
      addRows(device, x, 3, to);
      const weights = atEdge("f32", 3, 1);
      combineExperts(device, {
        y: x,
        slotOf: int32([2, 1, 2], [3, 1]),
        weights,
        shared: x,
        tokens: 3,
        to,
      });
      const dim = columns - (columns % 2);
      const heads = { fromHeadStride: dim, toHeadStride: dim, heads: 1, dim, tokens: 3 };
      const cosSin = atEdge("f32", 3, dim);
      for (const target of [atEdge("f32", 3, dim), atEdge("bf16", 3, dim)]) {
        rotate(device, { from: atEdge("f32", 3, dim), to: target, cosSin, positions, ...heads });
      }
    }
  }
});

test("the door refuses operands whose addresses would leave their memory", () => {
  const x = zeros("f32", [4, 200]);
  const sink = (rows: number, columns: number): Sink => ({
    type: "f32",
    values: zeros("f32", [rows, columns]),
  });
  const weight = zeros("f32", [200]);
  const one = zeros("f32", [1, 1]);
  const d = reference;
  const fp8 = (columns: number, groups: number): Sink => ({
    type: "f8e4m3",
    values: zeros("bf16", [4, columns]),
    scales: zeros("f32", [4, groups]),
  });
  const rotation = {
    from: x,
    fromHeadStride: 64,
    to: zeros("f32", [4, 200]),
    toHeadStride: 64,
    heads: 3,
    dim: 64,
    cosSin: zeros("f32", [10, 64]),
    positions: int32([0, 1, 2, 9]),
    tokens: 4,
  };
  rotate(d, rotation);
  const combination = {
    y: x,
    slotOf: int32([0, 1, 2, 3], [2, 2]),
    weights: zeros("f32", [2, 2]),
    tokens: 2,
    to: zeros("f32", [2, 200]),
  };
  combineExperts(d, combination);
  const lying = { ...x, shape: [8, 200] };
  const cases: [RegExp, () => void][] = [
    [/rows of x: got 4, wanted at least 5/, () => castRows(d, x, 5, sink(9, 200))],
    [/rows of x: got -1/, () => castRows(d, x, -1, sink(9, 200))],
    [/x: got memory for 800/, () => castRows(d, lying, 8, sink(9, 200))],
    [/rows of sink.values/, () => castRows(d, x, 4, sink(3, 200))],
    [/columns of sink.values/, () => castRows(d, x, 4, sink(4, 199))],
    [/row stride of sink.values/, () => castRows(d, x, 4, fp8(200, 2))],
    [/columns of sink.scales/, () => castRows(d, x, 4, fp8(256, 1))],
    [/length of weight/, () => rmsNorm(d, columnsOf(x, 0, 9), weight, 0, 4, sink(4, 200))],
    [/eps: got NaN/, () => rmsNorm(d, x, weight, Number.NaN, 4, sink(4, 200))],
    [/toRows\[1\]: got 4/, () => rmsNorm(d, x, weight, 0, 2, sink(4, 200), int32([0, 4]))],
    [/columns of up/, () => swiglu(d, x, columnsOf(x, 0, 9), 4, sink(4, 200))],
    [/rows of up/, () => swiglu(d, x, rowsOf(x, 0, 3), 4, sink(4, 200))],
    [/positions\[3\]: got 10/, () => rotate(d, { ...rotation, positions: int32([0, 1, 2, 10]) })],
    [/from: got memory/, () => rotate(d, { ...rotation, heads: 4 })],
    [/dim: got 63/, () => rotate(d, { ...rotation, dim: 63 })],
    [/to: got memory/, () => rotate(d, { ...rotation, toRows: int32([0, 1, 2, 4]) })],
    [/columns of cosSin/, () => rotate(d, { ...rotation, cosSin: zeros("f32", [10, 32]) })],
    [/index\[0\]: got -1/, () => gatherRows(d, x, int32([-1]), 1, sink(1, 200).values)],
    [/dtypes: got f32 to bf16/, () => gatherRows(d, x, int32([0]), 1, zeros("bf16", [1, 200]))],
    [
      /slotOf\[0, 0\]: got 4/,
      () => combineExperts(d, { ...combination, slotOf: int32([4, 0, 0, 0], [2, 2]) }),
    ],
    [/rows of to/, () => combineExperts(d, { ...combination, to: zeros("f32", [1, 200]) })],
    [/columns of to/, () => addRows(d, x, 4, one)],
  ];
  for (const [message, call] of cases) assert.throws(call, message);
});

test("the benchmark runs", () => {
  const lines: string[] = [];
  benchElementwise(false, (line) => lines.push(line));
  for (const line of lines) assert.doesNotMatch(line, /NaN|Infinity/);
  assert.ok(lines.length > (machines.length > 0 ? 1 : 0));
});
