/**
 * @file The live page of a session: plan graph, timeline of tasks, bytes, skew and logs. Served on
 * 127.0.0.1 only; requests for another host are refused, so that no web page elsewhere can read it.
 */
import { createServer, type ServerResponse } from "node:http";
import { pondError } from "./errors.ts";
import type { Pond } from "./pond.ts";
import { skewOf, Watch } from "./watch.ts";
import { watchPage } from "./watch-page.ts";

/** A page that is being served. */
export interface WatchServer {
  /** Such as `http://127.0.0.1:4321`. */
  readonly url: string;
  close(): Promise<void>;
}

const headers = {
  "cache-control": "no-store",
  "content-security-policy":
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'",
  "x-content-type-options": "nosniff",
};
/** Attempts that the page shows: the latest. */
const shownMax = 2000;
const pushEveryMs = 250;

/** Serves the live page of `pond` on `port` of 127.0.0.1 (a free one where 0). */
export async function serveWatch(pond: Pond, port = 0): Promise<WatchServer> {
  const watch = new Watch(pond);
  const followers = new Set<ServerResponse>();
  let isStale = false;
  watch.onChange(() => {
    isStale = true;
  });
  const pushing = setInterval(() => {
    if (!isStale) return;
    isStale = false;
    const event = `data: ${JSON.stringify(stateOf(watch))}\n\n`;
    for (const follower of followers) follower.write(event);
  }, pushEveryMs);
  pushing.unref();
  const server = createServer((request, response) => {
    const host = (request.headers.host ?? "").replace(/:\d+$/, "");
    if (host !== "127.0.0.1" && host !== "localhost")
      return answer(response, 403, "text/plain", "This page is for this machine.");
    const { pathname, searchParams } = new URL(request.url ?? "/", "http://127.0.0.1");
    if (request.method !== "GET")
      return answer(response, 405, "text/plain", "Only GET is answered.");
    if (pathname === "/") return answer(response, 200, "text/html; charset=utf-8", watchPage);
    if (pathname === "/state")
      return answer(response, 200, "application/json", JSON.stringify(stateOf(watch)));
    if (pathname === "/log") {
      const attempt = watch.attempts.get(searchParams.get("attempt") ?? "");
      if (!attempt)
        return answer(response, 404, "text/plain", "There is no such attempt in the latest run.");
      return answer(
        response,
        200,
        "text/plain; charset=utf-8",
        [attempt.failure, attempt.log].filter(Boolean).join("\n\n") || "Nothing was printed.",
      );
    }
    if (pathname === "/trace") {
      response.writeHead(200, { ...headers, "content-type": "application/json" });
      for (const piece of watch.trace()) response.write(piece);
      response.end();
      return;
    }
    if (pathname !== "/events")
      return answer(response, 404, "text/plain", "There is nothing here.");
    response.writeHead(200, { ...headers, "content-type": "text/event-stream" });
    response.write(`data: ${JSON.stringify(stateOf(watch))}\n\n`);
    followers.add(response);
    response.on("close", () => followers.delete(response));
  });
  await new Promise<void>((listening, failed) => {
    server.once("error", (error) =>
      failed(
        pondError(
          "input-invalid",
          `Port ${port} of 127.0.0.1 can't be used (${error.message}); give another.`,
          error,
        ),
      ),
    );
    server.listen(port, "127.0.0.1", listening);
  });
  server.unref();
  const { port: taken } = server.address() as { port: number };
  const close = async () => {
    clearInterval(pushing);
    watch.stop();
    const closed = new Promise((done) => server.close(done));
    server.closeAllConnections();
    await closed;
  };
  return { url: `http://127.0.0.1:${taken}`, close };
}

function answer(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, { ...headers, "content-type": type });
  response.end(text);
}

function stateOf(watch: Watch): unknown {
  const { startMs, endMs, failure } = watch;
  const stages = [...watch.stages.values()].map(({ partitionBytes: _, ...stage }, i, all) => {
    const whole = watch.stages.get(stage.key);
    return {
      ...stage,
      index: i,
      skew: whole ? skewOf(whole) : 1,
      inputs: stage.inputs.filter((key) => all.some((one) => one.key === key)),
    };
  });
  const attempts = [...watch.attempts.values()]
    .slice(-shownMax)
    .map(({ log: _, ...attempt }) => attempt);
  return { nowMs: Date.now(), startMs, endMs, failure, stages, attempts };
}
