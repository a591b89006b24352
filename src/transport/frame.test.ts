import assert from "node:assert/strict";
import { createConnection, type Socket } from "node:net";
import { test } from "node:test";
import { crc32c } from "@node-rs/crc32";
import fc from "fast-check";
import { BaleenError, Random, VirtualClock } from "../base/index.ts";
import {
  bodyBytesOf,
  type Frame,
  frameFlags,
  frameKinds,
  headerBytes,
  makeFrame,
  readHeader,
  writeHeader,
} from "./frame.ts";
import {
  CallContext,
  connect,
  defineService,
  FaultyNetwork,
  handlerOf,
  InProcessTransport,
  listen,
  message,
  remote,
  served,
} from "./index.ts";
import { FrameReader } from "./reader.ts";

const seed = Number(process.env.SEED ?? Date.now() % 1e6);

function bytesOf(frame: Frame): Uint8Array {
  const bytes = new Uint8Array(headerBytes + frame.meta.length + frame.data.length);
  writeHeader(frame, bytes);
  bytes.set(frame.meta, headerBytes);
  bytes.set(frame.data, headerBytes + frame.meta.length);
  return bytes;
}

/** Puts the bytes through a reader in pieces of the sizes given, in turn. */
function read(bytes: Uint8Array, pieces: readonly number[]): Frame[] {
  const frames: Frame[] = [];
  const events = {
    place: () => undefined,
    frame: (frame: Frame) => frames.push(frame),
    closed() {},
  };
  const reader = new FrameReader(events, 2 ** 26, new Uint8Array(4096));
  for (let at = 0, turn = 0; at < bytes.length; turn++) {
    const target = reader.next;
    const count = Math.min(target.length, bytes.length - at, 1 + pieces[turn % pieces.length]);
    target.set(bytes.subarray(at, at + count));
    reader.filled(target, count);
    at += count;
  }
  reader.end();
  return frames;
}

const someFrame = fc
  .record({
    kind: fc.constantFrom(...Object.values(frameKinds)),
    service: fc.nat(65535),
    method: fc.nat(65535),
    argument: fc.nat(),
    requestId: fc.maxSafeNat(),
    traceId: fc.maxSafeNat(),
    flags: fc.constantFrom(0, 2, 4, 8),
    meta: fc.uint8Array({ maxLength: 300 }),
    data: fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.nat(40_000).map((bytes) => new Uint8Array(bytes).fill(bytes)),
    ),
  })
  .map((fields) => makeFrame(fields));

test("frames survive any cutting of the stream into pieces", () => {
  const cuts = fc.array(fc.oneof(fc.nat(3), fc.nat(20_000)), { minLength: 1, maxLength: 9 });
  fc.assert(
    fc.property(fc.array(someFrame, { maxLength: 4 }), cuts, (frames, pieces) => {
      const stream = Buffer.concat(frames.map(bytesOf));
      const got = read(stream, pieces);
      assert.equal(got.length, frames.length);
      got.forEach((frame, i) => {
        assert.ok(Buffer.from(bytesOf(frame)).equals(bytesOf(frames[i])));
      });
    }),
    { seed },
  );
});

test("one changed bit anywhere is noticed, unless it lies in data with a checksum of its own", () => {
  const where = fc.tuple(someFrame, fc.nat(), fc.nat(7));
  fc.assert(
    fc.property(where, ([frame, place, bit]) => {
      const bytes = bytesOf(frame);
      const at = place % bytes.length;
      const isOwn = (frame.flags & frameFlags.ownChecksum) !== 0;
      if (isOwn && at >= headerBytes + frame.metaBytes) return;
      bytes[at] ^= 1 << bit;
      assert.throws(() => read(bytes, [4096]), BaleenError);
    }),
    { seed },
  );
});

test("a stream that ends inside a frame is refused, and lengths above the limits before any memory", () => {
  const bytes = bytesOf(makeFrame({ kind: 1, requestId: 1, meta: new Uint8Array(9) }));
  for (let end = 1; end < bytes.length; end++) {
    assert.throws(() => read(bytes.subarray(0, end), [50]), { code: "rpc-frame-invalid" });
  }
  for (const [at, value] of [
    [32, 2 ** 20 + 1],
    [36, 2 ** 20 + 1],
    [36, 2 ** 32 - 1],
  ]) {
    const forged = bytesOf(makeFrame({ kind: 1, requestId: 1 }));
    const view = new DataView(forged.buffer);
    view.setUint32(at, value, true);
    view.setUint32(44, crc32c(forged.subarray(0, 44)), true);
    assert.throws(() => readHeader(forged, 2 ** 26), { code: "rpc-too-large" });
  }
  const announced = makeFrame({ kind: 1, requestId: 1 }, 2 ** 20 * 5);
  assert.equal(bodyBytesOf(announced), 0);
});

test("a server ends a connection that sends no frames, and serves the others", async () => {
  const handler = async () => message();
  const server = await listen("tcp://127.0.0.1:0", { handler });
  const port = Number(server.address.split(":").at(-1));
  const good = bytesOf(makeFrame({ kind: frameKinds.request, requestId: 1 }));
  const forged = good.slice();
  forged[12] ^= 1;
  for (const bytes of [
    Buffer.from("GET / HTTP/1.1\r\nHost: x\r\nAccept: everything you have\r\n\r\n"),
    forged,
    Buffer.alloc(500),
  ]) {
    const socket: Socket = createConnection({ host: "127.0.0.1", port });
    socket.on("error", () => {});
    const ended = new Promise((resolve) => socket.on("close", resolve));
    socket.resume();
    socket.write(bytes);
    await ended;
  }
  const client = await connect(server.address);
  await client.call(1, 0, message());
  client.close();
  await server.close();
});

test("nothing listens beyond loopback unless asked, and odd addresses are refused", async () => {
  const wrong = [
    "tcp://0.0.0.0:0",
    "tcp://10.0.0.1:80",
    "http://127.0.0.1:1",
    "x",
    "tcp://127.0.0.1",
    `unix:///${"x".repeat(120)}`,
  ];
  for (const address of wrong) {
    await assert.rejects(listen(address, {}), { code: "rpc-address-invalid" });
  }
  await assert.rejects(connect("tcp://127.0.0.1:1"), { code: "rpc-unreachable" });
});

interface Echo {
  twice(value: unknown, context?: CallContext): Promise<unknown>;
}

test("services take and give JSON with bytes anywhere in it; what is forged is refused", async () => {
  const echo = defineService<Echo>(7, "echo", ["twice"]);
  const handler = handlerOf(served(echo, { twice: async (value) => [value, value] }));
  const transports = [new InProcessTransport()];
  const server = await listen("memory:echo", { handler, transports });
  const client = await connect("memory:echo", { transports });
  const near = remote(echo, client);
  const value = {
    a: [1, null, "é"],
    bytes: new Uint8Array([1, 2, 3]),
    deep: [{ x: new Uint8Array(0) }],
  };
  assert.deepEqual(await near.twice(value, new CallContext({ deadlineMs: 1000 })), [value, value]);
  assert.deepEqual(await near.twice(3), [3, 3]);
  for (const meta of ["{", "{}", '[{"$bytes":[0,9]}]', '[{"$bytes":[-1,1]}]', '[{"$bytes":7}]']) {
    const call = client.call(7, 0, message(Buffer.from(meta), new Uint8Array(3)));
    await assert.rejects(call, { code: "rpc-argument-invalid" });
  }
  await assert.rejects(client.call(7, 1, message()), { code: "rpc-method-unknown" });
  await assert.rejects(client.call(8, 0, message()), { code: "rpc-method-unknown" });
  client.close();
  await server.close();
});

/** What happened on a network with faults, as text. */
async function historyOf(networkSeed: number): Promise<{ text: string; lost: number }> {
  const clock = new VirtualClock();
  const faults = { delayMs: [1, 20], drop: 0.1, duplicate: 0.2, reorder: 0.3 } as const;
  const network = new FaultyNetwork(clock, new Random(networkSeed), faults);
  const lines: string[] = [];
  let runs = 0;
  const handler = async () => message(Buffer.from(`${++runs}`));
  await listen("sim:b", { handler, clock, transports: [network.transportOf("b")] });
  let done = false;
  const work = (async () => {
    const client = await connect("sim:b", { clock, transports: [network.transportOf("a")] });
    for (let i = 0; i < 30; i++) {
      const data = new Uint8Array(i % 10 === 9 ? 2_500_000 : 10);
      const outcome = await client
        .call(1, 0, { meta: data.subarray(0, 1), data }, { deadlineMs: 200 })
        .then(
          ({ meta }) => Buffer.from(meta).toString(),
          (error) => error.code,
        );
      lines.push(`${clock.now()} ${outcome}`);
    }
    network.cut("a", "b");
    const cut = client.call(1, 0, message(), { deadlineMs: 50 });
    await assert.rejects(cut, { code: "rpc-deadline-exceeded" });
    network.crash("b");
    await client.closed;
  })().finally(() => {
    done = true;
  });
  while (!done) {
    await new Promise((resolve) => setImmediate(resolve));
    clock.runNext();
  }
  await work;
  return { text: lines.join("\n"), lost: network.lost };
}

test("a faulty network replays the same history from the same seed", async () => {
  const [one, same, other] = [
    await historyOf(seed),
    await historyOf(seed),
    await historyOf(seed + 1),
  ];
  assert.equal(one.text, same.text);
  assert.notEqual(one.text, other.text);
  assert.ok(one.lost > 0 && one.text.includes("rpc-deadline-exceeded"), one.text);
  assert.ok(/ \d+$/m.test(one.text));
});
