/** @file The driver's status as a sentence that says what to do. */
import { BaleenError, type ErrorTable, type RetryAdvice } from "../../base/index.ts";
import type { CudaDriver, CudaFunction } from "../../native/index.ts";

/** Codes of the failures of a CUDA device. */
const cudaErrors = {
  "no-cuda-driver": "never",
  "no-cuda-device": "never",
  "cuda-out-of-memory": "same",
  "cuda-driver-too-old": "never",
  "no-jit-compiler": "never",
  "bad-ptx": "never",
  "cuda-launch-refused": "never",
  "cuda-device-lost": "never",
  "cuda-failed": "never",
} as const satisfies ErrorTable;

type CudaErrorCode = keyof typeof cudaErrors;

interface Meaning {
  readonly name: string;
  readonly code: CudaErrorCode;
  readonly advice: string;
}

const lost =
  "the process's work on this GPU is lost; start it again, and run the kernel in the emulator to find the access";

/** The statuses that users meet; numbers and names are those of the driver API. */
const meanings: Readonly<Record<number, Meaning>> = {
  1: {
    name: "invalid value",
    code: "cuda-failed",
    advice: "an argument is out of its range; report it",
  },
  2: {
    name: "out of memory",
    code: "cuda-out-of-memory",
    advice: "free GPU memory, use a smaller cache or model, or another GPU (CUDA_VISIBLE_DEVICES)",
  },
  3: { name: "not initialised", code: "cuda-failed", advice: "report it" },
  34: {
    name: "stub library",
    code: "no-cuda-driver",
    advice: "a stub of the toolkit was loaded: put the driver's own libcuda.so.1 first",
  },
  36: {
    name: "a newer driver is needed",
    code: "cuda-driver-too-old",
    advice: "install a driver for CUDA 12.3 or later",
  },
  46: {
    name: "device unavailable",
    code: "no-cuda-device",
    advice: "another process has it exclusively: end that, or choose another GPU",
  },
  100: {
    name: "no device",
    code: "no-cuda-device",
    advice: "check nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, pass the GPU in",
  },
  101: { name: "invalid device", code: "no-cuda-device", advice: "choose a GPU that exists" },
  209: {
    name: "no binary for this GPU",
    code: "bad-ptx",
    advice: "the kernel is written for another architecture; use one for this GPU",
  },
  218: { name: "invalid PTX", code: "bad-ptx", advice: "the log below names the line" },
  221: {
    name: "no JIT compiler",
    code: "no-jit-compiler",
    advice:
      "libnvidia-ptxjitcompiler.so.1 is missing: install the driver's compute libraries, or pass them into the container (NVIDIA_DRIVER_CAPABILITIES=compute,utility)",
  },
  222: {
    name: "PTX newer than the driver",
    code: "cuda-driver-too-old",
    advice: "install a newer driver",
  },
  223: {
    name: "JIT compilation is disabled",
    code: "no-jit-compiler",
    advice: "unset CUDA_DISABLE_PTX_JIT",
  },
  700: { name: "illegal address", code: "cuda-device-lost", advice: lost },
  701: {
    name: "launch out of resources",
    code: "cuda-launch-refused",
    advice: "the block needs more registers or shared memory than the GPU has; use a smaller one",
  },
  702: { name: "launch timed out", code: "cuda-device-lost", advice: lost },
  714: { name: "hardware stack error", code: "cuda-device-lost", advice: lost },
  715: { name: "illegal instruction", code: "cuda-device-lost", advice: lost },
  716: { name: "misaligned address", code: "cuda-device-lost", advice: lost },
  717: { name: "invalid address space", code: "cuda-device-lost", advice: lost },
  719: { name: "launch failed", code: "cuda-device-lost", advice: lost },
  802: {
    name: "system not ready",
    code: "no-cuda-device",
    advice: "on an NVSwitch machine, start nvidia-fabricmanager",
  },
  803: {
    name: "driver and library differ",
    code: "no-cuda-driver",
    advice: "reload the kernel module or reboot after the driver's update",
  },
  804: {
    name: "compatibility library not supported here",
    code: "no-cuda-driver",
    advice: "remove the forward-compatibility package, or update the driver",
  },
};

/** The failure `status` of `what`, as an error. `log` is what the compiler printed. */
export function cudaError(what: string, status: number, log = ""): BaleenError {
  const meaning = meanings[status];
  const name = meaning?.name ?? "an error without a name here";
  const code: CudaErrorCode = meaning?.code ?? "cuda-failed";
  const advice = meaning?.advice ?? "look the number up in the driver's reference";
  const printed = log.trim();
  const retry: RetryAdvice = cudaErrors[code];
  return new BaleenError(
    code,
    `${what} failed: ${name} (CUDA ${status}): ${advice}.${printed && `\n${printed}`}`,
    { retry },
  );
}

/** Calls `name`, and throws what its status means; `what` names the deed in the message. */
export function callDriver(
  driver: CudaDriver,
  what: string,
  name: CudaFunction,
  ...args: readonly (number | Uint8Array)[]
): void {
  const status = driver.call(name, ...args);
  if (status !== 0) throw cudaError(what, status);
}
