/**
 * @file A thin layer over the assembler for kernels that must run on AVX-512 and on AVX2 alike: the
 * width and number of registers, registers by name, constants, tails and loops. It hides no
 * instruction: where the two differ little, one method serves; where much, ask `avx512`.
 */
import { assert } from "../../base/index.ts";
import type { Assembler } from "./assembler.ts";
import { hasAvx512, type Isa } from "./isa.ts";
import { bcst, type Gpr, Mask, type Mem, mem, Vec } from "./registers.ts";

/** The first `count` lanes of a vector, as the instruction set wants them said. */
export interface Tail {
  /** AVX-512: a bit per lane. */
  readonly mask: Mask | undefined;
  /** AVX2: all ones in each lane. */
  readonly lanes: Vec | undefined;
  /** How many, where that is known when the code is made. */
  readonly count: number | undefined;
}

/** Emits vector code for one instruction set, and keeps account of the vector registers. */
export class VectorBuilder {
  readonly asm: Assembler;
  readonly isa: Isa;
  /** Whether vectors are zmm, with masks and 32 registers; else ymm, 16 registers. */
  readonly avx512: boolean;
  /** Float32 lanes of a vector: 16 or 8. */
  readonly lanes: number;
  /** Bytes of a vector: 64 or 32. */
  readonly vectorBytes: number;
  /** Vector registers: 32 or 16. */
  readonly registers: number;
  private readonly holders: (string | undefined)[];
  private readonly maskHolders: (string | undefined)[] = new Array(8).fill(undefined);
  private readonly scopes: (Vec | Mask)[][] = [];

  constructor(asm: Assembler, isa: Isa) {
    this.asm = asm;
    this.isa = isa;
    this.avx512 = hasAvx512(isa);
    this.lanes = this.avx512 ? 16 : 8;
    this.vectorBytes = this.lanes * 4;
    this.registers = this.avx512 ? 32 : 16;
    this.holders = new Array(this.registers).fill(undefined);
    this.maskHolders[0] = "no mask";
  }

  /** The full-width register `code`, taken or not. */
  reg(code: number): Vec {
    assert(
      code >= 0 && code < this.registers,
      () => `vector register of ${this.isa}: got ${code}, wanted below ${this.registers}`,
    );
    return new Vec(code, this.avx512 ? 512 : 256);
  }

  /** The lower half of `vec`: ymm of zmm, xmm of ymm. */
  half(vec: Vec): Vec {
    return this.avx512 ? vec.y : vec.x;
  }

  /** How many registers are free. */
  get free(): number {
    return this.holders.filter((holder) => holder === undefined).length;
  }

  /** A register for `name`, or `count` of them; throws, saying who holds what, when too few are free. */
  take(name: string): Vec;
  take(name: string, count: number): Vec[];
  take(name: string, count?: number): Vec | Vec[] {
    const wanted = count ?? 1;
    const codes = this.holders.flatMap((holder, code) => (holder === undefined ? [code] : []));
    assert(codes.length >= wanted, () => {
      const held = this.holders.map((holder, code) => `${code} ${holder}`).join(", ");
      return `registers for "${name}": got ${codes.length} free, wanted ${wanted}; held: ${held}`;
    });
    const taken = codes.slice(0, wanted).map((code) => this.reg(code));
    for (const vec of taken) this.holders[vec.code] = name;
    this.scopes.at(-1)?.push(...taken);
    return count === undefined ? taken[0] : taken;
  }

  /** A mask register (k1 to k7) for `name`; AVX-512 only. Throws when none is free. */
  takeMask(name: string): Mask {
    assert(this.avx512, () => `mask register for "${name}": ${this.isa} has none`);
    const code = this.maskHolders.indexOf(undefined);
    assert(code >= 0, () => `mask register for "${name}": held: ${this.maskHolders.join(", ")}`);
    this.maskHolders[code] = name;
    const mask = new Mask(code);
    this.scopes.at(-1)?.push(mask);
    return mask;
  }

  /** Frees registers that were taken; throws for one that was not. */
  release(...registers: readonly (Vec | Mask)[]): void {
    for (const register of registers) {
      const holders = register.kind === "vec" ? this.holders : this.maskHolders;
      assert(holders[register.code] !== undefined, () => `release of ${register}: is free already`);
      holders[register.code] = undefined;
    }
  }

  /** Runs `body`; what it takes is released afterwards, unless it did so itself. */
  scope<T>(body: () => T): T {
    this.scopes.push([]);
    try {
      return body();
    } finally {
      for (const register of this.scopes.pop()!) {
        (register.kind === "vec" ? this.holders : this.maskHolders)[register.code] = undefined;
      }
    }
  }

  /** The float32 `value` in every lane, as a last operand: an embedded broadcast, or 32 bytes. */
  f32(value: number): Mem {
    return this.everyLane(new Uint8Array(Float32Array.of(value).buffer));
  }

  /** The 32 bits of `value` in every lane, as a last operand of float or 32-bit instructions. */
  u32(value: number): Mem {
    return this.everyLane(new Uint8Array(Uint32Array.of(value).buffer));
  }

  private everyLane(bytes: Uint8Array): Mem {
    return this.avx512
      ? bcst(mem(this.asm.constant(bytes)))
      : mem(this.asm.constant(repeat(bytes, this.vectorBytes)));
  }

  /** A whole vector filled with the 16-bit `value`, in memory. */
  u16(value: number): Mem {
    const bytes = new Uint8Array(Uint16Array.of(value).buffer);
    return mem(this.asm.constant(repeat(bytes, this.vectorBytes)));
  }

  /** Sets every lane of `dst` to the float32 `value`. */
  fill(dst: Vec, value: number): void {
    if (Object.is(value, 0)) this.zero(dst);
    else this.asm.vbroadcastss(dst, mem(this.asm.constant(Float32Array.of(value))));
  }

  /** Clears `dst`. */
  zero(dst: Vec): void {
    // The 128-bit VEX form clears the whole register in the fewest bytes.
    if (dst.code < 16) this.asm.vxorps(dst.x, dst.x, dst.x);
    else this.asm.vpxord(dst, dst, dst);
  }

  /** dst = the vector at `place` (any alignment), or the register; with `tail` as `loadTail`. */
  load(dst: Vec, place: Mem, tail?: Tail): void;
  load(dst: Vec, place: Mem | Vec): void;
  load(dst: Vec, place: Mem | Vec, tail?: Tail): void {
    if (tail) this.loadTail(dst, place as Mem, tail);
    else this.asm.vmovups(dst, place);
  }

  /** Stores the vector `src` at `place` (any alignment); with `tail` as `storeTail`. */
  store(place: Mem, src: Vec, tail?: Tail): void {
    if (tail) this.storeTail(place, src, tail);
    else this.asm.vmovups(place, src);
  }

  /** Every lane of dst = the float32 at `place`. */
  broadcast(dst: Vec, place: Mem): void {
    this.asm.vbroadcastss(dst, place);
  }

  /** acc += a * b, rounded once. */
  fma(acc: Vec, a: Vec, b: Vec | Mem): void {
    this.asm.vfmadd231ps(acc, a, b);
  }

  /** acc += a * (the float32 at `place`), rounded once; AVX2 takes a register for the duration. */
  fmaBroadcast(acc: Vec, a: Vec, place: Mem): void {
    if (this.avx512) {
      this.asm.vfmadd231ps(acc, a, bcst(place));
      return;
    }
    this.scope(() => {
      const scalar = this.take("fmaBroadcast");
      this.broadcast(scalar, place);
      this.fma(acc, a, scalar);
    });
  }

  /** dst = a & b. */
  and(dst: Vec, a: Vec, b: Vec | Mem): void {
    if (this.avx512) this.asm.vpandd(dst, a, b);
    else this.asm.vpand(dst, a, b);
  }

  /** dst = ~a & b. */
  andNot(dst: Vec, a: Vec, b: Vec | Mem): void {
    if (this.avx512) this.asm.vpandnd(dst, a, b);
    else this.asm.vpandn(dst, a, b);
  }

  /** dst = a | b. */
  or(dst: Vec, a: Vec, b: Vec | Mem): void {
    if (this.avx512) this.asm.vpord(dst, a, b);
    else this.asm.vpor(dst, a, b);
  }

  /** dst = a ^ b. */
  xor(dst: Vec, a: Vec, b: Vec | Mem): void {
    if (this.avx512) this.asm.vpxord(dst, a, b);
    else this.asm.vpxor(dst, a, b);
  }

  /**
   * The first `count` lanes; a register's value is read as a signed 32-bit integer, and at or beyond
   * `lanes` means all of them. Takes a register (a mask, or a vector on AVX2): release it, or scope.
   */
  tail(count: Gpr | number): Tail {
    const iota = Int32Array.from({ length: this.lanes }, (_, i) => i);
    const { asm } = this;
    if (this.avx512) {
      const mask = this.takeMask("tail");
      if (typeof count === "number") {
        const bits = count >= this.lanes ? 0xffff : 2 ** Math.max(0, count) - 1;
        asm.kmovw(mask, mem(asm.constant(Uint16Array.of(bits))));
        return { mask, lanes: undefined, count };
      }
      const counts = this.take("tail");
      asm.vpbroadcastd(counts, count.d);
      asm.vpcmpgtd(mask, counts, mem(asm.constant(iota)));
      this.release(counts);
      return { mask, lanes: undefined, count: undefined };
    }
    const lanes = this.take("tail");
    if (typeof count === "number") {
      asm.vmovdqu(lanes, mem(asm.constant(iota.map((i) => (i < count ? -1 : 0)))));
    } else {
      asm.vmovd(lanes.x, count.d);
      asm.vpbroadcastd(lanes, lanes.x);
      asm.vpcmpgtd(lanes, lanes, mem(asm.constant(iota)));
    }
    return { mask: undefined, lanes, count: typeof count === "number" ? count : undefined };
  }

  /** dst = the lanes of `tail` at `place`, zero elsewhere; memory outside is not touched. */
  loadTail(dst: Vec, place: Mem, tail: Tail): void {
    if (tail.mask) this.asm.vmovups(dst, place, { mask: tail.mask, zero: true });
    else this.asm.vmaskmovps(dst, tail.lanes!, place);
  }

  /** Stores the lanes of `tail` of `src` at `place`; memory outside is not touched. */
  storeTail(place: Mem, src: Vec, tail: Tail): void {
    if (tail.mask) this.asm.vmovups(place, src, { mask: tail.mask });
    else this.asm.vmaskmovps(place, tail.lanes!, src);
  }

  /**
   * Emits `body(first)` for each whole vector of `count` elements, and once more with a tail for what
   * is left; straight-line code. `first` is the number of the vector's first element.
   */
  eachVector(count: number, body: (first: number, tail?: Tail) => void): void {
    const whole = count - (count % this.lanes);
    for (let first = 0; first < whole; first += this.lanes) body(first);
    if (whole < count) this.scope(() => body(whole, this.tail(count - whole)));
  }

  /** Runs the code of `body` `counter` times (none if zero), counting the register down to zero. */
  loop(counter: Gpr, body: () => void): void {
    const { asm } = this;
    const end = asm.label("end");
    asm.test(counter, counter);
    asm.jz(end);
    asm.align(16);
    const top = asm.here("loop");
    body();
    asm.dec(counter);
    asm.jnz(top);
    asm.bind(end);
  }

  /**
   * A whole System V function: saves `saved` (of rbx, rbp, r12 to r15), runs `body`, restores, and
   * returns with the upper vector halves cleared. `body` must fall through to its end.
   */
  kernel(saved: readonly Gpr[], body: () => void): void {
    for (const register of saved) this.asm.push(register);
    body();
    for (const register of saved.toReversed()) this.asm.pop(register);
    this.asm.vzeroupper();
    this.asm.ret();
  }
}

/** `bytes` over and over, up to `length`. */
function repeat(bytes: Uint8Array, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => bytes[i % bytes.length]);
}
