/**
 * @file Decodes a block of packed e4m3 codes to bf16 pairs in scratch memory, for processors whose
 * byte permutation spans no 128 entries. Exact on all 256 codes: normal numbers by arithmetic on
 * the exponent, subnormal ones by a table of 8, NaN by a comparison.
 */
import { type Assembler, type Gpr, type Label, mem, type Vec, ymm } from "../codegen/index.ts";
import { f8e4m3ToF32, f32ToBf16 } from "../tensor/index.ts";

/** bf16 codes of the e4m3 codes 0 to 7. */
const subnormals = Array.from({ length: 8 }, (_, code) => f32ToBf16(f8e4m3ToF32(code)));

/**
 * Emits a loop over `steps` steps (at least 1): 64 columns of pairs, 128 bytes at `from`, become
 * 256 bytes at `to`, in natural order. Clobbers the three registers and ymm0 to ymm14.
 */
export function emitDecode(asm: Assembler, from: Gpr, to: Gpr, steps: Gpr): void {
  const constants = loadConstants(asm);
  const next = asm.here("decode");
  for (let quarter = 0; quarter < 4; quarter++) {
    const [low, high] = decode(asm, quarter * 32, from, constants);
    // Of each 32 columns, a quarter has 8 of the first 16 and the 8 beside them of the second.
    const column = (quarter >> 1) * 32 + (quarter & 1) * 8;
    const pairs = ymm(3);
    asm.vpunpcklbw(pairs, low, high);
    asm.vmovups(mem(to, { disp: column * 4 }), pairs);
    asm.vpunpckhbw(pairs, low, high);
    asm.vmovups(mem(to, { disp: (column + 16) * 4 }), pairs);
  }
  asm.add(from, 128);
  asm.add(to, 256);
  asm.dec(steps);
  asm.jne(next);
}

/** Constants, each in a register. */
interface Constants {
  readonly magnitude: Vec;
  readonly sign: Vec;
  readonly lowNibble: Vec;
  readonly highNibble: Vec;
  readonly bias: Vec;
  readonly firstNormal: Vec;
  readonly highTable: Vec;
  readonly lowTable: Vec;
}

function loadConstants(asm: Assembler): Constants {
  const bytes = (values: (index: number) => number): Label =>
    asm.constant(Uint8Array.from({ length: 32 }, (_, i) => values(i % 16)));
  let register = 7;
  const load = (values: (index: number) => number): Vec => {
    const vector = ymm(register++);
    asm.vmovups(vector, mem(bytes(values)));
    return vector;
  };
  return {
    magnitude: load(() => 0x7f),
    sign: load(() => 0x80),
    lowNibble: load(() => 0x07),
    highNibble: load(() => 0xf0),
    // The exponent, of 4 bits here, gains 120; its lowest bit is the top of the low byte.
    bias: load(() => 120 / 2),
    firstNormal: load(() => 8),
    highTable: load((i) => subnormals[i & 7] >> 8),
    lowTable: load((i) => subnormals[i & 7] & 255),
  };
}

/** Low and high bytes of 32 codes' bf16. */
function decode(asm: Assembler, disp: number, from: Gpr, constants: Constants): [Vec, Vec] {
  const { magnitude, sign, lowNibble, highNibble, bias, firstNormal } = constants;
  const [codes, low, high, subnormal, table, nan] = [0, 1, 2, 4, 5, 6].map(ymm);
  const plain = ymm(3);
  asm.vmovups(codes, mem(from, { disp }));
  asm.vpand(plain, codes, magnitude);
  asm.vpsrlw(high, plain, 4);
  asm.vpand(high, high, lowNibble);
  asm.vpaddb(high, high, bias);
  asm.vpsllw(low, plain, 4);
  asm.vpand(low, low, highNibble);
  asm.vpcmpgtb(subnormal, firstNormal, plain);
  asm.vpshufb(table, constants.highTable, plain);
  asm.vpblendvb(high, high, table, subnormal);
  asm.vpshufb(table, constants.lowTable, plain);
  asm.vpblendvb(low, low, table, subnormal);
  // Where the code is NaN, all ones below the sign; the low byte has a quiet NaN's bits by itself.
  asm.vpcmpeqb(nan, plain, magnitude);
  asm.vpand(nan, nan, magnitude);
  asm.vpor(high, high, nan);
  asm.vpand(codes, codes, sign);
  asm.vpor(high, high, codes);
  return [low, high];
}
