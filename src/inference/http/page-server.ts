/** @file Serves a built page and a few JSON documents, without an engine. */
import type { Server } from "node:http";
import { createAdaptorServer } from "@hono/node-server";
import { type Bound, listen } from "./listen.ts";
import { readPage } from "./page.ts";

/** What to serve, and where. */
export interface PageServerOptions {
  /** Folder of the built page. */
  readonly pageDir: string;
  /** The file of it that `/` answers with, such as `/plan.html`. */
  readonly index: string;
  /** Documents by path, such as `/plan.json`, as JSON texts. */
  readonly documents: Readonly<Record<string, string>>;
  /** Address to bind; 127.0.0.1 where absent. */
  readonly host?: string;
  /** Port to bind; 0, the default, takes a free one. */
  readonly port?: number;
}

/** A listening page server. */
export interface PageServer extends Bound {
  /** Ends all connections and the server. */
  close(): Promise<void>;
}

/** Listens, and resolves once connections are taken. Errors as of `startServer`. */
export async function startPageServer(options: PageServerOptions): Promise<PageServer> {
  const { pageDir, index, documents, host = "127.0.0.1", port = 0 } = options;
  const page = readPage(pageDir);
  const answer = (request: Request): Response => {
    const { pathname } = new URL(request.url);
    if (request.method !== "GET" && request.method !== "HEAD") {
      return new Response("Only GET is answered here.\n", { status: 405 });
    }
    if (Object.hasOwn(documents, pathname)) {
      const headers = { "content-type": "application/json", "cache-control": "no-cache" };
      return new Response(documents[pathname], { headers });
    }
    const path = pathname === "/" ? index : pathname;
    const file = page(path, request.headers.get("if-none-match"));
    return file ?? new Response(`There is no ${path} here.\n`, { status: 404 });
  };
  const server = createAdaptorServer({ fetch: answer }) as Server;
  const bound = await listen(server, host, port);
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  return { ...bound, close };
}
