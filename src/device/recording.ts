/**
 * @file Launches written down instead of run. While a device records, `ArgumentBlock.address` gives
 * the address of a copy, so that what a call has written stays though the next call writes anew.
 */
import { alignUp, assert } from "../base/index.ts";
import { addressOf } from "../native/index.ts";
import type { Device } from "./device.ts";
import { jobBytes } from "./pool-code.ts";

/** Bytes of a piece of memory for copies. */
const pieceBytes = 64 * 1024;
const alignment = 64;

/** Collects the launches of one list. */
export class Recorder {
  private readonly device: Device;
  private readonly jobs: [kernel: number, args: number, tasks: number][] = [];
  /** All memory that the jobs refer to. */
  private readonly pieces: ArrayBufferLike[] = [];
  private used = 0;

  constructor(device: Device) {
    this.device = device;
  }

  /** The address of a copy of `words`, which lives as long as the list. */
  copy(words: Uint32Array): number {
    const copy = this.take(words.length);
    copy.set(words);
    return addressOf(copy);
  }

  add(kernel: number, args: number, tasks: number): void {
    this.jobs.push([kernel, args, tasks]);
  }

  /** The list: address and number of its jobs, and the memory to keep. */
  finish(): JobList {
    const words = this.take((this.jobs.length * jobBytes) / 4);
    this.jobs.forEach(([kernel, args, tasks], i) => {
      const at = (i * jobBytes) / 4;
      words.set([kernel, kernel / 2 ** 32, args, args / 2 ** 32, tasks], at);
    });
    const address = words.length === 0 ? 0 : addressOf(words);
    return { address, count: this.jobs.length, memory: this.pieces };
  }

  private take(words: number): Uint32Array {
    const bytes = alignUp(words * 4, alignment);
    if (this.pieces.length === 0 || this.used + bytes > this.pieces[0].byteLength) {
      this.pieces.unshift(this.device.allocate(Math.max(bytes, pieceBytes)));
      this.used = 0;
    }
    const piece = new Uint32Array(this.pieces[0] as ArrayBuffer, this.used, words);
    this.used += bytes;
    return piece;
  }
}

/** What a recorder gives. */
export interface JobList {
  readonly address: number;
  readonly count: number;
  readonly memory: readonly ArrayBufferLike[];
}

let current: { device: Device; recorder: Recorder } | undefined;

/** The recorder of `device` while it records. */
export function recorderOf(device: Device): Recorder | undefined {
  return current?.device === device ? current.recorder : undefined;
}

/** Runs `body` with the launches of `device` written down. One device records at a time. */
export function recordLaunches(device: Device, body: () => void): JobList {
  assert(current === undefined, "record: a recording is under way, wanted none inside another");
  const recorder = new Recorder(device);
  current = { device, recorder };
  try {
    body();
  } finally {
    current = undefined;
  }
  return recorder.finish();
}
