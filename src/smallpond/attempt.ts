/**
 * @file One attempt of a task in this process: its DuckDB, the faults that tests inject, and failures in
 * the form that crosses to the scheduler. Used by worker processes, local and of a queue.
 */
import { join } from "node:path";
import { Random } from "../base/index.ts";
import { type Duck, openDuck } from "./duck.ts";
import { pondError } from "./errors.ts";
import { type Running, runTask } from "./run-task.ts";
import type { Attempt, Commit } from "./task.ts";

/** A failure as it crosses to the parent. */
export interface WireFailure {
  readonly code: string;
  readonly message: string;
}

/** How an attempt ended. */
export type Outcome = { attempt: string } & ({ commit: Commit } | { failure: WireFailure });

let duck: Duck | undefined;
const running = new Map<string, Running>();

/** Runs one attempt in this process; the process's DuckDB is opened at the first. */
export async function runAttempt(attempt: Attempt): Promise<Outcome> {
  const state: Running = { connection: undefined, cancelled: false };
  running.set(attempt.attempt, state);
  try {
    const { task, root, memoryBytes, threads } = attempt;
    await injectFaults(attempt);
    if (task.output !== undefined || task.answer !== undefined) {
      duck ??= await openDuck({
        threads,
        memoryBytes,
        spillFolder: join(root, "spill", String(process.pid)),
      });
    }
    return { attempt: attempt.attempt, commit: await runTask(duck as Duck, attempt, state) };
  } catch (error) {
    const { code } = error as { code?: unknown };
    const message = error instanceof Error ? error.message : String(error);
    const disk = code === "ENOSPC" || code === "EFBIG" || code === "EDQUOT";
    const known = disk ? "disk-full" : typeof code === "string" ? code : "task-failed";
    return {
      attempt: attempt.attempt,
      failure: { code: state.cancelled ? "aborted" : known, message },
    };
  } finally {
    running.delete(attempt.attempt);
  }
}

/** Stops an attempt that this process runs. */
export function cancelAttempt(attempt: string): void {
  const state = running.get(attempt);
  if (!state) return;
  state.cancelled = true;
  state.connection?.interrupt();
}

async function injectFaults({ faults, task, tries, attempt }: Attempt): Promise<void> {
  if (!faults) return;
  const digits = Number.parseInt(task.key.slice(0, 8), 16);
  const random = new Random(faults.seed ^ digits ^ Math.imul(tries + 1, 0x9e3779b1));
  if (random.uniform() < (faults.stall ?? 0)) {
    await new Promise((done) => setTimeout(done, faults.stallMs ?? 1000));
  }
  if (random.uniform() < (faults.fail ?? 0)) {
    throw pondError("fault-injected", `A fault was injected into attempt ${attempt}.`);
  }
  if (random.uniform() < (faults.crash ?? 0)) {
    setTimeout(() => process.kill(process.pid, "SIGKILL"), random.below(20));
    if (random.uniform() < 0.5) await new Promise((done) => setTimeout(done, 1000));
  }
}
