/** @file What the emulator reports: one class, with a code and the lines of TypeScript involved. */

/** The kinds of faults that the emulator finds. */
export type FaultCode =
  | "race"
  | "proxy-fence"
  | "uninitialised"
  | "out-of-bounds"
  | "misaligned"
  | "read-only"
  | "deadlock"
  | "barrier-misuse"
  | "mbarrier-misuse"
  | "wgmma-misuse"
  | "bulk-misuse"
  | "divergence"
  | "unfinished"
  | "trap"
  | "step-budget";

/** A defect of a kernel (never of a user's data). The message names TypeScript lines. */
export class EmulatorFault extends Error {
  readonly code: FaultCode;

  constructor(code: FaultCode, message: string) {
    super(`${code}: ${message}`);
    this.name = "EmulatorFault";
    this.code = code;
  }
}
