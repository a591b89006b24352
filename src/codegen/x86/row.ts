/**
 * @file Reads the rows of the instruction tables, and derives from a row the TypeScript type of the
 * method that it becomes.
 */
import { assert } from "../../base/index.ts";
import type { Gpr, Label, Mask, Mem, Vec } from "./registers.ts";

/** Anything an instruction takes. */
export type Operand = Gpr | Vec | Mask | Mem | Label | number | bigint;

/** How an EVEX instruction rounds, all exceptions suppressed; `sae` only suppresses them. */
export type Rounding = "nearest" | "down" | "up" | "zero" | "sae";

/** What may follow the operands of an EVEX instruction. */
export interface Decorators {
  /** Lanes whose bit is clear keep the destination's value (or are not stored); k1 to k7. */
  readonly mask?: Mask;
  /** Lanes whose bit is clear become zero instead. */
  readonly zero?: boolean;
  /** Rounding other than that of MXCSR; registers only, 512 bits or scalar. */
  readonly rounding?: Rounding;
}

/** Where an operand goes: a letter of the tables' legend. */
type Place = "V" | "H" | "W" | "U" | "L" | "M" | "X" | KPlace | GprPlace | "I" | "J";
type KPlace = "kV" | "kH" | "kW" | "kU";
type GprPlace = "G" | "E" | "R" | "B" | "O" | "A" | "C";

/** One operand of a row. */
export interface Slot {
  readonly place: Place;
  /** The suffix: a size letter, or empty. */
  readonly size: string;
}

/** One form of an instruction. */
export interface Row {
  /** The row as written. */
  readonly text: string;
  readonly slots: readonly Slot[];
  /** Legacy: opcode bytes. Vector: one byte. A second list is the form with a 32-bit label. */
  readonly opcode: readonly number[];
  readonly longOpcode: readonly number[] | undefined;
  /** ModRM.reg where fixed. */
  readonly digit: number | undefined;
  /** Mandatory prefix: 0 none, 1 66, 2 f3, 3 f2. */
  readonly pp: number;
  /** 0 legacy; 1 0f, 2 0f38, 3 0f3a. */
  readonly map: number;
  /** W of the VEX form; "*" by operand size; undefined where there is none. */
  readonly vexW: 0 | 1 | "*" | undefined;
  /** W of the EVEX form; undefined where there is none. */
  readonly evexW: 0 | 1 | undefined;
  /** Memory bytes for disp8*N, 0 where irrelevant; `perLength` divides the vector length instead. */
  readonly memoryBytes: number;
  readonly perLength: number;
  /** Bytes of one broadcast element; 0: no broadcast. */
  readonly broadcastBytes: number;
  /** Lengths that exist. */
  readonly lengths: readonly number[];
  readonly flags: ReadonlySet<string>;
}

const prefixes = ["np", "66", "f3", "f2"];
const maps = ["", "0f", "0f38", "0f3a"];

function hexBytes(text: string): number[] {
  return (text.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16));
}

function slotOf(token: string): Slot {
  const cut = token.startsWith("k") ? 2 : 1;
  return { place: token.slice(0, cut) as Place, size: token.slice(cut) };
}

/** The row written as `text`, see the tables' headers. */
export function parseRow(text: string): Row {
  const [form, encoding, ...flagList] = text.split(" ");
  const flags = new Set(flagList);
  const slots = form === "-" ? [] : form.split(",").map(slotOf);
  const [code, digitText] = encoding.split("/");
  const parts = code.split(".");
  const isJump = slots[0]?.place === "J" && digitText !== undefined;
  const memory = flagList.find((flag) => /^(n|b|h)(\d|L)/.test(flag)) ?? "";
  const lengths = flagList.find((flag) => /^[xyz]+$/.test(flag)) ?? "xyz";
  const w = (letter: string) =>
    flags.has(`${letter}0`) ? 0 : flags.has(`${letter}1`) ? 1 : undefined;
  const pp = parts.length > 1 ? prefixes.indexOf(parts[0]) : 0;
  const map = parts.length === 3 ? maps.indexOf(parts[1]) : 0;
  assert(pp >= 0 && map >= 0, () => `table row "${text}": no such prefix or map`);
  return {
    text,
    slots,
    opcode: hexBytes(parts[parts.length - 1]),
    longOpcode: isJump ? hexBytes(digitText) : undefined,
    digit: isJump || digitText === undefined ? undefined : Number(digitText),
    pp,
    map,
    vexW: flags.has("v*") ? "*" : w("v"),
    evexW: w("e"),
    memoryBytes: /^n\d+$/.test(memory) ? Number(memory.slice(1)) : 0,
    perLength: memory.startsWith("nL/") ? Number(memory.slice(3)) : memory[0] === "h" ? 2 : 1,
    broadcastBytes: memory[0] === "b" || memory[0] === "h" ? Number(memory.slice(1)) : 0,
    lengths: [...lengths].map((letter) => 128 << "xyz".indexOf(letter)),
    flags,
  };
}

/** The types that operands of each place have. */
interface PlaceTypes {
  V: Vec;
  H: Vec;
  W: Vec | Mem;
  U: Vec;
  L: Vec;
  M: Mem;
  X: Mem;
  G: Gpr;
  E: Gpr | Mem;
  R: Gpr;
  B: Gpr;
  O: Gpr;
  A: Gpr;
  C: Gpr;
  I: number | bigint;
  J: Label;
}

type OperandOf<Token> = Token extends `kW${string}`
  ? Mask | Mem
  : Token extends `k${string}`
    ? Mask
    : Token extends `${infer P extends keyof PlaceTypes}${string}`
      ? PlaceTypes[P]
      : never;

type Split<Form> = Form extends "-"
  ? []
  : Form extends `${infer Head},${infer Tail}`
    ? [OperandOf<Head>, ...Split<Tail>]
    : [OperandOf<Form>];

/** The operands of a row, as a tuple; a union of tuples for several rows. */
type OperandsOf<Text> = Text extends `${infer Form} ${string}` ? Split<Form> : never;

/** A table's instructions as methods; each one's declaration is its row. */
export type IntegerMethods<Table extends Record<string, readonly string[]>> = {
  [Mnemonic in keyof Table]: (...operands: OperandsOf<Table[Mnemonic][number]>) => void;
};

/** The same with EVEX decorators as an optional last argument. */
export type VectorMethods<Table extends Record<string, readonly string[]>> = {
  [Mnemonic in keyof Table]: (
    ...operands: [...OperandsOf<Table[Mnemonic][number]>, decorators?: Decorators]
  ) => void;
};
