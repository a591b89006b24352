/**
 * @file Door of `device`: the processor that kernels run on. Probed when opened, never on import.
 */
export type { Device, Isa, Rung } from "./device.ts";
