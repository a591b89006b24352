/** @file A worker process for tests: takes attempts from the queue at the Redis of its first argument. */
import { runQueueWorker } from "../queue.ts";

const [redis, prefetch] = process.argv.slice(2);
await runQueueWorker({
  redis,
  processes: 2,
  ...(prefetch && { prefetch: Number(prefetch) }),
  onReady: () => console.log("ready"),
});
