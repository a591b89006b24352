/**
 * @file PTX to machine code, by the compiler inside the driver, once per source, driver and GPU: the
 * result is kept in a folder. A file that was torn or is no longer right is made anew.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { type CudaDriver, viewAt } from "../../native/index.ts";
import { callDriver, cudaError } from "./errors.ts";
import { Words } from "./words.ts";

/** Where machine code is kept: `BALEEN_CACHE`, else the user's cache folder. */
export function cubinFolder(): string {
  const base = process.env.BALEEN_CACHE ?? process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache");
  return join(base, "baleen", "cubin");
}

/** What decides a cubin beside the source. */
export interface CompileTarget {
  readonly driverVersion: number;
  /** Such as 90. */
  readonly architecture: number;
  readonly folder: string;
}

/** The path of the cubin of `ptx`. */
export function cubinPath(ptx: string, target: CompileTarget): string {
  const hash = createHash("sha256").update(ptx).digest("hex").slice(0, 32);
  return join(target.folder, `sm${target.architecture}-${target.driverVersion}-${hash}.cubin`);
}

/** The kept machine code of `ptx`, if any. */
export function keptCubin(path: string): Uint8Array | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined; // not kept, or not readable: compiled anew
  }
}

/** Compiles and keeps `ptx`; a folder that cannot be written costs the next start, nothing else. */
export function compileCubin(driver: CudaDriver, ptx: string, path: string): Uint8Array {
  const cubin = link(driver, ptx);
  try {
    keep(path, cubin);
  } catch {
    // The next start compiles again.
  }
  return cubin;
}

function keep(path: string, cubin: Uint8Array): void {
  mkdirSync(dirname(path), { recursive: true });
  const temporary = `${path}.${randomUUID()}`;
  try {
    writeFileSync(temporary, cubin);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

const logBytes = 16384;
const optionInfoLog = 3;
const optionInfoLogBytes = 4;
const optionErrorLog = 5;
const optionErrorLogBytes = 6;
const inputPtx = 1;

function link(driver: CudaDriver, ptx: string): Uint8Array {
  const [info, error] = [new Words(logBytes), new Words(logBytes)];
  const options = new Words(16);
  const values = new Words(32);
  const table = [
    [optionInfoLog, info.address],
    [optionInfoLogBytes, logBytes],
    [optionErrorLog, error.address],
    [optionErrorLogBytes, logBytes],
  ];
  for (const [i, [option, value]] of table.entries()) {
    options.setInt(4 * i, option);
    values.setLong(8 * i, value);
  }
  const state = new Words(8);
  const counts = [table.length, options.address, values.address] as const;
  callDriver(driver, "the start of a compilation", "cuLinkCreate", ...counts, state.address);
  try {
    const source = new Words(Buffer.byteLength(ptx) + 1);
    source.bytes.set(Buffer.from(ptx));
    const name = new Words(8);
    name.bytes.set(Buffer.from("kernel"));
    const size = source.bytes.length;
    const input = [inputPtx, source.address, size, name.address, 0, 0, 0] as const;
    const added = driver.call("cuLinkAddData", state.long(), ...input);
    if (added !== 0) throw cudaError("compiling PTX", added, textOf(error));
    const [place, length] = [new Words(8), new Words(8)];
    const status = driver.call("cuLinkComplete", state.long(), place.address, length.address);
    if (status !== 0) throw cudaError("compiling PTX", status, textOf(error));
    return new Uint8Array(viewAt(place.long(), length.long())).slice();
  } finally {
    driver.call("cuLinkDestroy", state.long());
  }
}

function textOf(words: Words): string {
  const end = words.bytes.indexOf(0);
  return Buffer.from(words.bytes.subarray(0, end < 0 ? logBytes : end)).toString();
}
