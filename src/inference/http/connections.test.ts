/** @file What sockets do: leave, read slowly, come in hundreds; and the server's orderly end. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import { eventually, type Script, withServer } from "./testing.ts";

const path = "/v1/completions";

function send(port: number, body: object): Socket {
  const text = JSON.stringify(body);
  const socket = connect(port, "127.0.0.1");
  socket.write(
    `POST ${path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n` +
      `content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
  );
  return socket;
}

for (const stream of [true, false]) {
  test(`leaving ${stream ? "a stream" : "before it"} cancels its sequences`, async () => {
    await withServer({ tokenMs: 2 }, {}, async ({ engine, server, url }) => {
      const socket = send(server.port, { prompt: "a", max_tokens: 4000, n: 3, stream });
      await eventually(() => engine.generated > 10);
      socket.destroy();
      await eventually(() => engine.running === 0);
      assert.equal(engine.cancelled.length, 3);
      const metrics = await (await fetch(`${url}/metrics`)).text();
      assert.match(metrics, /^baleen_requests_aborted_total 1$/m);
    });
  });
}

test("a client that leaves the queue gives its place up and never reaches the engine", async () => {
  await withServer({ tokenMs: 5 }, { maxConcurrent: 1, maxQueue: 2 }, async (it) => {
    const first = it.post(path, { prompt: "first", max_tokens: 20 });
    await eventually(() => it.engine.running === 1);
    const second = send(it.server.port, { prompt: "second", max_tokens: 2 });
    const waiting = async (): Promise<string> => (await fetch(`${it.url}/metrics`)).text();
    while (!/^baleen_requests_waiting 1$/m.test(await waiting()));
    const third = it.post(path, { prompt: "third", max_tokens: 2 });
    while (!/^baleen_requests_waiting 2$/m.test(await waiting()));
    const fourth = await it.post(path, { prompt: "fourth", max_tokens: 2 });
    assert.equal(fourth.status, 429);
    assert.ok(Number(fourth.headers.get("retry-after")) >= 1);
    second.destroy();
    assert.equal((await first).status, 200);
    assert.equal((await third).status, 200);
    const prompts = it.engine.requests.map((request) => Buffer.from(request.prompt).toString());
    assert.deepEqual(prompts, ["first", "third"]);
  });
});

test("a reader that stops holds its writer back, and is cut off after a while", async () => {
  const script: Script = { tokensPerEvent: 4096, maxContext: 1e9 };
  await withServer(script, { stallMs: 1500 }, async ({ engine, server }) => {
    const socket = send(server.port, { prompt: "a", max_tokens: 1e8, stream: true });
    socket.pause();
    // Quiet before the answer has begun would be mistaken for a writer that waits.
    await eventually(() => engine.generated > 0);
    let before = -1;
    while (engine.generated !== before) {
      before = engine.generated;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    // What fits in the socket's and the stream's buffers, far from all of it.
    assert.ok(before < 4e7, `${before} tokens were taken`);
    assert.equal(engine.running, 1);
    await eventually(() => engine.running === 0);
    socket.destroy();
  });
});

test("a slow reader gets all of its answer", async () => {
  const script: Script = { tokensPerEvent: 8192, maxContext: 1e9 };
  await withServer(script, {}, async ({ server }) => {
    const socket = send(server.port, { prompt: "a", max_tokens: 1.2e7, stream: true });
    let characters = 0;
    let tail = "";
    for await (const piece of socket) {
      const text = tail + piece.toString();
      if (text.includes("[DONE]")) break;
      characters += piece.length;
      tail = text.slice(-20);
      if (Math.floor(characters / 2e6) > Math.floor((characters - piece.length) / 2e6)) {
        await new Promise((resolve) => setTimeout(resolve, 30));
      }
    }
    assert.ok(characters > 1.2e7, `${characters} characters`);
  });
});

test("200 streams at once all end well", async () => {
  await withServer({ tokenMs: 50 }, {}, async ({ post, engine }) => {
    const answers = Array.from({ length: 200 }, async () => {
      const response = await post(path, { prompt: "a", max_tokens: 30, stream: true });
      const text = await response.text();
      assert.equal(response.status, 200);
      assert.match(text, /"finish_reason":"length"/);
      assert.match(text, /data: \[DONE\]\n\n$/);
    });
    await Promise.all(answers);
    assert.ok(engine.peak > 150, `only ${engine.peak} ran at once`);
  });
});

test("requests wait in order of arrival and run when there is room", async () => {
  await withServer(
    { tokenMs: 1 },
    { maxConcurrent: 2, maxQueue: 100 },
    async ({ post, engine }) => {
      let most = 0;
      const answers = Array.from({ length: 12 }, async (_, index) => {
        const response = await post(path, { prompt: [index], max_tokens: 5 });
        most = Math.max(most, engine.running);
        assert.equal(response.status, 200);
      });
      await Promise.all(answers);
      assert.equal(engine.peak, 2);
      // A request that needs more places than there are goes in alone.
      assert.equal((await post(path, { prompt: "a", n: 5, max_tokens: 3 })).status, 200);
    },
  );
});

const child = (tokenMs: number, graceMs: number): string => `
  import { startServer } from ${JSON.stringify(new URL("./server.js", import.meta.url))};
  import { exitOnSignals } from ${JSON.stringify(new URL("./signals.js", import.meta.url))};
  import { ScriptedEngine, scriptedServed } from
    ${JSON.stringify(new URL("./testing.js", import.meta.url))};
  const server = await startServer(scriptedServed(new ScriptedEngine({ tokenMs: ${tokenMs} })));
  exitOnSignals(() => server.drain(${graceMs}), console.error);
  console.log(server.port);
`;

interface Child {
  readonly url: string;
  kill(signal: NodeJS.Signals): void;
  /** The status it exits with, and milliseconds since its start. */
  readonly exit: Promise<number | null>;
}

async function spawnServer(tokenMs: number, graceMs: number): Promise<Child> {
  const process_ = spawn(
    process.execPath,
    ["--input-type=module", "--eval", child(tokenMs, graceMs)],
    { stdio: ["ignore", "pipe", "ignore"] },
  );
  const exit = once(process_, "exit").then(([status]) => status as number | null);
  const [line] = await once(process_.stdout, "data");
  return {
    url: `http://127.0.0.1:${String(line).trim()}`,
    kill: (signal) => process_.kill(signal),
    exit,
  };
}

const ask = (url: string, max_tokens: number, stream: boolean): Promise<Response> =>
  fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "a", max_tokens, stream }),
  });

test("SIGTERM under load loses no running answer, refuses new ones and ends well", async () => {
  const { url, kill, exit } = await spawnServer(10, 10_000);
  const answers = Array.from({ length: 40 }, async (_, index) => {
    const response = await ask(url, 40, index % 2 === 0);
    const text = await response.text();
    assert.equal(response.status, 200, text);
    return text;
  });
  // Streams answer at once, whole answers later: the metrics say when all are under way.
  let text = "";
  while (!/^baleen_requests_running 40$/m.test(text)) {
    text = await (await fetch(`${url}/metrics`)).text();
  }
  kill("SIGTERM");
  let ready = 200;
  while (ready === 200) ready = (await fetch(`${url}/ready`)).status;
  assert.equal(ready, 503);
  const late = await ask(url, 1, false);
  assert.equal(late.status, 503);
  assert.match(await late.text(), /shutting_down/);
  for (const [index, answer] of (await Promise.all(answers)).entries()) {
    assert.match(answer, /"finish_reason":"length"/);
    if (index % 2 === 0) assert.match(answer, /data: \[DONE\]\n\n$/);
  }
  assert.equal(await exit, 0);
});

test("when the grace is over, what still runs is told so", async () => {
  const { url, kill, exit } = await spawnServer(20, 300);
  const [whole, streamed] = [ask(url, 4000, false), await ask(url, 4000, true)];
  while (!/^baleen_requests_running 2$/m.test(await (await fetch(`${url}/metrics`)).text()));
  kill("SIGINT");
  assert.equal((await whole).status, 503);
  assert.match(await streamed.text(), /"code":"shutting_down"/);
  assert.equal(await exit, 0);
});

test("a second signal ends the process at once", async () => {
  const { url, kill, exit } = await spawnServer(20, 30_000);
  const answer = ask(url, 4000, true)
    .then((response) => response.text())
    .catch(() => "cut off");
  while (!/^baleen_requests_running 1$/m.test(await (await fetch(`${url}/metrics`)).text()));
  const begunMs = performance.now();
  kill("SIGTERM");
  await new Promise((resolve) => setTimeout(resolve, 150));
  kill("SIGTERM");
  assert.equal(await exit, 128 + 15);
  assert.ok(performance.now() - begunMs < 3000);
  assert.equal(await answer, "cut off");
});

test("an idle server ends at once", async () => {
  const { url, kill, exit } = await spawnServer(1, 30_000);
  assert.equal((await fetch(`${url}/health`)).status, 200);
  const events = await fetch(`${url}/v1/engine/events`);
  kill("SIGTERM");
  assert.equal(await exit, 0);
  await events.text();
});
