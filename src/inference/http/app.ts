/** @file The routes. Runs on any server that speaks Fetch; `startServer` puts it on a socket. */
import type { Context } from "hono";
import { Hono } from "hono";
import { cors } from "hono/cors";
import { Admission } from "./admission.ts";
import { answer, type Job, type ServerContext } from "./answer.ts";
import { keyCheck } from "./auth.ts";
import { readJsonObject } from "./body.ts";
import { chatJob } from "./chat.ts";
import { completionJob } from "./completions.ts";
import { statsEvents, statsJson } from "./engine-routes.ts";
import { ApiError, errorResponse, toApiError } from "./errors.ts";
import { ClientGone } from "./generation.ts";
import { Metrics, metricsContentType } from "./metrics.ts";
import { openApiJson, routes } from "./openapi.ts";
import { defaultHttpOptions, type HttpOptions, type Served } from "./options.ts";
import { readPage } from "./page.ts";
import { ServerState } from "./state.ts";

/** The routes, and the state that whoever puts them on a socket drains. */
export interface App {
  readonly hono: Hono;
  readonly state: ServerState;
}

type MakeJob = (body: Record<string, unknown>, served: Served, arrivedMs: number) => Job;

/**
 * The routes over `served`; while it is a promise that has not settled, whatever needs a model is
 * answered 503. `options` change `defaultHttpOptions`.
 */
export function createApp(
  served: Served | Promise<Served>,
  options: Partial<HttpOptions> = {},
): App {
  const hono = new Hono();
  const state = new ServerState(served);
  const all = { ...defaultHttpOptions, ...options };
  const admission = new Admission(all.maxConcurrent, all.maxQueue);
  const metrics = new Metrics(admission, () => state.served?.engine.stats());
  const context: ServerContext = { state, options: all, admission, metrics };
  addGuards(hono, context);
  addGeneration(hono, context, "/v1/chat/completions", chatJob);
  addGeneration(hono, context, "/v1/completions", completionJob);
  addModels(hono, context);
  addEngine(hono, context);
  addOperations(hono, context);
  addPage(hono, all);
  hono.onError((error, c) => failed(error, c, context));
  return { hono, state };
}

function addGuards(hono: Hono, { options, metrics }: ServerContext): void {
  const known = new Set(routes.map((route) => route.path));
  hono.use(async (c, next) => {
    await next();
    const route = known.has(c.req.path) ? c.req.path : "other";
    metrics.responses.inc({ route, status: String(c.res.status) });
  });
  if (options.corsOrigins.length > 0) {
    const origin = options.corsOrigins.includes("*") ? "*" : [...options.corsOrigins];
    hono.use(
      cors({ origin, allowMethods: ["GET", "POST"], exposeHeaders: ["retry-after"], maxAge: 600 }),
    );
  }
  const check = keyCheck(options.apiKeys);
  for (const path of ["/v1/*", "/metrics"]) {
    hono.use(path, (c, next) => {
      check(c.req.header("authorization") ?? null);
      return next();
    });
  }
}

function addGeneration(hono: Hono, context: ServerContext, path: string, makeJob: MakeJob): void {
  const { state, options } = context;
  hono.post(path, async (c) => {
    const arrivedMs = performance.now();
    const served = state.require();
    const end = state.begin();
    try {
      const body = await readJsonObject(c.req.raw, options.maxBodyBytes);
      return await answer(context, makeJob(body, served, arrivedMs), c.req.raw.signal, end);
    } catch (error) {
      end();
      throw error;
    }
  });
}

function addModels(hono: Hono, { state }: ServerContext): void {
  const created = Math.floor(Date.now() / 1000);
  const modelOf = ({ engine: { info } }: Served): object => ({
    id: info.id,
    object: "model",
    created,
    owned_by: "baleen",
    description: info.description,
    max_model_len: info.maxContext,
  });
  hono.get("/v1/models", (c) => c.json({ object: "list", data: [modelOf(state.require())] }));
  hono.get("/v1/models/:id{.+}", (c) => {
    const served = state.require();
    const { id } = served.engine.info;
    if (c.req.param("id") === id) return c.json(modelOf(served));
    throw new ApiError(
      404,
      "model_not_found",
      `There is no model "${c.req.param("id").slice(0, 100)}" here. Use "${id}".`,
      { param: "model" },
    );
  });
}

function addEngine(hono: Hono, context: ServerContext): void {
  const { state } = context;
  hono.get("/v1/engine/info", (c) => c.json(state.require().engine.info));
  hono.get("/v1/engine/stats", (c) =>
    c.body(statsJson(state.require().engine.stats()), 200, { "content-type": "application/json" }),
  );
  hono.get("/v1/engine/events", () => statsEvents(context, state.require()));
}

function addOperations(hono: Hono, { state, metrics, options }: ServerContext): void {
  let document: string | undefined;
  hono.get("/openapi.json", (c) => {
    document ??= openApiJson(options.version);
    return c.body(document, 200, { "content-type": "application/json" });
  });
  hono.get("/health", (c) => {
    const failure = state.failure ?? state.served?.engine.failed;
    if (failure === undefined) return c.json({ status: "ok" });
    return c.json({ status: "failed", reason: toApiError(failure).message }, 503);
  });
  hono.get("/ready", (c) => {
    const { engine } = state.served ?? {};
    if (state.isDraining) return c.json({ status: "draining" }, 503);
    if (state.failure !== undefined || engine?.failed) return c.json({ status: "failed" }, 503);
    return engine ? c.json({ status: "ready" }) : c.json({ status: "loading" }, 503);
  });
  hono.get("/metrics", async (c) =>
    c.body(await metrics.text(), 200, { "content-type": metricsContentType }),
  );
}

function addPage(hono: Hono, options: HttpOptions): void {
  const page = readPage(options.pageDir);
  hono.notFound((c) => {
    const { path, method } = c.req;
    if (method === "GET" || method === "HEAD") {
      const file = page(path, c.req.header("if-none-match") ?? null);
      if (file) return file;
      if (path === "/") return c.text("baleen serves an OpenAI-compatible API: see /openapi.json");
    }
    return errorResponse(notFound(method, path));
  });
}

function notFound(method: string, path: string): ApiError {
  const here = routes.filter((route) => route.path === path);
  if (here.length === 0) {
    return new ApiError(
      404,
      "unknown_url",
      `There is no ${path.slice(0, 200)} here. /openapi.json lists what there is.`,
    );
  }
  const allow = here.map((route) => route.method.toUpperCase()).join(", ");
  return new ApiError(
    405,
    "method_not_allowed",
    `${path} takes ${allow}, not ${method}. Use that.`,
    {
      headers: { allow },
    },
  );
}

function failed(error: unknown, c: Context, { options, metrics }: ServerContext): Response {
  // Nobody reads this one: 499 is what access logs call it.
  if (error instanceof ClientGone) return new Response(null, { status: 499 });
  const failure = toApiError(error);
  if (failure.code === "internal_error") {
    options.log(`${c.req.method} ${c.req.path}: ${(error as Error)?.stack ?? String(error)}`);
  }
  if ([401, 429, 503].includes(failure.status)) metrics.rejected.inc({ reason: failure.code });
  return errorResponse(failure);
}
