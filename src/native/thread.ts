/**
 * @file Threads that run machine code only: no JavaScript, hence no isolate, and nothing to wait
 * for at exit.
 */
import { assert } from "../base/index.ts";
import { addressOf, neededLayer } from "./koffi.ts";

const syscallFutex = 202;
const syscallGettid = 186;
const syscallGetProcessor = 309;
const futexWakePrivate = 129;

/**
 * Starts a thread that calls `start(argument)` (System V, rdi) and ends when that returns; the
 * result is a handle for `joinThread`, or undefined when the system refuses another thread. The
 * thread does not keep the process alive.
 */
export function startThread(start: number, argument: number): number | undefined {
  const handle = new Uint32Array(2);
  const code = neededLayer().pthreadCreate(addressOf(handle), 0, start, argument);
  return code !== 0 ? undefined : handle[0] + handle[1] * 2 ** 32;
}

/** Waits until the thread has ended; blocks the caller. Each handle is joined once. */
export function joinThread(handle: number): void {
  const code = neededLayer().pthreadJoin(handle, 0);
  assert(code === 0, () => `a thread could not be joined: error ${code}`);
}

/** The system's number of the calling thread. */
export function currentThreadId(): number {
  return neededLayer().syscall(syscallGettid, 0, 0, 0);
}

/** The number of the processor that the calling thread is on just now. */
export function currentProcessor(): number {
  const out = new Uint32Array(1);
  neededLayer().syscall(syscallGetProcessor, addressOf(out), 0, 0);
  return out[0];
}

/**
 * Wakes every thread of this process that waits on the 32-bit word at `address` (a private futex).
 */
export function wakeAll(address: number): void {
  neededLayer().syscall(syscallFutex, address, futexWakePrivate, 0x7fffffff);
}
