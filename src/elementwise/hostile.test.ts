/** @file Hostile shapes, strides, indices and dtypes at every function: refused, or harmless. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import fc from "fast-check";
import { ceilDiv } from "../base/index.ts";
import { openDevice } from "../device/index.ts";
import { map, pageBytes, unmap, viewAt } from "../native/index.ts";
import { type Tensor, tensorOf, zeros } from "../tensor/index.ts";
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

const seed = Number(process.env.SEED ?? 20260104);
const best = openDevice({ threads: 2 });
const machines = best.rung === "x86" ? [best, openDevice({ isa: "avx2", threads: 1 })] : [];
const devices = [openDevice({ rung: "reference" }), ...machines];
after(() => {
  for (const device of [...devices, ...(machines.length > 0 ? [] : [best])]) device.close();
});

const arrays = { f32: Float32Array, bf16: Uint16Array, i32: Int32Array } as const;

/** Memory whose last byte is followed by a page that is not there: reading on ends the process. */
function atEdge(bytes: number): ArrayBuffer {
  const mapped = Math.max(1, ceilDiv(bytes, pageBytes)) * pageBytes;
  const address = map(mapped + pageBytes);
  unmap(address + mapped, pageBytes);
  return viewAt(address, mapped);
}

/** A tensor that claims a shape and a stride that its memory may not have. */
interface Claim {
  readonly dtype: "f32" | "bf16" | "i32";
  readonly rows: number;
  readonly columns: number;
  readonly lie: "none" | "rows" | "columns" | "stride" | "vector" | "deep";
  readonly fill: number;
}

function tensorFor({ dtype, rows, columns, lie, fill }: Claim): Tensor {
  const count = rows * columns;
  const type = arrays[dtype];
  const bytes = count * type.BYTES_PER_ELEMENT;
  const buffer = machines.length > 0 ? atEdge(bytes) : new ArrayBuffer(bytes);
  const data = new type(buffer, buffer.byteLength - bytes, count).fill(fill);
  const tensor = tensorOf(dtype, [rows, columns], data as Tensor["data"] as never) as Tensor;
  if (lie === "rows") return { ...tensor, shape: [rows + 1, columns] };
  if (lie === "columns") return { ...tensor, shape: [rows, columns + 1], stride: columns + 1 };
  if (lie === "stride") return { ...tensor, stride: columns - 1 };
  if (lie === "vector") return { ...tensor, shape: [count] };
  if (lie === "deep") return { ...tensor, shape: [1, rows, columns] };
  return tensor;
}

/** One of `usual`; one time in ten, one of `odd`. */
function mostly<T>(usual: readonly T[], odd: readonly T[]): fc.Arbitrary<T> {
  return fc.oneof(
    { weight: 9, arbitrary: fc.constantFrom(...usual) },
    { weight: 1, arbitrary: fc.constantFrom(...odd) },
  );
}

/** Mostly what fits, so that calls get through, sometimes what does not. */
const claim = (dtypes: readonly ("f32" | "bf16" | "i32")[]): fc.Arbitrary<Claim> =>
  fc.record({
    dtype: mostly(dtypes, ["f32", "bf16"]),
    rows: mostly([3], [4, 1, 0]),
    columns: mostly([20], [128, 21, 1, 0]),
    lie: mostly(["none"], ["rows", "columns", "stride", "vector", "deep"]),
    fill: mostly([0, 1, 2], [3, -1, 2 ** 31 - 1]),
  });
const count = mostly([3], [0, 1, 4, -1, 0.5, Number.NaN, 2 ** 40]);

/** The call as it is meant: every operand of the claims, whatever its dtype turns out to be. */
const any = (tensor: Tensor): never => tensor as never;

let ran = 0;

/** Runs `work` on every device; an error must be an assertion that names what is wrong. */
function attempt(work: (device: (typeof devices)[number]) => void): void {
  for (const device of devices) {
    try {
      work(device);
      ran++;
    } catch (error) {
      assert.match(String(error), /^Error: assertion failed: .+/, `seed ${seed}`);
    }
  }
}

const sinkOf = (kind: string, values: Tensor, scales: Tensor): Sink =>
  ({ type: kind, values, scales }) as unknown as Sink;

const options = { seed, numRuns: 400 };

test("norms, casts, activations, sums", () => {
  ran = 0;
  fc.assert(
    fc.property(
      claim(["f32"]),
      claim(["f32"]),
      claim(["f32", "bf16"]),
      claim(["f32"]),
      claim(["i32"]),
      count,
      fc.constantFrom("f32", "bf16", "f8e4m3"),
      (x, y, values, scales, index, rows, kind) => {
        const [a, b, to, sums, toRows] = [x, y, values, scales, index].map(tensorFor);
        const sink = sinkOf(kind, to, sums);
        const weight = { ...b, shape: [b.shape.at(-1) ?? 0] };
        const rowIndex = { ...toRows, shape: [toRows.data.length] };
        attempt((device) => castRows(device, any(a), rows, sink));
        attempt((device) => swiglu(device, any(a), any(b), rows, sink));
        attempt((device) => addRows(device, any(a), rows, any(b)));
        attempt((device) => rmsNorm(device, any(a), any(weight), 1e-6, rows, sink));
        attempt((device) => rmsNorm(device, any(a), any(weight), 1e-6, rows, sink, any(rowIndex)));
      },
    ),
    options,
  );
  assert.ok(ran > 1000, `only ${ran} calls got through`);
});

test("gathering, combining, rotating", () => {
  ran = 0;
  fc.assert(
    fc.property(
      claim(["f32", "bf16"]),
      claim(["f32", "bf16"]),
      claim(["f32"]),
      claim(["i32"]),
      claim(["f32"]),
      count,
      fc.record({ heads: count, dim: mostly([2, 4], [3, -2, 20]), step: mostly([4], [2, 5, -1]) }),
      (x, y, z, slots, w, rows, { heads, dim, step }) => {
        const [from, to, sums, slotOf, weights] = [x, y, z, slots, w].map(tensorFor);
        const index = { ...slotOf, shape: [slotOf.data.length] };
        attempt((device) => gatherRows(device, any(from), any(index), rows, any(to)));
        const combination = { y: from, slotOf, weights, tokens: rows, to: sums };
        attempt((device) => combineExperts(device, combination as never));
        attempt((device) => {
          rotate(device, {
            from: any(from),
            fromHeadStride: step,
            to: any(to),
            toHeadStride: dim,
            heads,
            dim,
            cosSin: any(sums),
            positions: any(index),
            tokens: rows,
          });
        });
      },
    ),
    options,
  );
  assert.ok(ran > 500, `only ${ran} calls got through`);
});

test("a tensor without memory is refused before its address is used", () => {
  const empty = { ...zeros("f32", [3, 20]), data: new Float32Array(0) };
  const sink: Sink = { type: "f32", values: zeros("f32", [3, 20], best.allocate) };
  for (const device of devices) {
    assert.throws(() => castRows(device, empty, 3, sink), /x: got memory for 0 elements/);
  }
});
