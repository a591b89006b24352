/** @file Puts the app on a socket, and takes it off again without losing a running answer. */
import type { Server, ServerResponse } from "node:http";
import { createAdaptorServer } from "@hono/node-server";
import { createApp } from "./app.ts";
import { listen } from "./listen.ts";
import type { HttpOptions, Served } from "./options.ts";
import type { ServerState } from "./state.ts";

/** Where to listen, and what `HttpOptions` to change. */
export interface ListenOptions extends Partial<HttpOptions> {
  /** Address to bind; 127.0.0.1 where absent. */
  readonly host?: string | undefined;
  /** Port to bind; 0, the default, takes a free one. */
  readonly port?: number | undefined;
}

/** A listening server. */
export interface RunningServer {
  /** The port it listens on. */
  readonly port: number;
  /** Its address, such as `http://127.0.0.1:8000`. */
  readonly url: string;
  /**
   * Takes no new request (they get 503), lets running answers finish for at most `graceMs`, then
   * cuts off what is left and closes engine and socket. Resolves to whether nothing was cut off.
   */
  drain(graceMs: number): Promise<boolean>;
}

/**
 * Listens, and resolves once connections are taken. Until the promise `served` settles, requests
 * get 503 and `/ready` says "loading".
 * Throws `BaleenError` "address-taken" or "address-refused" where the socket can't be bound.
 */
export async function startServer(
  served: Served | Promise<Served>,
  options: ListenOptions = {},
): Promise<RunningServer> {
  const { host = "127.0.0.1", port = 0, ...rest } = options;
  const { hono, state } = createApp(served, rest);
  const server = createAdaptorServer({
    fetch: hono.fetch,
    // Longer than what proxies in front keep, so that they don't send into a closing connection.
    serverOptions: { keepAliveTimeout: 75_000 },
  }) as Server;
  const responses = new OpenResponses(server);
  return {
    ...(await listen(server, host, port)),
    drain: (graceMs) => drain(server, responses, state, graceMs),
  };
}

/** Responses that are not fully handed to the network yet. */
class OpenResponses {
  private readonly open = new Set<ServerResponse>();
  private onNone: (() => void) | undefined;

  constructor(server: Server) {
    server.on("request", (_, response: ServerResponse) => {
      this.open.add(response);
      response.on("close", () => {
        this.open.delete(response);
        if (this.open.size === 0) this.onNone?.();
      });
    });
  }

  async none(): Promise<void> {
    if (this.open.size === 0) return;
    await new Promise<void>((resolve) => {
      this.onNone = resolve;
    });
  }
}

async function drain(
  server: Server,
  responses: OpenResponses,
  state: ServerState,
  graceMs: number,
): Promise<boolean> {
  const untilMs = performance.now() + graceMs;
  const finished = await within(state.drain(), graceMs);
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  // Complete answers may still be on their way to slow readers; the others end here, cancelled.
  if (!finished) await state.served?.engine.close(0);
  const flushed = await within(responses.none(), Math.max(500, untilMs - performance.now()));
  // What is left has no answer to lose: Node counts fresh, unused connections as busy.
  server.closeAllConnections();
  await closed;
  if (finished) await state.served?.engine.close(0);
  return finished && flushed;
}

async function within(work: Promise<void>, ms: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), ms);
  });
  const inTime = await Promise.race([work.then(() => true), late]);
  clearTimeout(timer);
  return inTime;
}
