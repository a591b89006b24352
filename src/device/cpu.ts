/**
 * @file Asks the processor, by the CPUID and XGETBV instructions, which vector instructions it has
 * and the system saves. Source: Intel SDM volume 1 chapters 14 and 15 (the order of the checks),
 * volume 2 CPUID; AMD's processors use the same bits.
 */
import { BaleenError } from "../base/index.ts";
import { Assembler, mem, r8, rax, rbx, rcx, rdi } from "../codegen/index.ts";
import { addressOf, callable, freeCode, loadCode } from "../native/index.ts";
import type { Isa } from "./device.ts";

/** The registers that tell, as 32-bit words. */
export interface CpuWords {
  /** Highest CPUID leaf. */
  readonly leafMax: number;
  /** Leaf 1, ecx. */
  readonly leaf1Ecx: number;
  /** Leaf 7, ebx and ecx. */
  readonly leaf7Ebx: number;
  readonly leaf7Ecx: number;
  /** Leaf 7 subleaf 1, eax. */
  readonly leaf7Sub1Eax: number;
  /** Which register state the system saves (XCR0); 0 where it saves none beyond SSE. */
  readonly savedState: number;
}

/** All instruction sets, best first. */
export const isas: readonly Isa[] = ["avx512-bf16", "avx512", "avx2"];

const osSavesState = 27;
const leaf1Avx2Bits = [12, osSavesState, 28, 29]; // FMA, OSXSAVE, AVX, F16C
const leaf7Avx2Bits = [3, 5, 8]; // BMI1, AVX2, BMI2
const leaf7Avx512Bits = [16, 17, 28, 30, 31]; // F, DQ, CD, BW, VL
const avx512Vbmi = 1;
const avx512Bf16 = 5;
const savedAvx = [1, 2];
const savedAvx512 = [1, 2, 5, 6, 7];

function hasAll(word: number, bits: readonly number[]): boolean {
  return bits.every((bit) => (word >>> bit) & 1);
}

/** The best instruction set that `words` allow, or undefined when even AVX2 is lacking. */
export function isaOf(words: CpuWords): Isa | undefined {
  const { leaf1Ecx, leaf7Ebx, leaf7Ecx, leaf7Sub1Eax, savedState } = words;
  const avx2 =
    words.leafMax >= 7 &&
    hasAll(leaf1Ecx, leaf1Avx2Bits) &&
    hasAll(leaf7Ebx, leaf7Avx2Bits) &&
    hasAll(savedState, savedAvx);
  if (!avx2) return undefined;
  if (!hasAll(leaf7Ebx, leaf7Avx512Bits) || !hasAll(savedState, savedAvx512)) return "avx2";
  const bf16 = hasAll(leaf7Ecx, [avx512Vbmi]) && hasAll(leaf7Sub1Eax, [avx512Bf16]);
  return bf16 ? "avx512-bf16" : "avx512";
}

/**
 * `wanted` or else `best`; throws `isa-unavailable` when the processor's best does not include it.
 */
export function chooseIsa(wanted: Isa | undefined, best: Isa): Isa {
  if (wanted !== undefined && isas.indexOf(wanted) < isas.indexOf(best)) {
    throw new BaleenError(
      "isa-unavailable",
      `instruction set ${wanted} was asked for, but this processor's best is ${best}: ` +
        "ask for that or a lesser one, or leave the choice to the device.",
    );
  }
  return wanted ?? best;
}

/**
 * Emits `probe(out)`, which fills six words in the order of `CpuWords`; absent leaves stay zero.
 */
function emitProbe(): Uint8Array {
  const asm = new Assembler();
  const end = asm.label("end");
  const word = (index: number) => mem(r8, { disp: 4 * index });
  asm.mov(r8, rdi);
  asm.push(rbx); // CPUID overwrites it
  asm.xor(rax.d, rax.d);
  asm.cpuid();
  asm.mov(word(0), rax.d);
  asm.mov(rax.d, 1);
  asm.cpuid();
  asm.mov(word(1), rcx.d);
  asm.cmp(word(0).d, 7);
  asm.jb(end);
  asm.mov(rax.d, 7);
  asm.xor(rcx.d, rcx.d);
  asm.cpuid();
  asm.mov(word(2), rbx.d);
  asm.mov(word(3), rcx.d);
  const noSubleaf = asm.label("noSubleaf");
  asm.test(rax.d, rax.d); // eax of leaf 7 is its highest subleaf
  asm.je(noSubleaf);
  asm.mov(rax.d, 7);
  asm.mov(rcx.d, 1);
  asm.cpuid();
  asm.mov(word(4), rax.d);
  asm.bind(noSubleaf);
  asm.bt(word(1).d, osSavesState); // XGETBV is undefined without it
  asm.jae(end);
  asm.xor(rcx.d, rcx.d);
  asm.xgetbv();
  asm.mov(word(5), rax.d);
  asm.bind(end);
  asm.pop(rbx);
  asm.ret();
  return asm.finish();
}

/** Runs the probe on this processor; needs the native layer. */
export function probeCpu(): CpuWords {
  const words = new Uint32Array(6);
  const code = emitProbe();
  const address = loadCode(code);
  callable(address)(addressOf(words));
  freeCode(address, code.length);
  const [leafMax, leaf1Ecx, leaf7Ebx, leaf7Ecx, leaf7Sub1Eax, savedState] = words;
  return { leafMax, leaf1Ecx, leaf7Ebx, leaf7Ecx, leaf7Sub1Eax, savedState };
}
