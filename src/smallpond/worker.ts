/**
 * @file A worker process: takes attempts from its parent, one at a time, and answers with the commit or
 * the failure. It dies with its parent.
 */
import { cancelAttempt, runAttempt } from "./attempt.ts";
import type { Attempt } from "./task.ts";

/** What a parent says to a worker. */
export type WorkerRequest = { kind: "run"; attempt: Attempt } | { kind: "cancel"; attempt: string };

process.on("message", async (request: WorkerRequest) => {
  if (request.kind === "cancel") cancelAttempt(request.attempt);
  else process.send?.(await runAttempt(request.attempt));
});
if (process.send) {
  process.on("disconnect", () => process.exit(0));
  // A terminal's Ctrl-C reaches the whole group; the parent decides.
  process.on("SIGINT", () => {});
}
