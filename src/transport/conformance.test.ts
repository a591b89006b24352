import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { BaleenError, Random, realClock } from "../base/index.ts";
import {
  Budget,
  type Connection,
  ConnectionPool,
  connect,
  FaultyNetwork,
  type Handler,
  InProcessTransport,
  listen,
  message,
  type RpcOptions,
  type Transport,
} from "./index.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);
const folder = mkdtempSync(join(tmpdir(), "baleen-transport-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Every way to carry frames: an address to listen at, and the transport where it is no socket. */
const ways: Record<string, { address: string; transports?: readonly Transport[] }> = {
  tcp: { address: "tcp://127.0.0.1:0" },
  unix: { address: `unix://${folder}/s.sock` },
  memory: { address: "memory:x", transports: [new InProcessTransport()] },
  simulated: {
    address: "sim:server",
    transports: [new FaultyNetwork(realClock, new Random(seed)).transportOf("server")],
  },
};

/** Sleeps, fails, doubles: by the method's number. */
const handler: Handler = async (call) => {
  switch (call.method) {
    case 0:
      return { meta: call.meta, data: call.data };
    case 1:
      await new Promise((resolve, reject) => {
        const timer = setTimeout(resolve, 10_000);
        call.signal.addEventListener("abort", () => {
          clearTimeout(timer);
          aborted.push(String(call.signal.reason?.code));
          reject(call.signal.reason);
        });
      });
      return message();
    case 2:
      throw new BaleenError("storage-x", "the disk is full: add one.", { retry: "after-refresh" });
    case 3:
      throw new TypeError("a defect");
    default:
      return message(
        Buffer.from(JSON.stringify([call.traceId, call.deadlineMs, call.data.length])),
      );
  }
};
const aborted: string[] = [];

async function withPair(
  way: { address: string; transports?: readonly Transport[] },
  options: RpcOptions,
  body: (client: Connection) => Promise<void>,
): Promise<void> {
  const shared = way.transports ? { transports: way.transports } : {};
  const server = await listen(way.address, { handler, ...shared, ...options });
  const client = await connect(server.address, { ...shared, ...options });
  try {
    await body(client);
  } finally {
    client.close();
    await server.close();
  }
}

function fails(code: string, retry?: string) {
  return (error: unknown) => {
    assert.ok(error instanceof BaleenError, String(error));
    assert.equal(error.code, code);
    if (retry !== undefined) assert.equal(error.retry, retry);
    return true;
  };
}

function randomBytes(random: Random, bytes: number): Uint8Array {
  const data = new Uint8Array(bytes);
  for (let i = 0; i < bytes; i += 1 + (i >> 6)) data[i] = random.uint32();
  return data;
}

const mib = 2 ** 20;
const sizes = [0, 1, 4095, 65535, 65536, 65537, mib - 1, mib, mib + 1, 3 * mib, 5 * mib + 17];

for (const [name, way] of Object.entries(ways)) {
  describe(`transport ${name}, seed ${seed}`, () => {
    test("messages of all sizes come back as they went, many at once", async () => {
      const random = new Random(seed);
      await withPair(way, {}, async (client) => {
        await Promise.all(
          [...sizes, ...sizes].map(async (bytes, i) => {
            const data = randomBytes(random, bytes);
            const meta = randomBytes(random, i * 97);
            const into = i % 2 ? new Uint8Array(bytes).fill(0xaa) : undefined;
            const answer = await client.call(1, 0, { meta, data }, into ? { into } : {});
            assert.deepEqual(Buffer.from(answer.meta), Buffer.from(meta));
            assert.ok(Buffer.from(answer.data).equals(data), `${bytes} bytes`);
            if (into && bytes > 0) assert.equal(answer.data.buffer, into.buffer);
          }),
        );
      });
    });

    test("trace id and time left arrive; a service's error comes back with its advice", async () => {
      await withPair(way, {}, async (client) => {
        const options = { traceId: 2 ** 52 + 3, deadlineMs: 5000 };
        const answer = await client.call(1, 9, message(), options);
        const [traceId, deadlineMs] = JSON.parse(Buffer.from(answer.meta).toString());
        assert.equal(traceId, 2 ** 52 + 3);
        assert.ok(deadlineMs > 3000 && deadlineMs <= 5000, `${deadlineMs}`);
        await assert.rejects(client.call(1, 2, message()), fails("storage-x", "after-refresh"));
        await assert.rejects(client.call(1, 3, message()), fails("rpc-internal", "never"));
      });
    });

    test("a deadline and a cancellation end the call here and its handler there", async () => {
      await withPair(way, {}, async (client) => {
        aborted.length = 0;
        const late = client.call(1, 1, message(), { deadlineMs: 30 });
        await assert.rejects(late, fails("rpc-deadline-exceeded", "same"));
        const controller = new AbortController();
        const call = client.call(1, 1, message(), { signal: controller.signal });
        setTimeout(() => controller.abort(), 30);
        await assert.rejects(call, fails("rpc-cancelled", "never"));
        await sleep(30);
        assert.deepEqual(aborted.length, 2);
        assert.equal((await client.call(1, 0, message())).data.length, 0);
      });
    });

    test("more calls than slots wait in line, and a line too long is refused", async () => {
      await withPair(way, { inFlightMax: 2 }, async (client) => {
        const calls = Array.from({ length: 200 }, () => client.call(1, 0, message()));
        const results = await Promise.allSettled(calls);
        const refused = results.filter(({ status }) => status === "rejected");
        assert.equal(refused.length, 200 - 2 - 64);
        for (const one of refused)
          fails("rpc-overloaded", "same")((one as PromiseRejectedResult).reason);
      });
    });
  });

  describe(`bounds and ends of transport ${name}`, () => {
    test("large requests wait for the receiver's budget, and give it back however they end", async () => {
      const budget = new Budget(3 * mib);
      await withPair(way, { budget }, async (client) => {
        const data = new Uint8Array(2 * mib);
        const calls = Array.from({ length: 8 }, (_, i) =>
          client.call(1, i % 4 === 3 ? 2 : 9, { meta: message().meta, data }),
        );
        let most = 0;
        const timer = setInterval(() => {
          most = Math.max(most, 3 * mib - budget.free);
        }, 1);
        const results = await Promise.allSettled(calls);
        clearInterval(timer);
        assert.equal(results.filter(({ status }) => status === "rejected").length, 2);
        assert.ok(most <= 3 * mib);
        const hung = client.call(1, 1, { meta: message().meta, data }, { deadlineMs: 60 });
        await assert.rejects(hung, fails("rpc-deadline-exceeded"));
        for (let i = 0; i < 100 && budget.free < 3 * mib; i++) await sleep(5);
        assert.equal(budget.free, 3 * mib);
      });
    });

    test("data above the limit is refused before it is sent", async () => {
      await withPair(way, { dataBytesMax: mib }, async (client) => {
        const large = { meta: message().meta, data: new Uint8Array(mib + 1) };
        await assert.rejects(client.call(1, 9, large), fails("rpc-too-large", "never"));
      });
    });

    test("a lost server fails calls under way, and the pool connects again", async () => {
      const shared = way.transports ? { transports: way.transports } : {};
      const first = await listen(way.address, { handler, ...shared });
      const pool = new ConnectionPool(shared);
      const caller = pool.callerOf(first.address);
      await caller.call(1, 0, message());
      const hung = caller.call(1, 1, message());
      setTimeout(() => void first.close(), 20);
      await assert.rejects(hung, fails("rpc-closed", "same"));
      await assert.rejects(caller.call(1, 0, message()), fails("rpc-unreachable", "same"));
      const second = await listen(first.address, { handler, ...shared });
      await caller.call(1, 0, message());
      pool.close();
      await second.close();
    });

    test("who lacks the secret is refused, and who has it served", async () => {
      const shared = way.transports ? { transports: way.transports } : {};
      const server = await listen(way.address, { handler, ...shared, secret: "s3" });
      const stranger = await connect(server.address, shared);
      await assert.rejects(stranger.call(1, 0, message()), fails("rpc-unauthenticated", "never"));
      await stranger.closed;
      const wrong = connect(server.address, { ...shared, secret: "s4" });
      await assert.rejects(wrong, fails("rpc-unauthenticated", "never"));
      const friend = await connect(server.address, { ...shared, secret: "s3" });
      await friend.call(1, 0, message());
      friend.close();
      await server.close();
    });
  });
}
