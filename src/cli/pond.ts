/** @file `baleen pond`: workers that run the tasks of `smallpond` from a queue. */
import { availableParallelism } from "node:os";
import { runQueueWorker } from "../smallpond/index.ts";
import { type Command, defineCommand } from "./command.ts";
import { UsageError } from "./flags.ts";

/** Runs a worker until it is interrupted. */
export const pond: Command = defineCommand({
  name: "pond",
  summary: "Run tasks of smallpond from a Redis queue; the root folder must be shared.",
  flags: {
    redis: {
      type: "text",
      value: "URL",
      default: "redis://127.0.0.1:6379",
      help: "Where Redis is.",
    },
    queue: { type: "text", value: "NAME", default: "baleen-pond", help: "The queue's name." },
    processes: {
      type: "whole",
      value: "N",
      min: 1,
      max: 1024,
      help: "Processes that run tasks.",
      defaultHelp: "one a processor",
    },
  },
  operands: "worker",
  examples: ["baleen pond worker --redis redis://127.0.0.1:6379 --processes 8"],
  async run({ flags, operands }) {
    if (operands.length !== 1 || operands[0] !== "worker") {
      throw new UsageError("pond takes one word: worker, which runs tasks from a queue.");
    }
    const stop = new AbortController();
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
    const { redis, queue, processes = availableParallelism() } = flags;
    await runQueueWorker({
      redis,
      queue,
      processes,
      signal: stop.signal,
      onReady: () => console.log(`taking tasks from ${queue} at ${redis}, ${processes} at once`),
    });
  },
});
