import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Random } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import { fromF32, type Tensor, tensorOf, toF32, zeros } from "../tensor/index.ts";
import * as deepGemm from "./index.ts";
import { openAll, productOf, randomMatrix, transposed } from "./testing.ts";

const seed = Number(process.env.SEED ?? Date.now() % 2 ** 31);
const devices = openAll(console.log);
console.log(`seed ${seed}`);
after(() => {
  for (const device of devices) device.close();
});
const errorMax = 5e-7;

const [m, n] = [9, 70];
const ks = [0, 129, 64, 0, 1, 256];
const k = ks.reduce((sum, count) => sum + count, 0);
const layout = tensorOf("i32", [ks.length], Int32Array.from(ks));

/** The rows of each group that has some. */
function groupsOf<D extends "f32" | "f8e4m3">(matrix: Tensor<D>): Tensor<D>[] {
  const width = matrix.shape[1];
  let from = 0;
  return ks.map((count) => {
    const rows = matrix.data.subarray(from * width, (from + count) * width);
    from += count;
    return tensorOf(matrix.dtype, [count, width], rows as Tensor<D>["data"]);
  });
}

function concatenated<A extends Float32Array | Uint8Array>(into: A, parts: readonly A[]): A {
  let at = 0;
  for (const part of parts) {
    into.set(part, at);
    at += part.length;
  }
  return into;
}

/** Each group cast by itself, and what the codes stand for. */
function castGroups(device: Device, values: Tensor<"f32">) {
  const width = values.shape[1];
  const casts = groupsOf(values).map((group) => deepGemm.perChannelCastToFp8(device, group, false));
  const codes = zeros("f8e4m3", [k, width]);
  concatenated(
    codes.data,
    casts.map((cast) => cast.codes.data.subarray(0, cast.codes.shape[0] * width)),
  );
  const blocks = ks.reduce((sum, count) => sum + Math.ceil(count / 128), 0);
  const scales = zeros("f32", [blocks, width]);
  concatenated(
    scales.data,
    casts.map((cast) => cast.scales.data.subarray(0, cast.scales.shape[0] * width)),
  );
  const exact = zeros("f32", [k, width]);
  concatenated(
    exact.data,
    casts.map((cast) =>
      toF32(cast.codes).data.map(
        (value, i) => value * cast.scales.data[Math.floor(i / width / 128) * width + (i % width)],
      ),
    ),
  );
  return { codes, scales, exact };
}

/** Codes as `kGroupedFp8GemmNtContiguous` takes them. */
function turned(codes: Tensor<"f8e4m3">): Tensor<"f8e4m3"> {
  const flat = zeros("f8e4m3", [codes.data.length]);
  concatenated(
    flat.data,
    groupsOf(codes).map((group) =>
      transposed(group).data.subarray(0, group.shape[0] * group.shape[1]),
    ),
  );
  return flat;
}

/** Runs `product` without C and with it, checks both, and returns both D. */
function run(
  device: Device,
  c: Tensor<"f32">,
  product: (d: Tensor<"f32">, c?: Tensor<"f32">) => void,
  left: Tensor<"f32">,
  right: Tensor<"f32">,
): Float32Array[] {
  const wanted = groupsOf(left).map((group, i) =>
    productOf(transposed(group), transposed(groupsOf(right)[i])),
  );
  return [undefined, c].map((added) => {
    const d = zeros("f32", [ks.length, m, n], (bytes) => device.allocate(bytes));
    d.data.fill(Number.NaN);
    product(d, added);
    wanted.forEach(({ values, magnitudes }, group) => {
      for (let i = 0; i < m * n; i++) {
        const start = added ? added.data[group * m * n + i] : 0;
        const error = Math.abs(d.data[group * m * n + i] - start - values[i]);
        const limit = errorMax * (magnitudes[i] + Math.abs(start));
        assert.ok(error <= limit, `group ${group}: ${error}`);
      }
    });
    return d.data;
  });
}

for (const device of devices) {
  const name = device.isa ?? "reference";
  const random = new Random(seed);

  test(`${name}: k-grouped products add to C, an empty group gives C or zero`, () => {
    const [x, y] = [randomMatrix(random, k, m), randomMatrix(random, k, n)];
    const c = zeros("f32", [ks.length, m, n]);
    for (let i = 0; i < c.data.length; i++) c.data[i] = random.normal();
    const [a, b] = [fromF32(x, "bf16"), fromF32(y, "bf16")];
    run(
      device,
      c,
      (d, added) => deepGemm.kGroupedBf16GemmTnContiguous(device, a, b, d, ks, layout, added),
      toF32(a),
      toF32(b),
    );
    const [a8, b8] = [castGroups(device, x), castGroups(device, y)];
    const tn = run(
      device,
      c,
      (d, added) => deepGemm.kGroupedFp8GemmTnContiguous(device, a8, b8, d, ks, layout, added),
      a8.exact,
      b8.exact,
    );
    const [aT, bT] = [a8, b8].map(({ codes, scales }) => ({ codes: turned(codes), scales }));
    const nt = run(
      device,
      c,
      (d, added) => deepGemm.kGroupedFp8GemmNtContiguous(device, aT, bT, d, ks, layout, added),
      a8.exact,
      b8.exact,
    );
    assert.deepEqual(nt, tn);
    const inPlace = tensorOf("f32", c.shape, c.data.slice());
    deepGemm.kGroupedFp8GemmTnContiguous(device, a8, b8, inPlace, ks, layout, inPlace);
    assert.deepEqual(inPlace.data, tn[1], "C that is D");
  });
}
