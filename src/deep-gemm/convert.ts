/**
 * @file What operands need before they can be multiplied: transposing, and widening e4m3 codes to
 * the bf16 numbers that kernels read. Whole squares or vectors by machine code where it runs, edges
 * and everything else by plain loops. Results are `temporary`.
 */
import { ceilDiv } from "../base/index.ts";
import type { Device } from "../device/index.ts";
import {
  bytesPerElement,
  type DType,
  elementCount,
  f8e4m3ToF32,
  f32ToBf16,
  type Tensor,
} from "../tensor/index.ts";
import { kernelOf } from "./kernels.ts";
import { temporary } from "./workspace.ts";
import { emitTranspose, squareSize, squaresPerTask, transposeWords } from "./x86-transpose.ts";
import { emitWiden, widenLanes, widenWords } from "./x86-widen.ts";

/** The transposed matrix `[columns, rows]`, contiguous; f32 is transposed by plain loops. */
export function transpose<D extends DType>(device: Device, matrix: Tensor<D>): Tensor<D> {
  const [rows, columns] = matrix.shape;
  const result = temporary(device, matrix.dtype, [columns, rows]);
  if (rows === 0 || columns === 0) return result;
  const bytes = bytesPerElement[matrix.dtype];
  const isFast = device.isa !== undefined && bytes < 4;
  const down = isFast ? Math.floor(rows / squareSize) : 0;
  const across = isFast ? Math.floor(columns / squareSize) : 0;
  if (down > 0 && across > 0) {
    const kernel = kernelOf(device, `transpose ${bytes}`, () => emitTranspose(bytes as 1 | 2));
    const { block } = kernel;
    block.setAddress(transposeWords.source * 8, matrix.address);
    block.setInt64(transposeWords.sourceStride * 8, matrix.stride * bytes);
    block.setAddress(transposeWords.to * 8, result.address);
    block.setInt64(transposeWords.toStride * 8, rows * bytes);
    block.setInt64(transposeWords.squaresDown * 8, down);
    block.setInt64(transposeWords.squaresAcross * 8, across);
    device.launch(kernel.address, block.address, ceilDiv(down, squaresPerTask));
  }
  const [doneRows, doneColumns] = [down * squareSize, across * squareSize];
  for (let i = 0; i < rows; i++) {
    for (let j = i < doneRows ? doneColumns : 0; j < columns; j++) {
      result.data[j * rows + i] = matrix.data[i * matrix.stride + j];
    }
  }
  return result;
}

/** The bf16 code of each e4m3 code's value. */
const bf16OfCode = Uint16Array.from({ length: 256 }, (_, code) => f32ToBf16(f8e4m3ToF32(code)));
/** Rows that a task widens. */
const rowsPerTask = 16;

/** The codes' values as bf16, contiguous, of the same shape. */
export function widen(device: Device, codes: Tensor<"f8e4m3">): Tensor<"bf16"> {
  const values = temporary(device, "bf16", codes.shape);
  const columns = codes.shape.at(-1)!;
  if (elementCount(codes.shape) === 0) return values;
  const rows = elementCount(codes.shape) / columns;
  let done = 0;
  if (device.isa !== undefined) {
    const lanes = widenLanes(device.isa);
    const vectors = Math.floor(columns / lanes);
    if (vectors > 0) {
      const { address, block } = kernelOf(device, "widen", emitWiden);
      block.setAddress(widenWords.source * 8, codes.address);
      block.setInt64(widenWords.sourceStride * 8, codes.stride);
      block.setAddress(widenWords.to * 8, values.address);
      block.setInt64(widenWords.toStride * 8, 2 * columns);
      block.setInt64(widenWords.rows * 8, rows);
      block.setInt64(widenWords.rowsPerTask * 8, rowsPerTask);
      block.setInt64(widenWords.vectors * 8, vectors);
      device.launch(address, block.address, ceilDiv(rows, rowsPerTask));
      done = vectors * lanes;
    }
  }
  if (done === columns) return values;
  for (let row = 0; row < rows; row++) {
    for (let i = done; i < columns; i++) {
      values.data[row * columns + i] = bf16OfCode[codes.data[row * codes.stride + i]];
    }
  }
  return values;
}
