/** @file The end of a serving process: the first signal drains, the second stops at once. */

/** A terminal and its package manager may both pass on the same key press: they count as one. */
const echoMs = 50;

/**
 * From now on SIGTERM and SIGINT call `drain` and then end the process with status 0; another one
 * ends it at once with 128 plus the signal's number.
 */
export function exitOnSignals(drain: () => Promise<unknown>, log: (line: string) => void): void {
  let sinceMs: number | undefined;
  const onSignal = (signal: NodeJS.Signals, number: number): void => {
    if (sinceMs === undefined) {
      sinceMs = performance.now();
      log(`${signal}: letting running answers finish; send it again to stop at once.`);
      drain().then(
        () => process.exit(0),
        (error: unknown) => {
          log(error instanceof Error ? error.message : String(error));
          process.exit(1);
        },
      );
    } else if (performance.now() - sinceMs > echoMs) {
      process.exit(128 + number);
    }
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
}
