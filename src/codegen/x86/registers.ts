/**
 * @file What an x86-64 instruction can name: registers, memory, labels, and the constants of the
 * immediates that have names. All are immutable values; two that print alike are the same operand.
 */
import { assert } from "../../base/index.ts";

/** Bits of a general-purpose operand. */
export type GprBits = 8 | 16 | 32 | 64;
/** Bits of a vector register: xmm, ymm, zmm. */
export type VecBits = 128 | 256 | 512;

const wide = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"];
const bytes = ["al", "cl", "dl", "bl", "spl", "bpl", "sil", "dil"];

function gprName(code: number, bits: GprBits): string {
  if (code >= 8) return `r${code}${{ 64: "", 32: "d", 16: "w", 8: "b" }[bits]}`;
  if (bits === 8) return bytes[code];
  return bits === 64 ? wide[code] : bits === 32 ? `e${wide[code].slice(1)}` : wide[code].slice(1);
}

/** A general-purpose register; `.q .d .w .b` are the same register at 64, 32, 16 and 8 bits. */
export class Gpr {
  readonly kind = "gpr" as const;
  /** 0 to 15, in the order of the encoding. */
  readonly code: number;
  readonly bits: GprBits;

  constructor(code: number, bits: GprBits = 64) {
    assert(code >= 0 && code < 16, () => `general-purpose register: got ${code}, wanted 0 to 15`);
    this.code = code;
    this.bits = bits;
  }

  /** The 64-bit form. */
  get q(): Gpr {
    return new Gpr(this.code, 64);
  }
  /** The 32-bit form; writing it clears the upper half. */
  get d(): Gpr {
    return new Gpr(this.code, 32);
  }
  /** The low 16 bits. */
  get w(): Gpr {
    return new Gpr(this.code, 16);
  }
  /** The low 8 bits. */
  get b(): Gpr {
    return new Gpr(this.code, 8);
  }

  /** The name in Intel syntax. */
  toString(): string {
    return gprName(this.code, this.bits);
  }
}

/** A vector register; `.x .y .z` are the same register at 128, 256 and 512 bits. */
export class Vec {
  readonly kind = "vec" as const;
  /** 0 to 31; 16 and above exist with AVX-512 only. */
  readonly code: number;
  readonly bits: VecBits;

  constructor(code: number, bits: VecBits) {
    assert(code >= 0 && code < 32, () => `vector register: got ${code}, wanted 0 to 31`);
    this.code = code;
    this.bits = bits;
  }

  /** The low 128 bits. */
  get x(): Vec {
    return new Vec(this.code, 128);
  }
  /** The low 256 bits. */
  get y(): Vec {
    return new Vec(this.code, 256);
  }
  /** All 512 bits. */
  get z(): Vec {
    return new Vec(this.code, 512);
  }

  /** The name in Intel syntax. */
  toString(): string {
    return `${{ 128: "x", 256: "y", 512: "z" }[this.bits]}mm${this.code}`;
  }
}

/** An AVX-512 mask register. `k0` can be computed with, but as a write mask it means "no mask". */
export class Mask {
  readonly kind = "mask" as const;
  /** 0 to 7. */
  readonly code: number;

  constructor(code: number) {
    assert(code >= 0 && code < 8, () => `mask register: got ${code}, wanted 0 to 7`);
    this.code = code;
  }

  /** The name in Intel syntax. */
  toString(): string {
    return `k${this.code}`;
  }
}

/** A place in the code; made by `Assembler.label`, placed by `Assembler.bind`. */
export class Label {
  readonly kind = "label" as const;
  readonly name: string;
  /** Offset from the start of the code once bound. */
  offset: number | undefined;

  constructor(name: string) {
    this.name = name;
  }

  /** The name. */
  toString(): string {
    return this.name;
  }
}

/** Where a memory operand lies, besides its base. */
export interface MemOptions {
  /** Added, times `scale`; not rsp. A vector for gathers and scatters. */
  readonly index?: Gpr | Vec | undefined;
  /** Default 1. */
  readonly scale?: 1 | 2 | 4 | 8;
  /** Bytes added; signed 32 bits. Default 0. */
  readonly disp?: number;
}

/**
 * A memory operand. Vector instructions know its size; where an integer instruction has no register
 * operand to tell (`add(mem(rdi), 1)`), it is 64 bits unless narrowed by `.d`, `.w` or `.b`.
 */
export class Mem {
  readonly kind = "mem" as const;
  readonly base: Gpr | Label | undefined;
  readonly index: Gpr | Vec | undefined;
  readonly scale: 1 | 2 | 4 | 8;
  readonly disp: number;
  /** Bits when stated. */
  readonly bits: GprBits | undefined;
  /** Whether one element is read and broadcast (EVEX). */
  readonly broadcast: boolean;

  constructor(
    base: Gpr | Label | undefined,
    options: MemOptions,
    bits?: GprBits,
    broadcast: boolean = false,
  ) {
    const { index, scale = 1, disp = 0 } = options;
    const baseOk = base === undefined || base.kind === "label" || base.bits === 64;
    assert(baseOk, () => `base of a memory operand: got ${base}, wanted a 64-bit register`);
    assert(
      index === undefined || index.kind === "vec" || (index.bits === 64 && index.code !== 4),
      () => `index of a memory operand: got ${index}, wanted a 64-bit register other than rsp`,
    );
    assert(
      !(base instanceof Label) || index === undefined,
      () => `memory at label ${base}: got index ${index}, wanted none (load the address by lea)`,
    );
    assert(
      [1, 2, 4, 8].includes(scale),
      () => `scale of a memory operand: got ${scale}, wanted 1, 2, 4 or 8`,
    );
    assert(
      Number.isInteger(disp) && disp === (disp | 0),
      () => `displacement of a memory operand: got ${disp}, wanted a signed 32-bit integer`,
    );
    this.base = base;
    this.index = index;
    this.scale = scale;
    this.disp = disp;
    this.bits = bits;
    this.broadcast = broadcast;
  }

  /** The same place as a 64-bit operand. */
  get q(): Mem {
    return new Mem(this.base, this, 64, this.broadcast);
  }
  /** The same place as a 32-bit operand. */
  get d(): Mem {
    return new Mem(this.base, this, 32, this.broadcast);
  }
  /** The same place as a 16-bit operand. */
  get w(): Mem {
    return new Mem(this.base, this, 16, this.broadcast);
  }
  /** The same place as an 8-bit operand. */
  get b(): Mem {
    return new Mem(this.base, this, 8, this.broadcast);
  }

  /** The place `bytes` further on. */
  plus(bytes: number): Mem {
    const { index, scale } = this;
    const options = { index, scale, disp: this.disp + bytes };
    return new Mem(this.base, options, this.bits, this.broadcast);
  }

  /** The operand in Intel syntax, without a size. */
  toString(): string {
    const parts: string[] = [];
    if (this.base) parts.push(this.base instanceof Label ? `rip+${this.base}` : `${this.base}`);
    if (this.index) parts.push(`${this.index}*${this.scale}`);
    const disp = this.disp === 0 && parts.length > 0 ? "" : `${this.disp}`;
    const sign = disp === "" || this.disp < 0 || parts.length === 0 ? "" : "+";
    return `[${parts.join("+")}${sign}${disp}]`;
  }
}

/** Memory at `base + index * scale + disp`; a label as base is addressed relative to rip. */
export function mem(base: Gpr | Label | undefined, options: MemOptions = {}): Mem {
  return new Mem(base, options);
}

/** One element at `place`, broadcast to all lanes by the instruction itself (EVEX only). */
export function bcst(place: Mem): Mem {
  return new Mem(place.base, place, place.bits, true);
}

// The registers' roles are those of the System V calling convention.

/** The accumulator; holds the return value. */
export const rax: Gpr = new Gpr(0);
/** Fourth argument; the count of variable shifts and of `rep`. */
export const rcx: Gpr = new Gpr(1);
/** Third argument. */
export const rdx: Gpr = new Gpr(2);
/** Callee-saved. */
export const rbx: Gpr = new Gpr(3);
/** The stack pointer. */
export const rsp: Gpr = new Gpr(4);
/** Callee-saved. */
export const rbp: Gpr = new Gpr(5);
/** Second argument. */
export const rsi: Gpr = new Gpr(6);
/** First argument. */
export const rdi: Gpr = new Gpr(7);
/** Fifth argument. */
export const r8: Gpr = new Gpr(8);
/** Sixth argument. */
export const r9: Gpr = new Gpr(9);
/** Caller-saved. */
export const r10: Gpr = new Gpr(10);
/** Caller-saved. */
export const r11: Gpr = new Gpr(11);
/** Callee-saved; as a base it costs a byte. */
export const r12: Gpr = new Gpr(12);
/** Callee-saved; as a base it costs a byte. */
export const r13: Gpr = new Gpr(13);
/** Callee-saved. */
export const r14: Gpr = new Gpr(14);
/** Callee-saved. */
export const r15: Gpr = new Gpr(15);

/** The 16 general-purpose registers in the order of their codes. */
export const gprs: readonly Gpr[] = Array.from({ length: 16 }, (_, i) => new Gpr(i));

/** Mask register 0: for mask arithmetic only, since as a write mask it means none. */
export const k0: Mask = new Mask(0);
/** Mask register 1. */
export const k1: Mask = new Mask(1);
/** Mask register 2. */
export const k2: Mask = new Mask(2);
/** Mask register 3. */
export const k3: Mask = new Mask(3);
/** Mask register 4. */
export const k4: Mask = new Mask(4);
/** Mask register 5. */
export const k5: Mask = new Mask(5);
/** Mask register 6. */
export const k6: Mask = new Mask(6);
/** Mask register 7. */
export const k7: Mask = new Mask(7);

/** The 128-bit vector register `code` (0 to 31). */
export function xmm(code: number): Vec {
  return new Vec(code, 128);
}
/** The 256-bit vector register `code` (0 to 31). */
export function ymm(code: number): Vec {
  return new Vec(code, 256);
}
/** The 512-bit vector register `code` (0 to 31). */
export function zmm(code: number): Vec {
  return new Vec(code, 512);
}

/**
 * Predicates of `vcmpps` and its kin, without signalling: the `o` forms are false and the `u` forms
 * true when an operand is NaN. Integer compares (`vpcmpd`, `vpcmpud`) use `intPredicate`.
 */
export const predicate = {
  eq: 0x00,
  lt: 0x11,
  le: 0x12,
  unord: 0x03,
  neq: 0x04,
  nlt: 0x15,
  nle: 0x16,
  ord: 0x07,
  ge: 0x1d,
  gt: 0x1e,
  nge: 0x19,
  ngt: 0x1a,
  neqOrdered: 0x0c,
  eqUnordered: 0x08,
} as const;

/** Predicates of `vpcmpd`, `vpcmpud`, `vpcmpb`, `vpcmpub` and their kin. */
export const intPredicate = { eq: 0, lt: 1, le: 2, ne: 4, ge: 5, gt: 6 } as const;

/** Rounding of `vroundps` and (scale 0) `vrndscaleps`, without the inexact flag. */
export const roundTo = { nearest: 0x8, down: 0x9, up: 0xa, zero: 0xb } as const;
