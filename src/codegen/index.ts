/** @file Door of `codegen`: machine code from TypeScript. */

export * from "./ptx/index.ts";
export { Assembler, type InstructionMethods } from "./x86/assembler.ts";
export { hasAvx512, type Isa } from "./x86/isa.ts";
export * from "./x86/registers.ts";
export type { Decorators, Operand, Rounding } from "./x86/row.ts";
export { type Tail, VectorBuilder } from "./x86/vector.ts";
export {
  absPs,
  broadcastLane0,
  expPs,
  reduceAddPs,
  reduceMaxPs,
  replaceNan,
  sigmoidPs,
} from "./x86/vector-math.ts";
export {
  bf16FromE4m3,
  bf16FromExactPs,
  bf16FromPs,
  type E4m3Table,
  e4m3FromExactPs,
  e4m3FromPs,
  e4m3HalfScale,
  loadE4m3Table,
  orderForE4m3,
  packWords,
  psFromBf16,
  psFromE4m3,
  roundToBf16,
  roundToE4m3,
  storeWords,
} from "./x86/vector-narrow.ts";
