/** @file Door of `tensor`: dtypes, views, block scales, safetensors. */
export {
  type Allocate,
  bytesPerElement,
  columnsOf,
  type DataOf,
  type DType,
  elementCount,
  rowsOf,
  type Tensor,
  tensorOf,
  zeros,
} from "./tensor.ts";
