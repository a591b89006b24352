/** @file NVIDIA's assembler as a checker, where it is installed. Nothing at run time needs it. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { countInstructions, type InstructionCounts } from "./elf.ts";
import { emitPtx } from "./emit.ts";
import type { Kernel } from "./ir.ts";

/** What ptxas says of a kernel. */
export interface Assembly {
  readonly version: number;
  readonly target: string;
  readonly registers: number;
  readonly spillBytes: number;
  /** Every line that warns; C75xx among them. */
  readonly warnings: readonly string[];
  readonly counts: InstructionCounts;
}

/** Why kernels can't be assembled here, or false where they can. */
export function whyNoPtxas(): string | false {
  const found = spawnSync("ptxas", ["--version"]).status === 0;
  return found ? false : "ptxas is not installed: kernels are not assembled here";
}

/**
 * Assembles a kernel, for Hopper unless told, with lines of TypeScript; throws with what ptxas prints
 * if it refuses.
 */
export function assembleKernel(kernel: Kernel, architecture: string = "sm_90a"): Assembly {
  const { text, version, target } = emitPtx(kernel, { lines: true });
  const folder = mkdtempSync(join(tmpdir(), "ptx-"));
  try {
    const [source, cubin] = [join(folder, "kernel.ptx"), join(folder, "kernel.cubin")];
    writeFileSync(source, text);
    const { status, stdout, stderr } = spawnSync(
      "ptxas",
      [`-arch=${architecture}`, "-lineinfo", "-v", source, "-o", cubin],
      { encoding: "utf8" },
    );
    const log = stdout + stderr;
    if (status !== 0) throw new Error(`ptxas refuses ${kernel.name}:\n${log}`);
    const number = (pattern: RegExp) => Number(pattern.exec(log)?.[1] ?? Number.NaN);
    return {
      version,
      target,
      registers: number(/Used (\d+) registers/),
      spillBytes: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
      warnings: log.split("\n").filter((line) => /warning|C75\d\d/i.test(line)),
      counts: countInstructions(readFileSync(cubin), kernel.name),
    };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** How many `wgmma.mma_async` the PTX of a kernel holds, by the kind of instruction they become. */
export function wgmmaCounts(kernel: Kernel): { hgmma: number; qgmma: number } {
  const { text } = emitPtx(kernel);
  const of = (type: string) =>
    text.split("\n").filter((line) => line.includes("wgmma.mma_async") && line.includes(type))
      .length;
  return { hgmma: of(".bf16.bf16"), qgmma: of(".e4m3.e4m3") };
}
