/**
 * @file What calls cost: round trips of one small call at a time and of 64 at once, and large data both
 * ways, over each kind of link; the service runs on a thread of its own. CPU seconds are of the whole
 * process, so of both ends. Beside it the bare socket: Node's own streams, one write after the other.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { medianOf, workerUrl } from "../base/index.ts";
import { processCpuTimeUs } from "../native/index.ts";
import { type Connection, connect, listen, message } from "./index.ts";

const isLarge = process.argv.includes("--large");
const rounds = isLarge ? 5 : 1;
const calls = isLarge ? 20_000 : 200;
const mib = 2 ** 20;
const totalBytes = (isLarge ? 1024 : 16) * mib;

/** The service: echoes meta; answers with as much data as meta asks for. */
async function serve(): Promise<void> {
  const servers = [];
  for (const address of workerData as string[]) {
    const answer = new Uint8Array(4 * mib);
    const handler = async (call: { meta: Uint8Array }) => ({
      ...message(new Uint8Array(0), answer.subarray(0, Number(Buffer.from(call.meta).toString()))),
      ownChecksum: true,
    });
    servers.push((await listen(address, { handler })).address);
  }
  const sink = createServer((socket) => socket.on("data", () => {}).on("error", () => {}));
  await new Promise<void>((resolve) => sink.listen(0, "127.0.0.1", resolve));
  parentPort!.postMessage({ servers, port: (sink.address() as { port: number }).port });
}

interface Timing {
  readonly wallS: number;
  readonly cpuS: number;
}

async function time(work: () => Promise<void>): Promise<Timing> {
  const [wall, cpu] = [performance.now(), processCpuTimeUs()];
  await work();
  return { wallS: (performance.now() - wall) / 1e3, cpuS: (processCpuTimeUs() - cpu) / 1e6 };
}

/** Keeps `atOnce` calls under way until `count` are answered. */
async function many(count: number, atOnce: number, call: () => Promise<unknown>): Promise<void> {
  let left = count;
  const lane = async () => {
    while (left-- > 0) await call();
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
}

const noData = new Uint8Array(0);

function workOf(client: Connection, data: Uint8Array): Record<string, () => Promise<void>> {
  const small = message(Buffer.from("0"));
  const upload = { meta: Buffer.from("0"), data, ownChecksum: true };
  const into = [0, 1, 2, 3].map(() => new Uint8Array(mib));
  let turn = 0;
  return {
    "1 call": () => many(calls / 4, 1, () => client.call(1, 0, small)),
    "64 calls": () => many(calls, 64, () => client.call(1, 0, small)),
    "4 KiB read": () => many(calls, 64, () => client.call(1, 0, message(Buffer.from("4096")))),
    "1 MiB write": () => many(totalBytes / mib, 4, () => client.call(1, 0, upload)),
    "1 MiB read": () =>
      many(totalBytes / mib, 4, () =>
        client.call(1, 0, message(Buffer.from(String(mib)), noData), { into: into[turn++ & 3] }),
      ),
  };
}

/** Node's socket, bare: the same bytes in writes of 1 MiB. */
async function bareWrites(port: number, data: Uint8Array): Promise<void> {
  const socket = createConnection({ host: "127.0.0.1", port });
  await new Promise((resolve) => socket.once("connect", resolve));
  for (let sent = 0; sent < totalBytes; sent += mib) {
    if (!socket.write(data)) await new Promise((resolve) => socket.once("drain", resolve));
  }
  const closed = new Promise((resolve) => socket.once("close", resolve));
  socket.resume().end();
  await closed;
}

async function main(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "baleen-bench-"));
  const addresses = ["tcp://127.0.0.1:0", `unix://${folder}/bench.sock`];
  const worker = new Worker(workerUrl(import.meta.url, "./transport.bench"), {
    workerData: addresses,
  });
  const { servers, port } = await new Promise<{ servers: string[]; port: number }>((resolve) =>
    worker.once("message", resolve),
  );
  const data = new Uint8Array(mib).fill(7);
  const clients = await Promise.all(servers.map((address) => connect(address)));
  const timings = new Map<string, Timing[]>();
  const note = async (name: string, work: () => Promise<void>) => {
    const timing = await time(work);
    timings.set(name, [...(timings.get(name) ?? []), timing]);
  };
  for (let round = 0; round < rounds; round++) {
    for (const [i, client] of clients.entries()) {
      const scheme = servers[i].slice(0, servers[i].indexOf(":"));
      for (const [name, work] of Object.entries(workOf(client, data))) {
        await note(`${scheme}, ${name}`, work);
      }
    }
    await note("bare tcp, 1 MiB write", () => bareWrites(port, data));
  }
  for (const [name, all] of timings) {
    const wallS = medianOf(all.map((one) => one.wallS));
    const cpuS = medianOf(all.map((one) => one.cpuS));
    const isData = name.includes("MiB");
    const count = name.includes(", 1 call") ? calls / 4 : calls;
    const rate = isData
      ? `${(totalBytes / wallS / 1e9).toFixed(2)} GB/s, ${(cpuS / (totalBytes / 2 ** 30)).toFixed(2)} CPU-s/GiB`
      : `${(count / wallS / 1e3).toFixed(1)} k/s, ${((cpuS / count) * 1e6).toFixed(1)} us CPU a call`;
    console.log(`${name.padEnd(24)} ${rate}`);
  }
  for (const client of clients) client.close();
  await worker.terminate();
  rmSync(folder, { recursive: true, force: true });
}

await (isMainThread ? main() : serve());
