/**
 * @file Reads what `ptxas` made: a cubin is ELF, its code lies in `.text.NAME`, 16 bytes an
 * instruction, the opcode in the lowest 12 bits. Enough to count tensor-core instructions and local
 * memory accesses without a disassembler.
 *
 * The opcodes were found by assembling kernels whose instructions are known (sm_90a, CUDA 13.0).
 */
import { assert } from "../../base/index.ts";

/** What is counted. */
export interface InstructionCounts {
  readonly total: number;
  /** wgmma on 16-bit operands, one for each `wgmma.mma_async`. */
  readonly hgmma: number;
  /** wgmma on FP8 operands. */
  readonly qgmma: number;
  /** Loads and stores of local memory: spills, or arrays indexed at run time. */
  readonly local: number;
}

const opcodes = { hgmma: [0x9f0, 0xdf0], qgmma: [0x9f3], local: [0x983, 0x387] } as const;

interface Section {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** The sections of a 64-bit little-endian ELF file. */
function elfSections(file: Uint8Array): Section[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  assert(view.getUint32(0) === 0x7f454c46 && file[4] === 2 && file[5] === 1, "no 64-bit ELF file");
  const headers = Number(view.getBigUint64(0x28, true));
  const size = view.getUint16(0x3a, true);
  const count = view.getUint16(0x3c, true);
  const field = (section: number, at: number) =>
    Number(view.getBigUint64(headers + section * size + at, true));
  const contents = (section: number) => {
    const start = field(section, 0x18);
    const isEmpty = view.getUint32(headers + section * size + 4, true) === 8;
    return file.subarray(start, isEmpty ? start : start + field(section, 0x20));
  };
  const names = contents(view.getUint16(0x3e, true));
  return Array.from({ length: count }, (_, section) => {
    const start = view.getUint32(headers + section * size, true);
    const name = new TextDecoder().decode(names.subarray(start, names.indexOf(0, start)));
    return { name, bytes: contents(section) };
  });
}

/** Counts the instructions of one kernel in a cubin. */
export function countInstructions(cubin: Uint8Array, kernel: string): InstructionCounts {
  const section = elfSections(cubin).find(({ name }) => name === `.text.${kernel}`);
  assert(section, `the cubin has no kernel ${kernel}`);
  const { bytes } = section;
  const counts = { total: bytes.length / 16, hgmma: 0, qgmma: 0, local: 0 };
  for (let at = 0; at < bytes.length; at += 16) {
    const opcode = (bytes[at] | (bytes[at + 1] << 8)) & 0xfff;
    for (const kind of ["hgmma", "qgmma", "local"] as const) {
      if ((opcodes[kind] as readonly number[]).includes(opcode)) counts[kind]++;
    }
  }
  return counts;
}
