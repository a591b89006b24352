/**
 * @file Turns a table row and operands into bytes: legacy, VEX and EVEX encodings.
 *
 * `matchRow` says whether operands fit a row (or which does not, in words); `encodeRow` writes the
 * bytes. References to labels are left as fix-ups, since the label may not be bound yet.
 * Source: Intel SDM volume 2, chapter 2 (REX, VEX, EVEX, disp8*N, VSIB).
 */
import { Gpr, type Label, Mask, Mem, Vec } from "./registers.ts";
import type { Decorators, Operand, Row, Slot } from "./row.ts";

/** A 32-bit field, relative to the end of its instruction, that waits for its label. */
export interface Fixup {
  /** Offset of the field from the start of the instruction. */
  at: number;
  label: Label;
  /** Added to the label's offset. */
  addend: number;
}

/** An encoded instruction. */
export interface Encoded {
  bytes: number[];
  fixup: Fixup | undefined;
}

/** Vector length in bits of `operands` in `row`, by those that have it or half of it; 0: unclear. */
function vectorLength(row: Row, operands: readonly Operand[]): number {
  let fromParts = 0;
  for (const [i, slot] of row.slots.entries()) {
    const operand = operands[i];
    const isIndex = slot.place === "X" && operand instanceof Mem;
    const vec = isIndex ? operand.index : operand;
    if (!(vec instanceof Vec)) continue;
    if (slot.size === "") return vec.bits;
    if (slot.size === "h") fromParts = vec.bits * 2;
  }
  return fromParts || (row.lengths.length === 1 ? row.lengths[0] : 0);
}

function wantedVecBits(slot: Slot, length: number): number {
  const divisor = { h: 2, q: 4, e: 8 }[slot.size];
  if (divisor) return Math.max(128, length / divisor);
  return slot.size === "x" ? 128 : slot.size === "y" ? 256 : length;
}

const sizeBits: Record<string, number> = { b: 8, w: 16, d: 32, q: 64 };

/** Operand size of an integer instruction: what its unsized places share. */
function gprBits(row: Row, operands: readonly Operand[]): number {
  let first = 0;
  for (const [i, slot] of row.slots.entries()) {
    const operand = operands[i];
    if (!"GERBOAM".includes(slot.place)) continue;
    if (operand instanceof Gpr) {
      if (slot.size === "") return operand.bits;
      first ||= operand.bits;
    }
  }
  if (first) return first;
  const memory = operands.find((operand) => operand instanceof Mem);
  return memory?.bits ?? 64;
}

function fitsSigned(value: bigint, bits: number): boolean {
  return BigInt.asIntN(bits, value) === value;
}

/** Whether `value` can be the immediate of `slot` in an operation of `bits`; signs as the CPU extends. */
function immediateFits(slot: Slot, value: bigint, bits: number): boolean {
  const unsigned = (width: number) => value >= 0n && value >> BigInt(width) === 0n;
  switch (slot.size) {
    case "1":
      return value === 1n;
    case "s":
      return (
        fitsSigned(value, 8) ||
        (bits < 64 && fitsSigned(BigInt.asIntN(bits, value), 8) && unsigned(bits))
      );
    case "b":
      return fitsSigned(value, 8) || unsigned(8);
    case "w":
      return fitsSigned(value, 16) || unsigned(16);
    case "q":
      return fitsSigned(value, 64) || unsigned(64);
    default:
      if (bits === 64) return fitsSigned(value, 32);
      return fitsSigned(value, bits) || unsigned(bits);
  }
}

function describe(operand: Operand): string {
  return operand instanceof Mem ? `memory ${operand}` : `${operand}`;
}

/** What `slot` wants instead of `operand`, in words; undefined if they agree. */
function mismatch(
  row: Row,
  slot: Slot,
  operand: Operand,
  length: number,
  bits: number,
): string | undefined {
  const vecBits = wantedVecBits(slot, length);
  const vecName = `${{ 128: "an xmm", 256: "a ymm", 512: "a zmm" }[vecBits]} register`;
  const memOk = operand instanceof Mem && !(operand.index instanceof Vec);
  switch (slot.place) {
    case "V":
    case "H":
    case "U":
    case "L":
      return operand instanceof Vec && operand.bits === vecBits ? undefined : vecName;
    case "W":
      if (operand instanceof Vec) return operand.bits === vecBits ? undefined : vecName;
      return memOk ? undefined : `${vecName} or memory`;
    case "X": {
      const index = operand instanceof Mem ? operand.index : undefined;
      return index instanceof Vec && index.bits === vecBits
        ? undefined
        : `memory with ${vecName} as index`;
    }
    case "M":
      return memOk && memorySizeFits(row, slot, operand, bits) ? undefined : "memory of that size";
    case "kV":
    case "kH":
    case "kU":
      return operand instanceof Mask ? undefined : "a mask register";
    case "kW":
      return operand instanceof Mask || memOk ? undefined : "a mask register or memory";
    case "I": {
      const number = typeof operand === "bigint" || Number.isInteger(operand);
      const fits = number && immediateFits(slot, BigInt(operand as number), bits);
      return fits ? undefined : `an integer that fits (immediate ${slot.size || "z"})`;
    }
    case "J":
      return typeof operand === "object" && operand.kind === "label" ? undefined : "a label";
    default:
      return gprMismatch(row, slot, operand, bits);
  }
}

function gprMismatch(row: Row, slot: Slot, operand: Operand, bits: number): string | undefined {
  const wanted = slot.size === "" ? bits : sizeBits[slot.size];
  if (slot.place === "E" && operand instanceof Mem) {
    const fits = !(operand.index instanceof Vec) && memorySizeFits(row, slot, operand, bits);
    return fits ? undefined : `memory of ${wanted} bits`;
  }
  const name = slot.place === "A" ? "the accumulator" : slot.place === "C" ? "cl" : "a register";
  if (!(operand instanceof Gpr)) return `${name}${slot.place === "E" ? " or memory" : ""}`;
  if (slot.place === "C") return operand.code === 1 && operand.bits === 8 ? undefined : name;
  if (slot.place === "A" && operand.code !== 0) return name;
  if (slot.size === "" && bits === 8) return "a register of 16, 32 or 64 bits";
  return operand.bits === wanted ? undefined : `${name} of ${wanted} bits`;
}

/**
 * Whether memory may stand in `slot`. A stated size must agree. Without one, a byte or word place
 * is taken only where a register of that size stands beside it.
 */
function memorySizeFits(row: Row, slot: Slot, memory: Mem, bits: number): boolean {
  const isVector = row.map > 0;
  const wanted = slot.size === "" ? bits : sizeBits[slot.size];
  if (isVector || (slot.place === "M" && slot.size === "")) return true;
  if (slot.size === "" && bits === 8) return false;
  if (memory.bits !== undefined) return memory.bits === wanted;
  if (wanted >= 32) return true;
  const places = "GOA";
  return row.slots.some((other) => other.size === slot.size && places.includes(other.place));
}

/** Why a row does not take some operands, and how many of them it would have taken. */
export interface Mismatch {
  readonly reason: string;
  readonly taken: number;
}

/** Checks `operands` against `row`: undefined if they fit. */
export function matchRow(
  row: Row,
  operands: readonly Operand[],
  decorators: Decorators,
): Mismatch | undefined {
  if (operands.length !== row.slots.length) {
    return { reason: `got ${operands.length} operands, wanted ${row.slots.length}`, taken: -1 };
  }
  const length = vectorLength(row, operands);
  const bits = gprBits(row, operands);
  for (const [i, slot] of row.slots.entries()) {
    const wanted = mismatch(row, slot, operands[i], length, bits);
    if (!wanted) continue;
    return { reason: `operand ${i + 1}: got ${describe(operands[i])}, wanted ${wanted}`, taken: i };
  }
  const reason = formMismatch(row, operands, decorators, length, bits);
  return reason === undefined ? undefined : { reason, taken: operands.length };
}

/** What keeps operands that fit their places from being encoded. */
function formMismatch(
  row: Row,
  operands: readonly Operand[],
  decorators: Decorators,
  length: number,
  bits: number,
): string | undefined {
  if (row.map === 0 || row.vexW === "*") {
    if (decorators.mask || decorators.zero || decorators.rounding) return "takes no decorators";
    if (operands.some((one) => one instanceof Mem && one.broadcast)) return "takes no broadcast";
    return row.map > 0 && bits < 32 ? "wants operands of 32 or 64 bits" : undefined;
  }
  if (!row.lengths.includes(length)) {
    return length
      ? `${length} bits: exists only with ${row.lengths.join(", ")}`
      : "no vector register tells the length: load the memory first";
  }
  if (row.slots[1]?.place === "X" && !areDistinct(operands)) {
    return "a gather's destination, index and mask must be distinct registers";
  }
  if (usesVex(row, operands, decorators, length)) return undefined;
  return evexMismatch(row, operands, decorators, length);
}

/** Whether no vector register occurs twice among `operands`; a gather faults otherwise. */
function areDistinct(operands: readonly Operand[]): boolean {
  const vecs = operands.map((operand) => (operand instanceof Mem ? operand.index : operand));
  const codes = vecs.flatMap((vec) => (vec instanceof Vec ? [vec.code] : []));
  return new Set(codes).size === codes.length;
}

function isHigh(operand: Operand): boolean {
  if (operand instanceof Vec) return operand.code >= 16;
  return operand instanceof Mem && operand.index instanceof Vec && operand.index.code >= 16;
}

/** Whether the VEX form exists and can say all of it. */
function usesVex(
  row: Row,
  operands: readonly Operand[],
  decorators: Decorators,
  length: number,
): boolean {
  if (row.vexW === undefined || length === 512) return false;
  if (decorators.mask || decorators.zero || decorators.rounding) return false;
  return !operands.some((one) => isHigh(one) || (one instanceof Mem && one.broadcast));
}

function evexMismatch(
  row: Row,
  operands: readonly Operand[],
  { mask, zero, rounding }: Decorators,
  length: number,
): string | undefined {
  if (row.evexW === undefined) {
    const high = operands.find(isHigh);
    return `has no EVEX form, so no ${high ? `register 16 or above (${high})` : "zmm, mask, rounding or broadcast"}`;
  }
  const memory = operands.find((operand) => operand instanceof Mem);
  if (memory?.broadcast && row.broadcastBytes === 0)
    return `${describe(memory)}: takes no broadcast`;
  if (mask?.code === 0) return "write mask k0: means no mask, leave it out";
  if (mask && row.flags.has("k-")) return `write mask ${mask}: this instruction takes none`;
  if (!mask && row.flags.has("k!")) return "wants a write mask, {mask: k1} to k7";
  if (zero) {
    if (!mask) return "zeroing wants a write mask";
    const first = operands[0];
    if (!(first instanceof Vec) || row.flags.has("k!"))
      return `zeroing: not into ${describe(first)}`;
  }
  if (rounding) {
    if (!row.flags.has("er") && !(rounding === "sae" && row.flags.has("sae"))) {
      return `rounding "${rounding}": this instruction takes none`;
    }
    if (rounding === "sae" && row.flags.has("er")) return 'rounding "sae": name a rounding mode';
    if (memory) return "rounding: not with a memory operand";
    const scalar = row.lengths.length === 1 && row.lengths[0] === 128;
    if (length !== 512 && !scalar) return "rounding: 512 bits or scalar only";
  }
  return undefined;
}

/** The fields of an instruction, gathered from its operands. */
interface Fields {
  reg: number;
  vvvv: number;
  rm: Gpr | Vec | Mask | Mem | undefined;
  opcodeRegister: number;
  immediate: { value: bigint; bytes: number } | undefined;
  label: Label | undefined;
  /** An 8-bit register that only REX can name (spl, bpl, sil, dil). */
  needsRex: boolean;
}

const immediateBytes: Record<string, number> = { b: 1, s: 1, w: 2, q: 8 };

function gather(row: Row, operands: readonly Operand[], bits: number): Fields {
  const fields: Fields = {
    reg: row.digit ?? 0,
    vvvv: 0,
    rm: undefined,
    opcodeRegister: 0,
    immediate: undefined,
    label: undefined,
    needsRex: false,
  };
  for (const [i, slot] of row.slots.entries()) {
    const operand = operands[i];
    const code = typeof operand === "object" && "code" in operand ? operand.code : 0;
    if (operand instanceof Gpr && operand.bits === 8 && code >= 4) fields.needsRex = true;
    switch (slot.place) {
      case "V":
      case "kV":
      case "G":
        fields.reg = code;
        break;
      case "H":
      case "kH":
      case "B":
        fields.vvvv = code;
        break;
      case "O":
        fields.opcodeRegister = code;
        break;
      case "L":
        fields.immediate = { value: BigInt(code << 4), bytes: 1 };
        break;
      case "I": {
        if (slot.size === "1") break;
        const bytes = immediateBytes[slot.size] ?? Math.min(4, bits / 8);
        fields.immediate = { value: BigInt(operand as number), bytes };
        break;
      }
      case "J":
        fields.label = operand as Label;
        break;
      case "A":
      case "C":
        break;
      default:
        fields.rm = operand as Gpr | Vec | Mask | Mem;
    }
  }
  return fields;
}

function pushLittleEndian(bytes: number[], value: bigint, count: number): void {
  for (let i = 0; i < count; i++) bytes.push(Number((value >> BigInt(8 * i)) & 0xffn));
}

/** Appends ModRM, SIB and displacement; `disp8Unit` is N of disp8*N (1 but for EVEX). */
function pushModRm(encoded: Encoded, fields: Fields, disp8Unit: number): void {
  const { bytes } = encoded;
  const reg = (fields.reg & 7) << 3;
  const rm = fields.rm;
  if (!(rm instanceof Mem)) {
    bytes.push(0xc0 | reg | (rm!.code & 7));
    return;
  }
  const { base, index, disp } = rm;
  if (base !== undefined && base.kind === "label") {
    bytes.push(reg | 5);
    encoded.fixup = { at: bytes.length, label: base, addend: disp };
    bytes.push(0, 0, 0, 0);
    return;
  }
  const scale = { 1: 0, 2: 1, 4: 2, 8: 3 }[rm.scale] << 6;
  if (base === undefined) {
    bytes.push(reg | 4, scale | ((index ? index.code & 7 : 4) << 3) | 5);
    pushLittleEndian(bytes, BigInt(disp), 4);
    return;
  }
  const short = disp % disp8Unit === 0 && Math.abs(disp / disp8Unit + 0.5) < 128;
  const mod = disp === 0 && (base.code & 7) !== 5 ? 0 : short ? 0x40 : 0x80;
  if (index || (base.code & 7) === 4) {
    bytes.push(mod | reg | 4, scale | ((index ? index.code & 7 : 4) << 3) | (base.code & 7));
  } else {
    bytes.push(mod | reg | (base.code & 7));
  }
  if (mod === 0x40) bytes.push((disp / disp8Unit) & 0xff);
  if (mod === 0x80) pushLittleEndian(bytes, BigInt(disp), 4);
}

/** The fourth and fifth bits of index and base (or of a register in ModRM.rm). */
function extensions(rm: Fields["rm"]): { x: number; b: number; indexHigh: number } {
  if (!(rm instanceof Mem)) {
    const code = rm?.code ?? 0;
    return { x: code >> 4, b: (code >> 3) & 1, indexHigh: 0 };
  }
  const index = rm.index?.code ?? 0;
  const base = rm.base instanceof Gpr ? rm.base.code : 0;
  return { x: (index >> 3) & 1, b: (base >> 3) & 1, indexHigh: index >> 4 };
}

function encodeLegacy(row: Row, operands: readonly Operand[]): Encoded {
  const bits = gprBits(row, operands);
  const fields = gather(row, operands, bits);
  const encoded: Encoded = { bytes: [], fixup: undefined };
  const { bytes } = encoded;
  const sized = row.slots.some((slot) => "GEOA".includes(slot.place));
  if (sized && bits === 16) bytes.push(0x66);
  if (row.pp) bytes.push([0, 0x66, 0xf3, 0xf2][row.pp]);
  const { x, b } = extensions(fields.rm);
  const w = sized && bits === 64 && !row.flags.has("q") ? 1 : 0;
  const low = fields.opcodeRegister >> 3;
  const rex = (w << 3) | ((fields.reg >> 3) << 2) | ((x & 1) << 1) | b | low;
  if (rex || fields.needsRex) bytes.push(0x40 | rex);
  bytes.push(...row.opcode);
  bytes[bytes.length - 1] += fields.opcodeRegister & 7;
  if (fields.rm) pushModRm(encoded, fields, 1);
  if (fields.immediate) pushLittleEndian(bytes, fields.immediate.value, fields.immediate.bytes);
  return encoded;
}

function encodeVex(row: Row, operands: readonly Operand[], length: number, w: number): Encoded {
  const fields = gather(row, operands, 64);
  const { x, b } = extensions(fields.rm);
  const r = fields.reg >> 3;
  const l = length === 256 ? 4 : 0;
  const low = ((~fields.vvvv & 15) << 3) | l | row.pp;
  const bytes =
    x || b || w || row.map !== 1
      ? [0xc4, ((~r & 1) << 7) | ((~x & 1) << 6) | ((~b & 1) << 5) | row.map, (w << 7) | low]
      : [0xc5, ((~r & 1) << 7) | low];
  return finishVector(row, fields, bytes, 1);
}

function encodeEvex(
  row: Row,
  operands: readonly Operand[],
  length: number,
  { mask, zero, rounding }: Decorators,
): Encoded {
  const fields = gather(row, operands, 64);
  const { x, b, indexHigh } = extensions(fields.rm);
  const { reg, vvvv } = fields;
  const broadcast = fields.rm instanceof Mem && fields.rm.broadcast;
  const modes = { nearest: 0, down: 1, up: 2, zero: 3, sae: undefined };
  const lengthCode = length === 512 ? 2 : length === 256 ? 1 : 0;
  // Static rounding takes the place of the length, which is then implied.
  const ll = (rounding && modes[rounding]) ?? (rounding ? 0 : lengthCode);
  const high = fields.rm instanceof Mem ? indexHigh : 0;
  const bytes = [
    0x62,
    ((~(reg >> 3) & 1) << 7) |
      ((~x & 1) << 6) |
      ((~b & 1) << 5) |
      ((~(reg >> 4) & 1) << 4) |
      row.map,
    (row.evexW! << 7) | ((~vvvv & 15) << 3) | 4 | row.pp,
    ((zero ? 1 : 0) << 7) |
      (ll << 5) |
      ((broadcast || rounding ? 1 : 0) << 4) |
      ((~((vvvv >> 4) | high) & 1) << 3) |
      (mask?.code ?? 0),
  ];
  const unit = broadcast
    ? row.broadcastBytes
    : row.memoryBytes || Math.max(1, length / 8 / row.perLength);
  return finishVector(row, fields, bytes, unit);
}

function finishVector(row: Row, fields: Fields, prefix: number[], disp8Unit: number): Encoded {
  const encoded: Encoded = { bytes: [...prefix, ...row.opcode], fixup: undefined };
  if (fields.rm) pushModRm(encoded, fields, disp8Unit);
  if (fields.immediate) pushLittleEndian(encoded.bytes, fields.immediate.value, 1);
  return encoded;
}

/** The bytes of `row` with `operands`, which fit it. Jumps to labels are the assembler's business. */
export function encodeRow(row: Row, operands: readonly Operand[], decorators: Decorators): Encoded {
  if (row.map === 0) return encodeLegacy(row, operands);
  const length = vectorLength(row, operands);
  if (row.vexW === "*") return encodeVex(row, operands, 128, gprBits(row, operands) === 64 ? 1 : 0);
  if (usesVex(row, operands, decorators, length)) {
    return encodeVex(row, operands, length, row.vexW!);
  }
  return encodeEvex(row, operands, length, decorators);
}
