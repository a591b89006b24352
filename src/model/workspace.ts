/** @file Memory between operations: buffers by name, shared by all layers, grown and never shrunk. */
import { alignUp } from "../base/index.ts";
import type { ActivationType } from "../deep-gemm/index.ts";
import type { Sink } from "../elementwise/index.ts";
import { type Allocate, type DType, rowsOf, type Tensor, zeros } from "../tensor/index.ts";

interface Buffer {
  whole: Tensor;
  view: Tensor;
}

/**
 * Named scratch buffers. A view is valid until the same name is asked for again with other rows;
 * contents are undefined. `generation` changes whenever a buffer moves, so that callers may keep
 * what they derived from views for as long as it stays the same.
 */
export class Workspace {
  private readonly allocate: Allocate;
  private readonly buffers = new Map<string, Buffer>();
  private readonly sinks = new Map<string, { rows: number; sink: Sink }>();
  private readonly powerOfTwoScales: boolean;
  private moves = 0;

  /** `powerOfTwoScales`: how FP8 activations are scaled (the checkpoint's `scale_fmt`). */
  constructor(allocate: Allocate, powerOfTwoScales: boolean) {
    this.allocate = allocate;
    this.powerOfTwoScales = powerOfTwoScales;
  }

  /** Counts reallocations. */
  get generation(): number {
    return this.moves;
  }

  /** A `[rows, columns]` view of the buffer `name`; `columns` and `dtype` are fixed by the name. */
  tensor<D extends DType>(name: string, dtype: D, rows: number, columns: number): Tensor<D> {
    let buffer = this.buffers.get(name);
    if (!buffer || buffer.whole.shape[0] < rows) {
      const capacity = 2 ** Math.ceil(Math.log2(Math.max(1, rows)));
      const whole = zeros(dtype, [capacity, columns], this.allocate);
      buffer = { whole, view: whole };
      this.buffers.set(name, buffer);
      this.moves++;
    }
    if (buffer.view.shape[0] !== rows) buffer.view = rowsOf(buffer.whole, 0, rows);
    return buffer.view as Tensor<D>;
  }

  /** Row activations `[rows, k]` of the buffer `name` in the form that `activation` names. */
  sink(name: string, rows: number, k: number, activation: ActivationType): Sink {
    const known = this.sinks.get(name);
    // The buffers of a sink move only when it is asked for with more rows, which replaces it here.
    if (known?.rows === rows) return known.sink;
    const dtype = activation === "f32" ? "f32" : "bf16";
    const values = this.tensor(`${name}.values`, dtype, rows, alignUp(k, 128));
    const scales =
      activation === "f8e4m3"
        ? this.tensor(`${name}.scales`, "f32", rows, Math.ceil(k / 128))
        : undefined;
    const sink = {
      type: activation,
      values: { ...values, shape: [rows, k] },
      scales,
      powerOfTwoScales: this.powerOfTwoScales,
    } as Sink;
    this.sinks.set(name, { rows, sink });
    return sink;
  }
}

/** Rows `from` to `to` of activations. */
export function rowsOfSink(sink: Sink, from: number, to: number): Sink {
  const values = rowsOf(sink.values as Tensor, from, to);
  return sink.type === "f8e4m3"
    ? ({ ...sink, values, scales: rowsOf(sink.scales, from, to) } as Sink)
    : ({ ...sink, values } as Sink);
}
