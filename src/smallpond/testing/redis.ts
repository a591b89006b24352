/** @file A Redis server of a test's own, that may be killed; and processes that run beside it. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { workerUrl } from "../../base/index.ts";

/** Whether a Redis server of version 7 or later can be started here; else why not. */
export function redisAbsence(): string | undefined {
  const { stdout, error } = spawnSync("redis-server", ["--version"], { encoding: "utf8" });
  if (error) return "no redis-server on this machine";
  const version = /v=(\d+)/.exec(stdout)?.[1];
  return Number(version) >= 7 ? undefined : `redis-server is version ${version}, wanted 7 or later`;
}

/** A port of 127.0.0.1 that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as { port: number };
  await new Promise((closed) => server.close(closed));
  return port;
}

/** Starts a server that keeps its data in `folder`, and waits until it answers. */
export async function startRedis(port: number, folder: string): Promise<ChildProcess> {
  const flags = [
    "--port",
    String(port),
    "--bind",
    "127.0.0.1",
    "--dir",
    folder,
    "--save",
    "",
    "--appendonly",
    "yes",
  ];
  const server = spawn("redis-server", [...flags, "--loglevel", "warning"], { stdio: "ignore" });
  const probe = new Redis(port, "127.0.0.1", {
    retryStrategy: () => 20,
    maxRetriesPerRequest: null,
  });
  probe.on("error", () => {});
  await probe.ping();
  probe.disconnect();
  return server;
}

/** Starts one of the scripts beside this file. */
export function startScript(name: string, ...given: readonly string[]): ChildProcess {
  const path = fileURLToPath(workerUrl(import.meta.url, `./${name}`));
  return spawn(process.execPath, [path, ...given], { stdio: ["ignore", "pipe", "inherit"] });
}

/** What a process printed, once it has ended; undefined if it was killed. */
export async function outputOf(child: ChildProcess): Promise<string | undefined> {
  let text = "";
  child.stdout?.on("data", (bytes) => {
    text += bytes;
  });
  const status = await new Promise((ended) => child.once("close", ended));
  return status === 0 ? text : undefined;
}
