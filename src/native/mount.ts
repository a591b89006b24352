/** @file Mounting, for file systems that a process serves: mount(2), umount2(2), poll(2). */
import { addressOf, type NativeLayer, neededLayer } from "./koffi.ts";

interface MountCalls {
  mount(source: string, target: string, type: string, flags: number, data: string): number;
  umount2(target: string, flags: number): number;
  poll: {
    async(
      address: number,
      count: number,
      timeoutMs: number,
      done: (error: unknown, ready: number) => void,
    ): void;
  };
}

let bound: MountCalls | undefined;

function calls(layer: NativeLayer): MountCalls {
  if (bound) return bound;
  const libc = layer.koffi.load(null);
  bound = {
    mount: libc.func("mount", "int", ["str", "str", "str", "uint64_t", "str"]),
    umount2: libc.func("umount2", "int", ["str", "int"]),
    poll: libc.func("poll", "int", ["int64_t", "uint64_t", "int"]),
  };
  return bound;
}

/** Mounts; undefined when done, else the error's name, such as `EPERM`. */
export function mountFileSystem(
  source: string,
  target: string,
  type: string,
  flags: number,
  data: string,
): string | undefined {
  const layer = neededLayer();
  const result = calls(layer).mount(source, target, type, flags, data);
  return result === 0 ? undefined : layer.errorName();
}

/** Unmounts; undefined when done, else the error's name. */
export function unmountFileSystem(target: string, flags: number): string | undefined {
  const layer = neededLayer();
  return calls(layer).umount2(target, flags) === 0 ? undefined : layer.errorName();
}

const readable = 1;

/**
 * Resolves when `descriptor` has something to read, or an error to report, or when `timeoutMs` have
 * passed. Waits on a thread of the event loop's pool; for descriptors that the loop itself cannot watch.
 */
export function waitReadable(descriptor: number, timeoutMs: number): Promise<void> {
  const entry = new Uint32Array([descriptor, readable]);
  const { poll } = calls(neededLayer());
  return new Promise((resolve, reject) => {
    poll.async(addressOf(entry), 1, timeoutMs, (error) => {
      // Naming the entry here keeps it, which the call writes to, alive until now.
      if (error) reject(error);
      else resolve(void entry[1]);
    });
  });
}
