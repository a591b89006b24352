/** @file The device without machine code: memory only; the rooms' reference rungs do the work. */
import { assert } from "../base/index.ts";
import type { Device } from "./device.ts";

/** Opens it; `reason` tells people why it serves. */
export function openReference(reason: string, scratchBytes: number): Device {
  const refuse = (what: string): never => {
    assert(false, `${what}: the reference rung runs no machine code; ask the device's rung first`);
    throw new Error("unreachable");
  };
  return {
    rung: "reference",
    isa: undefined,
    threads: 1,
    description: `reference: ${reason}`,
    scratchBytes,
    allocate: (bytes) => new ArrayBuffer(bytes),
    load: (_code, name) => refuse(`load of ${name}`),
    launch: () => refuse("launch"),
    record: (body) => ({ launches: 0, run: body }),
    close() {},
  };
}
