/** @file Door of `codegen`: machine code from TypeScript. */
export { Assembler, type InstructionMethods } from "./x86/assembler.ts";
export { hasAvx512, type Isa } from "./x86/isa.ts";
export * from "./x86/registers.ts";
export type { Decorators, Operand, Rounding } from "./x86/row.ts";
