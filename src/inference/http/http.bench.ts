/**
 * @file What the server itself costs, with an engine that computes nothing: milliseconds to the
 * first byte, tokens a second of one core, and many streams at a time. The server runs in a process
 * of its own, whose CPU time is what counts: the clients here share the machine with it.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { fileURLToPath } from "node:url";
import { medianOf } from "../../base/index.ts";
import type { EngineService, GenerationEvent, GenerationRequest } from "../types.ts";
import { startServer } from "./server.ts";
import { byteCodec, encodeLines, ScriptedEngine } from "./testing.ts";

/** Answers at once: every sequence gets one token in each turn of the event loop. */
class NullEngine extends ScriptedEngine implements EngineService {
  private due: (() => void)[] = [];

  override async *generate(
    request: GenerationRequest,
    signal?: AbortSignal,
  ): AsyncIterable<GenerationEvent> {
    const { id, maxTokens } = request;
    for (let token = 0; token < maxTokens && !signal?.aborted; token++) {
      await this.step();
      yield { id, tokenIds: [32], text: " token" };
    }
    const usage = { promptTokens: 1, cachedTokens: 0, completionTokens: maxTokens };
    const reason = signal?.aborted ? "cancelled" : "length";
    yield { id, tokenIds: [], text: "", finish: { reason, usage } };
  }

  private step(): Promise<void> {
    return new Promise((resolve) => {
      if (this.due.push(resolve) > 1) return;
      setImmediate(() => {
        const { due } = this;
        this.due = [];
        for (const wake of due) wake();
      });
    });
  }
}

async function serveChild(): Promise<void> {
  const engine = new NullEngine({ maxContext: 1_000_000 });
  const server = await startServer({ engine, tokenizer: byteCodec, encodeChat: encodeLines });
  process.on("message", () => process.send!({ cpu: process.cpuUsage() }));
  process.send!({ port: server.port });
}

interface Answer {
  readonly firstByteMs: number;
  readonly bytes: number;
}

/** Sends one request on a fresh or kept connection and reads to the end of the stream. */
function streamOnce(port: number, maxTokens: number): Promise<Answer> {
  const body = JSON.stringify({
    messages: [{ role: "user", content: "Say something." }],
    max_tokens: maxTokens,
    stream: true,
  });
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    let sentMs = 0;
    let firstByteMs = 0;
    let bytes = 0;
    socket.on("connect", () => {
      socket.write(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" +
          "content-type: application/json\r\n" +
          `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
      );
      sentMs = performance.now();
    });
    let tail = "";
    socket.on("data", (piece) => {
      if (bytes === 0) firstByteMs = performance.now() - sentMs;
      bytes += piece.length;
      tail = (tail + piece.toString("latin1", Math.max(0, piece.length - 40))).slice(-40);
    });
    socket.on("error", reject);
    socket.on("close", () => {
      if (tail.includes("[DONE]")) resolve({ firstByteMs, bytes });
      else reject(new Error(`a stream ended early: ${tail}`));
    });
  });
}

/** CPU seconds that the server has used. */
type ReadCpu = () => Promise<number>;

async function firstByte(port: number, requests: number): Promise<void> {
  const times: number[] = [];
  for (let i = 0; i < requests; i++) times.push((await streamOnce(port, 4)).firstByteMs);
  const late = times.slice(Math.floor(requests / 4)).sort((x, y) => x - y);
  const p99 = late[Math.floor(late.length * 0.99)];
  console.log(
    `first byte, one client:      p50 ${medianOf(late).toFixed(3)} ms, p99 ${p99.toFixed(3)} ms` +
      `   (goal: p50 <= 1 ms)`,
  );
}

async function throughput(
  port: number,
  cpu: ReadCpu,
  streams: number,
  tokens: number,
): Promise<void> {
  const [beforeCpu, beforeMs] = [await cpu(), performance.now()];
  const answers = await Promise.all(
    Array.from({ length: streams }, () => streamOnce(port, tokens)),
  );
  const wall = (performance.now() - beforeMs) / 1000;
  const used = (await cpu()) - beforeCpu;
  const total = streams * tokens;
  const megabytes = answers.reduce((sum, answer) => sum + answer.bytes, 0) / 1e6;
  console.log(
    `${String(streams).padStart(4)} streams of ${tokens} tokens: ` +
      `${Math.round(total / used)} tokens per CPU second, ${Math.round(total / wall)} tokens/s, ` +
      `${megabytes.toFixed(1)} MB, no error   (goal: >= 20000 per core)`,
  );
}

async function main(): Promise<void> {
  const large = process.argv.includes("--large");
  const child = fork(fileURLToPath(import.meta.url), ["--serve"]);
  const [{ port }] = (await once(child, "message")) as [{ port: number }];
  const cpu: ReadCpu = async () => {
    child.send("cpu");
    const [{ cpu: usage }] = (await once(child, "message")) as [{ cpu: NodeJS.CpuUsage }];
    return (usage.user + usage.system) / 1e6;
  };
  await firstByte(port, large ? 2000 : 200);
  await throughput(port, cpu, 1, large ? 20_000 : 2000);
  await throughput(port, cpu, 16, large ? 5000 : 500);
  await throughput(port, cpu, 200, large ? 500 : 100);
  if (large) await throughput(port, cpu, 500, 200);
  child.kill();
}

await (process.argv.includes("--serve") ? serveChild() : main());
