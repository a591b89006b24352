import assert from "node:assert/strict";
import { test } from "node:test";
import { queueExecutor, runQueueWorker } from "./index.ts";
import { survive } from "./testing/kills.ts";
import { freePort, redisAbsence } from "./testing/redis.ts";

const absence = redisAbsence();
const seed = Date.now() % 1e6;

test("kills of worker, scheduler and Redis change no row, and a run again executes nothing", {
  skip: absence,
}, async () => {
  console.log(`queue seed ${seed}`);
  await survive(seed, 5);
});

test("where no Redis answers, executor and worker say so in one sentence", async () => {
  const redis = `redis://127.0.0.1:${await freePort()}`;
  const refusal = { code: "queue-lost", message: /No Redis answers at redis:.*start one/ };
  await assert.rejects(queueExecutor({ redis }), refusal);
  await assert.rejects(runQueueWorker({ redis }), refusal);
  await assert.rejects(queueExecutor({ redis: "nonsense" }), { code: "queue-lost" });
});
