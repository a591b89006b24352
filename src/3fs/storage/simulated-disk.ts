/**
 * @file A disk and a record store in memory that fail as they are told, by a seed. What was written but
 * not flushed is lost in a crash, sector by sector: each is old or new. A commit under way in a crash
 * happened or did not. For tests and the simulator.
 */
import type { Clock, Random } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import type { Disk, RecordChange, RecordStore } from "./disk.ts";

const sectorBytes = 512;
const extentBytes = 4096;

/** What may go wrong. */
export interface DiskFaults {
  /** Milliseconds that an operation takes, at most. */
  readonly delayMs: number;
  /** Chance that a read or write fails, from 0 to 1. */
  readonly failure: number;
  /** Bytes that fit. */
  readonly capacityBytes: number;
}

/** The medium under a simulated disk: it outlives crashes. */
export class SimulatedMedium {
  /** Operations so far: a crash can be asked for at each of them. */
  operations = 0;
  /** In force from now on. */
  faults: DiskFaults;
  private readonly clock: Clock;
  private readonly random: Random;
  /** Durable extents by `file.number`, and those written since. */
  private readonly durable = new Map<string, Uint8Array>();
  private readonly written = new Map<string, Uint8Array>();
  /** Commits under way, each of which a crash may let happen. */
  private readonly underWay = new Set<() => void>();
  private readonly records = new Map<string, Uint8Array>();
  private life = 0;
  private crashAt = Number.POSITIVE_INFINITY;
  private onCrash: () => void = () => {};

  constructor(clock: Clock, random: Random, faults: Partial<DiskFaults> = {}) {
    this.clock = clock;
    this.random = random;
    this.faults = { delayMs: 0, failure: 0, capacityBytes: Number.POSITIVE_INFINITY, ...faults };
  }

  /** Crashes by itself just before operation `operation`, and then calls `onCrash`. */
  crashBefore(operation: number, onCrash: () => void): void {
    this.crashAt = operation;
    this.onCrash = onCrash;
  }

  /** Power is lost: operations under way never end; unflushed sectors are kept or lost by chance. */
  crash(): void {
    this.life++;
    this.crashAt = Number.POSITIVE_INFINITY;
    for (const happen of this.underWay) happen();
    this.underWay.clear();
    for (const [key, bytes] of this.written) {
      const old = this.durable.get(key) ?? new Uint8Array(extentBytes);
      const torn = old.slice();
      for (let at = 0; at < extentBytes; at += sectorBytes) {
        if (this.random.uniform() < 0.5) torn.set(bytes.subarray(at, at + sectorBytes), at);
      }
      this.durable.set(key, torn);
    }
    this.written.clear();
  }

  /** Flips a random bit of what lies on the disk; false where there is nothing. */
  flipBit(): boolean {
    const keys = [...this.durable.keys()];
    if (keys.length === 0) return false;
    const bytes = this.durable.get(keys[this.random.below(keys.length)])!;
    bytes[this.random.below(bytes.length)] ^= 1 << this.random.below(8);
    return true;
  }

  /** The disk and the store, as a process opens them after a start. */
  open(): { disk: Disk; store: RecordStore } {
    const { life } = this;
    const disk: Disk = {
      read: async (file, offset, into) => {
        await this.step(life, true);
        this.copy(file, offset, into, (extent, within, part) => {
          part.set(extent.subarray(within, within + part.length));
        });
      },
      write: async (file, offset, data) => {
        await this.step(life, true);
        if (this.takenBytes() + data.length > this.faults.capacityBytes) {
          throw fsError("storage-no-space", "the simulated disk is full: remove files.");
        }
        this.copy(file, offset, data, (extent, within, part, key) => {
          const changed = this.written.get(key) ?? extent.slice();
          changed.set(part, within);
          this.written.set(key, changed);
        });
      },
      flush: async () => {
        // What is written while the flush runs need not be part of it.
        const before = [...this.written].map(([key, bytes]) => [key, bytes.slice()] as const);
        await this.step(life, false);
        for (const [key, bytes] of before) this.durable.set(key, bytes);
        for (const [key, bytes] of before) {
          if (Buffer.from(this.written.get(key) ?? []).equals(bytes)) this.written.delete(key);
        }
      },
      freeBytes: async () => Math.max(0, this.faults.capacityBytes - this.takenBytes()),
      close: async () => {},
    };
    return { disk, store: this.store(life) };
  }

  private store(life: number): RecordStore {
    const { records } = this;
    return {
      async *entries() {
        yield* records;
      },
      commit: async (changes: readonly RecordChange[]) => {
        await this.step(life, false, () => {
          if (this.random.uniform() < 0.5) this.apply(changes);
        });
        this.apply(changes);
      },
      close: async () => {},
    };
  }

  private apply(changes: readonly RecordChange[]): void {
    for (const [key, value] of changes) {
      if (value === undefined) this.records.delete(key);
      else this.records.set(key, value.slice());
    }
  }

  private takenBytes(): number {
    return (this.durable.size + this.written.size) * extentBytes;
  }

  private copy(
    file: number,
    offset: number,
    bytes: Uint8Array,
    each: (extent: Uint8Array, within: number, part: Uint8Array, key: string) => void,
  ): void {
    for (let at = 0; at < bytes.length; ) {
      const number = Math.floor((offset + at) / extentBytes);
      const within = (offset + at) % extentBytes;
      const count = Math.min(extentBytes - within, bytes.length - at);
      const key = `${file}.${number}`;
      const extent = this.written.get(key) ?? this.durable.get(key) ?? new Uint8Array(extentBytes);
      each(extent, within, bytes.subarray(at, at + count), key);
      at += count;
    }
  }

  /** One operation: takes its time; never ends where the process died meanwhile. */
  private async step(life: number, mayFail: boolean, inCrash?: () => void): Promise<void> {
    const { delayMs, failure } = this.faults;
    if (life === this.life && ++this.operations >= this.crashAt) {
      inCrash?.();
      this.crash();
      this.onCrash();
    }
    if (delayMs > 0 && life === this.life) {
      if (inCrash !== undefined) this.underWay.add(inCrash);
      const waitMs = this.random.uniform() * delayMs;
      await new Promise<void>((resolve) => void this.clock.after(waitMs, resolve));
      if (inCrash !== undefined) this.underWay.delete(inCrash);
    }
    if (life !== this.life) await new Promise<never>(() => {});
    if (mayFail && failure > 0 && this.random.uniform() < failure) {
      throw fsError("storage-io-failed", "the simulated disk failed: check the disk.");
    }
  }
}
