/**
 * @file Runs by seed in which worker, scheduler and Redis are killed (SIGKILL) at random times and started
 * again, until a scheduler has finished: its rows must be those of an undisturbed run, and one
 * more run must execute nothing.
 */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { join } from "node:path";
import { Random } from "../../base/index.ts";
import { freshFolder } from "../testing.ts";
import { freePort, outputOf, startRedis, startScript } from "./redis.ts";

interface Report {
  readonly digest: string;
  readonly rows: number;
  readonly stats: { readonly executed: number };
}

/** Runs plans until `kills` processes were killed; returns how many runs that were. */
export async function survive(seed: number, kills: number): Promise<number> {
  const random = new Random(seed);
  const folder = freshFolder("kills");
  const port = await freePort();
  const redis = `redis://127.0.0.1:${port}`;
  let server = await startRedis(port, folder);
  const workers = [await startWorker(redis), await startWorker(redis)];
  const alive = new Set<ChildProcess>();
  try {
    let want: string | undefined;
    let killed = 0;
    let runs = 0;
    while (killed < kills) {
      const root = join(folder, `root${runs}`);
      let scheduler = startScript("queue-run", redis, root, `run ${runs}`);
      alive.add(scheduler);
      let output = outputOf(scheduler);
      let isOver = false;
      for (let shots = 0; !isOver && shots < 4 && want !== undefined; shots++) {
        const delayMs = 100 + random.below(900);
        const timer = new Promise<boolean>((done) => setTimeout(() => done(false), delayMs));
        isOver = await Promise.race([output.then(() => true), timer]);
        if (isOver || killed >= kills) break;
        killed++;
        const victim = random.below(3);
        if (victim === 0) {
          const i = random.below(2);
          await kill(workers[i]);
          workers[i] = await startWorker(redis);
        } else if (victim === 1) {
          await kill(scheduler);
          scheduler = startScript("queue-run", redis, root, `run ${runs}`);
          alive.add(scheduler);
          output = outputOf(scheduler);
        } else {
          await kill(server);
          server = await startRedis(port, folder);
        }
      }
      const report = JSON.parse((await output) ?? "null") as Report | null;
      assert.ok(report, `seed ${seed}, run ${runs}: the scheduler failed`);
      want ??= report.digest;
      assert.equal(report.digest, want, `seed ${seed}, run ${runs}`);
      assert.equal(report.rows, 1009);
      const again = JSON.parse(
        (await outputOf(startScript("queue-run", redis, root, `run ${runs}`))) ?? "null",
      ) as Report;
      assert.equal(again.digest, want);
      assert.equal(again.stats.executed, 0, `seed ${seed}, run ${runs}, run again`);
      runs++;
    }
    return runs;
  } finally {
    for (const child of [server, ...workers, ...alive]) child.kill("SIGKILL");
  }
}

/** A worker that has begun to take attempts. */
export async function startWorker(redis: string, prefetch = 2): Promise<ChildProcess> {
  const worker = startScript("queue-worker", redis, String(prefetch));
  await new Promise((ready) => worker.stdout?.once("data", ready));
  return worker;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((done) => child.once("exit", done));
  child.kill("SIGKILL");
  await ended;
}
