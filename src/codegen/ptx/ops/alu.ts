/** @file Arithmetic: one row for each function, with its PTX and what one lane computes. */
import { f32ToBf16, f32ToF8e4m3 } from "../../../tensor/index.ts";
import type { Warp } from "../emulator/warp.ts";
import { type Op, type Step, signature } from "./op.ts";

/** One function: types as in `signature`, the PTX mnemonic, and the function of one lane. */
interface AluRow {
  readonly types: string;
  readonly ptx: string;
  /** Numbers: integers unsigned, predicates 0 or 1; an operand that is not there is 0. */
  readonly lane: (a: number, b: number, c: number) => number;
}

const cell = new Float32Array(1);
const bits = new Uint32Array(cell.buffer);

/** float32 whose subnormal values are flushed to zero, as `.ftz` does. */
function flush(x: number): number {
  return Math.abs(x) < 2 ** -126 ? (Object.is(Math.sign(x), -0) || x < 0 ? -0 : 0) : x;
}

function floatOf(x: number): number {
  bits[0] = x;
  return cell[0];
}

function bitsOf(x: number): number {
  cell[0] = x;
  return bits[0];
}

const row = (types: string, ptx: string, lane: AluRow["lane"]): AluRow => ({ types, ptx, lane });

/** A fused multiply-add: the product is exact in float64, and the sum is rounded to it and then to float32. */
function fma(a: number, b: number, c: number): number {
  return a * b + c;
}

function maxNumber(a: number, b: number): number {
  return Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.max(a, b);
}

function minNumber(a: number, b: number): number {
  return Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.min(a, b);
}

function wide(a: number, b: number): number {
  return Number(BigInt.asUintN(64, BigInt(a) * BigInt(b)));
}

/** All functions by name. */
export const aluRows: Readonly<Record<string, AluRow>> = {
  "add.u32": row("u<uu", "add.u32", (a, b) => a + b),
  "sub.u32": row("u<uu", "sub.u32", (a, b) => a - b),
  "mul.u32": row("u<uu", "mul.lo.u32", Math.imul),
  "mad.u32": row("u<uuu", "mad.lo.u32", (a, b, c) => Math.imul(a, b) + c),
  "mulhi.u32": row("u<uu", "mul.hi.u32", (a, b) => Number((BigInt(a) * BigInt(b)) >> 32n)),
  "div.u32": row("u<uu", "div.u32", (a, b) => (b === 0 ? 0xffffffff : Math.floor(a / b))),
  "rem.u32": row("u<uu", "rem.u32", (a, b) => (b === 0 ? a : a % b)),
  "min.u32": row("u<uu", "min.u32", (a, b) => Math.min(a, b)),
  "max.u32": row("u<uu", "max.u32", (a, b) => Math.max(a, b)),
  "min.s32": row("u<uu", "min.s32", (a, b) => Math.min(a | 0, b | 0)),
  "max.s32": row("u<uu", "max.s32", (a, b) => Math.max(a | 0, b | 0)),
  "and.b32": row("u<uu", "and.b32", (a, b) => a & b),
  "or.b32": row("u<uu", "or.b32", (a, b) => a | b),
  "xor.b32": row("u<uu", "xor.b32", (a, b) => a ^ b),
  "shl.b32": row("u<uu", "shl.b32", (a, b) => (b > 31 ? 0 : a << b)),
  "shr.u32": row("u<uu", "shr.u32", (a, b) => (b > 31 ? 0 : a >>> b)),
  "clz.b32": row("u<u", "clz.b32", Math.clz32),
  "add.u64": row("l<ll", "add.u64", (a, b) => a + b),
  "madwide.u32": row("l<uul", "mad.wide.u32", (a, b, c) => wide(a, b) + c),
  "pack.b64": row("l<uu", "mov.b64", (a) => a),
  "add.f32": row("f<ff", "add.f32", (a, b) => a + b),
  "sub.f32": row("f<ff", "sub.f32", (a, b) => a - b),
  "mul.f32": row("f<ff", "mul.f32", (a, b) => a * b),
  "fma.f32": row("f<fff", "fma.rn.f32", fma),
  "div.f32": row("f<ff", "div.rn.f32", (a, b) => a / b),
  "max.f32": row("f<ff", "max.f32", maxNumber),
  "min.f32": row("f<ff", "min.f32", minNumber),
  "neg.f32": row("f<f", "neg.f32", (a) => -a),
  "abs.f32": row("f<f", "abs.f32", Math.abs),
  "ex2.f32": row("f<f", "ex2.approx.ftz.f32", (a) => flush(2 ** flush(a))),
  "lg2.f32": row("f<f", "lg2.approx.ftz.f32", (a) => Math.log2(flush(a))),
  "rcp.f32": row("f<f", "rcp.approx.ftz.f32", (a) => flush(1 / flush(a))),
  "cvt.f32.u32": row("f<u", "cvt.rn.f32.u32", (a) => a),
  "cvt.f32.s32": row("f<u", "cvt.rn.f32.s32", (a) => a | 0),
  "cvt.u32.f32": row("u<f", "cvt.rzi.u32.f32", (a) =>
    Math.min(Math.max(Math.trunc(a) || 0, 0), 0xffffffff),
  ),
  "bits.u32.f32": row("u<f", "mov.b32", bitsOf),
  "bits.f32.u32": row("f<u", "mov.b32", floatOf),
  // The first operand goes to the upper half.
  "cvt.bf16x2.f32": row("u<ff", "cvt.rn.bf16x2.f32", (a, b) => (f32ToBf16(a) << 16) | f32ToBf16(b)),
  "cvt.e4m3x2.f32": row(
    "u<ff",
    "cvt.rn.satfinite.e4m3x2.f32",
    (a, b) => (f32ToF8e4m3(a) << 8) | f32ToF8e4m3(b),
  ),
  "and.pred": row("p<pp", "and.pred", (a, b) => a & b),
  "or.pred": row("p<pp", "or.pred", (a, b) => a | b),
  "not.pred": row("p<p", "not.pred", (a) => 1 - a),
};

/** Reads lane `l` of a register by its type letter. */
function reader(letter: string): (warp: Warp, at: number) => number {
  if (letter === "f") return (warp, at) => warp.f32[at];
  if (letter === "l") return (warp, at) => warp.u32[at] + warp.u32[at + 32] * 2 ** 32;
  return (warp, at) => warp.u32[at];
}

function writer(letter: string): (warp: Warp, at: number, value: number) => void {
  if (letter === "f")
    return (warp, at, value) => {
      warp.f32[at] = value;
    };
  if (letter !== "l")
    return (warp, at, value) => {
      warp.u32[at] = value;
    };
  return (warp, at, value) => {
    warp.u32[at] = value;
    warp.u32[at + 32] = Math.floor(value / 2 ** 32);
  };
}

/** The functions that do nearly all the work, without a call for each lane. */
const fastFma = (step: Step<"Alu">, warp: Warp): void => {
  const { f32 } = warp;
  const d = step.d[0];
  const [a, b, c] = step.s;
  for (let l = 0; l < 32; l++) f32[d + l] = f32[a + l] * f32[b + l] + f32[c + l];
};
const fastMul = (step: Step<"Alu">, warp: Warp): void => {
  const { f32 } = warp;
  const d = step.d[0];
  const [a, b] = step.s;
  for (let l = 0; l < 32; l++) f32[d + l] = f32[a + l] * f32[b + l];
};

const execs = new Map<string, (step: Step<"Alu">, warp: Warp) => void>();

function execOf(fn: string): (step: Step<"Alu">, warp: Warp) => void {
  const known = execs.get(fn);
  if (known) return known;
  const { types, lane } = aluRows[fn];
  const [dst, src] = types.split("<");
  const write = writer(dst);
  const [readA, readB, readC] = [...src].map(reader);
  const exec = (step: Step<"Alu">, warp: Warp): void => {
    const d = step.d[0];
    const [a, b, c] = step.s;
    for (let l = 0; l < 32; l++) {
      if (((warp.mask >>> l) & 1) === 0) continue;
      const y = readB ? readB(warp, b + l) : 0;
      write(warp, d + l, lane(readA(warp, a + l), y, readC ? readC(warp, c + l) : 0));
    }
  };
  execs.set(fn, exec);
  return exec;
}

function execAlu(step: Step<"Alu">, warp: Warp): void {
  const { fn } = step.attr;
  if (warp.mask === -1 && fn === "fma.f32") fastFma(step, warp);
  else if (warp.mask === -1 && fn === "mul.f32") fastMul(step, warp);
  else if (fn === "pack.b64") {
    // Descriptors use all 64 bits, which no number of JavaScript holds.
    warp.each((l) => {
      warp.u32[step.d[0] + l] = warp.u32[step.s[0] + l];
      warp.u32[step.d[0] + 32 + l] = warp.u32[step.s[1] + l];
    });
  } else execOf(fn)(step, warp);
}

/** `dst = fn(src...)`. */
export const Alu: Op<"Alu"> = {
  verify: signature((attr) => aluRows[attr.fn].types),
  emit(node, e) {
    const { fn } = node.attr;
    const [d, ...s] = [node.dst[0], ...node.src].map((operand) => e.name(operand));
    if (fn === "pack.b64") e.line(`mov.b64 ${d}, {${s[0]}, ${s[1]}};`);
    else if (fn === "cvt.e4m3x2.f32") {
      // The result has 16 bits, which a 32-bit register can't be.
      e.line("{");
      e.line(".reg .b16 %h;");
      e.line(`cvt.rn.satfinite.e4m3x2.f32 %h, ${s[0]}, ${s[1]};`);
      e.line(`cvt.u32.u16 ${d}, %h;`);
      e.line("}");
    } else e.line(`${aluRows[fn].ptx} ${d}, ${s.join(", ")};`);
  },
  exec: execAlu,
};

const compares: Record<string, (a: number, b: number) => boolean> = {
  eq: (a, b) => a === b,
  ne: (a, b) => a !== b,
  lt: (a, b) => a < b,
  le: (a, b) => a <= b,
  gt: (a, b) => a > b,
  ge: (a, b) => a >= b,
};

/** `dst = a cmp b`, of `u32`, `s32` or `f32`. */
export const Compare: Op<"Compare"> = {
  verify: signature((attr) => (attr.type === "f32" ? "p<ff" : "p<uu")),
  emit(node, e) {
    const [a, b] = node.src.map((operand) => e.name(operand));
    e.line(`setp.${node.attr.cmp}.${node.attr.type} ${e.name(node.dst[0])}, ${a}, ${b};`);
  },
  exec(step, warp) {
    const { type, cmp } = step.attr;
    const test = compares[cmp];
    const values = type === "f32" ? warp.f32 : type === "s32" ? warp.s32 : warp.u32;
    const [a, b] = step.s;
    warp.each((l) => {
      warp.u32[step.d[0] + l] = test(values[a + l], values[b + l]) ? 1 : 0;
    });
  },
};

/** `dst = p ? a : b`; operands `p, a, b`. */
export const Select: Op<"Select"> = {
  verify: signature("x<pxx"),
  emit(node, e) {
    const [p, a, b] = node.src.map((operand) => e.name(operand));
    e.line(`selp.b32 ${e.name(node.dst[0])}, ${a}, ${b}, ${p};`);
  },
  exec(step, warp) {
    const [p, a, b] = step.s;
    warp.each((l) => {
      warp.u32[step.d[0] + l] = warp.u32[(warp.u32[p + l] ? a : b) + l];
    });
  },
};

/** `dst = a`. */
export const Move: Op<"Move"> = {
  verify: (node) =>
    signature(`${typeLetter(node.dst[0].type)}<${typeLetter(node.dst[0].type)}`)(node),
  emit(node, e) {
    const type = { u32: "b32", f32: "b32", u64: "b64", pred: "pred" }[node.dst[0].type];
    const [d, a] = [node.dst[0], node.src[0]].map((operand) => e.name(operand));
    e.line(`mov.${type} ${d}, ${a};`);
  },
  exec(step, warp) {
    const [d, a] = [step.d[0], step.s[0]];
    const halves = step.node.dst[0].type === "u64" ? 2 : 1;
    warp.each((l) => {
      for (let h = 0; h < halves; h++) warp.u32[d + l + 32 * h] = warp.u32[a + l + 32 * h];
    });
  },
};

function typeLetter(type: string): string {
  return { u32: "u", f32: "f", u64: "l", pred: "p" }[type] ?? "?";
}

/** `dst = threadIdx.x` and the like. */
export const Special: Op<"Special"> = {
  verify: signature("u<"),
  emit(node, e) {
    e.line(`mov.u32 ${e.name(node.dst[0])}, %${node.attr.name};`);
  },
  exec(step, warp) {
    const { name } = step.attr;
    warp.each((l) => {
      warp.u32[step.d[0] + l] = warp.special(name, l);
    });
  },
};

/** `dst` = a parameter: a number, a pointer, or the address of a tensor map. */
export const Param: Op<"Param"> = {
  verify: (node) => signature(`${typeLetter(node.dst[0].type)}<`)(node),
  emit(node, e) {
    const d = e.name(node.dst[0]);
    if (node.attr.map) {
      e.line(`mov.b64 ${d}, ${e.param(node.attr.index)};`);
      return e.line(`cvta.param.u64 ${d}, ${d};`);
    }
    const type = { u32: "u32", f32: "f32", u64: "u64", pred: "" }[node.dst[0].type];
    e.line(`ld.param.${type} ${d}, [${e.param(node.attr.index)}];`);
  },
  exec(step, warp) {
    warp.loadParam(step.attr.index, step.d[0], step.node.dst[0].type);
  },
};

/** `dst` = the address of the first byte of shared memory. */
export const SharedBase: Op<"SharedBase"> = {
  verify: signature("u<"),
  emit(node, e) {
    e.line(`mov.u32 ${e.name(node.dst[0])}, shared;`);
  },
  exec(step, warp) {
    warp.each((l) => {
      warp.u32[step.d[0] + l] = warp.cta.shared.base;
    });
  },
};
