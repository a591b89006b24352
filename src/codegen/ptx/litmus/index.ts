/** @file The litmus tests, one for each asynchronous or ordering primitive. */
import { copyTests } from "./copies.ts";
import type { Litmus } from "./litmus.ts";
import { orderTests } from "./order.ts";
import { tensorTests } from "./tensor.ts";

/** All of them, staged, in the order of HARDWARE.md. */
export function litmusTests(): Litmus[] {
  return [...copyTests(), ...orderTests(), ...tensorTests()];
}
