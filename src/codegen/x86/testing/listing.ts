/** @file Instructions as text, in the Intel syntax that GNU `as` reads; for tests and messages. */
import { Label, Mem, Vec } from "../registers.ts";
import type { Operand, Row } from "../row.ts";
import type { Sample } from "./samples.ts";

const gprSizes = { 8: "byte", 16: "word", 32: "dword", 64: "qword" };

/** Bits of the longest vector among `operands`: what `{1toN}` counts in. */
function longest(operands: readonly Operand[]): number {
  return Math.max(0, ...operands.map((operand) => (operand instanceof Vec ? operand.bits : 0)));
}

function memoryText(memory: Mem, row: Row, operands: readonly Operand[]): string {
  const place = memory.toString();
  if (memory.broadcast) {
    const halfResult = row.slots[0].size === "h";
    const bits = longest(operands) * (halfResult ? 2 : 1);
    const source = row.text.includes(" h") ? bits / 2 : bits;
    return `${place}{1to${source / 8 / row.broadcastBytes}}`;
  }
  const isVector = row.map > 0 && row.vexW !== "*";
  const isInteger = row.slots.some((slot) => slot.place === "E");
  if (isVector && isInteger && row.memoryBytes === 4) return `dword ptr ${place}`;
  if (isVector) {
    const ambiguous = row.slots[0].size === "h" && row.slots[1].place === "W";
    return ambiguous ? `${longest(operands) === 256 ? "zmm" : "ymm"}word ptr ${place}` : place;
  }
  if (memory.bits !== undefined) return `${gprSizes[memory.bits]} ptr ${place}`;
  return row.slots.length === 1 || row.slots[1].place === "I" || row.slots[1].place === "C"
    ? `${row.slots[0].place === "M" && row.slots[0].size === "" ? "" : "qword ptr "}${place}`
    : place;
}

/** One instruction as a line for GNU `as` under `.intel_syntax noprefix`. */
export function textOfSample({ mnemonic, row, operands, decorators }: Sample): string {
  const { mask, zero, rounding } = decorators;
  const texts = operands.map((operand) => {
    if (operand instanceof Mem) return memoryText(operand, row, operands);
    return operand instanceof Label ? operand.name : `${operand}`;
  });
  if (mask) texts[0] += `{${mask}}${zero ? "{z}" : ""}`;
  if (rounding) {
    const names = { nearest: "rn-", down: "rd-", up: "ru-", zero: "rz-", sae: "" };
    const at = row.slots.at(-1)?.place === "I" ? texts.length - 1 : texts.length;
    texts.splice(at, 0, `{${names[rounding]}sae}`);
  }
  return `${mnemonic} ${texts.join(", ")}`.trimEnd();
}
