import assert from "node:assert/strict";
import { request } from "node:http";
import { test } from "node:test";
import { readTrace } from "../profile-data/index.ts";
import { progressLine, schema, serveWatch, t, Watch } from "./index.ts";
import { withPond } from "./testing.ts";

const get = (url: string, host?: string) =>
  new Promise<{ status: number; text: string }>((done, failed) => {
    request(url, { headers: host === undefined ? {} : { host } }, (response) => {
      let text = "";
      response.on("data", (bytes) => {
        text += bytes;
      });
      response.on("end", () => done({ status: response.statusCode ?? 0, text }));
    })
      .on("error", failed)
      .end();
  });

test("a run can be watched: progress, page, state, logs and trace", async () => {
  await withPond(async (pond) => {
    const watch = new Watch(pond);
    const server = await serveWatch(pond);
    const numbers = pond.partialSql<{ i: number }>("SELECT i::INTEGER AS i FROM range(900) r(i)");
    const frame = numbers.repartition({ n: 3, keys: "i" }).map(
      (row) => {
        if (row.i === 7) console.log(`met ${row.i}`);
        return row;
      },
      schema({ i: t.i32 }) as never,
    );
    await frame.compute();
    const line = progressLine(watch, 200);
    assert.match(line, /^█{20} 4\/4 tasks {2}[\d.]+ s {2}1\.8 k rows {2}[\d.]+ KiB/);
    assert.ok(progressLine(watch, 30).length < 30);
    const state = JSON.parse((await get(`${server.url}/state`)).text);
    assert.equal(state.stages.length, 2);
    const [last] = state.stages;
    assert.deepEqual([last.done, last.partitions, last.rows, last.failed], [3, 3, 900, 0]);
    assert.ok(last.skew >= 1 && last.skew < 1.5 && last.bytes > 0);
    assert.equal(state.attempts.length, 4);
    const logs = await Promise.all(
      state.attempts.map(
        async ({ attempt }: { attempt: string }) =>
          (await get(`${server.url}/log?attempt=${attempt}`)).text,
      ),
    );
    assert.equal(logs.filter((log) => log.includes("met 7")).length, 1, logs.join("|"));
    const page = await get(server.url);
    assert.ok(page.text.includes('<svg id="timeline">'));
    assert.equal((await get(`${server.url}/nothing`)).status, 404);
    assert.equal((await get(server.url, "evil.example")).status, 403);
    const trace = JSON.parse((await get(`${server.url}/trace`)).text);
    const read = await readTrace([...watch.trace()].map((piece) => Buffer.from(piece)));
    assert.equal(read.count, 4, "profile-data reads the trace");
    const spans = trace.traceEvents.filter(({ ph }: { ph: string }) => ph === "X");
    assert.equal(spans.length, 4);
    assert.ok(spans.every(({ dur, ts }: { dur: number; ts: number }) => dur > 0 && ts >= 0));
    await frame.compute();
    assert.match(progressLine(watch, 200), /3\/3 tasks/);
    await server.close();
    watch.stop();
  });
});
