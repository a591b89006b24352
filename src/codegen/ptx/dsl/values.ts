/**
 * @file Values of a kernel. Each is a virtual register or a constant, branded by its type, and
 * throws where JavaScript would turn it into a number: `a + b` on values fails in `tsc`, and when
 * staged. Operations on constants are done at once.
 */
import { assert } from "../../../base/index.ts";
import { type Immediate, isRegister, type Operand, type Register } from "../ir.ts";
import { aluRows } from "../ops/alu.ts";
import type { Builder } from "./builder.ts";

/** A number of TypeScript or a value of the kernel. */
export type U32Like = U32 | number;
/** A number of TypeScript or a float32 of the kernel. */
export type F32Like = F32 | number;

abstract class Value {
  readonly k: Builder;
  readonly operand: Operand;

  constructor(k: Builder, operand: Operand) {
    this.k = k;
    this.operand = operand;
  }

  [Symbol.toPrimitive](): never {
    throw new Error(
      `a ${this.constructor.name} of a kernel is no number of TypeScript: use .add, .mul and the like`,
    );
  }

  /** The value where it is a constant. */
  protected get constant(): number | undefined {
    return isRegister(this.operand) ? undefined : (this.operand as Immediate).value;
  }
}

const wrap32 = (value: number): number => value >>> 0;

/** A 32-bit integer; operations are unsigned unless their names say otherwise. */
export class U32 extends Value {
  declare protected readonly brand: "u32";

  private alu(fn: string, ...others: U32Like[]): U32 {
    const values = [this, ...others.map((other) => this.k.u32(other))];
    const constants = values.map((value) => value.constant);
    if (constants.every((value) => value !== undefined)) {
      const [a, b, c] = constants as number[];
      return this.k.u32(wrap32(aluRows[fn].lane(a, b, c)));
    }
    return new U32(this.k, this.k.alu(fn, ...values.map(({ operand }) => operand)));
  }

  add(other: U32Like): U32 {
    if (isZero(other)) return this;
    if (this.constant === 0 && other instanceof U32) return other;
    return this.alu("add.u32", other);
  }

  sub(other: U32Like): U32 {
    return isZero(other) ? this : this.alu("sub.u32", other);
  }

  mul(other: U32Like): U32 {
    if (typeof other !== "number") return this.alu("mul.u32", other);
    if (other === 1) return this;
    const shift = Math.log2(other);
    return Number.isInteger(shift) ? this.shl(shift) : this.alu("mul.u32", other);
  }

  /** this * factor + addend. */
  mad(factor: U32Like, addend: U32Like): U32 {
    return isZero(addend) ? this.mul(factor) : this.alu("mad.u32", factor, addend);
  }

  div(other: U32Like): U32 {
    const shift = typeof other === "number" ? Math.log2(other) : Number.NaN;
    if (shift === 0) return this;
    return Number.isInteger(shift) ? this.shr(shift) : this.alu("div.u32", other);
  }

  rem(other: U32Like): U32 {
    if (typeof other !== "number" || !Number.isInteger(Math.log2(other)))
      return this.alu("rem.u32", other);
    return this.and(other - 1);
  }

  ceilDiv(other: number): U32 {
    return this.add(other - 1).div(other);
  }

  min(other: U32Like): U32 {
    return this.alu("min.u32", other);
  }

  max(other: U32Like): U32 {
    return this.alu("max.u32", other);
  }

  and(other: U32Like): U32 {
    return this.alu("and.b32", other);
  }

  or(other: U32Like): U32 {
    return this.alu("or.b32", other);
  }

  xor(other: U32Like): U32 {
    return this.alu("xor.b32", other);
  }

  shl(other: U32Like): U32 {
    return isZero(other) ? this : this.alu("shl.b32", other);
  }

  shr(other: U32Like): U32 {
    return isZero(other) ? this : this.alu("shr.u32", other);
  }

  private compare(
    cmp: "eq" | "ne" | "lt" | "le" | "gt" | "ge",
    type: string,
    other: U32Like,
  ): Pred {
    return this.k.compare(cmp, type, this.operand, this.k.u32(other).operand);
  }

  eq(other: U32Like): Pred {
    return this.compare("eq", "u32", other);
  }

  ne(other: U32Like): Pred {
    return this.compare("ne", "u32", other);
  }

  lt(other: U32Like): Pred {
    return this.compare("lt", "u32", other);
  }

  le(other: U32Like): Pred {
    return this.compare("le", "u32", other);
  }

  gt(other: U32Like): Pred {
    return this.compare("gt", "u32", other);
  }

  ge(other: U32Like): Pred {
    return this.compare("ge", "u32", other);
  }

  /** As a signed integer: below zero. */
  isNegative(): Pred {
    return this.compare("lt", "s32", 0);
  }

  /** The nearest float32. */
  toF32(): F32 {
    return new F32(this.k, this.k.alu("cvt.f32.u32", this.operand));
  }

  /** The float32 with these bits. */
  asF32(): F32 {
    return new F32(this.k, this.k.alu("bits.f32.u32", this.operand));
  }
}

function isZero(value: U32Like): boolean {
  const { operand } = typeof value === "number" ? { operand: { value } } : value;
  return "value" in operand && operand.value === 0;
}

/** A float32. */
export class F32 extends Value {
  declare protected readonly brand: "f32";

  private alu(fn: string, ...others: F32Like[]): F32 {
    const operands = others.map((other) => this.k.f32(other).operand);
    return new F32(this.k, this.k.alu(fn, this.operand, ...operands));
  }

  add(other: F32Like): F32 {
    return this.alu("add.f32", other);
  }

  sub(other: F32Like): F32 {
    return this.alu("sub.f32", other);
  }

  mul(other: F32Like): F32 {
    return this.alu("mul.f32", other);
  }

  div(other: F32Like): F32 {
    return this.alu("div.f32", other);
  }

  /** this * factor + addend, rounded once. */
  fma(factor: F32Like, addend: F32Like): F32 {
    return this.alu("fma.f32", factor, addend);
  }

  max(other: F32Like): F32 {
    return this.alu("max.f32", other);
  }

  min(other: F32Like): F32 {
    return this.alu("min.f32", other);
  }

  neg(): F32 {
    return this.alu("neg.f32");
  }

  abs(): F32 {
    return this.alu("abs.f32");
  }

  /** 2^this, approximate (2 ulp), subnormal results flushed. */
  exp2(): F32 {
    return this.alu("ex2.f32");
  }

  log2(): F32 {
    return this.alu("lg2.f32");
  }

  rcp(): F32 {
    return this.alu("rcp.f32");
  }

  private compare(cmp: "eq" | "lt" | "gt", other: F32Like): Pred {
    return this.k.compare(cmp, "f32", this.operand, this.k.f32(other).operand);
  }

  eq(other: F32Like): Pred {
    return this.compare("eq", other);
  }

  lt(other: F32Like): Pred {
    return this.compare("lt", other);
  }

  gt(other: F32Like): Pred {
    return this.compare("gt", other);
  }

  /** Its bits. */
  asU32(): U32 {
    return new U32(this.k, this.k.alu("bits.u32.f32", this.operand));
  }
}

/** A truth value of each lane. */
export class Pred extends Value {
  declare protected readonly brand: "pred";

  and(other: Pred): Pred {
    return new Pred(this.k, this.k.alu("and.pred", this.operand, other.operand));
  }

  or(other: Pred): Pred {
    return new Pred(this.k, this.k.alu("or.pred", this.operand, other.operand));
  }

  not(): Pred {
    return new Pred(this.k, this.k.alu("not.pred", this.operand));
  }

  /** `a` where it holds, else `b`. */
  select<T extends U32 | F32>(a: T, b: T): T {
    return this.k.select(this, a, b);
  }
}

/** A 64-bit integer: an address of global memory or a descriptor. */
export class U64 extends Value {
  declare protected readonly brand: "u64";

  /** this + index * bytes. */
  at(index: U32Like, bytes: number): U64 {
    const scaled = this.k.u32(index).operand;
    return new U64(
      this.k,
      this.k.alu("madwide.u32", scaled, this.k.u32(bytes).operand, this.operand),
    );
  }
}

/** A register that can be set again. */
export class U32Variable extends U32 {
  set(value: U32Like): void {
    this.k.assign(this.operand as Register, this.k.u32(value).operand);
  }
}

/** A float32 register that can be set again. */
export class F32Variable extends F32 {
  set(value: F32Like): void {
    this.k.assign(this.operand as Register, this.k.f32(value).operand);
  }

  /** Adds a product to it, rounded once. */
  addProduct(a: F32Like, b: F32Like): void {
    const operands = [this.k.f32(a).operand, this.k.f32(b).operand, this.operand];
    this.k.aluInto(this.operand as Register, "fma.f32", ...operands);
  }

  /** Multiplies it. */
  scale(factor: F32Like): void {
    const operand = this.k.f32(factor).operand;
    this.k.aluInto(this.operand as Register, "mul.f32", this.operand, operand);
  }
}

/** Throws unless a constant fits into 32 bits. */
export function checkU32(value: number): number {
  assert(
    Number.isInteger(value) && value >= -(2 ** 31) && value < 2 ** 32,
    `${value} is no 32-bit integer`,
  );
  return value >>> 0;
}
