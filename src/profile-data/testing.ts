/** @file Traces for tests and benchmarks: made by a seed, in the form that PyTorch's profiler writes. */
import type { Random } from "../base/index.ts";

/** One operation of a made trace; times in whole microseconds. */
export interface MadeOperation {
  readonly name: string;
  readonly cat: "kernel" | "gpu_memcpy" | "gpu_memset";
  readonly stream: number;
  readonly ts: number;
  readonly dur: number;
  /** When its launching call begins; undefined: the call is not in the trace. */
  readonly launchTs?: number | undefined;
}

/** Names of kernels, with whether they communicate. */
export const madeKernels: readonly (readonly [name: string, communicates: boolean])[] = [
  ["void deep_ep::internode::dispatch<false, 8>(int4*, float*)", true],
  ["ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)", true],
  ["void deep_gemm::sm90_fp8_gemm_1d2d_impl<7168u, 128u>(__nv_bfloat16*)", false],
  ["void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)", false],
];

/** Random operations on three streams, many of them starting, ending or empty at the same time. */
export function madeOperations(random: Random, count: number, spanUs: number): MadeOperation[] {
  return Array.from({ length: count }, () => {
    const memory = random.below(6) === 0;
    const ts = random.below(spanUs);
    const launched = random.below(5) > 0;
    return {
      name: memory ? "Memcpy DtoD" : madeKernels[random.below(madeKernels.length)][0],
      cat: memory ? "gpu_memcpy" : "kernel",
      stream: [7, 20, 101][random.below(3)],
      ts,
      dur: random.below(5) === 0 ? 0 : random.below(40),
      launchTs: launched ? Math.max(0, ts - random.below(60)) : undefined,
    };
  });
}

const host = { pid: 1166, tid: 1166 };

/** The events of `operations` and of the calls that launched them, times from `originUs`. */
export function madeEvents(operations: readonly MadeOperation[], originUs = 0): object[] {
  return operations.flatMap(({ name, cat, stream, ts, dur, launchTs }, index) => {
    const args = { "External id": index, device: 0, stream, correlation: index + 1 };
    const event = { ph: "X", cat, name, pid: 0, tid: stream, ts: ts + originUs, dur, args };
    if (launchTs === undefined) return [event];
    const call = {
      ph: "X",
      cat: "cuda_runtime",
      name: "cudaLaunchKernel",
      ...host,
      ts: launchTs + originUs,
      dur: 1,
      args: { cbid: 211, correlation: index + 1 },
    };
    return [call, event];
  });
}

/** `text` as bytes, in pieces whose lengths `random` draws, 1 to `longest`. */
export function* inPieces(text: string, random: Random, longest: number): Generator<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + random.below(longest);
    yield bytes.slice(at, at + length);
    at += length;
  }
}
