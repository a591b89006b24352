/**
 * @file The portable disk: ordinary files, read and written by Node's thread pool. Sparse files grow as
 * blocks are written.
 */
import { closeSync, fdatasync, mkdirSync, openSync, read, statfs, write } from "node:fs";
import { join } from "node:path";
import type { BaleenError } from "../../base/index.ts";
import { fsError } from "../errors.ts";
import { chunkSizes } from "../types.ts";
import type { Disk } from "./disk.ts";

/** The failure of a system call as an error of this room. */
export function ioError(cause: unknown, what: string): BaleenError {
  const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
  if (code === "ENOSPC" || code === "EDQUOT") {
    return fsError(
      "storage-no-space",
      `${what}: the disk is full: remove files, or add disks.`,
      cause,
    );
  }
  return fsError("storage-io-failed", `${what} failed (${code}): check the disk.`, cause);
}

/** Opens the block files in `folder`, making what is missing. */
export function openFileDisk(folder: string): Disk {
  const descriptors: number[] = [];
  try {
    mkdirSync(folder, { recursive: true });
    for (const bytes of chunkSizes) {
      const flags = 0o102; // O_RDWR | O_CREAT
      descriptors.push(openSync(join(folder, `blocks-${bytes / 1024}k`), flags, 0o600));
    }
  } catch (cause) {
    for (const descriptor of descriptors) closeSync(descriptor);
    throw ioError(cause, `opening the blocks in ${folder}`);
  }
  return new FileDisk(folder, descriptors);
}

class FileDisk implements Disk {
  private readonly folder: string;
  private readonly descriptors: readonly number[];
  private readonly dirty = new Set<number>();

  constructor(folder: string, descriptors: readonly number[]) {
    this.folder = folder;
    this.descriptors = descriptors;
  }

  read(file: number, offset: number, into: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const descriptor = this.descriptors[file];
      const step = (done: number): void => {
        read(descriptor, into, done, into.length - done, offset + done, (cause, count) => {
          if (cause) reject(ioError(cause, `reading blocks in ${this.folder}`));
          else if (count === 0) {
            // Beyond the end lies what was never written.
            into.fill(0, done);
            resolve();
          } else if (done + count === into.length) resolve();
          else step(done + count);
        });
      };
      step(0);
    });
  }

  write(file: number, offset: number, data: Uint8Array): Promise<void> {
    this.dirty.add(file);
    return new Promise((resolve, reject) => {
      const descriptor = this.descriptors[file];
      const step = (done: number): void => {
        write(descriptor, data, done, data.length - done, offset + done, (cause, count) => {
          if (cause) reject(ioError(cause, `writing blocks in ${this.folder}`));
          else if (done + count === data.length) resolve();
          else step(done + count);
        });
      };
      step(0);
    });
  }

  async flush(): Promise<void> {
    const files = [...this.dirty];
    this.dirty.clear();
    await Promise.all(
      files.map(
        (file) =>
          new Promise<void>((resolve, reject) => {
            fdatasync(this.descriptors[file], (cause) => {
              if (cause) reject(ioError(cause, `flushing blocks in ${this.folder}`));
              else resolve();
            });
          }),
      ),
    );
  }

  freeBytes(): Promise<number> {
    return new Promise((resolve, reject) => {
      statfs(this.folder, (cause, stats) => {
        if (cause) reject(ioError(cause, `asking for free space in ${this.folder}`));
        else resolve(stats.bavail * stats.bsize);
      });
    });
  }

  async close(): Promise<void> {
    for (const descriptor of this.descriptors) closeSync(descriptor);
  }
}
