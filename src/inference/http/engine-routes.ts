/** @file The engine's state as JSON and as a live event stream, for the page and for tools. */
import type { EngineStats } from "../types.ts";
import type { ServerContext } from "./answer.ts";
import { EventStream, eventStreamHeaders } from "./event-stream.ts";
import type { Served } from "./options.ts";

/** Milliseconds between two events of `/v1/engine/events`. */
const eventIntervalMs = 250;

/** `EngineStats` with plain arrays, as JSON. */
export function statsJson(stats: EngineStats): string {
  const { expertLoad } = stats;
  return JSON.stringify({
    ...stats,
    expertLoad: { ...expertLoad, counts: Array.from(expertLoad.counts) },
  });
}

/** An endless stream of `stats` events, ended when the reader leaves or the server drains. */
export function statsEvents({ state, options }: ServerContext, served: Served): Response {
  const stop = (): void => {
    clearInterval(timer);
    forget();
  };
  const events = new EventStream(options.stallMs, stop);
  const send = (): void => {
    // A reader that is behind misses events instead of piling them up.
    behind ??= events.write(`event: stats\ndata: ${statsJson(served.engine.stats())}\n\n`);
    behind?.then(() => {
      behind = undefined;
    });
  };
  let behind: Promise<void> | undefined;
  const timer = setInterval(send, eventIntervalMs);
  const forget = state.onDrain(() => {
    stop();
    events.end();
  });
  send();
  return new Response(events.readable, { headers: eventStreamHeaders });
}
