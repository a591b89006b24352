/** @file GNU as as an oracle for the assembler: the bytes of each line by itself. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Assembler } from "../assembler.ts";
import type { Sample } from "./samples.ts";

/** Bytes between the starts of two lines; an instruction has at most 15. */
const slotBytes = 16;

/** What fills the space between: hlt, with which no instruction of the tests ends. */
const filler = 0xf4;

const tools = { assemble: "as", flatten: "objcopy" };

/** Why there is no oracle here, or false. */
export const gnuAsAbsence: string | false = Object.values(tools).every(
  (tool) => spawnSync(tool, ["--version"]).status === 0,
)
  ? false
  : "GNU as and objcopy are not installed";

/** The hex of what GNU as makes of each of `lines` (Intel syntax). */
export function assembleWithGnu(lines: readonly string[]): string[] {
  const folder = mkdtempSync(join(tmpdir(), "baleen-as-"));
  try {
    const source = join(folder, "lines.s");
    const object = join(folder, "lines.o");
    const flat = join(folder, "lines.bin");
    const text = lines.map((line, i) => `.org ${i * slotBytes}, ${filler}\n${line}\n`).join("");
    const end = `.org ${lines.length * slotBytes}, ${filler}\n`;
    writeFileSync(source, `.intel_syntax noprefix\n.text\n${text}${end}`);
    const run = spawnSync(tools.assemble, ["--64", "-o", object, source], { encoding: "utf8" });
    if (run.status !== 0) throw new Error(run.stderr.replace(/^.*?:(\d+): /gm, quoteLine(lines)));
    spawnSync(tools.flatten, ["-O", "binary", "-j", ".text", object, flat]);
    const code = readFileSync(flat);
    return lines.map((_, i) => trimmedHex(code.subarray(i * slotBytes, (i + 1) * slotBytes)));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Two lines stand before the first instruction, and each takes two. */
function quoteLine(lines: readonly string[]): (match: string, number: string) => string {
  return (_, number) => `"${lines[Math.floor((Number(number) - 3) / 2)]}": `;
}

/** Hex without the filler at the end. */
function trimmedHex(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString("hex")
    .replace(/(f4)+$/, "");
}

/** What our assembler makes of `sample`, or its complaint; hex that compares with the oracle's. */
export function assembleSample({ mnemonic, operands, decorators }: Sample): string {
  try {
    const asm = new Assembler();
    asm.emit(mnemonic, operands, decorators);
    return trimmedHex(asm.finish());
  } catch (error) {
    return String(error);
  }
}
