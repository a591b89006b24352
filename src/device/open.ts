/** @file Opens the device: decides rung, instruction set and threads, and says why in one line. */
import { assert, BaleenError } from "../base/index.ts";
import { nativeAbsence } from "../native/index.ts";
import { chooseIsa, isaOf, isas, probeCpu } from "./cpu.ts";
import type { Device, Isa, Rung } from "./device.ts";
import { defaultThreads } from "./processors.ts";
import { openReference } from "./reference-device.ts";
import { openX86 } from "./x86-device.ts";

/** How to open a device; what is left out is taken from the environment, then from the machine. */
export interface DeviceOptions {
  /** `auto`: machine code where it runs, else the reference. Variable `BALEEN_RUNG`. */
  readonly rung?: Rung | "auto" | undefined;
  /** Threads that take part in a launch; default one per core. Variable `BALEEN_THREADS`. */
  readonly threads?: number | undefined;
  /** An instruction set that the processor has; default its best. Variable `BALEEN_ISA`. */
  readonly isa?: Isa | undefined;
  /** Bytes of scratch per thread; default 1 MiB. */
  readonly scratchBytes?: number | undefined;
  /**
   * How long idle threads spin before they sleep; default 100, and 0 with more threads than
   * processors.
   */
  readonly spinUs?: number | undefined;
}

const rungs = ["auto", "x86", "reference"] as const;

function badVariable(name: string, got: string, wanted: string): BaleenError {
  return new BaleenError(
    "bad-environment",
    `environment variable ${name} is "${got}": set it to ${wanted}, or unset it.`,
  );
}

function choiceOf<T extends string>(
  option: T | undefined,
  variable: string,
  choices: readonly T[],
): T | undefined {
  if (option !== undefined) {
    const known = choices.includes(option);
    assert(known, () => `option of a device: got "${option}", wanted one of ${choices.join(", ")}`);
    return option;
  }
  const text = process.env[variable];
  if (!text) return undefined;
  const choice = choices.find((one) => one === text);
  if (choice === undefined) throw badVariable(variable, text, `one of ${choices.join(", ")}`);
  return choice;
}

function threadsOf(option: number | undefined): number {
  if (option !== undefined) {
    const good = Number.isInteger(option) && option >= 1 && option <= 1024;
    assert(good, () => `threads of a device: got ${option}, wanted 1 to 1024`);
    return option;
  }
  const text = process.env.BALEEN_THREADS;
  if (!text) return defaultThreads();
  if (!/^\d{1,4}$/.test(text) || Number(text) < 1 || Number(text) > 1024) {
    throw badVariable("BALEEN_THREADS", text, "a number from 1 to 1024");
  }
  return Number(text);
}

/** Why machine code does not run here, in one line without a full stop; undefined where it does. */
export function x86Absence(): string | undefined {
  const choice = chosenIsa(undefined);
  return "absence" in choice ? choice.absence : undefined;
}

/** The instruction set to emit for, or why there is none. */
function chosenIsa(wanted: Isa | undefined): { isa: Isa } | { absence: string } {
  const absence = nativeAbsence();
  if (absence !== undefined) return { absence };
  const best = isaOf(probeCpu());
  if (best === undefined) return { absence: "the processor lacks AVX2, FMA, F16C or BMI2" };
  return { isa: chooseIsa(wanted, best) };
}

/**
 * Opens the processor as a device for the calling thread: machine code where it can run, else (with
 * rung `auto`) the plain TypeScript reference, whose `description` says why. Costs about a
 * millisecond. Throws `rung-unavailable`, `isa-unavailable` or `bad-environment`. An unclosed
 * device does not keep the process alive.
 */
export function openDevice(options: DeviceOptions = {}): Device {
  const rung = choiceOf(options.rung, "BALEEN_RUNG", rungs) ?? "auto";
  const isa = choiceOf(options.isa, "BALEEN_ISA", isas);
  const threads = threadsOf(options.threads);
  const { scratchBytes = 2 ** 20, spinUs } = options;
  assert(
    Number.isSafeInteger(scratchBytes) && scratchBytes >= 0,
    () => `scratchBytes: got ${scratchBytes}, wanted a number of bytes`,
  );
  assert(
    spinUs === undefined || (spinUs >= 0 && spinUs <= 1e9),
    () => `spinUs: got ${spinUs}, wanted 0 to 1e9 microseconds`,
  );
  if (rung === "reference") return openReference("asked for", scratchBytes);
  const choice = chosenIsa(isa);
  if ("isa" in choice) return openX86({ isa: choice.isa, threads, scratchBytes, spinUs });
  if (rung === "x86") {
    throw new BaleenError(
      "rung-unavailable",
      `rung x86 was asked for, but ${choice.absence}: use rung auto or reference.`,
    );
  }
  return openReference(`${choice.absence}, kernels run in plain TypeScript`, scratchBytes);
}
