import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Random } from "../../base/index.ts";
import { Assembler, mnemonics, rowsOf } from "./assembler.ts";
import { instructionText } from "./listing.ts";
import { Gpr } from "./registers.ts";
import { randomSample, type Sample } from "./samples.ts";

/** Bytes between the starts of two instructions in the comparison. */
const slotBytes = 32;

const hasAs = ["as", "objcopy"].every((tool) => spawnSync(tool, ["--version"]).status === 0);
const skip = hasAs ? false : "GNU as and objcopy are not installed";

/** What GNU as makes of `lines`, each at a multiple of `slotBytes`. */
function assembleWithGnu(lines: readonly string[]): { code: Uint8Array; complaints: string } {
  const folder = mkdtempSync(join(tmpdir(), "baleen-as-"));
  try {
    const source = join(folder, "a.s");
    const text = lines.map((line, i) => `.org ${i * slotBytes}\n${line}\n`).join("");
    const end = `.org ${lines.length * slotBytes}\n`;
    writeFileSync(source, `.intel_syntax noprefix\n.text\n${text}${end}`);
    const object = join(folder, "a.o");
    const run = spawnSync("as", ["--64", "-o", object, source], { encoding: "utf8" });
    if (run.status !== 0) {
      const complaints = run.stderr.replace(/^.*?:(\d+): /gm, (_, n: string) => {
        return `"${lines[Math.floor((Number(n) - 3) / 2)]}": `;
      });
      return { code: new Uint8Array(), complaints };
    }
    const flat = join(folder, "a.bin");
    spawnSync("objcopy", ["-O", "binary", "-j", ".text", object, flat]);
    return { code: readFileSync(flat), complaints: run.stderr };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Where this assembler differs from GNU as on purpose: it lacks the one-byte xchg with rax. */
function isException(mnemonic: string, { operands }: Sample): boolean {
  return mnemonic === "xchg" && operands.some((one) => one instanceof Gpr && one.code === 0);
}

test("every row with random operands gives the bytes of GNU as", { skip }, () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  console.log(`seed ${seed}`);
  const random = new Random(seed);
  const samples: (Sample & { mnemonic: string })[] = [];
  for (const mnemonic of mnemonics) {
    for (const row of rowsOf(mnemonic)) {
      if (row.slots[0]?.place === "J") continue;
      const count = row.map > 0 ? 12 : 8;
      for (let i = 0; i < (row.slots.length ? count : 1); i++) {
        const sample = randomSample(row, random);
        if (!isException(mnemonic, sample)) samples.push({ mnemonic, ...sample });
      }
    }
  }
  const lines = samples.map(({ mnemonic, row, operands, decorators }) =>
    instructionText(mnemonic, row, operands, decorators),
  );
  const gnu = assembleWithGnu(lines);
  assert.equal(gnu.code.length, lines.length * slotBytes, gnu.complaints.slice(0, 4000));
  const wrong: string[] = [];
  samples.forEach(({ mnemonic, operands, decorators }, i) => {
    const slot = new Uint8Array(slotBytes);
    let hex: string;
    try {
      const asm = new Assembler();
      asm.emit(mnemonic, operands, decorators);
      slot.set(asm.finish());
      hex = Buffer.from(slot).toString("hex");
    } catch (error) {
      hex = `${error}`;
    }
    const wanted = Buffer.from(gnu.code.subarray(i * slotBytes, (i + 1) * slotBytes));
    if (hex !== wanted.toString("hex")) {
      const trim = (text: string) => text.replace(/(00)+$/, "");
      wrong.push(`${lines[i]}: got ${trim(hex)}, wanted ${trim(wanted.toString("hex"))}`);
    }
  });
  const shown = wrong.slice(0, 60).join("\n");
  assert.equal(wrong.length, 0, `${wrong.length} of ${lines.length} differ:\n${shown}`);
});
