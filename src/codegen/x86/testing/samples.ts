/** @file Random operands for every row of the tables, for the assembler's tests. */
import { Random } from "../../../base/index.ts";
import { mnemonics, rowsOf } from "../assembler.ts";
import { bcst, Gpr, type GprBits, Mask, Mem, mem, Vec, type VecBits } from "../registers.ts";
import type { Decorators, Operand, Rounding, Row, Slot } from "../row.ts";

/** An instruction to assemble. */
export interface Sample {
  readonly mnemonic: string;
  readonly row: Row;
  readonly operands: readonly Operand[];
  readonly decorators: Decorators;
}

/** Choices that hold for all operands of one sample. */
interface Plan {
  random: Random;
  row: Row;
  length: number;
  bits: GprBits;
  useEvex: boolean;
  useMemory: boolean;
  broadcast: boolean;
}

function pick<T>(random: Random, values: readonly T[]): T {
  return values[random.below(values.length)];
}

function randomGpr({ random }: Plan, bits: GprBits): Gpr {
  return new Gpr(random.below(16), bits);
}

function vecBitsOf(slot: Slot, length: number): VecBits {
  const divisor = { h: 2, q: 4, e: 8 }[slot.size];
  if (divisor) return Math.max(128, length / divisor) as VecBits;
  return (slot.size === "x" ? 128 : slot.size === "y" ? 256 : length) as VecBits;
}

function randomVec(plan: Plan, bits: VecBits): Vec {
  return new Vec(plan.random.below(plan.useEvex ? 32 : 16), bits);
}

/** Displacements at the edges of 8 bits, scaled by N and not. */
function randomDisp({ random, row, length, broadcast, useEvex }: Plan): number {
  const unit = !useEvex
    ? 1
    : broadcast
      ? row.broadcastBytes
      : row.memoryBytes || length / 8 / row.perLength;
  const edges = [0, 0, 1, -1, 127, 128, -128, -129, 129, 4096, -100_000, 0x7fffffff, -0x80000000];
  const disp = pick(random, edges);
  return random.below(2) && Math.abs(disp) < 5000 ? disp * Math.max(1, unit) : disp;
}

function randomMem(plan: Plan, index?: Vec): Mem {
  const { random } = plan;
  const base = random.below(8) === 0 && !index ? undefined : new Gpr(random.below(16));
  const wantsIndex = base === undefined || random.below(2) === 0;
  let gprIndex = new Gpr(random.below(16));
  if (gprIndex.code === 4) gprIndex = new Gpr(12);
  const scale = pick(random, [1, 2, 4, 8] as const);
  const options = { scale, disp: randomDisp(plan) };
  if (index) return mem(base, { ...options, index });
  return mem(base, wantsIndex ? { ...options, index: gprIndex } : { disp: options.disp });
}

function sizedMem(plan: Plan, slot: Slot): Mem {
  const place = randomMem(plan);
  if (plan.row.map > 0) return plan.broadcast ? bcst(place) : place;
  if (slot.place === "M") return place;
  const bits = slot.size === "" ? plan.bits : { b: 8, w: 16, d: 32, q: 64 }[slot.size];
  return new Mem(place.base, place, bits as GprBits);
}

function randomImmediate({ random, bits }: Plan, slot: Slot): number | bigint {
  const byte = random.below(256);
  switch (slot.size) {
    case "1":
      return 1;
    case "s":
      return byte - 128;
    case "b":
      return pick(random, [byte, byte & 7, 0, 127]);
    case "w":
      return 0x1234 + byte;
    case "q":
      return pick(random, [0x123456789abcdef0n, -0x123456789an, 0xfedcba9876543210n]);
    default:
      return bits === 16 ? 0x1234 + byte : pick(random, [0x12345678, -0x12345678, 200, -200]);
  }
}

function randomOperand(plan: Plan, slot: Slot): Operand {
  const { random, row, length, bits } = plan;
  const gprBits = (slot.size === "" ? bits : { b: 8, w: 16, d: 32, q: 64 }[slot.size]) as GprBits;
  switch (slot.place) {
    case "V":
    case "H":
    case "U":
    case "L": {
      const vec = randomVec(plan, vecBitsOf(slot, length));
      return slot.place === "L" ? new Vec(vec.code & 15, vec.bits) : vec;
    }
    case "W":
      return plan.useMemory ? sizedMem(plan, slot) : randomVec(plan, vecBitsOf(slot, length));
    case "M":
      return sizedMem(plan, slot);
    case "X":
      return randomMem(plan, randomVec(plan, vecBitsOf(slot, length)));
    case "kW":
      return plan.useMemory ? sizedMem(plan, slot) : new Mask(random.below(8));
    case "kV":
    case "kH":
    case "kU":
      return new Mask(random.below(8));
    case "E":
      return plan.useMemory ? sizedMem(plan, slot) : randomGpr(plan, gprBits);
    case "A":
      return new Gpr(0, gprBits);
    case "C":
      return new Gpr(1, 8);
    case "I":
      return randomImmediate(plan, slot);
    case "J":
      throw new Error(`row ${row.text}: jumps are tested apart`);
    default:
      return randomGpr(plan, gprBits);
  }
}

function randomDecorators(plan: Plan, operands: readonly Operand[]): Decorators {
  const { random, row, length } = plan;
  const must = row.flags.has("k!");
  const masks = !row.flags.has("k-") && (must || random.below(2) === 0);
  const scalar = row.lengths.length === 1 && length === 128;
  const rounds = !operands.some((operand) => operand instanceof Mem) && (length === 512 || scalar);
  const roundings: Rounding[] = row.flags.has("er")
    ? ["nearest", "down", "up", "zero"]
    : row.flags.has("sae")
      ? ["sae"]
      : [];
  return {
    ...(masks && { mask: new Mask(1 + random.below(7)) }),
    ...(masks && !must && operands[0] instanceof Vec && random.below(2) === 0 && { zero: true }),
    ...(rounds && roundings.length > 0 && random.below(2) === 0
      ? { rounding: pick(random, roundings) }
      : {}),
  };
}

/** Whether a register occurs twice in a gather, which faults. */
function sharesVec(operands: readonly Operand[]): boolean {
  const vecs = operands.map((operand) => (operand instanceof Mem ? operand.index : operand));
  const names = vecs.flatMap((vec) => (vec instanceof Vec ? [vec.code] : []));
  return new Set(names).size < names.length;
}

/** What one sample of a row exercises; what the row lacks is left out. */
interface Variant {
  readonly evex: boolean;
  readonly memory: boolean;
  readonly broadcast: boolean;
}

/** The variants that `row` has: VEX and EVEX, each with registers, with memory and broadcast. */
function variantsOf(row: Row): Variant[] {
  const isVector = row.map > 0 && row.vexW !== "*";
  const hasEvex = isVector && row.evexW !== undefined;
  const hasVex = !isVector || row.vexW !== undefined;
  const takesEither = row.slots.some(({ place }) => place === "W" || place === "E");
  // Nothing tells the vector length of a mask's only operand in memory.
  const opaque = row.slots[0]?.place === "kV" && row.slots[1]?.place === "W";
  const encodings = [...(hasVex ? [false] : []), ...(hasEvex ? [true] : [])];
  return encodings.flatMap((evex) => {
    const variant = { evex, memory: false, broadcast: false };
    if (!takesEither && row.slots[0]?.place !== "kW") return [{ ...variant, memory: true }];
    if (opaque) return [variant];
    const memory = [variant, { ...variant, memory: true }];
    return evex && row.broadcastBytes
      ? [...memory, { ...variant, memory: true, broadcast: true }]
      : memory;
  });
}

/** A random instruction of `row`, of the given variant. */
function randomSample(row: Row, variant: Variant, random: Random): Sample {
  const lengths = variant.evex ? row.lengths : row.lengths.filter((bits) => bits < 512);
  const plan: Plan = {
    random,
    row,
    length: pick(random, lengths),
    bits: pick(random, row.vexW === "*" ? [32, 64] : [16, 32, 64]),
    useEvex: variant.evex,
    useMemory: variant.memory,
    broadcast: variant.broadcast,
  };
  // Nor does an xmm tell whether a narrowing read 128 or 256 bits of memory: 256 is meant.
  const narrows = row.slots[0]?.size === "h" && row.slots[1].place === "W";
  if (narrows && variant.memory) plan.length = Math.max(256, plan.length);
  const operands = row.slots.map((slot) => randomOperand(plan, slot));
  if (row.slots[1]?.place === "X" && sharesVec(operands)) return randomSample(row, variant, random);
  const decorators = variant.evex ? randomDecorators(plan, operands) : {};
  return { mnemonic: "", row, operands, decorators };
}

/** Rows that take a label are not sampled: where the label lies decides their bytes. */
function isSampled(row: Row): boolean {
  return row.slots[0]?.place !== "J";
}

/** Where this assembler differs from GNU as on purpose: it lacks the one-byte xchg with rax. */
function isException({ mnemonic, operands }: Sample): boolean {
  return mnemonic === "xchg" && operands.some((one) => one instanceof Gpr && one.code === 0);
}

/** `count` samples of every variant of every row; `seedOf` may give each row a seed of its own. */
export function samplesOf(count: number, seedOf: (rowName: string) => number): Sample[] {
  const samples: Sample[] = [];
  for (const mnemonic of mnemonics) {
    for (const row of rowsOf(mnemonic).filter(isSampled)) {
      const random = new Random(seedOf(`${mnemonic} ${row.text}`));
      for (const variant of variantsOf(row)) {
        for (let i = 0; i < (row.slots.length ? count : 1); i++) {
          const sample = { ...randomSample(row, variant, random), mnemonic };
          if (!isException(sample)) samples.push(sample);
        }
      }
    }
  }
  return samples;
}
