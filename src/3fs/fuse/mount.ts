/** @file Mounts a file system that this process serves, and takes it away again. */
import { closeSync, constants, openSync } from "node:fs";
import { lstat } from "node:fs/promises";
import { resolve } from "node:path";
import { BaleenError } from "../../base/index.ts";
import {
  mountFileSystem,
  nativeAbsence,
  nativeLayer,
  unmountFileSystem,
} from "../../native/index.ts";

/** How to mount. */
export interface MountOptions {
  /** What `df` and `mount` show as the source; default `baleen`. */
  readonly source?: string;
  /** Others than the mounting user may use it; default true, with the kernel checking permissions. */
  readonly allowOther?: boolean;
  /** Most bytes that the kernel asks for in one read; default 1 MiB. */
  readonly maxReadBytes?: number;
}

const noSuid = 2;
const noDev = 4;
const detach = 2;

/**
 * Mounts at `folder`; requests come on the descriptor returned. Throws `mount-failed` with what to do.
 * Needs root, or the capability to mount.
 */
export async function mountFuse(folder: string, options: MountOptions = {}): Promise<number> {
  if (nativeLayer() === undefined) {
    throw new BaleenError("mount-failed", `mounting needs the native layer: ${nativeAbsence()}.`);
  }
  const target = resolve(folder);
  const found = await lstat(target).catch(() => undefined);
  if (!found?.isDirectory()) {
    throw new BaleenError(
      "mount-failed",
      `mount point ${target} is no folder: make it first, or unmount what died there (umount -l).`,
    );
  }
  const descriptor = openFuse();
  const { source = "baleen", allowOther = true, maxReadBytes = 2 ** 20 } = options;
  const data = [
    `fd=${descriptor}`,
    `rootmode=${(constants.S_IFDIR | 0o755).toString(8)}`,
    `user_id=${process.getuid?.() ?? 0}`,
    `group_id=${process.getgid?.() ?? 0}`,
    "default_permissions",
    ...(allowOther ? ["allow_other"] : []),
    `max_read=${maxReadBytes}`,
  ].join(",");
  const failure = mountFileSystem(source, target, `fuse.${source}`, noSuid | noDev, data);
  if (failure === undefined) return descriptor;
  closeSync(descriptor);
  const advice =
    failure === "EPERM"
      ? "run as root, or give the process CAP_SYS_ADMIN"
      : "check the mount point";
  throw new BaleenError("mount-failed", `mounting at ${target} failed (${failure}): ${advice}.`);
}

function openFuse(): number {
  try {
    return openSync("/dev/fuse", constants.O_RDWR | constants.O_NONBLOCK);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new BaleenError(
      "mount-failed",
      `/dev/fuse could not be opened (${code}): load the kernel module (modprobe fuse), or pass the ` +
        "device into the container (--device /dev/fuse --cap-add SYS_ADMIN).",
      { cause },
    );
  }
}

/** Takes the mount away, at once for those who come and later for those who are in it. */
export function unmountFuse(folder: string): void {
  const failure = unmountFileSystem(resolve(folder), detach);
  // Nothing is mounted there any more, which is what was wanted.
  if (failure === undefined || failure === "EINVAL" || failure === "ENOENT") return;
  throw new BaleenError(
    "unmount-failed",
    `unmounting ${resolve(folder)} failed (${failure}): run as root, or umount -l by hand.`,
  );
}
